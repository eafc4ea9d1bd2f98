"""The sections of the demo's report, each a function from what the demo left to HTML."""

import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any

from ..trainers.run.curves import read_metrics
from .charts import panels, title_of
from .report_parts import data_uri, decimal, duration, missing, picture, sound, step_of

WAYS = {"text": "words", "image": "a picture", "audio": "a voice"}
STAGES = {
    "emotion": "Text, images and voices of the same emotion are drawn together in one space.",
    "motion": "Speech and a point of that space become the motion of a 3D face model.",
    "face": "One portrait and that motion become frames: a flow warps the portrait, residual faces add what it lacks.",
    "distill": "One small network learns from the three: talker.safetensors, all that inference needs.",
}
SAMPLES = {
    "frames": "Rows from the top: portrait, generated frame, true frame, and the mask of the finest level "
    "(light: warped portrait; dark: drawn anew).",
    "portrait-truth-teacher-student": "Columns from the left: portrait, true frame, face stage, student.",
}
TERMS = {"seconds": "seconds of film", "size": "pixels a side"}


def videos(folder: Path) -> str:
    """The inputs on the left, the three videos beside them, their frames below."""
    portrait = picture(folder / "portrait.png", "The portrait, a drawn face", "The portrait")
    speech = sound(folder / "speech.wav", "The sentence")
    cards = "".join(video_card(folder, way) for way in WAYS)
    strip = picture(
        folder / "pictures" / "videos.png", "Frames of the three videos, one row each", "The same, frame by frame"
    )
    return f"<div class='talkers'><div class='given'>{portrait}{speech}</div>{cards}</div>{strip}"


def video_card(folder: Path, way: str) -> str:
    """One video with the emotion it was asked for and how."""
    path = folder / "videos" / f"{way}.mp4"
    if not path.is_file():
        return f"<figure class='card talker'>{missing(path, folder)}</figure>"
    described = path.with_suffix(".json")
    told = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    emotion, given = told.get("emotion", "no label"), told.get("given", WAYS[way])
    poster = f' poster="{data_uri(folder / "portrait.png")}"' if (folder / "portrait.png").is_file() else ""
    return (
        f'<figure class="card talker"><video autoplay loop muted controls playsinline{poster} src="{data_uri(path)}" '
        f'aria-label="The portrait talks, emotion: {escape(emotion)}, from {WAYS[way]}"></video>'
        f"<figcaption><b>{escape(emotion)}</b><span>from {escape(given)}</span>"
        f"{emotion_source(folder, way)}</figcaption></figure>"
    )


def emotion_source(folder: Path, way: str) -> str:
    """The picture or the voice that the emotion was taken from."""
    face, voice = folder / "emotion.png", folder / "emotion.wav"
    if way == "image" and face.is_file():
        return f'<img src="{data_uri(face)}" alt="The face that shows the emotion">'
    if way == "audio" and voice.is_file():
        return f'<audio controls src="{data_uri(voice)}" aria-label="The voice with the emotion"></audio>'
    return ""


def figures(rows: list[dict[str, Any]]) -> str:
    """The figures that have a target, then those to compare with."""
    wanted = [row for row in rows if row.get("target") is not None]
    others = [row for row in rows if row.get("target") is None]
    text = "<p>Measured on people who took no part in training.</p>"
    if wanted:
        head = "<th>figure<th class='n'>value<th class='n'>baseline<th class='n'>target<th class='wide'><th>"
        text += f"<div class='scroll'><table><thead><tr>{head}</thead>{''.join(map(figure_row, wanted))}</table></div>"
        text += "<p class='small'>The bar is the value, the line across it the target. The baseline is what chance, "
        text += "silence or an unchanged portrait would get.</p>"
    if others:
        head = "<th>for comparison<th class='n'>value<th class='n'>baseline"
        body = "".join(map(figure_row, others))
        text += f"<div class='scroll'><table class='narrow'><thead><tr>{head}</thead>{body}</table></div>"
    return text


def figure_row(row: dict[str, Any]) -> str:
    """One figure: value, baseline, and if there is a target, a bar and whether it was reached."""
    target, value = row.get("target"), row["value"]
    unit = f" <small>{escape(row.get('unit') or '')}</small>"
    note = f"<small>{escape(row['note'])}</small>" if row.get("note") else ""
    name = escape(row["name"].replace("->", "→"))
    cells = f"<th scope='row'>{name}{note}<td class='n'><b>{decimal(value, row)}</b>{unit}"
    cells += f"<td class='n'>{decimal(row.get('baseline'), row)}"
    if target is not None:
        mark = "<span class='mark yes'>✓ reached</span>" if reached(row) else "<span class='mark no'>✗ missed</span>"
        sign = "≥" if row.get("higher_is_better", True) else "≤"
        cells += f"<td class='n'>{sign} {decimal(target, row)}<td class='wide'>{bar(value, target)}<td>{mark}"
    return f"<tr>{cells}</tr>"


def reached(row: dict[str, Any]) -> bool:
    """Whether a figure is as good as its target."""
    value, target = row["value"], row["target"]
    return value >= target if row.get("higher_is_better", True) else value <= target


def bar(value: float, target: float) -> str:
    """A value as a bar from zero, with a line at the target."""
    if not math.isfinite(value):
        return ""
    low, high = min(0.0, value, target), max(0.0, value, target)
    low, high = (low - 0.15 * (high - low) if low < 0 else low), (high + 0.15 * (high - low) if high > 0 else high)
    zero, end, line = (100 * (x - low) / ((high - low) or 1) for x in (0.0, value, target))
    left, width = min(zero, end), abs(end - zero)
    style = f"left:{left:.1f}%;width:{width:.1f}%"
    return f"<div class='bar' aria-hidden='true'><i style='{style}'></i><u style='left:{line:.1f}%'></u></div>"


def training(folder: Path) -> str:
    """Each stage: curves, samples, configuration."""
    legend = (
        "<p class='legend'><span class='k-smooth'>training, smoothed</span>"
        "<span class='k-raw'>training, as it was</span><span class='k-val'>validation</span></p>"
    )
    return legend + "".join(stage(folder, name, STAGES.get(name, "")) for name in stages_of(folder))


def stages_of(folder: Path) -> list[str]:
    """The stages of the chain, then any other that was trained here."""
    trained = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    return [*STAGES, *(name for name in trained if name not in STAGES)]


def stage(folder: Path, name: str, text: str) -> str:
    """One stage of the four."""
    curves = folder / name / "metrics.jsonl"
    if curves.is_file():
        charts = f"<div class='panels'>{''.join(panels(read_metrics(curves)))}</div>"
    else:
        charts = missing(curves, folder)
    config = folder / name / "config.yaml"
    details = missing(config, folder)
    if config.is_file():
        content = escape(config.read_text(encoding="utf-8"))
        details = f"<details><summary>Resolved configuration</summary><pre>{content}</pre></details>"
    return f"<article><h3>{name}</h3><p>{text}</p>{charts}{samples(folder / name / 'samples')}{details}</article>"


def samples(folder: Path) -> str:
    """The last picture of each preview; the first one can be unfolded."""
    steps: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        steps.setdefault(re.sub(r"-\d+$", "", path.stem), []).append(path)
    html = ""
    for name, paths in steps.items():
        first, last = (f"{SAMPLES.get(name, title_of(name))} {step_of(path)}" for path in (paths[0], paths[-1]))
        html += picture(paths[-1], last, last)
        if len(paths) > 1:
            early = picture(paths[0], first, "")
            html += f"<details><summary>The same, {step_of(paths[0]).lower()}</summary>{early}</details>"
    return html


def corpus(folder: Path, facts: dict[str, Any]) -> str:
    """The data in words and pictures."""
    shown = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in facts.items()}
    terms = "".join(
        f"<div><dt>{escape(TERMS.get(key, title_of(key)))}<dd>{escape(value)}</div>" for key, value in shown.items()
    )
    sheet = picture(
        folder / "pictures" / "corpus.png",
        "Contact sheet of drawn faces, three for each of the eight emotions",
        "Frames of the training split, three for each emotion; people and levels differ",
    )
    rest = [p for p in sorted((folder / "pictures").glob("*.png")) if p.stem not in ("corpus", "videos")]
    others = "".join(picture(path, title_of(path.stem), title_of(path.stem)) for path in rest)
    return f"<dl class='facts'>{terms}</dl>{sheet}{others}"


def timings(seconds: dict[str, float], machine: dict[str, Any]) -> str:
    """Wall time of each part as bars."""
    if not seconds:
        return "<p class='missing'>metrics.json holds no timings.</p>"
    longest = max(*seconds.values(), 1e-9)
    rows = "".join(
        f"<tr><th scope='row'>{escape(name)}<td class='wide'><div class='bar' aria-hidden='true'>"
        f"<i style='width:{100 * value / longest:.1f}%'></i></div><td class='n'>{duration(value)}</tr>"
        for name, value in seconds.items()
    )
    where = ", ".join(f"{escape(title_of(key))} {escape(str(value))}" for key, value in machine.items())
    total = f"<p><b>{duration(sum(seconds.values()))}</b> in all{f' ({where})' if where else ''}.</p>"
    return f"{total}<table class='time'>{rows}</table>"


def notes(folder: Path) -> str:
    """The limits of the figures, and where the weights come from."""
    items = [
        "The faces are drawn and the voices synthetic. Figures on them say that the chain learns; they say nothing "
        "about how it does on film of people.",
        "The test people are new, but drawn and voiced by the same generator as those of training.",
        "Mouth opening and PSNR compare with the clip itself; nobody was asked how the videos look.",
        "Every video carries a note in its metadata that it is AI-generated. Animate only people who agreed to it.",
    ]
    if (text := _towers(folder / "emotion" / "config.yaml")) is not None:
        items.insert(2, text)
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul class='notes'>{listed}</ul>{provenance(folder)}"


def _towers(config: Path) -> str | None:
    """Whether the CLIP towers were pretrained, from the emotion stage's configuration."""
    if not config.is_file():
        return None
    from omegaconf import OmegaConf

    resolved = OmegaConf.load(config)
    clip = escape(str(OmegaConf.select(resolved, "network.clip", default="no name given")))
    pretrained = escape(str(OmegaConf.select(resolved, "network.pretrained", default="") or ""))
    if pretrained:
        return f"The CLIP towers ({clip}) started from {pretrained}."
    return f"The CLIP towers ({clip}) started from random weights: all they know of words and faces is this corpus."


def provenance(folder: Path) -> str:
    """The exported checkpoints, as their own metadata describes them."""
    from safetensors import safe_open

    rows = []
    for path in [
        path for name in stages_of(folder) for path in sorted((folder / name / "export").glob("*.safetensors"))
    ]:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        made = json.loads(metadata["provenance"])
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        numbers = "".join(f"<td class='n'>{cell}" for cell in (size, made.get("steps", ""), made.get("seed", "")))
        name = escape(path.relative_to(folder).as_posix())
        rows.append(f"<tr><th scope='row'>{name}{numbers}<td><code>{metadata['sha256'][:16]}</code></tr>")
    if not rows:
        return "<p class='missing'>No exported checkpoints in this folder.</p>"
    head = "<th>checkpoint<th class='n'>size<th class='n'>steps<th class='n'>seed<th>SHA-256 of the weights"
    return f"<div class='scroll'><table><thead><tr>{head}</thead>{''.join(rows)}</table></div>"
