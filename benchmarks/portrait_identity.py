"""Does the identity that a portrait encoder reads from a picture tell the emotion that the picture shows?

    python benchmarks/portrait_identity.py TALKER DATA [--split test] [--results]

Of each labelled clip of people that no stage was trained on, three frames in which the emotion is acted. What is read
of a person, less that person's mean over its clips, is classified by the nearest class mean of all other people. Beside
it the same of the expression that the encoder reads, which should tell it. Mean over the classes; chance is one over
their number. "Within": the share of the variance that is between clips of one person.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from emohead.datamodules.dataset.reader import ClipReader
from emohead.datamodules.stream.examples import draw_acted
from emohead.models.face_model import POSE_DIM
from emohead.models.talker import Talker
from tables import put_into_results

FRAMES = 3  # of a clip
Read = tuple[str, str, np.ndarray]  # person, emotion, what is read


@torch.no_grad()
def read(talker: Talker, reader: ClipReader, split: str) -> dict[str, list[Read]]:
    rng, found = np.random.default_rng(0), defaultdict(list)
    for key in reader.keys(split):
        info = reader.info(key)
        if info.emotion is None:
            continue
        at = sorted({draw_acted(info, info.frames, rng) for _ in range(FRAMES)})
        seen = talker.face.encode_portrait(torch.from_numpy(reader.frames(key, at, size=talker.size)))
        motion = talker.face.normalise(seen.motion)[:, :-POSE_DIM]
        for name, values in {"identity": seen.identity, "expression": motion}.items():
            found[name].append((info.identity, info.emotion, values.mean(dim=0).numpy()))
    return found


def told(rows: list[Read]) -> tuple[float, int, float]:
    """Mean accuracy over the classes, the number of classes, and the share of the variance within people."""
    people = sorted({person for person, *_ in rows})
    means = {who: np.mean([values for person, _, values in rows if person == who], axis=0) for who in people}
    apart = [(person, emotion, values - means[person]) for person, emotion, values in rows]
    emotions, right = sorted({emotion for _, emotion, _ in rows}), defaultdict(list)
    for person, emotion, values in apart:
        classes = {
            name: np.mean([v for who, other, v in apart if other == name and who != person], axis=0)
            for name in emotions
        }
        nearest = min(emotions, key=lambda name: float(np.linalg.norm(values - classes[name])))
        right[emotion].append(nearest == emotion)
    within = np.mean(np.square([values for *_, values in apart])) / np.var([v for *_, v in rows], axis=0).mean()
    return float(np.mean([np.mean(own) for own in right.values()])), len(emotions), float(within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--results", action="store_true", help="write the table of docs/results.md")
    options = parser.parse_args()
    lines = ["| the encoder reads of a portrait | tells the emotion | chance | within | clips |", "|---|" + "---:|" * 4]
    for name, rows in read(Talker.load(options.talker), ClipReader(options.data), options.split).items():
        score, classes, within = told(rows)
        lines.append(f"| {name} | {score:.2f} | {1 / classes:.2f} | {within:.2f} | {len(rows)} |")
    print("\n".join(lines))
    if options.results:
        put_into_results("portrait_identity", "\n".join(lines))


if __name__ == "__main__":
    main()
