"""The page that `emohead evaluate --out` writes: one HTML file with tables, bars and side-by-side videos inside."""

from html import escape
from pathlib import Path

import numpy as np
import torch

from ..datamodules.dataset.reader import ClipReader
from ..datamodules.media.write import write_video
from ..datamodules.sample import EMOTIONS
from ..models.face import to_pictures
from ..models.talker import PROVENANCE, motion_windows
from ..trainers.evaluation.video import SPEECH, TRUE_FRAMES, TRUE_MOTION, Maker, from_speech
from .evaluation_tables import plain_metrics, retrieval_grid
from .page import write_html
from .report_parts import data_uri

NUM_VIDEOS = 3
LEVELS = ("", "_1", "_2", "_3")


@torch.inference_mode()
def write_videos(name: str, maker: Maker, reader: ClipReader, split: str, folder: Path) -> dict[Path, str]:
    """A few clips of the split, evenly chosen, in rows of the table of videos beside each other.

    name: of the maker in that table. Returns what each video shows, from left to right.
    """
    keys = reader.keys(split, heard=from_speech({name: maker}))
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, min(NUM_VIDEOS, len(keys))).round().astype(int)]
    told = {}
    for key in chosen:
        rows = draw_rows(name, maker, reader, key)
        shortest = min(map(len, rows.values()))
        frames = np.concatenate([row[:shortest] for row in rows.values()], axis=2)  # (T, S, S * rows, 3)
        path, shown = folder / f"{key}.mp4", " | ".join(rows)
        metadata = {"comment": f"{PROVENANCE}; from left to right: {shown}", "title": key}
        write_video(path, frames, reader.speech(key), metadata=metadata)
        told[path] = shown
    return told


def draw_rows(name: str, maker: Maker, reader: ClipReader, key: str) -> dict[str, np.ndarray]:
    """The clip itself, then made from its true motion and, if the maker hears, from speech: rows of the video table.

    Frames (T, S, S, 3) by the row's name in that table.
    """
    motion, speech = torch.from_numpy(reader.motion(key)), torch.from_numpy(reader.speech(key))[None]
    truth = torch.from_numpy(reader.frames(key, size=maker.face.config.size))
    features = maker.face.encode_portrait(truth[:1])
    rows = {TRUE_FRAMES: to_pictures(truth)}
    for way, moved in maker.motions(speech, motion, features):
        if way in (TRUE_MOTION, SPEECH):
            drawn = maker.face.draw(features, motion_windows(moved))
            rows[f"{name}: {way}"] = np.concatenate([to_pictures(frames) for frames in drawn])
    return rows


def write_page(
    path: Path, title: str, metrics: dict[str, float], tables: dict[str, str], videos: dict[Path, str], note: str
) -> None:
    """Everything in one file, so that it can be mailed.

    tables: HTML by heading, the empty ones left out. videos: what each shows, see `write_videos`.
    """
    sections = tables | {"Emotions": accuracies(metrics)}
    sections["Videos"] = "".join(video(path, shown) for path, shown in videos.items())
    write_html(path, title=title, kind="evaluation", command="emohead evaluate", sections=sections, note=note)


def metric_table(metrics: dict[str, float]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td class='n'>{value:.4f}</td></tr>"
        for name, value in plain_metrics(metrics).items()
    )
    return f"<table class='narrow'><tbody>{rows}</tbody></table>" if rows else ""


def retrieval_table(metrics: dict[str, float]) -> str:
    """Top-1 by names, by descriptions and without words; empty if there are none."""
    head, found = retrieval_grid(metrics)
    if not found:
        return ""
    columns = "".join(f"<th class='n'>{escape(name)}</th>" for name in head)
    rows = "".join(
        f"<tr><th>{escape(row)}</th>"
        + "".join(f"<td class='n'>{'–' if value is None else f'{value:.3f}'}</td>" for value in values)
        + "</tr>"
        for row, values in found.items()
    )
    told = "Share of queries whose nearest item, of one of each emotion, has their emotion."
    table = f"<table><thead><tr><th>asked by → found</th>{columns}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<p class='small'>{told}</p><div class='scroll'>{table}</div>"


def video_table(videos: dict[str, dict[str, float]], columns: dict[str, str]) -> str:
    """A row for each way of making a video, and of the columns (figure to heading) those that were measured."""
    if not videos:
        return ""
    names = [name for name in columns if any(name in figures for figures in videos.values())]
    head = "".join(f"<th class='n'>{escape(columns[name])}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(row)}</th>"
        + "".join(f"<td class='n'>{f'{figures[n]:.3f}' if n in figures else '–'}</td>" for n in names)
        + "</tr>"
        for row, figures in videos.items()
    )
    told = "Each clip made anew from its first frame and what the row names, and compared with the true one."
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<p class='small'>{told}</p><div class='scroll'>{table}</div>"


def accuracies(metrics: dict[str, float]) -> str:
    """A bar for each emotion and level: clips whose nearest text is that of their emotion. Empty if there are none."""
    found = []
    for emotion in EMOTIONS:
        for level in LEVELS:
            values = [metrics.get(f"{kind}_accuracy_{emotion}{level}") for kind in ("image", "audio")]
            if any(value is not None for value in values):
                cells = "".join(f"<td class='wide'>{bar(value)}</td>" for value in values)
                found.append(f"<tr><th>{emotion} {level.strip('_')}</th>{cells}</tr>")
    if not found:
        return ""
    head = "<thead><tr><th>emotion, level</th><th>seen in images</th><th>heard in speech</th></tr></thead>"
    return f"<div class='scroll'><table>{head}<tbody>{''.join(found)}</tbody></table></div>"


def bar(value: float | None) -> str:
    if value is None:
        return "–"
    return f"<div class='bar' title='{value:.3f}'><i style='width:{value:.1%}'></i></div>{value:.2f}"


def video(path: Path, shown: str) -> str:
    player = f'<video controls loop muted playsinline src="{data_uri(path)}"></video>'
    return f"<figure class='picture'>{player}<figcaption>{escape(path.stem)}: {escape(shown)}</figcaption></figure>"
