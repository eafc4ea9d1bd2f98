"""How well the emotion space works: retrieval between text, images and speech, and the emotions it tells apart.

Shapes: Q queries, G items of a gallery, E width of the space.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import class_prompt
from ...datamodules.sample import EMOTIONS, NO_LABEL
from ...datamodules.stream.examples import draw_acted
from ...models.emotion_student import MODALITIES, EmotionEncoder
from ..metrics import emotion_retrieval
from .common import Advance, keys_of, no_advance


@torch.inference_mode()
def evaluate_emotion(
    encoder: EmotionEncoder,
    reader: ClipReader,
    split: str,
    *,
    unseen: Sequence[str] = (),
    seed: int = 0,
    advance: Advance = no_advance,
) -> dict[str, float]:
    """Top-1 emotion retrieval in all six directions; chance is 1 / the number of emotions in the split.

    The text of an emotion is its canonical prompt without a level. A clip gives one frame and its whole speech; the
    frame is drawn as in training, of the middle part of a clip that shows an emotion.
    Galleries hold one item of each emotion, drawn by `seed`. With emotions named in `unseen`, queries of those and of
    the others are reported apart as `unseen_…` and `seen_…`, against the same galleries of all emotions.
    `description_image_top1` and `description_audio_top1`, if clips have descriptions of their own: those of every other
    clip are the queries for images and speech of the rest. They describe face and voice without naming an emotion.
    `image_accuracy_happy_3` and its like: share of that emotion and level whose nearest text is that emotion.
    """
    clips = encode_clips(encoder, reader, split, seed, advance)
    present = sorted({clip.label for clip in clips})
    if len(present) < 2:
        return {}
    labels = torch.tensor([clip.label for clip in clips])
    items = {
        "text": encoder.encode_text([class_prompt(EMOTIONS[label]) for label in present]),
        "image": torch.stack([clip.image for clip in clips]),
        "audio": torch.stack([clip.audio for clip in clips]),
    }
    kinds = {"text": torch.tensor(present), "image": labels, "audio": labels}
    metrics: dict[str, float] = {}
    for a, b in permutations(MODALITIES, 2):
        for group, chosen in groups(kinds[a], unseen).items():
            found = emotion_retrieval(items[a], kinds[a], items[b], kinds[b], counted=chosen, seed=seed)
            metrics[f"{group}{a}_{b}_top1"] = found
    metrics |= by_description(clips, items, labels, unseen, seed)
    return metrics | accuracies(items, kinds["text"], labels, torch.tensor([clip.level for clip in clips]))


class EncodedClip(NamedTuple):
    image: Tensor  # (E,) of one frame
    audio: Tensor  # (E,) of the whole speech
    label: int
    level: int  # NO_LABEL: it has none
    description: Tensor | None  # (E,) the mean of its own texts


def encode_clips(
    encoder: EmotionEncoder, reader: ClipReader, split: str, seed: int, advance: Advance
) -> list[EncodedClip]:
    """The clips of a split that have an emotion, each by one frame that `seed` draws."""
    rng, found = np.random.default_rng(seed), []
    for key in keys_of(reader, split):
        info = reader.info(key)
        if info.emotion is not None:
            frame = reader.frames(key, [draw_acted(info, info.frames, rng)])
            (image,) = encoder.encode_image(torch.from_numpy(frame))
            (audio,) = encoder.encode_speech(torch.from_numpy(reader.speech(key))[None])
            text = encoder.encode_text(info.prompts).mean(dim=0) if info.prompts else None
            found.append(EncodedClip(image, audio, EMOTIONS.index(info.emotion), info.level or NO_LABEL, text))
        advance(1)
    return found


def by_description(
    clips: list[EncodedClip], items: dict[str, Tensor], labels: Tensor, unseen: Sequence[str], seed: int
) -> dict[str, float]:
    """Retrieval by the descriptions of every other clip among the images and speech of the rest."""
    asked = [(clip.label, clip.description) for clip in clips[::2] if clip.description is not None]
    if not asked or len(clips) < 2:
        return {}
    queries, wanted = F.normalize(torch.stack([text for _, text in asked])), torch.tensor([n for n, _ in asked])
    metrics = {}
    for name in ("image", "audio"):
        for group, chosen in groups(wanted, unseen).items():
            rest = (items[name][1::2], labels[1::2])
            found = emotion_retrieval(queries, wanted, *rest, counted=chosen, seed=seed)
            metrics[f"{group}description_{name}_top1"] = found
    return metrics


def groups(labels: Tensor, unseen: Sequence[str]) -> dict[str, Tensor]:
    """Masks (Q,) of the labels that count for "", and for "seen_" and "unseen_" if some are unseen."""
    if not unseen:
        return {"": torch.ones_like(labels, dtype=torch.bool)}
    new = torch.isin(labels, torch.tensor([EMOTIONS.index(name) for name in unseen]))
    both = {"": torch.ones_like(new), "seen_": ~new, "unseen_": new}
    return {name: mask for name, mask in both.items() if mask.any()}


def accuracies(items: dict[str, Tensor], classes: Tensor, labels: Tensor, levels: Tensor) -> dict[str, float]:
    """Share of clips (G,) whose nearest text is that of their emotion, over all and for each emotion and level."""
    found = {}
    for name in ("image", "audio"):
        right = (classes[(items[name] @ items["text"].T).argmax(dim=1)] == labels).float()
        found[f"{name}_accuracy"] = right.mean().item()
        for emotion in classes.tolist():
            for level in sorted(set(levels[labels == emotion].tolist())):
                chosen = (labels == emotion) & (levels == level)
                suffix = "" if level == NO_LABEL else f"_{level}"
                found[f"{name}_accuracy_{EMOTIONS[emotion]}{suffix}"] = right[chosen].mean().item()
    return found
