"""`emohead sweep report`: a page that opens offline, and the best settings as a configuration."""

from html import escape
from pathlib import Path
from typing import Any

import yaml

from ..models.files import written_aside
from ..trainers.sweeps.file import trial_config
from ..trainers.sweeps.parameters import words
from ..trainers.sweeps.study import read_folder
from ..trainers.sweeps.summary import Row, Summary, summarise
from .page import write_html
from .report_parts import duration
from .sweep_charts import history, learning_curves, parallel_coordinates

BEST = "best.yaml"
PAGE = "report.html"
LENGTHS = ("trainer.max_steps=", "trainer.val_every=", "trainer.checkpoint_every=")


def write_report(path: Path) -> tuple[Path, Path | None]:
    """Write FOLDER/report.html and, if a trial ran to its end, FOLDER/best.yaml; returns both."""
    folder = read_folder(path)
    summary = summarise(folder, folder.open())
    best = path / BEST if summary.best else None
    if best and summary.best:
        with written_aside(best) as partial:
            partial.write_text(best_yaml(summary, summary.best), encoding="utf-8")
    write_html(
        path / PAGE,
        title=f"Sweep {folder.sweep.name}",
        kind="sweep",
        command="emohead sweep report",
        lead=lead(summary),
        sections=sections(summary),
    )
    return path / PAGE, best


def best_yaml(summary: Summary, row: Row) -> str:
    """What `emohead train STAGE -c NAME -c best.yaml` takes: the words and values of a trial, without a run folder."""
    sweep = summary.folder.sweep
    trial_config(sweep, words(row.settings, sweep.spec))  # what is written can be read
    found: dict[str, Any] = {}
    lengths = [word for word in sweep.words if word.startswith(LENGTHS)]  # of a trial, perhaps not of what it is for
    for word in sweep.words:
        key, _, value = word.partition("=")
        if word not in lengths:
            put(found, key, yaml.safe_load(value))
    for key, value in row.settings.items():
        put(found, key, value)
    configs = " ".join(f"-c {config}" for config in sweep.configs)
    return (
        f"# Trial {row.number} of {sweep.name}, the best of {len(summary.rows)}: {sweep.metric} {row.value:.6g}\n"
        f"#   emohead train {sweep.stage.name} {configs} -c {BEST} run=runs/{sweep.stage.name}-best\n"
        + (f"# Its trials had {' '.join(lengths)}.\n" if lengths else "")
        + yaml.safe_dump(found, sort_keys=False, default_flow_style=None)
    )


def put(found: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a key with dots."""
    *parents, last = key.split(".")
    for parent in parents:
        found = found.setdefault(parent, {})
    found[last] = value


def sections(summary: Summary) -> dict[str, str]:
    return {
        "Parallel coordinates": parallel_coordinates(summary),
        "History": history(summary),
        "What mattered": bars(summary.importance),
        "Learning curves": learning_curves(summary),
        "Trials": trials(summary),
    }


def lead(summary: Summary) -> str:
    sweep = summary.folder.sweep
    goal = "highest" if sweep.maximize else "lowest"
    counts = [
        (state, summary.count(state)) for state in ("done", "ended early", "failed", "running", "left", "waiting")
    ]
    facts = "".join(f"<li><b>{count}</b> {state}</li>" for state, count in counts if count)
    told = f"<p class='lead'>Stage {sweep.stage.name}, method {sweep.method}, {goal} {escape(sweep.metric)}.</p>"
    if summary.best is None:
        return f"{told}<ul class='facts'>{facts}</ul><p>No trial has run to its end yet.</p>"
    settings = "\n".join(f"{key}={value}" for key, value in summary.best.settings.items())
    return (
        f"{told}<ul class='facts'>{facts}</ul><p>Best is trial {summary.best.number} with "
        f"{escape(sweep.metric)} <b>{summary.best.value:.5g}</b>; its settings are in <code>{BEST}</code>.</p>"
        f"<pre>{escape(settings)}</pre>"
    )


def bars(importance: dict[str, float]) -> str:
    if not importance:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td class='wide'><div class='bar'><i style='width:{share:.1%}'></i></div></td>"
        f"<td class='n'>{share:.0%}</td></tr>"
        for name, share in importance.items()
    )
    told = "How much a parameter's values among the best trials differ from its values among all (PED-ANOVA)."
    return f"<p class='small'>{told}</p><table><tbody>{rows}</tbody></table>"


def trials(summary: Summary) -> str:
    keys = list(dict.fromkeys(key for row in summary.rows for key in row.settings))
    head = "".join(
        f"<th class='n'>{escape(name)}</th>" for name in (summary.folder.sweep.metric, "step", *keys, "time")
    )
    rows = []
    for row in summary.rows:
        if row.state == "waiting":
            continue
        cells = ["–" if row.value is None else f"{row.value:.5g}", str(row.step or "–")]
        cells += [f"{v:.4g}" if isinstance(v := row.settings.get(key, "–"), float) else str(v) for key in keys]
        cells.append(duration(row.seconds) if row.seconds else "–")
        kind = " class='best'" if row is summary.best else ""
        rows.append(
            f"<tr{kind}><th>{row.number}</th><td>{escape(row.state)}</td>"
            + "".join(f"<td class='n'>{escape(cell)}</td>" for cell in cells)
            + f"<td class='small'>{escape(row.reason)}</td></tr>"
        )
    head = f"<tr><th>trial</th><th>state</th>{head}<th></th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"
