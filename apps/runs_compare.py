"""`emohead runs compare`: settings that differ, final metrics side by side, and a page with the curves."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.errors import UserError
from ..trainers.run.folder import RunFacts, facts_of, is_run, metrics_of, read_config
from .charts import NUM_COLOURS, Curve, overlay
from .json_output import print_json
from .page import write_html
from .runs import as_document, hours_of, steps_of
from .tables import print_table

Values = dict[str, list[Any]]  # of a key or metric, one for each run; None where a run has none


def compare(folders: list[Path], *, out: Path | None, json: bool) -> None:
    """Print how runs differ, and with `out` write the page. Raises UserError if one is no run folder."""
    for folder in folders:
        if not is_run(folder):
            raise UserError(folder, "no run folder", "give one with a config.yaml and metrics, as `emohead runs` lists")
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        raise UserError(folders[0], "named twice", "give two different run folders")
    runs, names = facts_of(folders), names_of(folders)
    settings = differing([dict(flat(read_config(folder))) for folder in folders])
    curves = [metrics_of(folder) for folder in folders]
    metrics = final_metrics(curves)
    if out is not None:
        write_html(
            out,
            title=" · ".join(names),
            kind="runs compared",
            command="emohead runs compare",
            sections=sections(names, runs, settings, metrics, curves),
        )
    if json:
        print_json({"runs": list(map(as_document, runs)), "settings": settings, "metrics": metrics})
        return
    print_table(as_table("settings that differ", "key", names, settings, setting))
    print_table(as_table("final metrics", "metric", names, metrics, figure))
    if out is not None:
        Console().print(f"page: {out}", highlight=False, markup=False)


def names_of(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = next((n for n in range(1, 99) if len({part[-n:] for part in parts}) == len(parts)), 1)
    return ["/".join(part[-length:]).replace("//", "/") for part in parts]


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key with dots, value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing(configs: list[dict[str, Any]]) -> Values:
    """The keys whose values are not the same in all; a run's own name, which always differs, is left out."""
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if key != "run"]
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found[1:])}


def final_metrics(curves: list[dict[str, Curve]]) -> Values:
    """The last value of each metric, those of validation first."""
    names = list(dict.fromkeys(name for run in curves for name in run))
    names.sort(key=lambda name: not name.startswith("val/"))
    return {name: [run[name][-1][1] if name in run else None for run in curves] for name in names}


def setting(value: Any) -> str:
    return "–" if value is None else f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def as_table(title: str, first: str, names: list[str], values: Values, told: Any) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(Text(name), overflow="fold", justify="right")
    for key, found in values.items():
        table.add_row(Text(key), *(Text(told(value)) for value in found))
    return table


def sections(
    names: list[str], runs: list[RunFacts], settings: Values, metrics: Values, curves: list[dict[str, Curve]]
) -> dict[str, str]:
    """The page's sections: HTML by heading."""
    about: Values = {
        "stage": [run.stage or None for run in runs],
        "status": [run.status for run in runs],
        "step": [steps_of(run) for run in runs],
        "best": [f"{run.monitor} {figure(run.best)}".strip() for run in runs],
        "hours": [hours_of(run) for run in runs],
    }
    charts = [overlay(key, {n: c.get(key, []) for n, c in zip(names, curves, strict=True)}) for key in metrics]
    return {
        "Runs": html_table(names, about, setting),
        "Settings that differ": html_table(names, settings, setting) if settings else "<p>None.</p>",
        "Final metrics": html_table(names, metrics, figure),
        "Curves": f"{legend(names)}<div class='panels'>{''.join(charts)}</div>",
    }


def html_table(names: list[str], values: Values, told: Any) -> str:
    head = "".join(f"<th class='n'>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(key)}</th>" + "".join(f"<td class='n'>{escape(told(value))}</td>" for value in found)
        for key, found in values.items()
    )
    return f"<div class='scroll'><table><thead><tr><th></th>{head}</thead><tbody>{rows}</tbody></table></div>"


def legend(names: list[str]) -> str:
    spans = (f"<span class='run run{i % NUM_COLOURS}'>{escape(name)}</span>" for i, name in enumerate(names))
    return f"<p class='legend'>{''.join(spans)}</p>"
