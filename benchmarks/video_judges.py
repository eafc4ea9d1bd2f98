"""Whether the figures of whole videos catch cheats, and by how much.

    python benchmarks/video_judges.py CHECKPOINT DATA [--number 24] [--results]
    python benchmarks/video_judges.py --clips FOLDER [--results]

CHECKPOINT is a talker or a face stage, which makes clips of the test split of DATA anew from their true motion, as they
are, and with a cheat. With --clips there is no generator: the cheats are made on the frames of the films in FOLDER.
Beside each stand the true frames after one more JPEG file, whose figure is noise, and, of a generator, the true motion.
A cheat is caught if the 95 % interval of what it does worse than the latter, clip by clip, does not reach 0; without a
generator, than the former.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.media.read import read_video
from emohead.datamodules.tracking.region import Region
from emohead.models.checkpoint import load_checkpoint
from emohead.models.errors import UserError
from emohead.models.face import FaceGenerator, to_float, to_pictures
from emohead.models.face_model import MOUTH, POSE_DIM, FaceModel
from emohead.models.face_model_fit import MEDIAPIPE_IBUG_68
from emohead.models.talker import Talker
from emohead.trainers.evaluation.common import interval
from emohead.trainers.evaluation.films import compare_films, drawn, film, spread
from emohead.trainers.evaluation.jury import Jury
from emohead.trainers.evaluation.landmarks import RIGID
from emohead.trainers.evaluation.makers import AGAIN, TRUE_MOTION, Maker, again, true_clip
from emohead.trainers.evaluation.tracked import track
from emohead.trainers.evaluation.video import Judges, whole_figures
from emohead.trainers.metrics import PIXELS
from tables import put_into_results

UPPER_FACE = slice(17, 48)  # iBUG landmarks: brows, nose, eyes
LATE, DISPLACED, TREMBLING, BLUR = 2, 2, 1, 1.0  # frames, pixels, pixels, pixels
FILM_FRAMES, FILM_SIZE, FILM_ROOM = 100, 256, 1.7  # at most; pixels; side of the crop over the height of the face
LIPS_ROOM = 0.35  # of the mouth's width: how far beyond the mouth a picture of it reaches
IDEAL_ONE = ("mouth_ratio", "head_ratio", "jitter", "flicker", "sharpness")
MORE_IS_BETTER = ("mouth_correlation", "sync_confidence", "motion_emotion")
FIGURES = {  # cheat -> figures that are meant for it
    "lips frozen": ("mouth_ratio", "mouth_correlation", "m_lmd", "sync_confidence"),
    "emotion frozen": ("lasting_lmd", "f_lmd", "motion_emotion"),
    f"{LATE} frames late": ("mouth_lag", "mouth_correlation", "temporal", "sync_offset"),
    f"displaced by {DISPLACED} pixels": ("place_error", "frame0_jump"),
    f"trembling by {TREMBLING} pixel": ("jitter", "flicker"),
    "blurred": ("sharpness",),
    "portrait copied": ("mouth_ratio", "head_ratio", "flicker", "f_lmd"),
}
Rows = dict[str, list[dict[str, float]]]  # figures of each clip, for each way of making it


# -- cheats ----------------------------------------------------------------------------------------------------------


def frozen_lips(motion: torch.Tensor, model: FaceModel) -> torch.Tensor:
    """Coefficients that move the mouth more than brows, nose and eyes stay at their mean over the clip (T, D)."""
    moved = model.expression_basis[:, model.landmark_index].norm(dim=-1)  # (K, 68)
    of_mouth = moved[:, MOUTH].mean(dim=1) > moved[:, UPPER_FACE].mean(dim=1)
    frozen = motion.clone()
    frozen[:, :-POSE_DIM][:, of_mouth] = motion[:, :-POSE_DIM][:, of_mouth].mean(dim=0)
    return frozen


def frozen_emotion(motion: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The expression moves about that of the data (D,), not about the clip's own (T, D)."""
    expression = motion[:, :-POSE_DIM]
    return torch.cat([expression - expression.mean(dim=0) + mean[:-POSE_DIM], motion[:, -POSE_DIM:]], dim=1)


def shifted(frames: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Each frame moved to the right by its number of pixels (T,); the edge goes on."""
    size = frames.shape[1:3]
    moves = [np.array([[1.0, 0, right], [0, 1.0, 0]]) for right in pixels]
    moved = [
        cv2.warpAffine(frame, move, size, borderMode=cv2.BORDER_REPLICATE)
        for frame, move in zip(frames, moves, strict=True)
    ]
    return np.stack(moved)


def on_frames(frames: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Cheats on a video uint8 (T, S, S, 3) whose first frame is the portrait."""
    count = len(frames)
    yield f"{LATE} frames late", frames[np.maximum(np.arange(count) - LATE, 0)]
    yield f"displaced by {DISPLACED} pixels", shifted(frames, np.full(count, DISPLACED))
    yield f"trembling by {TREMBLING} pixel", shifted(frames, np.arange(count) % 2 * TREMBLING)
    yield "blurred", np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR) for frame in frames])
    yield "portrait copied", np.repeat(frames[:1], count, axis=0)


def pasted_lips(frames: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The mouth of the first frame laid over that of each, points (T, N, 3) in pixels of a picture of 256."""
    flat = points[..., :2] * (frames.shape[1] / PIXELS)
    mouth = flat[0, MEDIAPIPE_IBUG_68[MOUTH]]
    room = round(LIPS_ROOM * float(np.ptp(mouth[:, 0])))
    mask = np.zeros(frames.shape[1:3], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(mouth.round().astype(np.int32)), 1.0)
    mask = cv2.GaussianBlur(cv2.dilate(mask, np.ones((room, room), np.uint8)), (0, 0), room / 4)
    made = []
    for frame, face in zip(frames, flat, strict=True):
        move, _ = cv2.estimateAffinePartial2D(flat[0, RIGID], face[RIGID])
        lips, share = (cv2.warpAffine(picture, move, frame.shape[:2]) for picture in (frames[0], mask))
        made.append(frame + share[..., None] * (lips.astype(np.float32) - frame))
    return np.stack(made).round().clip(0, 255).astype(np.uint8)


# -- what they reach -------------------------------------------------------------------------------------------------


@torch.inference_mode()
def of_generator(face: FaceGenerator, reader: ClipReader, split: str, number: int, judges: Judges) -> Rows:
    """Figures of the clips of a split that the generator makes anew from true motion, with each cheat and without."""
    rows: Rows = {}
    maker, model = Maker(face), reader.face_model
    for key in spread(reader, reader.keys(split, heard=judges.jury is not None), number):
        clip = true_clip(reader, key, face.config.size)
        features, count = face.encode_portrait(clip.portrait), len(clip.motion)

        def make(motion: torch.Tensor, features=features, count=count) -> np.ndarray:
            return drawn(lambda at: maker.draw(features, motion, at), count)

        truth, honest = film(drawn(clip.read, count)), make(clip.motion)
        videos = {AGAIN: drawn(lambda at, clip=clip: again(clip.read(at)), count), TRUE_MOTION: honest}
        videos["lips frozen"] = make(frozen_lips(clip.motion, model))
        videos["emotion frozen"] = make(frozen_emotion(clip.motion, face.motion_mean))
        videos |= dict(on_frames(honest)) | {"portrait copied": np.repeat(truth.frames[:1], count, axis=0)}
        for row, frames in videos.items():
            figures = whole_figures(model, clip, clip.motion, film(frames), truth, judges)
            rows.setdefault(row, []).append(figures)
        print(key, flush=True)
    return rows


def of_films(folder: Path) -> Rows:
    """Figures of films, with each cheat that needs no generator and without."""
    rows: Rows = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".mpg")):
        frames = face_crop(read_video(path)[:FILM_FRAMES])
        truth = film(frames) if frames is not None else None
        if frames is None or truth is None or truth.face is None or truth.face.points is None:
            print(f"{path}: no face")
            continue
        pictures = to_float(torch.from_numpy(frames).movedim(-1, 1))
        videos = {AGAIN: to_pictures(again(pictures)), "lips frozen": pasted_lips(frames, truth.face.points)}
        for row, video in (videos | dict(on_frames(frames))).items():
            rows.setdefault(row, []).append(compare_films(film(video), truth, follows=True))
        print(path.name, flush=True)
    return rows


def face_crop(video: np.ndarray) -> np.ndarray | None:
    """A square about the face of a video uint8 (T, H, W, 3), the same in all frames; None: there is no face."""
    side = max(video.shape[1:3])
    square = np.zeros((len(video), side, side, 3), np.uint8)
    square[:, : video.shape[1], : video.shape[2]] = video
    points = track(square).points
    if points is None:
        return None
    low, high = ((edge(points[..., :2], axis=1) * side / PIXELS).mean(axis=0) for edge in (np.min, np.max))
    x, y = (low + high) / 2
    region = Region((float(x), float(y)), float(high[1] - low[1]) * FILM_ROOM)
    return np.stack([region.cut(frame, FILM_SIZE) for frame in square])


def badness(name: str, value: float) -> float:
    """More is worse."""
    return abs(value - 1) if name in IDEAL_ONE else -value if name in MORE_IS_BETTER else value


def lines(rows: Rows) -> list[str]:
    """A Markdown table with a line for each cheat and figure that is meant for it."""
    honest = TRUE_MOTION if TRUE_MOTION in rows else AGAIN
    columns = [AGAIN] if honest == AGAIN else [AGAIN, honest]
    found = [f"| cheat | figure | {' | '.join(columns)} | with the cheat | worse by | caught |"]
    found.append("|---|---|" + "---:|" * len(columns) + "---:|---:|---|")
    for cheat, names in FIGURES.items():
        for name in names:
            pairs = list(zip(rows[honest], rows.get(cheat, []), strict=cheat in rows))
            worse = [badness(name, b[name]) - badness(name, a[name]) for a, b in pairs if name in a and name in b]
            if len(worse) < 2:
                continue
            low, high = interval(worse)
            means = [np.mean([clip[name] for clip in rows[row] if name in clip]) for row in [*columns, cheat]]
            values = " | ".join(f"{mean:.3f}" for mean in means)
            gap = f"{np.mean(worse):.3f} ±{(high - low) / 2:.3f}"
            clips = f"in {sum(value > 0 for value in worse)} of {len(worse)} clips"
            found.append(f"| {cheat} | `{name}` | {values} | {gap} | {'yes' if low > 0 else 'NO'}, {clips} |")
    return found


def face_of(checkpoint: Path) -> FaceGenerator:
    kind = load_checkpoint(checkpoint).kind
    if kind not in ("talker", "face"):
        raise UserError(checkpoint, f"of the kind '{kind}', which draws nothing", "give a talker or a face stage")
    return Talker.load(checkpoint).face if kind == "talker" else FaceGenerator.from_checkpoint(checkpoint).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--clips", type=Path, help="a folder of films, for cheats without a generator")
    parser.add_argument("--split", default="test")
    parser.add_argument("--number", type=int, default=24, help="clips, spread over people and emotions")
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    if (options.clips is None) is (options.data is None):
        parser.error("give CHECKPOINT and DATA, or --clips FOLDER")
    if options.clips is not None:
        rows = of_films(options.clips)
    else:
        reader = ClipReader(options.data)
        judges = Judges(jury=Jury.fit(reader, ["val", "test"]))
        rows = of_generator(face_of(options.checkpoint), reader, options.split, options.number, judges)
    table = "\n".join(lines(rows))
    print(table)
    if options.results:
        put_into_results("video_judges_films" if options.clips else "video_judges", table)


if __name__ == "__main__":
    main()
