"""What the tables of an evaluation show, in the terminal and on the page, and the sentences below them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COMPARED = {  # columns of the table of videos against the true ones, in this order
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "fid": "FID",
    "csim": "CSIM",
    "identity": "identity",
    "sync_net_confidence": "LSE-C",
    "sync_net_distance": "LSE-D",
    "sync_net_offset": "AV offset",
    "m_lmd": "M-LMD",
    "f_lmd": "F-LMD",
    "mouth_correlation": "mouth",
}
JUDGED = {  # and of the table by the chain's own judges: both in one would be too wide for a terminal
    "emotion_accuracy": "emotion",
    "seen_emotion_accuracy": "seen",
    "unseen_emotion_accuracy": "unseen",
    "harmonic_emotion_accuracy": "harmonic",
    "sync_confidence": "sync",
    "sync_offset": "offset",
    "motion_emotion": "acted",
    "expression": "expression",
    "expression_rank": "its rank",
    "faces_found": "faces",
}
RETRIEVED = "_top1"  # what figures of retrieval end in
KINDS = {  # of what is asked by and what is found
    "text": "name",
    "description": "description",
    "prompt": "name in training's words",
    "image": "image",
    "audio": "voice",
}
DIRECTIONS = [
    *((a, b) for text in ("text", "description", "prompt") for a, b in ((text, "image"), (text, "audio"))),
    *((a, b) for text in ("text", "description", "prompt") for a, b in (("image", text), ("audio", text))),
    ("image", "audio"),
    ("audio", "image"),
]
GROUPS = {"": "all", "seen_": "seen", "unseen_": "unseen", "harmonic_": "harmonic mean"}
UNSEEN = (
    "The name of an unseen emotion is a word that training never showed: only a pretrained text tower can know it. "
    "A description says what face and voice do, in words that training has."
)
ACTED = (
    "The jury of motion names the emotion of {true_emotion_accuracy:.2f} of {true_emotion_clips:.0f} true clips of "
    "{true_emotion_people:.0f} people rightly; the commonest label would be right for {true_emotion_chance:.2f}."
)
IN_STEP = (
    "It finds {true_sync_found:.2f} of {true_sync_clips:.0f} true clips of {true_sync_people:.0f} people in step with "
    "their speech, and {foreign_sync_found:.2f} with that of another clip."
)
OTHERS_WEIGHTS = "they need somebody else's weights (see --judges, --lpips, --fid, --csim, --syncnet)"


class Grid(NamedTuple):
    head: list[str]
    rows: dict[str, list[float | None]]


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those with a row each: not retrieval, which has a table, nor single emotions and levels, which the files hold."""
    return {name: value for name, value in metrics.items() if "_accuracy_" not in name and RETRIEVED not in name}


def retrieval_grid(metrics: Mapping[str, float]) -> Grid:
    """Retrieval by names, by descriptions and without words, in every direction; seen and unseen emotions apart."""
    names = [f"{a}_{b}{RETRIEVED}" for a, b in DIRECTIONS]
    groups = [group for group in GROUPS if any(group + name in metrics for name in names)]
    rows: dict[str, list[float | None]] = {
        f"{KINDS[a]} → {KINDS[b]}": [metrics.get(group + name) for group in groups]
        for (a, b), name in zip(DIRECTIONS, names, strict=True)
        if name in metrics
    }
    return Grid([GROUPS[group] for group in groups], rows)


def notes(metrics: Mapping[str, float], of_others: Sequence[str], of_jury: Sequence[str]) -> list[str]:
    """Sentences below the tables: what they mean, how far the jury can be believed, what was not measured.

    of_others: figures that lack the network of somebody else. of_jury: those that lack people, with the reason.
    """
    found = [UNSEEN] if any(name.startswith("unseen_") and name.endswith(RETRIEVED) for name in metrics) else []
    if "true_emotion_accuracy" in metrics:
        found.append(ACTED.format(**metrics))
    if "true_sync_found" in metrics:
        found.append(IN_STEP.format(**{"foreign_sync_found": math.nan} | dict(metrics)))
    found += [f"Not measured: {figure}." for figure in of_jury]
    return found + ([f"Not measured: {', '.join(of_others)}: {OTHERS_WEIGHTS}."] if of_others else [])
