"""The tables of `emohead evaluate`: which figures stand in which, and how a value is written with its uncertainty."""

from collections.abc import Iterator, Mapping
from html import escape

from rich.table import Table as RichTable

from ..trainers.evaluation.common import Interval
from ..trainers.evaluation.video import Compared
from .evaluation_retrieval import RETRIEVED

NARROW = 6  # characters of a column at least

# Heading of a table of videos -> its figures and their headings. One table of all would be too wide for a terminal.
VIDEO_TABLES = {
    "videos against the true ones": {
        "psnr": "PSNR",
        "ssim": "SSIM",
        "temporal": "temporal",
        "flicker": "flicker",
        "sharpness": "sharpness",
        "lpips": "LPIPS",
        "fid": "FID",
        "csim": "CSIM",
        "identity": "identity",
    },
    "their faces, tracked again": {
        "m_lmd": "M-LMD",
        "f_lmd": "F-LMD",
        "lasting_lmd": "lasting",
        "mouth_correlation": "mouth",
        "mouth_ratio": "its range",
        "mouth_lag": "its lag",
        "faces_found": "found",
    },
    "their heads and eyes": {
        "head_ratio": "head",
        "pose_error": "pose °",
        "place_error": "place",
        "frame0_jump": "jump",
        "jitter": "jitter",
        "blinks_per_minute": "blinks",
        "gaze_error": "gaze",
    },
    "emotion and sync of videos": {
        "sync_confidence": "sync",
        "sync_offset": "offset",
        "motion_emotion": "acted",
        "model_residual": "model",
        "sync_net_confidence": "LSE-C",
        "sync_net_distance": "LSE-D",
        "sync_net_offset": "AV offset",
        "emotion_accuracy": "emotion",
        "seen_emotion_accuracy": "seen",
        "unseen_emotion_accuracy": "unseen",
        "harmonic_emotion_accuracy": "harmonic",
    },
    "faces of videos, as installed judges see them": {
        "expression": "expression",
        "expression_rank": "its rank",
        "faces_judged": "judged",
        "lips_closed": "lips",
        "lips_closed_other_phones": "others",
        "lips_closed_foreign": "foreign",
    },
    "driving motion, whatever the videos show of it": {
        "driving_m_lmd": "M-LMD",
        "driving_f_lmd": "F-LMD",
        "driving_mouth_correlation": "mouth",
        "driving_sync_confidence": "sync",
        "driving_sync_offset": "offset",
        "driving_emotion": "acted",
    },
}


def video_rows(found: Compared, columns: Mapping[str, str]) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The headings of those columns that were measured; each way of making a video that has any, and its cells."""
    names = [name for name in columns if any(name in figures for figures in found.table.values())]
    rows = (
        (row, [cell(figures.get(name), found.intervals[row].get(name)) for name in names])
        for row, figures in found.table.items()
        if any(name in figures for name in names)
    )
    return [columns[name] for name in names], rows


def cell(value: float | None, interval: Interval | None) -> str:
    """A value and half the width of its interval, with three decimals, or two if it is 10 or more."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 10 else 2
    return f"{value:.{digits}f}" + (f" ±{(interval[1] - interval[0]) / 2:.{digits}f}" if interval else "")


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those with a row each: not retrieval, which has a table, nor single emotions and levels, which the files hold."""
    return {name: value for name, value in metrics.items() if "_accuracy_" not in name and RETRIEVED not in name}


def metric_table(title: str, metrics: dict[str, float]) -> RichTable:
    table = RichTable(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in plain_metrics(metrics).items():
        table.add_row(name, f"{value:.4f}")
    return table


def video_tables(found: Compared) -> Iterator[RichTable]:
    """The tables of videos of which anything was measured."""
    for heading, columns in VIDEO_TABLES.items():
        headings, rows = video_rows(found, columns)
        if headings:
            table = RichTable(title=heading, show_edge=False)
            table.add_column("video", min_width=NARROW + 2)
            for name in headings:  # a narrow terminal breaks cells between value and interval, but neither of these
                table.add_column(name, justify="right", min_width=max(NARROW, *map(len, name.split())))
            for row, cells in rows:
                table.add_row(row, *cells)
            yield table


def metric_html(metrics: dict[str, float]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td class='n'>{value:.4f}</td></tr>"
        for name, value in plain_metrics(metrics).items()
    )
    return f"<table class='narrow'><tbody>{rows}</tbody></table>" if rows else ""


def video_html(found: Compared) -> str:
    """The same tables as HTML, each under its heading."""
    parts = []
    for heading, columns in VIDEO_TABLES.items():
        headings, rows = video_rows(found, columns)
        if headings:
            head = "".join(f"<th class='n'>{escape(name)}</th>" for name in headings)
            body = "".join(
                f"<tr><th>{escape(row)}</th>" + "".join(f"<td class='n'>{text}</td>" for text in cells) + "</tr>"
                for row, cells in rows
            )
            table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
            parts.append(f"<h3>{escape(heading.capitalize())}</h3><div class='scroll'>{table}</div>")
    if not parts:
        return ""
    told = "Each clip made anew from its first frame and what the row names, and compared with the true one."
    return f"<p class='small'>{told} ± is half of the 95 % interval over clips.</p>" + "".join(parts)
