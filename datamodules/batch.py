"""The batch of every stage: names, types and shapes. Made-up and real data satisfy the same contract.

B clips, S pixels a side, N = 640 T samples of speech, T frames, D = K + 6 values of motion, I identity coefficients,
W = 27 frames of motion around the target frame.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .sample import EMOTIONS, MOTION_WINDOW, SAMPLES_PER_FRAME

Batch = dict[str, Any]  # a Tensor or a list of str by name, as the tables below say

EMOTION = {
    "key": (list, "B"),
    "image": (torch.uint8, "B 3 S S"),  # a frame of the clip that shows its emotion
    "speech": (torch.float32, "B N"),  # in [-1, 1]
    "emotion": (torch.int64, "B"),  # index into EMOTIONS, NO_LABEL (-1) if unknown
    "level": (torch.int64, "B"),  # 1, 2, 3, or NO_LABEL
    "prompt": (list, "B"),
}
MOTION = EMOTION | {
    "motion": (torch.float32, "B T D"),  # motion[t] belongs to speech[640 t : 640 (t + 1)]
    "identity": (torch.float32, "B I"),
}
FACE = {
    "key": (list, "B"),
    "portrait": (torch.uint8, "B 3 S S"),  # of the target's clip, or of another one of the person from the same view
    "portrait_motion": (torch.float32, "B D"),
    "target": (torch.uint8, "B 3 S S"),  # another frame, of the clip that `key` names
    "target_motion": (torch.float32, "B W D"),  # centred on the target frame, edges replicated
    "target_landmarks": (torch.float32, "B 68 2"),  # crop units, [-1, 1]
    "identity": (torch.float32, "B I"),  # of the person, as the target's clip has it
    "portrait_identity": (torch.float32, "B I"),  # the same, as the portrait's clip has it
}
BATCH: dict[str, dict] = {"emotion": EMOTION, "motion": MOTION, "face": FACE, "distill": MOTION | FACE}


FIXED = {"3": 3, "2": 2, "68": 68, "W": MOTION_WINDOW}  # sizes that are the same in every batch


def _sizes(batch_size: int, size: int, num_frames: int, motion_dim: int, identity_dim: int) -> dict[str, int]:
    """The sizes by the letters of the tables."""
    sizes = {"B": batch_size, "S": size, "N": num_frames * SAMPLES_PER_FRAME, "T": num_frames}
    return FIXED | sizes | {"D": motion_dim, "I": identity_dim}


def check_batch(stage: str, batch: Batch) -> dict[str, int]:
    """Assert that `batch` is what `stage` reads and return the sizes found, such as {"B": 8, "T": 50, ...}."""
    fields = BATCH[stage]
    assert batch.keys() == fields.keys(), f"{stage}: keys {sorted(batch)} instead of {sorted(fields)}"
    sizes: dict[str, int] = dict(FIXED)
    for name, (kind, shape) in fields.items():
        value = batch[name]
        found = (len(value),) if isinstance(value, list) else tuple(value.shape)
        if isinstance(value, Tensor):
            assert value.dtype == kind, f"{stage}.{name}: {value.dtype} instead of {kind}"
        assert len(found) == len(shape.split()), f"{stage}.{name}: shape {found} instead of ({shape})"
        for symbol, size in zip(shape.split(), found, strict=True):
            assert sizes.setdefault(symbol, size) == size, f"{stage}.{name}: {symbol}={size}, elsewhere {sizes[symbol]}"
    if "N" in sizes and "T" in sizes:
        assert sizes["N"] == sizes["T"] * SAMPLES_PER_FRAME, f"{stage}: N={sizes['N']} for T={sizes['T']}"
    return sizes


def batch_bytes(stage: str, *, batch_size: int, size: int, num_frames: int, motion_dim: int, identity_dim: int) -> int:
    """Bytes that the tensors of a batch take."""
    sizes = _sizes(batch_size, size, num_frames, motion_dim, identity_dim)
    tensors = [(kind, symbols.split()) for kind, symbols in BATCH[stage].values() if kind is not list]
    return sum(kind.itemsize * math.prod(sizes[symbol] for symbol in symbols) for kind, symbols in tensors)


def made_up_batch(
    stage: str,
    *,
    batch_size: int = 2,
    size: int = 32,
    num_frames: int = 20,
    motion_dim: int = 10,
    identity_dim: int = 3,
    seed: int = 0,
) -> Batch:
    """Noise in the shape of a stage's batch, for tests and benchmarks."""
    rng = np.random.default_rng(seed)
    sizes = _sizes(batch_size, size, num_frames, motion_dim, identity_dim)
    batch: Batch = {}
    for name, (kind, symbols) in BATCH[stage].items():
        shape = [sizes[symbol] for symbol in symbols.split()]
        if kind is list:
            batch[name] = [f"a {EMOTIONS[i % len(EMOTIONS)]} face" for i in range(batch_size)]
        elif kind is torch.uint8:
            batch[name] = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        elif name == "emotion":
            batch[name] = torch.arange(batch_size) % len(EMOTIONS)
        elif name == "portrait_identity":
            batch[name] = batch["identity"].clone()  # both frames are of one clip
        elif name == "level":
            batch[name] = torch.ones(batch_size, dtype=torch.int64)
        else:
            batch[name] = torch.from_numpy(rng.normal(0, 0.2, shape).astype(np.float32)).clamp(-1, 1)
    return batch
