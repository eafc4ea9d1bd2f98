"""One evaluation for every stage and the talker, on a split of a data set. Deterministic for a checkpoint and seed.

T frames, S pixels, E emotion space.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..datamodules.prompts import class_prompt
from ..datamodules.reader import ClipReader
from ..datamodules.sample import EMOTIONS
from ..models.emotion_student import EmotionEncoder
from ..models.errors import UserError
from ..models.face import FaceGenerator
from ..models.face_model import POSE_DIM, FaceModel
from ..models.motion import AudioTo3DMM
from ..models.talker import motion_windows
from .distill import psnr
from .retrieval import emotion_retrieval

Advance = Callable[[int], None]
PAIRS_PER_CLIP = 4  # target frames of each clip, for one portrait frame


def no_advance(n: int) -> None:
    """For callers without a progress bar."""


def keys_of(reader: ClipReader, split: str) -> list[str]:
    keys = reader.keys(split)
    if not keys:
        raise UserError(
            f"{reader.folder}: its split '{split}' holds no clip; prepare more identities or name another split"
        )
    return keys


@torch.inference_mode()
def evaluate_emotion(
    encoder: EmotionEncoder, reader: ClipReader, split: str, *, seed: int = 0, advance: Advance = no_advance
) -> dict[str, float]:
    """Top-1 emotion retrieval from text: each of the 8 emotions asks a gallery of one image (or voice) of each emotion.

    The query is the canonical prompt of the emotion without a level. The galleries are drawn by `seed`; a clip gives
    one random frame and its whole speech. Chance is 1 / 8.
    """
    rng = np.random.default_rng(seed)
    images, voices, labels = [], [], []
    for key in keys_of(reader, split):
        info = reader.info(key)
        if info.emotion is not None:
            frame = reader.frames(key, [int(rng.integers(info.frames))])
            images.append(encoder.encode_image(torch.from_numpy(frame)))
            voices.append(encoder.encode_speech(torch.from_numpy(reader.speech(key))[None]))
            labels.append(EMOTIONS.index(info.emotion))
        advance(1)
    present = sorted(set(labels))
    if len(present) < 2:
        return {}
    queries = encoder.encode_text([class_prompt(EMOTIONS[label]) for label in present])
    query_labels, gallery_labels = torch.tensor(present), torch.tensor(labels)
    return {
        name: emotion_retrieval(queries, query_labels, torch.cat(gallery), gallery_labels, seed=seed)
        for name, gallery in (("text_image_top1", images), ("text_audio_top1", voices))
    }


@torch.inference_mode()
def evaluate_motion(
    network: AudioTo3DMM, encoder: EmotionEncoder, reader: ClipReader, split: str, *, advance: Advance = no_advance
) -> dict[str, float]:
    """Correlation over time of predicted and true mouth opening, averaged over clips, from audio alone.

    The emotion comes from the clip's own voice and the identity is the mean face, so that nothing but sound goes in.
    `lip_error` is the mean distance of the 20 lip landmarks in face units, after the true pose and identity are put to
    both.
    """
    face_model = reader.face_model
    correlations, lip_errors = [], []
    for key in keys_of(reader, split):
        speech, truth = torch.from_numpy(reader.speech(key))[None], torch.from_numpy(reader.motion(key))
        identity = torch.zeros(1, face_model.num_identity)
        motion = network.generate(speech, encoder.encode_speech(speech), identity)[0]  # (T, D)
        openings = [face_model.mouth_opening(identity, m) for m in (motion, truth)]
        correlations.append(correlation(*openings))
        lip_errors.append(float((lips(face_model, motion) - lips(face_model, truth)).norm(dim=-1).mean()))
        advance(1)
    return {"mouth_correlation": float(np.mean(correlations)), "lip_error": float(np.mean(lip_errors))}


@torch.inference_mode()
def evaluate_face(
    generators: dict[str, FaceGenerator],
    reader: ClipReader,
    split: str,
    *,
    seed: int = 0,
    advance: Advance = no_advance,
) -> dict[str, float]:
    """PSNR in dB of frames made from a portrait of the same clip and the true motion, one figure for each generator.

    `copy_psnr` is that of the portrait itself, the same pairs: what a generator that does nothing would get. Averaged
    over pairs; all generators have one size; each clip gives one random portrait and a few random other frames.
    """
    rng = np.random.default_rng(seed)
    (size,) = {generator.config.size for generator in generators.values()}
    values: dict[str, list[Tensor]] = {name: [] for name in ["copy", *generators]}
    for key in keys_of(reader, split):
        motion = torch.from_numpy(reader.motion(key))
        portrait_at, *targets_at = rng.permutation(len(motion))[: 1 + PAIRS_PER_CLIP].tolist()
        frames = torch.from_numpy(reader.frames(key, [portrait_at, *targets_at], size=size))
        portrait, targets = frames[:1], frames[1:].float() / 127.5 - 1
        values["copy"].append(psnr(portrait.float() / 127.5 - 1, targets))
        for name, generator in generators.items():
            features = generator.encode_portrait(portrait).repeat(len(targets))
            windows = motion_windows(motion, generator.config.window)[targets_at]
            values[name].append(psnr(generator(features, windows).frame.float(), targets))
        advance(1)
    return {f"{name}_psnr": float(torch.cat(value).mean()) for name, value in values.items()}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of two tracks (T,); 0 where one of them does not move."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-8))


def lips(face_model: FaceModel, motion: Tensor) -> Tensor:
    """The 20 lip landmarks of the mean identity without pose, (T, 20, 3) in face units."""
    identity = torch.zeros(face_model.num_identity)
    return face_model.vertices(identity, motion[:, :-POSE_DIM])[:, face_model.landmark_index[48:68]]
