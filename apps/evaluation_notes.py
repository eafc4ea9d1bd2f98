"""The sentences below the tables of an evaluation: what they mean, how far judges can be believed, what is missing."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..trainers.evaluation.tracked import TRACKER, tracker_installed
from ..trainers.evaluation.video import Compared, Judges
from .evaluation_retrieval import RETRIEVED

UNSEEN = (
    "The name of an unseen emotion is a word that training never showed: only a pretrained text tower can know it. "
    "A description says what face and voice do, in words that training has."
)
RETRIEVAL = "retrieval of emotions (it takes clips that are labelled with two emotions or more)"
ACTED = (
    "The jury of motion names the emotion of {true_emotion_accuracy:.2f} of {true_emotion_clips:.0f} true clips of "
    "{true_emotion_people:.0f} people rightly; the commonest label would be right for {true_emotion_chance:.2f}."
)
IN_STEP = (
    "It finds {true_sync_found:.2f} of {true_sync_clips:.0f} true clips of {true_sync_people:.0f} people in step with "
    "their speech, and {foreign_sync_found:.2f} with that of another clip."
)
OTHERS_WEIGHTS = "not measured, for they need somebody else's weights (see --judges, --lpips, --fid, --csim, --syncnet)"


class Notes(NamedTuple):
    """What is said below the tables."""

    told: list[str]  # sentences
    missing: list[str]  # figures that were not measured


def notes(metrics: Mapping[str, float], videos: Compared | None, judges: Judges, *, retrieves: bool) -> Notes:
    """All there is to say of figures.

    videos: None if the checkpoint draws none; retrieves: it has an emotion encoder, which is to find emotions.
    """
    lacking = judges.jury.missing() if judges.jury else []
    if retrieves and not any(name.endswith(RETRIEVED) for name in metrics):
        lacking = [RETRIEVAL, *lacking]
    missing, told = of_videos(videos, judges.missing()) if videos is not None else ([], [])
    judged_by = judges.faces.asked() if judges.faces else {}
    told += [f"{figure} is by {network}" for figure, network in judged_by.items()]
    return Notes([*of_metrics(metrics, lacking), *told], [*missing, *lacking])


def of_metrics(metrics: Mapping[str, float], lacking: Sequence[str]) -> list[str]:
    """What retrieval means and how far the jury can be believed; figures that the clips do not suffice for, and why."""
    found = [UNSEEN] if any(name.startswith("unseen_") and name.endswith(RETRIEVED) for name in metrics) else []
    if "true_emotion_accuracy" in metrics:
        found.append(ACTED.format(**metrics))
    if "true_sync_found" in metrics:
        found.append(IN_STEP.format(**{"foreign_sync_found": math.nan} | dict(metrics)))
    return found + [f"Not measured: {figure}." for figure in lacking]


def of_videos(videos: Compared, missing: Sequence[str]) -> tuple[list[str], list[str]]:
    """Figures of videos that are not measured, those `missing` somebody else's network first; and sentences that say
    why, and what the others are of."""
    told = [f"{', '.join(missing)}: {OTHERS_WEIGHTS}"] if missing else []
    if not videos.tracked:
        told.append(
            "tracked faces, temporal, flicker, sharpness: not measured, for no clip was tracked (--tracked-clips)"
        )
        return [*missing, "tracked faces"], told
    told.append(f"all frames of {len(videos.tracked)} clips: temporal, flicker, sharpness, and all of tracked faces")
    if not tracker_installed():
        told.append(f"tracked faces: not measured, for the tracker is not installed: {TRACKER}")
        return [*missing, "tracked faces"], told
    doubted = {why: ", ".join(n for n, its in videos.doubted.items() if its == why) for why in videos.doubted.values()}
    told += [f"{names}: not measured, for {why}" for why, names in doubted.items()]
    for row, keys in videos.faceless.items():
        told.append(f"{row}: no face in {len(keys)} of {len(videos.tracked)} clips, left out there: {', '.join(keys)}")
    return [*missing, *videos.doubted], told
