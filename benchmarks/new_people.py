"""Faces that a face model was not built from: is what lasts in them taken for expression, do they tell an emotion?

    python benchmarks/new_people.py ../shared/data/clips [MEAD] [--tracks FOLDER] [--results]

CLIPS holds folders of videos (people by ../index.csv), MEAD a folder as the data set is distributed; each person is
left out in turn. --tracks keeps what was tracked, for the next time.

constant: share of the expression's energy that is its mean over a clip, in the model's vertices; "from the model's
face" is what comes out if expression is measured from what the identity axes hold of a person, "from the own rest" as
`emohead prepare` measures it, where that rest is found in the clip itself, or in its other half. residual: landmarks
against the tracked ones, of the distance of the outer eye corners.
pose: share of an expression's movement that yaw, pitch and roll explain, and the same of the pose played backwards.
emotion from identity: nearest class of MEAD's eight, learned from the one person and asked of the other, where identity
is fitted clip by clip; mean over the classes, chance 0.125. Preparation fits one identity to all clips of a person,
which is the same for every emotion.
"""

import argparse
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from emohead.datamodules.media.crop import crop_box, to_crop_units
from emohead.datamodules.media.read import VIDEO_SUFFIXES, iterate_video
from emohead.datamodules.sample import EMOTIONS, NEUTRAL
from emohead.datamodules.tracking.gaps import interpolate_gaps
from emohead.datamodules.tracking.tracker import FaceTracker
from emohead.models.face_model import FaceModel
from emohead.models.face_model_fit import (
    MEDIAPIPE_IBUG_68,
    Person,
    fit_motion,
    fit_person,
    tracking_residual,
)
from emohead.models.landmark_model import build_landmark_model
from tables import put_into_results

FILM = re.compile(r"(?P<actor>[MW]\d{3})/video/front/(?P<emotion>[a-z]+)/level_(?P<level>\d)/\d+\.mp4$")


@dataclass
class Film:
    name: str
    person: str
    emotion: str | None
    points: np.ndarray  # (T, 478, 3) in crop units


def tracked(path: Path, kept: Path | None) -> np.ndarray:
    """Points (T, 478, 3) in crop units."""
    place = kept and kept / f"{'_'.join(path.parts[-7:])}.npy"
    if place and place.exists():
        return np.load(place)
    tracker = FaceTracker(video=True, max_faces=1)
    faces = [tracker.faces(frame) for frame in iterate_video(path)]
    found = np.array([bool(face) for face in faces])
    points = np.stack([face[0] if face else np.zeros((478, 3), np.float32) for face in faces])
    points = interpolate_gaps(points, found)
    points = to_crop_units(points, crop_box(points)).astype(np.float32)
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, points)
    return points


def films(clips: Path, mead: Path | None, kept: Path | None) -> list[Film]:
    with open(clips.parent / "index.csv", newline="") as file:
        people = {Path(row["file"]).stem: row["identity"] for row in csv.DictReader(file)}
    found = []
    for path in sorted(p for p in clips.rglob("*") if p.suffix in VIDEO_SUFFIXES):
        found.append(Film(path.stem, people[path.stem], None, tracked(path, kept)))
    for path in sorted(mead.rglob("*.mp4")) if mead else []:
        if named := FILM.search(path.as_posix()):
            found.append(Film(path.stem, named["actor"], named["emotion"], tracked(path, kept)))
    return found


def model_of(chosen: Iterable[Film]) -> FaceModel:
    films = list(chosen)
    calm = [film for film in films if film.emotion == NEUTRAL]
    every, resting = (([f.points for f in some], [f.person for f in some]) for some in (films, calm))
    return build_landmark_model(*every, resting=resting)


def fitted_person(model: FaceModel, own: list[Film]) -> Person:
    """The person in films, from the neutral ones if there are any."""
    calm = [film.points for film in own if film.emotion == NEUTRAL]
    return fit_person(model, calm or [film.points for film in own], neutral=bool(calm))


def halves(film: Film) -> Iterator[tuple[Film, Film]]:
    """Each half of a film, and the other."""
    middle = len(film.points) // 2
    both = [replace(film, points=part) for part in (film.points[:middle], film.points[middle:])]
    yield from (both, both[::-1])


def of_the_model(model: FaceModel, person: Person) -> Person:
    """The person as far as the identity axes hold them."""
    basis = model.identity_basis.numpy().reshape(model.num_identity, -1)
    return Person(person.identity, model.mean.numpy() + (person.identity @ basis).reshape(-1, 3))


def energies(model: FaceModel, motion: np.ndarray) -> tuple[float, float]:
    """Squared distance of the mean expression of a clip, and mean squared distance, over the vertices."""
    basis = model.expression_basis.numpy().reshape(model.num_expression, -1)
    moved = motion[:, : model.num_expression] @ basis  # (T, 3N)
    return float(np.square(moved.mean(axis=0)).sum()), float(np.square(moved).sum(axis=1).mean())


def explained_by_pose(model: FaceModel, motion: np.ndarray, backwards: bool) -> float:
    basis = model.expression_basis.numpy().reshape(model.num_expression, -1)
    moved = motion[:, : model.num_expression] @ basis
    moved -= moved.mean(axis=0)
    angles = motion[:, -6:-3].astype(np.float64)
    angles = (angles - angles.mean(axis=0))[:: -1 if backwards else 1]
    terms = np.concatenate([angles, angles**2, angles[:, :1] * angles[:, 1:2]], axis=1)
    terms -= terms.mean(axis=0)
    found = terms @ np.linalg.lstsq(terms, moved, rcond=None)[0]
    return float(np.square(found).sum() / np.square(moved).sum())


def left_out(chosen: list[Film]) -> list[str]:
    """Rows of the table: everybody, left out of the face model."""
    parts: dict[str, list[tuple[float, float]]] = {"model": [], "rest": [], "half": []}
    residuals, poses = [], []
    for who in sorted({film.person for film in chosen}):
        model = model_of(film for film in chosen if film.person != who)
        own = [film for film in chosen if film.person == who]
        person = fitted_person(model, own)
        for film in own:
            measured = fit_motion(model, person, film.points)
            parts["rest"].append(energies(model, measured))
            for asked, other in halves(film):
                half = fitted_person(model, [other, *(f for f in own if f is not film)])
                parts["half"].append(energies(model, fit_motion(model, half, asked.points)))
            parts["model"].append(energies(model, fit_motion(model, of_the_model(model, person), film.points)))
            landmarks = film.points[:, MEDIAPIPE_IBUG_68, :2]
            residuals.append(tracking_residual(model, person.identity, measured, landmarks))
            poses.append([explained_by_pose(model, measured, backwards) for backwards in (False, True)])
    shares = {name: np.mean([mean / whole for mean, whole in found]) for name, found in parts.items()}
    pose, backwards = np.mean(poses, axis=0)
    return [
        f"| constant share of the expression's energy, from the model's face | {shares['model']:.2f} |",
        f"| the same, from the own rest | {shares['rest']:.3f} |",
        f"| the same, from the own rest as the other half of the clip shows it | {shares['half']:.3f} |",
        f"| residual | {100 * np.mean(residuals):.2f} %, at most {100 * max(residuals):.2f} % |",
        f"| pose explains of the movement; played backwards | {pose:.2f}; {backwards:.2f} |",
    ]


def emotion_from_identity(chosen: list[Film]) -> list[str]:
    """Learned from one person who acts all eight emotions, asked of another, by an identity fitted to each clip."""
    acted = {who: [f for f in chosen if f.person == who] for who in sorted({f.person for f in chosen})}
    acted = {who: own for who, own in acted.items() if {film.emotion for film in own} == set(EMOTIONS)}
    if len(acted) < 2:
        return []
    right: list[tuple[str, bool]] = []
    for asked in acted:
        model = model_of(film for film in chosen if film.person != asked)
        tables = {who: identities(model, own) for who, own in acted.items()}
        known = [row for who in acted if who != asked for row in tables[who]]
        right += [(emotion, emotion == nearest(identity, known)) for emotion, identity in tables[asked]]
    score = np.mean([np.mean([told for emotion, told in right if emotion == name]) for name in EMOTIONS])
    return [f"| emotion from identity fitted clip by clip | {score:.2f} (chance 0.12; {len(right)} clips) |"]


def identities(model: FaceModel, own: list[Film]) -> list[tuple[str, np.ndarray]]:
    """The label and the identity of each clip, less the person's mean, which says who it is."""
    found = [fit_person(model, [film.points]).identity for film in own]
    mean = np.mean(found, axis=0)
    return [(str(film.emotion), one - mean) for film, one in zip(own, found, strict=True)]


def nearest(identity: np.ndarray, known: list[tuple[str, np.ndarray]]) -> str:
    means = {name: np.mean([one for other, one in known if other == name], axis=0) for name in EMOTIONS}
    return min(EMOTIONS, key=lambda name: (np.linalg.norm(identity - means[name]), name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("mead", type=Path, nargs="?")
    parser.add_argument("--tracks", type=Path)
    parser.add_argument("--results", action="store_true", help="put the table into docs/results.md")
    options = parser.parse_args()
    chosen = films(options.clips, options.mead, options.tracks)
    unlabelled = [film for film in chosen if film.emotion is None]
    count = len({film.person for film in unlabelled})
    rows = [
        f"| {len(unlabelled)} clips of {count} people, each left out in turn | |",
        "|---|---|",
        *left_out(unlabelled),
    ]
    rows += emotion_from_identity(chosen)
    print("\n".join(rows))
    if options.results:
        put_into_results("new_people", "\n".join(rows))


if __name__ == "__main__":
    main()
