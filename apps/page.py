"""A page in one HTML file that asks nothing of the network, in the style of the demo's report."""

from html import escape
from pathlib import Path

from ..models.files import written_aside


def write_html(
    path: Path, *, title: str, kind: str, command: str, sections: dict[str, str], lead: str = "", note: str = ""
) -> None:
    """Write a page.

    kind: above the title. command: that wrote it. sections: HTML by heading, the empty ones left out. lead: HTML
    below the title.
    """
    body = "".join(
        f"<section><h2>{escape(name)}</h2>{content}</section>" for name, content in sections.items() if content
    )
    body += f"<p class='small'>{escape(note)}</p>" if note else ""
    header = f"<h1>{escape(title)}</h1>{lead}"
    footer = f"Written by <code>{escape(command)}</code>."
    with written_aside(path) as file:
        file.write_text(html_page(title=title, kind=kind, header=header, main=body, footer=footer), encoding="utf-8")


def html_page(*, title: str, kind: str, header: str, main: str, footer: str, end: str = "") -> str:
    """A whole page of HTML parts; title and kind are plain text."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><header><p class='eyebrow'>emohead · {escape(kind)}</p>{header}</header>"
        f"<main>{main}</main><footer>{footer}</footer>{end}</body></html>\n"
    )
