"""The table of retrieval: by what emotions are asked for, what is found, how often it is right."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from rich.table import Table as RichTable

RETRIEVED = "_top1"  # what figures of retrieval end in
KINDS = {  # of what is asked by and what is found
    "text": "name",
    "description": "description",
    "prompt": "name in training's words",
    "image": "image",
    "audio": "voice",
}
DIRECTIONS = [
    *((a, b) for text in ("text", "description", "prompt") for a, b in ((text, "image"), (text, "audio"))),
    *((a, b) for text in ("text", "description", "prompt") for a, b in (("image", text), ("audio", text))),
    ("image", "audio"),
    ("audio", "image"),
]
GROUPS = {"": "all", "seen_": "seen", "unseen_": "unseen", "harmonic_": "harmonic mean"}


class Grid(NamedTuple):
    head: list[str]
    rows: dict[str, list[float | None]]


def retrieval_grid(metrics: Mapping[str, float]) -> Grid:
    """Retrieval by names, by descriptions and without words, in every direction; seen and unseen emotions apart."""
    names = [f"{a}_{b}{RETRIEVED}" for a, b in DIRECTIONS]
    groups = [group for group in GROUPS if any(group + name in metrics for name in names)]
    rows: dict[str, list[float | None]] = {
        f"{KINDS[a]} → {KINDS[b]}": [metrics.get(group + name) for group in groups]
        for (a, b), name in zip(DIRECTIONS, names, strict=True)
        if name in metrics
    }
    return Grid([GROUPS[group] for group in groups], rows)


def retrieval_table(metrics: Mapping[str, float]) -> RichTable | None:
    """None if nothing was retrieved."""
    head, rows = retrieval_grid(metrics)
    table = RichTable(title="emotions retrieved, top-1")
    table.add_column("asked by → found")
    for name in head:
        table.add_column(name, justify="right")
    for row, values in rows.items():
        table.add_row(row, *map(share, values))
    return table if rows else None


def retrieval_html(metrics: Mapping[str, float]) -> str:
    """The same; empty if nothing was retrieved."""
    head, found = retrieval_grid(metrics)
    if not found:
        return ""
    columns = "".join(f"<th class='n'>{escape(name)}</th>" for name in head)
    rows = "".join(
        f"<tr><th>{escape(row)}</th>" + "".join(f"<td class='n'>{share(value)}</td>" for value in values) + "</tr>"
        for row, values in found.items()
    )
    told = "Share of queries whose nearest item, of one of each emotion, has their emotion."
    table = f"<table><thead><tr><th>asked by → found</th>{columns}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<p class='small'>{told}</p><div class='scroll'>{table}</div>"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
