"""Pass `fit` of a preparation: the face model, from people who are trained on, and everybody's face at rest.

One track is in memory at a time, and a sample of frames.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

from ...models.bfm import NUM_IDENTITY
from ...models.errors import UserError
from ...models.face_model import FaceModel
from ...models.face_model_fit import Person, fit_person
from ...models.files import written_aside
from ...models.landmark_model import build_landmark_model
from ..sample import NEUTRAL
from .bfm09 import coefficients_file, read_coefficients
from .listing import Source

MODEL_FRAMES = 8000  # at most, that the face model is built from
RESTING_FRAMES = 20_000  # at most, that faces at rest are found in for it: of neutral clips, which are few among many
PERSON_FRAMES = 1500  # at most, that a person's face at rest is found in
NO_TRAINING = "give --face-model FILE of the data set that is trained on, prepare more people, or hold out less"

Labelled = tuple[str | None, np.ndarray]  # the emotion of a clip by its label, and its points (T, 478, 3) in crop units


class FrameSample:
    """Frames evenly spread over all that are added, at most `limit`: each n-th; n doubles as they get many."""

    def __init__(self, limit: int) -> None:
        self.limit, self.step, self.seen, self.held = limit, 1, 0, 0
        self._parts: list[tuple[str, np.ndarray, np.ndarray]] = []  # person, which of all, points

    def add(self, person: str, points: np.ndarray) -> None:
        """Take in points (T, 478, 3)."""
        self._keep(person, np.arange(self.seen, self.seen + len(points)), points)
        self.seen += len(points)
        while self.held > self.limit:
            self.step *= 2
            parts, self._parts, self.held = self._parts, [], 0
            for part in parts:
                self._keep(*part)

    def clips(self) -> tuple[list[np.ndarray], list[str]]:
        """The points that were kept, and the person of each."""
        return [points for *_, points in self._parts], [person for person, *_ in self._parts]

    def _keep(self, person: str, frames: np.ndarray, points: np.ndarray) -> None:
        chosen = frames % self.step == 0
        if chosen.any():
            self._parts.append((person, frames[chosen], points[chosen]))
            self.held += int(chosen.sum())


def build_model(tracks: Iterator[tuple[str, Labelled]], holdout_emotions: Sequence[str]) -> FaceModel:
    """The `landmark` model from the clips of people who are trained on, each with its person.

    Clips of `holdout_emotions` are left out. Raises UserError if none is left.
    """
    sample, resting = FrameSample(MODEL_FRAMES), FrameSample(RESTING_FRAMES)
    for person, (label, points) in tracks:
        if label not in holdout_emotions:
            sample.add(person, points)
            if label == NEUTRAL:
                resting.add(person, points)
    if not sample.held:
        raise UserError("face model", "no clip for training to build it from", NO_TRAINING)
    return build_landmark_model(*sample.clips(), resting=resting.clips())


def fit_people(model: FaceModel, tracks: Iterator[tuple[str, Labelled]]) -> dict[str, Person]:
    """Everybody's identity and face at rest, over all of their clips; those of a person come one after the other."""
    people: dict[str, Person] = {}
    for person, own in itertools.groupby(tracks, key=itemgetter(0)):
        sample, neutral = FrameSample(PERSON_FRAMES), FrameSample(PERSON_FRAMES)
        for _, (label, points) in own:
            (neutral if label == NEUTRAL else sample).add(person, points)
        chosen = neutral if neutral.held else sample
        people[person] = fit_person(model, chosen.clips()[0], neutral=chosen is neutral)
    return people


def stored_people(folder: Path, sources: Sequence[Source]) -> dict[str, Person]:
    """Everybody's identity by their `.mat` files, the mean over clips; files that cannot be read do not count.

    Their motion is not fitted here, so no face at rest is needed.
    """
    found = defaultdict(list)
    for source in {source.path: source for source in sources}.values():
        try:
            found[source.identity].append(read_coefficients(coefficients_file(folder, source))[0])
        except UserError:  # the pack pass leaves its clips out, with the reason
            found[source.identity] += []
    nobody = np.zeros(NUM_IDENTITY, np.float32)
    return {name: Person(np.mean(own or [nobody], axis=0), np.zeros((0, 3), np.float32)) for name, own in found.items()}


def save_people(people: Mapping[str, Person], path: Path, partial: Path) -> None:
    """Write `people.npz` aside (to `partial`) and rename it."""
    names = sorted(people)
    identity, neutral = (np.stack([getattr(people[n], part) for n in names]) for part in ("identity", "neutral"))
    with written_aside(path, partial) as aside, open(aside, "wb") as file:
        np.savez(file, names=np.array(names), identity=identity, neutral=neutral)


def load_people(path: Path) -> dict[str, Person]:
    """What `save_people` wrote: a preparation's own work, which may hold everybody of a large data set."""
    with np.load(path, allow_pickle=False) as file:
        names, identity, neutral = (file[name] for name in ("names", "identity", "neutral"))
    return {str(name): Person(*both) for name, *both in zip(names, identity, neutral, strict=True)}
