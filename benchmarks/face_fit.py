"""Milliseconds a frame of fitting a face model, and the residual: python benchmarks/face_fit.py [CLIPS [ICT]]

CLIPS is a folder of videos, ICT one of ICT-FaceKit. Without them: made-up tracks, and a made-up model of ICT's size,
whose residual says nothing.
Both processor time and time on the clock are given, as other work on the machine only shows in the second.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from emohead.datamodules.media.crop import crop_box, to_crop_units
from emohead.datamodules.media.read import VIDEO_SUFFIXES
from emohead.datamodules.prepare.listing import Source
from emohead.datamodules.prepare.track import Track, track_source
from emohead.models.face_model import FaceModel
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68, NUM_TRACKED, fit_face, tracking_residual
from emohead.models.ict import load_ict
from emohead.models.landmark_model import build_landmark_model

FRAMES, CLIPS = 250, 8
ICT_AXES = (80, 53)


def made_up_tracks() -> list[np.ndarray]:
    """Faces of smooth motion with noise, (250, 478, 3) each."""
    rng = np.random.default_rng(0)
    face = rng.uniform(-0.5, 0.5, (NUM_TRACKED, 3))
    face[[10, 152, 33, 263]] = (0, -0.5, 0), (0, 0.5, 0), (-0.25, -0.1, 0), (0.25, -0.1, 0)
    axes = rng.normal(0, 0.01, (10, NUM_TRACKED, 3))
    times = np.linspace(0, 20, FRAMES)[:, None] * rng.uniform(1, 3, 10)
    moves = np.einsum("tk,kvc->tvc", np.sin(times), axes)
    return [(face + moves + rng.normal(0, 1e-3, (FRAMES, NUM_TRACKED, 3))).astype(np.float32) for _ in range(CLIPS)]


def made_up_ict() -> FaceModel:
    rng = np.random.default_rng(1)
    identity, expression = (rng.normal(0, 0.03, (axes, 9409, 3)) for axes in ICT_AXES)
    return FaceModel(rng.normal(0, 0.4, (9409, 3)), identity, expression, np.arange(68), kind="ict")


def measure(name: str, model: FaceModel, clips: list[np.ndarray]) -> None:
    """Every clip as a person of its own: the dearest case."""
    residuals, frames = [], sum(map(len, clips))
    clock, processor = time.perf_counter(), time.process_time()
    fits = [fit_face(model, [clip]) for clip in clips]
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    for clip, (identity, (motion,)) in zip(clips, fits, strict=True):
        residuals.append(tracking_residual(model, identity, motion, clip[:, MEDIAPIPE_IBUG_68, :2]))
    per_frame = f"{1e3 * processor / frames:.3f} ms a frame of processor, {1e3 * clock / frames:.3f} on the clock"
    print(f"{name}: {per_frame}; residual {100 * np.mean(residuals):.2f} %, at most {100 * max(residuals):.2f} %")


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        videos = sorted(p for p in Path(sys.argv[1]).rglob("*") if p.suffix in VIDEO_SUFFIXES)
        tracks = [track_source(Source(path, path.name, path.stem)) for path in videos]
        tracked = [track.points for track in tracks if isinstance(track, Track) and track.found.all()]
        clips = [to_crop_units(points, crop_box(points)) for points in tracked]
    else:
        clips = made_up_tracks()
    print(f"{len(clips)} clips, {sum(map(len, clips))} frames, {torch.get_num_threads()} thread")
    measure("landmark", build_landmark_model(clips, list(map(str, range(len(clips))))), clips)
    measure("ict", load_ict(sys.argv[2]) if len(sys.argv) > 2 else made_up_ict(), clips)


if __name__ == "__main__":
    main()
