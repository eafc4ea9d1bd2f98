"""How well the emotion space works: retrieval between text, images and speech, and the emotions it tells apart.

Shapes: Q queries, G items of a gallery, E width of the space.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import class_prompt
from ...datamodules.sample import EMOTIONS, NO_LABEL
from ...models.emotion_student import EmotionEncoder
from ..metrics import emotion_retrieval
from .common import Advance, keys_of, no_advance

MODALITIES = ("text", "image", "audio")


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

    The text of an emotion is its canonical prompt without a level. A clip gives one random frame and its whole speech.
    Galleries hold one item of each emotion, drawn by `seed`. With emotions named in `unseen`, queries of those and of
    the others are reported apart as `unseen_…` and `seen_…`, against the same galleries of all emotions.
    Where clips have descriptions of their own, in `description_image_top1` and `description_audio_top1` those of every
    other clip ask for images and speech of the rest: what is said of face and voice without the name of an emotion.
    `image_accuracy_happy_3` and its like: clips of an emotion and level for which the nearest text is that emotion.
    """
    rng = np.random.default_rng(seed)
    images, voices, labels, levels, descriptions = [], [], [], [], []
    for key in keys_of(reader, split):
        info = reader.info(key)
        if info.emotion is not None:
            frame = reader.frames(key, [int(rng.integers(info.frames))])
            images.append(encoder.encode_image(torch.from_numpy(frame)))
            voices.append(encoder.encode_speech(torch.from_numpy(reader.speech(key))[None]))
            labels.append(EMOTIONS.index(info.emotion))
            levels.append(info.level or NO_LABEL)
            descriptions.append(encoder.encode_text(info.prompts).mean(dim=0) if info.prompts else None)
        advance(1)
    present = sorted(set(labels))
    if len(present) < 2:
        return {}
    texts = encoder.encode_text([class_prompt(EMOTIONS[label]) for label in present])
    clips = torch.tensor(labels)
    items = {"text": texts, "image": torch.cat(images), "audio": torch.cat(voices)}
    kinds = {"text": torch.tensor(present), "image": clips, "audio": clips}
    metrics = {}
    for a, b in permutations(MODALITIES, 2):
        for group, chosen in groups(kinds[a], unseen).items():
            found = emotion_retrieval(items[a], kinds[a], items[b], kinds[b], counted=chosen, seed=seed)
            metrics[f"{group}{a}_{b}_top1"] = found
    described = [n for n, found in enumerate(descriptions) if found is not None and n % 2 == 0]
    if described and len(clips) > 1:
        asked = F.normalize(torch.stack([descriptions[n] for n in described]), dim=-1)  # type: ignore[misc]
        for name in ("image", "audio"):
            for group, chosen in groups(clips[described], unseen).items():
                rest = (items[name][1::2], clips[1::2])
                found = emotion_retrieval(asked, clips[described], *rest, counted=chosen, seed=seed)
                metrics[f"{group}description_{name}_top1"] = found
    return metrics | accuracies(items, kinds["text"], clips, torch.tensor(levels))


def groups(labels: Tensor, unseen: Sequence[str]) -> dict[str, Tensor]:
    """Which of the labels (Q,) count for "", and for "seen_" and "unseen_" where some are unseen: masks (Q,)."""
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
