"""Small parts of the report's HTML: embedded files, captions, numbers as text."""

import base64
import math
import re
from html import escape
from pathlib import Path
from typing import Any

MIME = {".png": "image/png", ".mp4": "video/mp4", ".wav": "audio/wav"}


def data_uri(path: Path) -> str:
    """A file as part of the page."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def missing(path: Path, folder: Path) -> str:
    """A line that says which file of the demo's folder is not there."""
    return f"<p class='missing'>{escape(path.relative_to(folder).as_posix())} is missing.</p>"


def picture(path: Path, alt: str, caption: str) -> str:
    """A picture with its caption."""
    if not path.is_file():
        return f"<p class='missing'>{escape(path.name)} is missing.</p>"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="picture"><img src="{data_uri(path)}" alt="{escape(alt)}">{below}</figure>'


def sound(path: Path, caption: str) -> str:
    """A sound with its caption; nothing if there is none."""
    if not path.is_file():
        return ""
    player = f'<audio controls src="{data_uri(path)}" aria-label="{escape(caption)}"></audio>'
    return f"<figure class='sound'>{player}<figcaption>{escape(caption)}</figcaption></figure>"


def duration(seconds: float) -> str:
    """Seconds in words, such as "48 s", "3 min 20 s" and "1 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def decimal(value: float | None, row: dict[str, Any]) -> str:
    """A figure's number, with as many digits as its unit deserves."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{2 if row.get('unit') == 'dB' else 3}f}".replace("-", "−")


def step_of(path: Path) -> str:
    """The step that a preview's name ends with, as a sentence."""
    found = re.search(r"-(\d+)$", path.stem)
    return f"Step {int(found[1])}." if found else ""
