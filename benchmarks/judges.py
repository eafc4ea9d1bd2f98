"""How far the judges of faces can be believed: what they say of true films of people who act emotions.

    python benchmarks/judges.py MEAD [CLIPS ...] [--sentences FILE] [--results]

MEAD holds ACTOR/video/VIEW/EMOTION/level_K/NNN.mp4. CLIPS are folders of films of other people: another one in each,
or as an `index.csv` two folders above says (columns file, identity, transcript). FILE says what is said in takes of
MEAD, a line each: ACTOR_level_K_EMOTION_NNN and its words. The networks see twenty frames of a clip, in the crop in
which they judge made videos; lips are judged in all frames of films that have sound and known words. What has to be
installed: trainers/evaluation/faces.py.
"""

import argparse
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from emohead.datamodules.media.read import iterate_video, probe, read_video
from emohead.datamodules.media.sound import read_audio
from emohead.models.face_judges import EXPRESSIONS, square
from emohead.trainers.evaluation.faces import FaceJudges
from emohead.trainers.evaluation.lips import LEAD, Phone, align, closures, follow, lip_sounds, other_sounds
from tables import put_into_results
from torch import Tensor

FRAMES = 20
FILM = re.compile(r"(?P<actor>[MW]\d+)/video/[^/]+/(?P<emotion>[a-z]+)/level_(?P<level>\d)/(?P<number>\d+)")
LATE = 0.14  # seconds by which lips are ahead of a sound that comes 0.1 s late


class Spoken(NamedTuple):
    points: np.ndarray  # (T, 468, 3)
    phones: list[Phone]


class Clip(NamedTuple):
    person: str
    emotion: str | None
    chances: dict[str, Tensor]  # by package: (7,), means over frames
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
    assert judges.identity is not None
    features = judges.identity(square(shown, points, judges.identity.size, judges.identity.room)).mean(dim=0)
    return Clip(person, emotion, judges.chances(shown, points), torch.nn.functional.normalize(features, dim=0))


def listen(path: Path, words: str) -> Spoken | None:
    """None if the words are not known, or there is no sound in the film that can be heard as these words."""
    phones = align(read_audio(path, aligned=True), words) if words and probe(path).has_audio else None
    return Spoken(follow(iterate_video(path)), phones) if phones else None


def listed(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of the `index.csv` two folders above, by the names of the films."""
    index = folder.parent.parent / "index.csv"
    if not index.is_file():
        return {}
    with open(index, newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


# -- rows of the table -------------------------------------------------------------------------------------------------


def expression_rows(clips: list[Clip]) -> list[str]:
    """By each network alone and by all together: accuracy over seven classes, pairs of clips of a person told apart."""
    labelled = [(clip, EXPRESSIONS.index(clip.emotion)) for clip in clips if clip.emotion in EXPRESSIONS]
    packages = [*labelled[0][0].chances]
    groups = [[package] for package in packages] + ([packages] if len(packages) > 1 else [])
    rows = []
    for group in groups:
        chances = [torch.stack([clip.chances[package] for package in group]).mean(dim=0) for clip, _ in labelled]
        ranks = [1 + int((c > c[own]).sum()) for c, (_, own) in zip(chances, labelled, strict=True)]
        won, pairs = 0, 0
        for (a, c), (b, d) in itertools.combinations(zip(labelled, chances, strict=True), 2):
            if a[0].person == b[0].person and a[1] != b[1]:
                ratios = [float((chance[a[1]] / chance[b[1]]).log()) for chance in (c, d)]
                won, pairs = won + (ratios[0] > ratios[1]), pairs + 1
        by_class = []
        for number, name in enumerate(EXPRESSIONS):
            first = [rank == 1 for rank, (_, own) in zip(ranks, labelled, strict=True) if own == number]
            by_class += [f"{name} {sum(first)} of {len(first)}"] if first else []
        first, second = (np.mean([rank <= most for rank in ranks]) for most in (1, 2))
        rows += [
            f"| expression by {' and '.join(group)}: the label is first of seven | {first:.2f} of {len(ranks)} clips "
            "(chance 0.14) |",
            f"| first or second; its mean rank | {second:.2f}; {np.mean(ranks):.2f} |",
            f"| of two clips of one person, the likelier for its label is the one that has it | {won} of {pairs} |",
            f"| first, by label | {', '.join(by_class)} |",
        ]
    return rows


def lip_rows(name: str, films: Sequence[Spoken], lead: float) -> list[str]:
    """Shares of sounds in which lips close, over all films."""
    pairs = [(a, b) for a in films for b in films if a is not b and a.phones != b.phones]
    groups = (
        [closures(film.points, lip_sounds(film.phones), lead) for film in films],
        [closures(film.points, other_sounds(film.phones), lead) for film in films],
        [closures(film.points, lip_sounds(other.phones), lead) for film, other in pairs],
    )
    shares = [[closed for found in group for closed in found] for group in groups]
    told = [f"{np.mean(share):.2f} of {len(share)}" if share else "none" for share in shares]
    return [
        f"| lips close in P, B and M, {lead * 1000:.0f} ms before; in other sounds; in P, B and M of other films "
        f"({len(films)} of {name}) | {told[0]}; {told[1]}; {told[2]} |"
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


def sentences(path: Path | None) -> dict[str, str]:
    lines = path.read_text().splitlines() if path else []
    return {take: words for take, _, words in (line.partition(" ") for line in lines)}


def films(options: argparse.Namespace) -> Iterator[tuple[str, Path, str, str | None, str]]:
    """Set, file, person, emotion and words of each film."""
    known = sentences(options.sentences)
    for path in sorted(options.mead.rglob("*.mp4")):
        if named := FILM.search(path.as_posix()):
            actor, emotion, level, number = named.groups()
            yield "MEAD", path, actor, emotion, known.get(f"{actor}_level_{level}_{emotion}_{number}", "")
    for folder in options.clips:
        rows = listed(folder)
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".mpg")):
            row = rows.get(path.name, {})
            yield folder.name.upper(), path, row.get("identity", path.stem), None, row.get("transcript", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mead", type=Path)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--sentences", type=Path, help="what is said in takes of MEAD")
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    judges, clips = FaceJudges(), []
    spoken: dict[str, list[Spoken]] = {}
    for name, path, person, emotion, words in films(options):
        clips.append(watch(judges, path, person, emotion))
        if judges.lips and (heard := listen(path, words)):
            spoken.setdefault(name, []).append(heard)
    clips = [clip for clip in clips if clip is not None]
    number = len({clip.person for clip in clips})
    rows = [f"| {len(clips)} clips of {number} people | |", "|---|---|", *expression_rows(clips), *identity_rows(clips)]
    for name, heard in spoken.items():
        for lead in (LEAD, LATE):
            rows += lip_rows(name, heard, lead)
    print("\n".join(rows))
    if options.results:
        put_into_results("judges", "\n".join(rows))


if __name__ == "__main__":
    main()
