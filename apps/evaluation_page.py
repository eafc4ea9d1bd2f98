"""What `emohead evaluate --out` leaves to look at: one HTML file with tables, bars and side-by-side videos inside."""

from html import escape
from pathlib import Path

import numpy as np
import torch

from ..datamodules.dataset.reader import ClipReader
from ..datamodules.media.write import write_video
from ..datamodules.sample import EMOTIONS
from ..models.face import FaceGenerator, to_bytes
from ..models.files import written_aside
from ..models.talker import Talker, motion_windows
from .infer import PROVENANCE
from .report_parts import data_uri

NUM_VIDEOS = 3
BATCH = 8
LEVELS = ("", "_1", "_2", "_3")


@torch.inference_mode()
def write_videos(
    face: FaceGenerator, talker: Talker | None, reader: ClipReader, split: str, folder: Path
) -> list[Path]:
    """A few clips of the split, evenly chosen, each as true | its motion drawn | from speech alone (talkers only)."""
    keys = reader.keys(split)
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, min(NUM_VIDEOS, len(keys))).round().astype(int)]
    paths = []
    for key in chosen:
        motion, speech = torch.from_numpy(reader.motion(key)), reader.speech(key)
        truth = torch.from_numpy(reader.frames(key, list(range(len(motion))), size=face.config.size))
        windows = motion_windows(motion, face.config.window)
        features = face.encode_portrait(truth[:1])
        drawn = [to_bytes(face(features.repeat(len(w)), w).frame) for w in windows.split(BATCH)]
        rows = [truth, torch.cat(drawn)]
        if talker:
            heard = torch.from_numpy(speech)[None]
            emotion = talker.emotion_from_speech(heard)
            rows.append(torch.cat(list(talker.animate(truth[:1], heard, emotion)))[: len(truth)])
        shortest = min(len(row) for row in rows)
        frames = torch.cat([row[:shortest] for row in rows], dim=3).permute(0, 2, 3, 1).numpy()
        paths.append(folder / f"{key}.mp4")
        write_video(paths[-1], frames, speech, metadata={"comment": f"{PROVENANCE} (left: true)", "title": key})
    return paths


def write_page(
    path: Path, title: str, metrics: dict[str, float], tables: dict[str, str], videos: list[Path], note: str
) -> None:
    """Everything in one file, so that it can be mailed. tables: HTML by heading, the empty ones left out."""
    sections = {name: table for name, table in (tables | {"Emotions": accuracies(metrics)}).items() if table}
    if videos:
        sections["Videos"] = "".join(map(video, videos))
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections.items())
    body += f"<p class='small'>{escape(note)}</p>"
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><header>"
        f"<p class='eyebrow'>emohead · evaluation</p><h1>{escape(title)}</h1></header>"
        f"<main>{body}</main><footer>Written by <code>emohead evaluate</code>.</footer></body></html>\n"
    )
    with written_aside(path) as file:
        file.write_text(page, encoding="utf-8")


def metric_table(metrics: dict[str, float]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td class='n'>{value:.4f}</td></tr>"
        for name, value in metrics.items()
        if "_accuracy_" not in name
    )
    return f"<table class='narrow'><tbody>{rows}</tbody></table>" if rows else ""


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
    """A bar for each emotion and level: clips whose nearest text is that of their emotion. Nothing without any."""
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


def video(path: Path) -> str:
    told = "true, drawn from the true motion, and, where there is a third, from speech alone"
    player = f'<video controls loop muted playsinline src="{data_uri(path)}"></video>'
    return f"<figure class='picture'>{player}<figcaption>{escape(path.stem)}: {told}</figcaption></figure>"
