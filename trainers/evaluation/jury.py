"""A jury of motion that shares nothing with what it judges: linear, and fitted on people that no stage trains on.

    emotion   mean, spread and speed of each expression coefficient over a clip -> its label
    sync      speech around a frame and the expression at it: do they move together, and at which lag?

It is fitted in seconds when it is asked, on true motion. People are dealt into folds, and the motion of a person is
judged by judges that were fitted on the other folds: none of them saw this person. How far they can be believed is
measured in the same way, on the true motion itself, and stands beside what they say.

The head's pose is left out, since made motion may keep the head still.
Shapes: N samples of speech, T frames, D values of motion, K expression coefficients, M bands, F values, L lags.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.sample import EMOTIONS
from ...models.audio import LogMel
from ...models.face_model import POSE_DIM
from .common import Advance, ClipFigures, averages, intervals, no_advance
from .linear import MAX_LAG, Classifier, Follower, Moments, added

FOLDS = 5  # that people are dealt into
FEWEST = 2  # folds in which there must be clips, for one of them to be judged, and emotions that can be told apart
BANDS = 40  # M
AROUND = 5  # frames of speech to either side that are heard with a frame
IN_STEP = 1  # frames: what is no further off counts as in step
EVERYBODY = -1  # the fold of people whom no judge was fitted on


@dataclass
class Witness:
    """A true clip."""

    identity: str
    fold: int
    emotion: str | None
    bands: Tensor | None  # (T, M) of its speech; None: it is silent, or too short for a lag
    motion: Tensor  # (T, D)


class Jury:
    """Judges of the emotion and the sync of motion, those for which there are enough people."""

    def __init__(self, clips: Sequence[Witness], *, barred: int = 0) -> None:
        """barred: people whose clips were left out, since training has others of theirs."""
        self.barred = barred
        self.fold_of = {clip.identity: clip.fold for clip in clips}
        self.emotions = [name for name in EMOTIONS if folds([c for c in clips if c.emotion == name]) >= FEWEST]
        self.labelled = [clip for clip in clips if clip.emotion in self.emotions]
        self.heard = [clip for clip in clips if clip.bands is not None]
        self.classifiers = self._classifiers() if len(self.emotions) >= FEWEST else {}
        self.followers = self._followers() if folds(self.heard) >= FEWEST else {}
        self.verdicts = [*self._verdicts_of_emotion(), *self._verdicts_of_sync()]

    @classmethod
    def fit(
        cls, reader: ClipReader, splits: Sequence[str], *, trained: Sequence[str] = (), advance: Advance = no_advance
    ) -> "Jury":
        """A jury of the people of some splits, without those of whom there are clips in the splits `trained`.

        advance: hears of each clip that is read.
        """
        known = {reader.info(key).identity for split in trained for key in reader.keys(split)}
        infos = [reader.info(key) for split in splits for key in reader.keys(split)]
        everybody = {info.identity for info in infos}
        order, clips = sorted(everybody - known), []
        for info in (info for info in infos if info.identity not in known):
            key = info.key
            motion, fold = torch.from_numpy(reader.motion(key)), order.index(info.identity) % FOLDS
            used = not info.silent and len(motion) > MAX_LAG
            bands = hear(torch.from_numpy(reader.speech(key))[None]) if used else None
            clips.append(Witness(info.identity, fold, info.emotion, bands, motion))
            advance(1)
        return cls(clips, barred=len(everybody & known))

    def judge(self, identity: str, speech: Tensor, motion: Tensor, emotion: str | None = None) -> dict[str, float]:
        """Figures of motion (T, D) that belongs to speech (1, N), of a clip that shows the person `identity`.

        `motion_emotion`: 1 if the motion's emotion is `emotion`, else 0; left out for an emotion that the jury does not
        know. `sync_confidence`: correlation of speech and motion at their best lag less the median over lags of -15 to
        15 frames; `sync_offset`: frames between that lag and none, whichever comes late. Motion that does not move has
        no offset; clips of fewer than 16 frames, and silent ones, have neither.
        """
        figures = self._sync(identity, hear(speech), motion) if speech.any() else {}
        if self.classifiers and emotion in self.emotions:
            figures["motion_emotion"] = float(self.emotion_of(identity, motion) == emotion)
        return figures

    def emotion_of(self, identity: str, motion: Tensor) -> str:
        """The emotion that motion (T, D) shows; only if there are `classifiers`."""
        classify = self.classifiers[self.fold_of.get(identity, EVERYBODY)]
        return self.emotions[int(classify(features(motion)[None]))]

    def by_lag(self, identity: str, bands: Tensor, motion: Tensor) -> Tensor:
        """Correlation (L,) of speech, as `hear` gives it, and motion (T, D); positive lags: the lips come late.

        Only if there are `followers`.
        """
        length = min(len(bands), len(motion))
        follower = self.followers[self.fold_of.get(identity, EVERYBODY)]
        return follower.by_lag(around(bands[:length]), expression(motion[:length]))

    def figures(self, unseen: Sequence[str] = ()) -> dict[str, float]:
        """How far the jury can be believed: what it says of the true motion of the people that it was fitted on.

        `true_emotion_accuracy`, and `true_emotion_chance`, the share of the commonest label, over `true_emotion_clips`
        of `true_emotion_people`; with emotions named in `unseen`, see `averages`. `true_sync_confidence`,
        `true_sync_offset`, and `true_sync_found`, the share of clips whose offset is 0 or 1, over `true_sync_clips` of
        `true_sync_people`; `foreign_sync_…` for the speech of another clip, as a control.
        """
        found = averages(self.verdicts, unseen, apart=["true_emotion_accuracy"])
        if self.classifiers:
            found["true_emotion_chance"] = self._chances()["motion_emotion"]
        for name, judges, clips in (
            ("true_emotion", self.classifiers, self.labelled),
            ("true_sync", self.followers, self.heard),
        ):
            if judges:
                found |= {f"{name}_clips": float(len(clips)), f"{name}_people": float(people(clips))}
        return found

    def doubts(self, true: Sequence[ClipFigures]) -> dict[str, str]:
        """Which figures of films are no better than guessed, and why: by what `judge` says of true films, whose 95 %
        interval then reaches chance. So it is where the tracker sees another motion than that of the jury's clips.
        """
        found, sure, chances = averages(true), intervals(true), self._chances()
        doubted: dict[str, str] = {}
        for name, chance in chances.items():
            if name not in found:
                continue
            low, high = sure.get(name, (found[name], found[name]))
            if name == "motion_emotion" and low <= chance:
                doubted[name] = f"the jury is right of {found[name]:.2f} of the true films (chance {chance:.2f})"
            if name == "sync_offset" and high >= chance:
                why = f"the jury finds true films {found[name]:.1f} frames out of step (chance {chance:.1f})"
                doubted |= {"sync_confidence": why, name: why}
        return doubted

    def _chances(self) -> dict[str, float]:
        """What figures of `judge` come to by guessing: the commonest label, and a lag like any other."""
        found = {}
        if self.classifiers:
            labels = [clip.emotion for clip in self.labelled]
            found["motion_emotion"] = max(map(labels.count, self.emotions)) / len(labels)
        if self.followers:
            found["sync_offset"] = sum(map(abs, range(-MAX_LAG, MAX_LAG + 1))) / (2 * MAX_LAG + 1)
        return found

    def missing(self) -> list[str]:
        """What is not judged, and why."""
        found = []
        barred = f"; of {self.barred} people training has clips too" if self.barred else ""
        if not self.classifiers:
            shown = ", ".join(self.emotions) or "none"
            needed = f"{FEWEST} emotions that {FEWEST} people show"
            found.append(f"emotion of motion (it takes {needed}; there is {shown}{barred})")
        if not self.followers:
            found.append(f"sync of motion (it takes {FEWEST} people with sound; there is {people(self.heard)}{barred})")
        return found

    def _sync(self, identity: str, bands: Tensor, motion: Tensor) -> dict[str, float]:
        if not self.followers or min(len(bands), len(motion)) <= MAX_LAG:
            return {}
        by_lag = self.by_lag(identity, bands, motion)
        if not by_lag.any():
            return {"sync_confidence": 0.0}
        offset = abs(int(by_lag.argmax()) - MAX_LAG)
        return {"sync_confidence": float(by_lag.max() - by_lag.median()), "sync_offset": float(offset)}

    def _classifiers(self) -> dict[int, Classifier]:
        vectors = torch.stack([features(clip.motion) for clip in self.labelled])
        labels = torch.tensor([self.emotions.index(str(clip.emotion)) for clip in self.labelled])
        dealt = torch.tensor([clip.fold for clip in self.labelled])
        rest = {fold: dealt != fold for fold in (*range(FOLDS), EVERYBODY)}
        return {fold: Classifier.fit(vectors[rows], labels[rows], len(self.emotions)) for fold, rows in rest.items()}

    def _followers(self) -> dict[int, Follower]:
        sums: dict[int, Moments] = {}
        for clip in self.heard:
            assert clip.bands is not None
            length = min(len(clip.bands), len(clip.motion))
            own = Moments.of(around(clip.bands[:length]), expression(clip.motion[:length]))
            sums[clip.fold] = added([sums[clip.fold], own]) if clip.fold in sums else own
        rest = {fold: [sums[other] for other in sums if other != fold] for fold in (*range(FOLDS), EVERYBODY)}
        return {fold: Follower.fit(added(moments)) for fold, moments in rest.items()}

    def _verdicts_of_emotion(self) -> Iterator[ClipFigures]:
        """Of each true clip, by judges that never saw its person."""
        for clip in self.labelled if self.classifiers else ():
            right = float(self.emotion_of(clip.identity, clip.motion) == clip.emotion)
            yield clip.emotion, {"true_emotion_accuracy": right}

    def _verdicts_of_sync(self) -> Iterator[ClipFigures]:
        """Of each true clip with its own speech and with that of the next clip of the fold."""
        for fold in range(FOLDS) if self.followers else ():
            clips = [clip for clip in self.heard if clip.fold == fold]
            for clip, foreign in zip(clips, clips[1:] + clips[:1], strict=True):
                for name, lender in {"true": clip, "foreign": foreign if foreign is not clip else None}.items():
                    if lender is None or lender.bands is None:
                        continue
                    figures = self._sync(clip.identity, lender.bands, clip.motion)
                    if "sync_offset" in figures:
                        figures["sync_found"] = float(figures["sync_offset"] <= IN_STEP)
                    yield clip.emotion, {f"{name}_{key}": value for key, value in figures.items()}


def hear(speech: Tensor) -> Tensor:
    """Speech (1, N) -> log-mel of each frame of video (T, M)."""
    return rearrange(log_mel()(speech)[0], "m (t part) -> t m part", part=LogMel.rate).mean(dim=2)


@cache
def log_mel() -> LogMel:
    return LogMel(BANDS)


def around(bands: Tensor) -> Tensor:
    """(T, M) -> with the frames around each (T, F), in double precision."""
    padded = F.pad(bands.T[None].double(), (AROUND, AROUND), mode="replicate")[0]  # (M, T + 10)
    return rearrange(padded.unfold(1, 2 * AROUND + 1, 1), "m t near -> t (m near)")


def expression(motion: Tensor) -> Tensor:
    """Motion (T, D) -> (T, K), in double precision."""
    return motion[:, :-POSE_DIM].double()


def features(motion: Tensor) -> Tensor:
    """Motion (T, D) -> mean, spread and speed of each expression coefficient (F,)."""
    moved = expression(motion)
    speed = moved.diff(dim=0).abs().mean(dim=0) if len(moved) > 1 else torch.zeros_like(moved[0])
    return torch.cat([moved.mean(dim=0), moved.std(dim=0, correction=0), speed])


def people(clips: Sequence[Witness]) -> int:
    return len({clip.identity for clip in clips})


def folds(clips: Sequence[Witness]) -> int:
    return len({clip.fold for clip in clips})
