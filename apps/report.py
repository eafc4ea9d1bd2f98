"""The demo's report: one HTML file that holds everything it shows, so that it can be mailed.

It asks nothing of the network: pictures, videos, style and curves are inside. The sections are in report_sections.py;
each names the files that are missing.
"""

import json
from pathlib import Path
from typing import Any

from ..models.errors import UserError
from ..models.files import written_aside
from .page import html_page
from .report_parts import duration
from .report_sections import corpus, figures, notes, reached, timings, training, videos


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` from what the demo left in `folder`; parts that are absent are named as missing.

    Raises:
        UserError: no readable metrics.json.
    """
    path, content = folder / "report.html", page(folder, _read_metrics_json(folder / "metrics.json"))
    with written_aside(path) as file:
        file.write_text(content, encoding="utf-8")
    return path


def _read_metrics_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(path, "missing", f"`emohead demo --out {path.parent}` writes it")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        return {"timings": {}, "corpus": {}, "machine": {}} | metrics | {"figures": list(metrics["figures"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(path, f"not what the demo writes ({error})", "run the demo again") from None


def page(folder: Path, metrics: dict[str, Any]) -> str:
    """The whole document."""
    sections = {
        "Videos": videos(folder),
        "Figures": figures(metrics["figures"]),
        "Training": training(folder),
        "Corpus": corpus(folder, metrics["corpus"]),
        "Time": timings(metrics["timings"], metrics["machine"]),
        "Notes": notes(folder),
    }
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(
        f'<section id="{name.lower()}"><h2>{name}</h2>{content}</section>' for name, content in sections.items()
    )
    return html_page(
        title="emohead: demo report",
        kind="demo report",
        header=f"{headline(metrics)}<nav>{links}</nav>",
        main=body,
        footer="Written by <code>emohead demo</code>. The people here are drawn, their voices are synthetic.",
        end=STILL_IF_ASKED,
    )


# If the reader's system asks for less motion, videos wait to be started.
STILL_IF_ASKED = (
    "<script>if(matchMedia('(prefers-reduced-motion: reduce)').matches)"
    "document.querySelectorAll('video').forEach(v=>{v.autoplay=false;v.pause()})</script>"
)


def headline(metrics: dict[str, Any]) -> str:
    """The demo's result, in one sentence with its numbers."""
    c, wanted = metrics["corpus"], [f for f in metrics["figures"] if f.get("target") is not None]
    facts = []
    if {"clips", "identities", "test_identities"} <= c.keys():
        facts.append(
            f"<b>{c['clips']:,}</b> clips of <b>{c['identities']}</b> drawn people, "
            f"<b>{c['test_identities']}</b> of them kept for testing"
        )
    if metrics["timings"]:
        facts.append(f"<b>{duration(sum(metrics['timings'].values()))}</b> on the clock")
    if wanted:
        facts.append(f"<b>{sum(map(reached, wanted))} of {len(wanted)}</b> targets reached")
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    return (
        "<h1>One portrait, one sentence, an emotion given three ways</h1>"
        "<p class='lead'>The same portrait says the same sentence three times. The emotion comes in as words, as a "
        f"picture of another face, and as another voice.</p><ul class='facts'>{items}</ul>"
    )
