"""How near the frames of the face stage come to the true ones.

Shapes: B frames, S pixels.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from ...datamodules.dataset.clip import StoredClip
from ...datamodules.dataset.index import person
from ...datamodules.dataset.reader import ClipReader
from ...models.face import FaceGenerator, FaceOutput, PortraitFeatures, to_float
from ...models.flow import resize, warp
from ...models.talker import motion_windows
from ..metrics import psnr
from .common import Advance, keys_of, no_advance

PAIRS_PER_CLIP = 4  # target frames of each clip, for one portrait frame
CROSS = 1  # names the random numbers of portraits of other clips, so that these leave the others as they are


@torch.inference_mode()
def evaluate_face(
    generators: dict[str, FaceGenerator],
    reader: ClipReader,
    split: str,
    *,
    seed: int = 0,
    advance: Advance = no_advance,
) -> dict[str, float]:
    """PSNR in dB and SSIM of frames made from a portrait of the same person and the true motion.

    A clip of a single frame has no pair.

    `face_psnr`, `face_ssim` for a generator named "face"; `copy_…` of the portrait itself, the same pairs, which is
    the figure of a generator that does nothing; `coarse_…` of the portrait warped by the flow of the first generator's
    coarsest level alone. Averaged over pairs; all generators have one size; each clip gives one random portrait and a
    few random other frames.

    `cross_…`: the same target frames made from a random frame of another clip (see `relatives_of`), as a neutral
    portrait is made to look angry. Over the clips that have such a relative; left out if none has.
    """
    rng, cross_rng = np.random.default_rng(seed), np.random.default_rng([seed, CROSS])
    (size,) = {generator.config.size for generator in generators.values()}
    found: dict[str, list[Tensor]] = {}
    keys = keys_of(reader, split, heard=False)
    relatives = relatives_of(reader, keys)
    for key in keys:
        advance(1)
        if reader.info(key).frames < 2:
            continue
        motion = torch.from_numpy(reader.motion(key))
        portrait_at, *targets_at = rng.permutation(len(motion))[: 1 + PAIRS_PER_CLIP].tolist()
        frames = torch.from_numpy(reader.frames(key, [portrait_at, *targets_at], size=size))
        windows = motion_windows(motion)[targets_at]
        portraits = {"": frames[:1]}
        if key in relatives:
            portraits["cross_"] = random_frame(reader.clip(relatives[key]), size, cross_rng)
        for prefix, portrait in portraits.items():
            for name, values in compare_frames(generators, portrait, frames[1:], windows).items():
                found.setdefault(prefix + name, []).append(values)
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def relatives_of(reader: ClipReader, keys: list[str]) -> dict[str, str]:
    """For each clip of which there are others with the same person and view: the first neutral one, else the first."""
    records = [reader.clip(key).record for key in keys]
    people: dict[tuple[str, str], list[str]] = {}  # their clips, neutral ones first
    for record in sorted(records, key=lambda record: record["emotion"] != "neutral"):
        people.setdefault(person(record), []).append(record["key"])
    found = {}
    for record in records:
        others = [key for key in people[person(record)][:2] if key != record["key"]]
        if others:
            found[record["key"]] = others[0]
    return found


def random_frame(clip: StoredClip, size: int, rng: np.random.Generator) -> Tensor:
    """uint8 (1, 3, S, S)"""
    return torch.from_numpy(clip.frames([int(rng.integers(clip.num_frames))], size))


def compare_frames(
    generators: dict[str, FaceGenerator], portrait: Tensor, targets: Tensor, windows: Tensor
) -> dict[str, Tensor]:
    """A portrait (1, 3, S, S) and true frames (B, 3, S, S), uint8 -> the figures of each frame (B,) by name.

    windows: the motion (B, W, D) around each frame.
    """
    truth = to_float(targets)
    made = {"copy": to_float(portrait).expand_as(truth)}
    for number, (name, generator) in enumerate(generators.items()):
        features = generator.encode_portrait(portrait).repeat(len(targets))
        output = generator(features, windows)
        if number == 0:
            made["coarse"] = coarse_frame(features, output)
        made[name] = output.frame.float()
    figures = {}
    for name, frames in made.items():
        figures[f"{name}_psnr"], figures[f"{name}_ssim"] = psnr(frames, truth), ssim(frames, truth)
    return figures


def coarse_frame(features: PortraitFeatures, output: FaceOutput) -> Tensor:
    """The portrait warped by the flow of the coarsest level, and by nothing else (B, 3, S, S)."""
    return warp(features.image, resize(output.flows[0], features.image.shape[-1]))


def ssim(frames: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of pictures (B, 3, S, S) in [-1, 1], each (B,)."""
    found = structural_similarity_index_measure(frames.clamp(-1, 1), truth, data_range=2.0, reduction="none")
    assert isinstance(found, Tensor)
    return found
