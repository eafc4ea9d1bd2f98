"""How far the judges of faces can be believed: what they say of true films of people who act emotions.

    python benchmarks/judges.py MEAD [CLIPS ...] [--results]

MEAD holds ACTOR/video/VIEW/EMOTION/level_K/NNN.mp4. CLIPS are folders of films of other people: another one in each,
or as an `index.csv` two folders above says (columns file, identity). Both networks see twenty frames of a clip, in the
crop in which they judge made videos. `npm install @vladmandic/face-api @vladmandic/human` brings the networks.
"""

import argparse
import csv
import itertools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from emohead.datamodules.media.read import read_video
from emohead.models.face_judges import EXPRESSIONS, square
from emohead.trainers.evaluation.faces import FaceJudges
from tables import put_into_results
from torch import Tensor

FRAMES = 20
FILM = re.compile(r"(?P<actor>[MW]\d+)/video/[^/]+/(?P<emotion>[a-z]+)/level_(?P<level>\d)/")


class Clip(NamedTuple):
    person: str
    emotion: str | None
    chances: Tensor  # (7,) log, of the mean over frames
    features: Tensor  # (1024,)


def watch(judges: FaceJudges, path: Path, person: str, emotion: str | None) -> Clip | None:
    """None if the tracker finds no face in it."""
    film = read_video(path)
    frames = film[np.linspace(0, len(film) - 1, FRAMES).astype(int)]
    side = max(frames.shape[1:3])
    wide = np.zeros((len(frames), side, side, 3), np.uint8)
    wide[:, : frames.shape[1], : frames.shape[2]] = frames
    shown, points = judges.faces(torch.from_numpy(wide).permute(0, 3, 1, 2).float() / 127.5 - 1)
    if not len(shown):
        print(f"{path}: no face")
        return None
    assert judges.expression is not None
    assert judges.identity is not None
    faces = square(shown, points, judges.expression.size, judges.expression.room)
    chances = judges.expression(faces).exp().mean(dim=0).log()
    features = judges.identity(square(shown, points, judges.identity.size, judges.identity.room)).mean(dim=0)
    return Clip(person, emotion, chances, torch.nn.functional.normalize(features, dim=0))


def identities(index: Path) -> dict[str, str]:
    """Who is in a film, by its name."""
    if not index.is_file():
        return {}
    with open(index, newline="") as file:
        return {Path(row["file"]).name: row["identity"] for row in csv.DictReader(file)}


def expression_rows(clips: list[Clip]) -> list[str]:
    """Accuracy over seven classes, and pairs of clips of one person told apart."""
    labelled = [clip for clip in clips if clip.emotion in EXPRESSIONS]
    ranks = [1 + int((c.chances > c.chances[EXPRESSIONS.index(c.emotion)]).sum()) for c in labelled]  # type: ignore[arg-type]
    won, pairs = 0, 0
    for a, b in itertools.combinations(labelled, 2):
        if a.person == b.person and a.emotion != b.emotion:
            own, other = (EXPRESSIONS.index(clip.emotion) for clip in (a, b))  # type: ignore[arg-type]
            ratio = [float(clip.chances[own] - clip.chances[other]) for clip in (a, b)]
            won, pairs = won + (ratio[0] > ratio[1]), pairs + 1
    first, second = (np.mean([rank <= most for rank in ranks]) for most in (1, 2))
    by_class = []
    for name in EXPRESSIONS:
        own = [rank == 1 for rank, clip in zip(ranks, labelled, strict=True) if clip.emotion == name]
        by_class += [f"{name} {sum(own)} of {len(own)}"] if own else []
    return [
        f"| expression: the label is first of seven | {first:.2f} of {len(ranks)} clips (chance 0.14) |",
        f"| the label is first or second; its mean rank | {second:.2f}; {np.mean(ranks):.2f} |",
        f"| of two clips of one person, the likelier for its label is the one that has it | {won} of {pairs} |",
        f"| first, by label | {', '.join(by_class)} |",
    ]


def identity_rows(clips: list[Clip]) -> list[str]:
    """How well the likeness of two clips tells whether they show one person."""
    same, others = [], []
    for a, b in itertools.combinations(clips, 2):
        (same if a.person == b.person else others).append(float(a.features @ b.features))
    auc = np.mean([[s > o for o in others] for s in same])
    return [
        f"| identity: likeness of two clips of one person, median and least | {np.median(same):.2f}, {min(same):.2f} |",
        f"| of two people, median and most | {np.median(others):.2f}, {max(others):.2f} |",
        f"| area under the curve, {len(same)} pairs of one person and {len(others)} of two | {auc:.4f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mead", type=Path)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    judges, found = FaceJudges(), []
    for path in sorted(options.mead.rglob("*.mp4")):
        if named := FILM.search(path.as_posix()):
            found.append(watch(judges, path, named["actor"], named["emotion"]))
    for folder in options.clips:
        people = identities(folder.parent.parent / "index.csv")
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".mpg")):
            found.append(watch(judges, path, people.get(path.name, path.stem), None))
    clips = [clip for clip in found if clip is not None]
    number = len({clip.person for clip in clips})
    rows = [f"| {len(clips)} clips of {number} people | |", "|---|---|", *expression_rows(clips), *identity_rows(clips)]
    print("\n".join(rows))
    if options.results:
        put_into_results("judges", "\n".join(rows))


if __name__ == "__main__":
    main()
