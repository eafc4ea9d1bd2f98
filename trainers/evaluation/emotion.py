"""How well the emotion space works: retrieval between text, images and speech, and the emotions it tells apart.

Text is of three kinds: `text`, the name of an emotion in wordings that no training text has; `prompt`, the name as
training words it; `description`, what the clips' own words say of face and voice, without a name. The name of an
emotion that was held out is a word that training never showed: only a pretrained text tower can know it.

Shapes: Q queries, G items of a gallery, E width of the space.
"""

import math
from collections.abc import Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import class_prompt
from ...datamodules.sample import EMOTIONS, NO_LABEL
from ...datamodules.stream.examples import draw_acted
from ...models.emotion_student import EmotionEncoder
from ..metrics import emotion_retrieval
from .common import Advance, harmonic_means, keys_of, name_embeddings, no_advance

SIGNALS = ("image", "audio")


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
    """Top-1 emotion retrieval in all directions; chance is 1 / the number of emotions in the split.

    `text_image_top1` and five more: between names, images and speech; `prompt_image_top1`, `image_prompt_top1` and
    their like: by the canonical prompt of training. A clip gives one frame, drawn as in training, and its
    whole speech. Galleries hold
    one item of each emotion, drawn by `seed`. With emotions named in `unseen`, queries of those and of the others are
    reported apart as `unseen_…` and `seen_…`, against the same galleries of all emotions, and `harmonic_…` of both.
    `description_image_top1`, `image_description_top1` and their like, if clips have descriptions of their own: those
    of every other clip are matched with images and speech of the rest.
    `image_accuracy_happy_3` and its like: share of that emotion and level whose nearest text is that emotion.
    """
    clips = encode_clips(encoder, reader, split, seed, advance)
    present = sorted({clip.label for clip in clips})
    if len(present) < 2:
        return {}
    labels = torch.tensor([clip.label for clip in clips])
    names, classes = [EMOTIONS[label] for label in present], torch.tensor(present)
    items = {
        "text": (name_embeddings(encoder, names), classes),
        "prompt": (encoder.encode_text([class_prompt(name) for name in names]), classes),
        "image": (torch.stack([clip.image for clip in clips]), labels),
        "audio": (torch.stack([clip.audio for clip in clips]), labels),
    }
    metrics: dict[str, float] = {}
    for a, b in [*permutations(("text", *SIGNALS), 2), *both_ways("prompt")]:
        metrics |= retrieval(f"{a}_{b}", items[a], items[b], unseen, seed)
    metrics |= by_description(clips, items, unseen, seed)
    return metrics | harmonic_means(metrics) | accuracies(items, torch.tensor([clip.level for clip in clips]))


Items = tuple[Tensor, Tensor]  # embeddings (G, E) and their emotions (G,)


def both_ways(text: str) -> list[tuple[str, str]]:
    """The directions between a kind of text and the signals."""
    return [*product((text,), SIGNALS), *product(SIGNALS, (text,))]


def retrieval(name: str, queries: Items, gallery: Items, unseen: Sequence[str], seed: int) -> dict[str, float]:
    """Top-1 from queries to a gallery: over all queries, and apart if some emotions are unseen."""
    found = {
        f"{group}{name}_top1": emotion_retrieval(*queries, *gallery, counted=chosen, seed=seed)
        for group, chosen in groups(queries[1], unseen).items()
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}  # no query, or nothing to find


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
    clips: list[EncodedClip], items: dict[str, Items], unseen: Sequence[str], seed: int
) -> dict[str, float]:
    """Retrieval between the descriptions of every other clip and the images and speech of the rest, both ways."""
    asked = [(clip.label, clip.description) for clip in clips[::2] if clip.description is not None]
    if not asked or len(clips) < 2:
        return {}
    described = F.normalize(torch.stack([text for _, text in asked])), torch.tensor([label for label, _ in asked])
    sides: dict[str, Items] = {"description": described}
    for name in SIGNALS:
        embeddings, labels = items[name]
        sides[name] = (embeddings[1::2], labels[1::2])
    metrics: dict[str, float] = {}
    for a, b in both_ways("description"):
        metrics |= retrieval(f"{a}_{b}", sides[a], sides[b], unseen, seed)
    return metrics


def groups(labels: Tensor, unseen: Sequence[str]) -> dict[str, Tensor]:
    """Masks (Q,) of the labels that count for "", and for "seen_" and "unseen_" if some are unseen."""
    if not unseen:
        return {"": torch.ones_like(labels, dtype=torch.bool)}
    new = torch.isin(labels, torch.tensor([EMOTIONS.index(name) for name in unseen]))
    both = {"": torch.ones_like(new), "seen_": ~new, "unseen_": new}
    return {name: mask for name, mask in both.items() if mask.any()}


def accuracies(items: dict[str, Items], levels: Tensor) -> dict[str, float]:
    """Share of clips (G,) whose nearest text is that of their emotion, over all and for each emotion and level."""
    found, (texts, classes) = {}, items["text"]
    for name in SIGNALS:
        embeddings, labels = items[name]
        right = (classes[(embeddings @ texts.T).argmax(dim=1)] == labels).float()
        found[f"{name}_accuracy"] = right.mean().item()
        for emotion in classes.tolist():
            for level in sorted(set(levels[labels == emotion].tolist())):
                chosen = (labels == emotion) & (levels == level)
                suffix = "" if level == NO_LABEL else f"_{level}"
                found[f"{name}_accuracy_{EMOTIONS[emotion]}{suffix}"] = right[chosen].mean().item()
    return found
