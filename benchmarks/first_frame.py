"""How far the face of a video's first frame is from the portrait's, for portraits that are turned and that smile.

    python benchmarks/first_frame.py TALKER DATA [--split test] [--number 24] [--pictures FOLDER] [--results]

The portrait is the frame of a clip in which the head is turned the most, or that of a happy clip which is nearest to
the expression that lasts in it; the clip's own speech drives it. Portrait and first frame are tracked, each by itself:
mean distance of their 68 landmarks in pixels of a picture of 256. Beside it the portrait after one more JPEG file,
which is the tracker's noise, and the video's first frame if of the portrait it has only the place of the head, not its
turn nor the expression.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.models.face import to_pictures
from emohead.models.face_model import POSE_DIM
from emohead.models.talker import Talker, anchor
from emohead.trainers.evaluation.films import spread
from emohead.trainers.evaluation.landmarks import jump
from emohead.trainers.evaluation.makers import Maker, again, true_frames
from emohead.trainers.evaluation.tracked import track
from tables import put_into_results
from torch import Tensor

TURN = slice(-POSE_DIM, -POSE_DIM + 3)  # of motion: the rotation, in radians
PLACE = slice(-3, None)  # of motion: translation and log scale
NOISE, PLACED, NOW, RELATIVE = "the portrait, again", "head placed only", "as it is", "`--relative`"


def portraits(reader: ClipReader, split: str, number: int, mean: Tensor) -> Iterator[tuple[str, str, int]]:
    """What a portrait shows, its clip and its frame: of both kinds `number` at most, those that show it the most."""
    turns, smiles = {}, {}
    for key in reader.keys(split, heard=True):
        motion = torch.from_numpy(reader.motion(key))
        turn = (motion - mean)[:, TURN].norm(dim=1)  # (T,)
        turns[key] = (float(turn.max()), int(turn.argmax()))
        if reader.info(key).emotion == "happy":
            expression = motion[:, :-POSE_DIM]
            lasting = expression.median(dim=0).values  # neither a blink nor a vowel
            nearest = (expression - lasting).norm(dim=1).argmin()
            smiles[key] = (float((lasting - mean[:-POSE_DIM]).norm()), int(nearest))
    for kind, found in {"turned": turns, "smiling": smiles}.items():
        most = sorted(found, key=lambda key: found[key], reverse=True)[: 2 * number]
        for key in spread(reader, most, number):
            yield kind, key, found[key][1]


@torch.inference_mode()
def first_frames(talker: Talker, portrait: Tensor, speech: Tensor) -> dict[str, np.ndarray]:
    """Pictures uint8 (S, S, 3) by how they are made, of a portrait (1, 3, S, S) in [-1, 1] and speech (1, N)."""
    features, mean = talker.face.encode_portrait(portrait), talker.motion.motion_mean
    emotion = talker.emotion_from_speech(speech)
    motion = talker.motion.generate(speech, emotion, features.identity, seed=0)[0]
    placed = motion.clone()
    placed[:, PLACE] += (features.motion[0] - mean)[PLACE]
    ways = {
        PLACED: placed,
        NOW: anchor(motion, features.motion[0], mean),
        RELATIVE: anchor(motion, features.motion[0], mean, relative=True),
    }
    made = {name: Maker(talker.face).draw(features, way, [0]) for name, way in ways.items()}
    return {name: to_pictures(picture)[0] for name, picture in {NOISE: again(portrait), **made}.items()}


def face_in(picture: np.ndarray) -> np.ndarray | None:
    """Points (N, 3) in pixels of a picture of 256; None: there is no face."""
    points = track(picture[None]).points
    return None if points is None else points[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--number", type=int, default=24, help="portraits of each kind")
    parser.add_argument("--pictures", type=Path, help="a folder for them: the portrait, then each way of making it")
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    talker, reader = Talker.load(options.talker), ClipReader(options.data)
    jumps: dict[tuple[str, str], list[float]] = {}
    for kind, key, number in portraits(reader, options.split, options.number, talker.motion.motion_mean):
        portrait = true_frames(reader, key, talker.size, [number])
        shown = to_pictures(portrait)[0]
        made, true = first_frames(talker, portrait, torch.from_numpy(reader.speech(key))[None]), face_in(shown)
        for name, picture in made.items():
            found = face_in(picture)
            if true is None or found is None:
                print(f"{key}, frame {number}, {name}: no face")
                continue
            jumps.setdefault((kind, name), []).append(jump(found, true))
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            row = np.concatenate([shown, *made.values()], axis=1)
            file = options.pictures / f"{kind}-{key.replace('/', '_')}-{number}.png"
            cv2.imwrite(str(file), cv2.cvtColor(row, cv2.COLOR_RGB2BGR))
    rows = ["| first frame | portraits | clips | mean | median | most |", "|---|---|---:|---:|---:|---:|"]
    for (kind, name), values in jumps.items():
        figures = f"{np.mean(values):.2f} | {np.median(values):.2f} | {np.max(values):.2f}"
        rows.append(f"| {name} | {kind} | {len(values)} | {figures} |")
    table = "\n".join(rows)
    print(table)
    if options.results:
        put_into_results("first_frame", table)


if __name__ == "__main__":
    main()
