"""Small made-up clips for the tests of packing and streaming."""

import json
from pathlib import Path

import cv2
import numpy as np
from emohead.datamodules.dataset.manifest import Manifest
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.sample import EMOTIONS, SAMPLES_PER_FRAME, SPLITS, Clip, ClipInfo
from emohead.models.face_model import FaceModel

SIZE = 32
NUM_EXPRESSION, NUM_IDENTITY = 4, 3


def face_model(seed: int = 0) -> FaceModel:
    rng = np.random.default_rng(seed)
    bases = [rng.normal(0, 0.1, (n, 68, 3)) for n in (NUM_IDENTITY, NUM_EXPRESSION)]
    return FaceModel(rng.normal(0, 0.3, (68, 3)), *bases, np.arange(68), kind="landmark")


def make_clip(number: int, split: str = "train", num_frames: int = 30, size: int = SIZE) -> Clip:
    """A clip of smooth colours whose motion[t] is t and whose speech is t / 1000 all through frame t."""
    rng = np.random.default_rng([7, number])
    coarse = rng.integers(40, 216, (num_frames, 4, 4, 3), dtype=np.uint8)
    emotion = EMOTIONS[number % len(EMOTIONS)] if number % 5 else None
    info = ClipInfo(
        key=f"clip{number:03d}",
        dataset="made-up",
        identity=f"id{number % 3}",
        split=split,
        frames=num_frames,
        size=size,
        emotion=emotion,
        level=None if emotion is None else 1 if emotion == "neutral" else number % 3 + 1,
    )
    times = np.arange(num_frames, dtype=np.float32)
    return Clip(
        info=info,
        frames=np.stack([cv2.resize(image, (size, size)) for image in coarse]),
        speech=np.repeat(times / 1000, SAMPLES_PER_FRAME),
        motion=np.repeat(times[:, None], NUM_EXPRESSION + 6, axis=1),
        identity=rng.normal(size=NUM_IDENTITY).astype(np.float32),
        landmarks=rng.uniform(0, size, (num_frames, 68, 2)).astype(np.float16),
    )


def write_clips(
    out: Path,
    *,
    counts: dict[str, int] | None = None,
    codec: str = "mjpeg",
    size: int = SIZE,
    model: FaceModel | None = None,
    num_frames: int = 30,
) -> Manifest:
    """A data set of made-up clips, three to a shard; `counts` is clips of each split."""
    number = 0
    with ShardWriter(out, size=size, codec=codec, clips_per_shard=3) as writer:
        for split in SPLITS:
            for _ in range((counts or {"train": 8, "val": 3}).get(split, 0)):
                writer.write(make_clip(number, split, num_frames, size))
                number += 1
        return writer.close(model or face_model())


def damage(folder: Path, key: str, member: str = "motion.npy") -> None:
    """Flip one bit in the middle of a member."""
    for path in folder.glob("*.index.json"):
        for sample in json.loads(path.read_text())["samples"]:
            if sample["key"] == key:
                offset, size, _ = sample["members"][member]
                with open(path.with_name(path.name.replace(".index.json", ".tar")), "r+b") as tar:
                    tar.seek(offset + size // 2)
                    byte = tar.read(1)[0]
                    tar.seek(offset + size // 2)
                    tar.write(bytes([byte ^ 4]))
                return
    raise AssertionError(key)
