"""How well motion follows speech: mouth opening, and the landmark distances of the field.

Shapes: B motions, T frames, N samples of speech, D values of motion, E width of the emotion space.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.prompts import label_prompts
from ...datamodules.sample import EMOTIONS
from ...models.emotion_student import EmotionEncoder
from ...models.face_model import FaceModel
from ...models.motion import AudioTo3DMM
from ...models.motion_critics import MAX_LAG, MotionCritics, sync_offset
from ...models.timing import SAMPLES_PER_FRAME
from ..metrics import correlation, landmark_distances
from .common import Advance, ClipFigures, averages, keys_of, no_advance

LOUDNESS_SMOOTHING = 1.0  # frames
QUIET = 1e-3  # root mean square that counts as silence


@torch.inference_mode()
def evaluate_jury(
    jury: MotionCritics,
    network: AudioTo3DMM,
    encoder: EmotionEncoder,
    reader: ClipReader,
    split: str,
    *,
    unseen: Sequence[str] = (),
    advance: Advance = no_advance,
) -> dict[str, float]:
    """The jury's figures of the motion made for each clip's speech, once with each of the eight emotions.

    `sync_confidence` and `sync_offset`: see `sync_figures`; `true_…` for the true motion. `emotion_accuracy`: share of
    (clip, emotion) in which the motion made for the text of that emotion is nearest to that text in the emotion space;
    `emotion_accuracy_happy` and its like: of one emotion. `true_emotion_accuracy`: of labelled clips by their true
    motion; with emotions named in `unseen`, as `seen_…` and `unseen_…` too (see `averages`). `kept_opening`: the
    correlation of mouth opening between two emotions of the same speech, over all pairs.
    """
    texts = encoder.encode_text(label_prompts())  # (8, E)
    found: list[ClipFigures] = []
    for key in keys_of(reader, split):
        speech, truth = torch.from_numpy(reader.speech(key))[None], torch.from_numpy(reader.motion(key))[None]
        nobody = torch.zeros(len(texts), reader.face_model.num_identity)
        motion = network.generate(speech.expand(len(texts), -1), texts, nobody)  # (8, T, D)
        right = (acted_emotions(jury, motion, texts) == torch.arange(len(texts))).float()
        figures = {"emotion_accuracy": float(right.mean())}
        figures |= {f"emotion_accuracy_{name}": value for name, value in zip(EMOTIONS, right.tolist(), strict=True)}
        openings = reader.face_model.mouth_opening(nobody[:, None], motion)  # (8, T)
        pairs = [float(correlation(openings[a], openings[b])) for a in range(len(texts)) for b in range(a)]
        figures["kept_opening"] = float(np.mean(pairs))
        own = network.generate(speech, encoder.encode_speech(speech), nobody[:1])
        for prefix, moved in (("", own), ("true_", truth)):
            figures |= {f"{prefix}{name}": value for name, value in sync_figures(jury, speech, moved).items()}
        emotion = reader.info(key).emotion
        if emotion is not None:
            nearest = int(acted_emotions(jury, truth, texts))
            figures["true_emotion_accuracy"] = float(EMOTIONS[nearest] == emotion)
        found.append((emotion, figures))
        advance(1)
    return averages(found, unseen, apart=["true_emotion_accuracy"])


def sync_figures(jury: MotionCritics, speech: Tensor, motion: Tensor) -> dict[str, float]:
    """How well motion (1, T, D) goes with speech (1, N), as the jury's sync critic hears and sees it.

    `sync_offset`: frames between the best lag and none, whichever comes late; `sync_confidence`: likeness at that lag
    less the median over all lags (see models/motion_critics.py). Nothing for clips of fewer than 16 frames.
    """
    if motion.shape[1] <= MAX_LAG:
        return {}
    heard, seen = jury.sync(speech, jury.normalise(motion))
    offset, confidence = sync_offset(heard[0], seen[0])
    return {"sync_offset": abs(offset), "sync_confidence": confidence}


def acted_emotions(jury: MotionCritics, motion: Tensor, texts: Tensor) -> Tensor:
    """Which of the texts (8, E) each motion (B, T, D) is nearest to, as the jury's critic of emotion sees it (B,)."""
    return (jury.emotion(jury.normalise(motion)) @ texts.T).argmax(dim=1)


@torch.inference_mode()
def evaluate_motion(
    network: AudioTo3DMM,
    encoder: EmotionEncoder,
    reader: ClipReader,
    split: str,
    *,
    unseen: Sequence[str] = (),
    advance: Advance = no_advance,
) -> dict[str, float]:
    """How well speech alone moves the mouth, averaged over clips, beside baselines that need no network.

    The emotion comes from the clip's own voice and the identity is the mean face, so that nothing but sound goes in.
    `mouth_correlation` is that over time of predicted and true mouth opening; `loudness_correlation` has the smoothed
    level of the speech in place of the prediction. `m_lmd`, `f_lmd`: see `landmark_distances`; `mean_m_lmd` and
    `mean_f_lmd` are those of the mean motion of the training data. With emotions named in `unseen`, `mouth_correlation`
    and `m_lmd` as `seen_…` and `unseen_…` too (see `averages`).
    """
    found: list[ClipFigures] = []
    for key in keys_of(reader, split):
        speech, truth = torch.from_numpy(reader.speech(key))[None], torch.from_numpy(reader.motion(key))
        identity = torch.zeros(1, reader.face_model.num_identity)
        motion = network.generate(speech, encoder.encode_speech(speech), identity)[0]  # (T, D)
        figures = compare_motion(reader.face_model, network, torch.from_numpy(reader.identity(key)), motion, truth)
        opening = reader.face_model.mouth_opening(identity, truth)
        figures["loudness_correlation"] = float(correlation(loudness(speech[0], len(truth)), opening))
        found.append((reader.info(key).emotion, figures))
        advance(1)
    return averages(found, unseen, apart=["mouth_correlation", "m_lmd"])


def compare_motion(
    face_model: FaceModel, network: AudioTo3DMM, identity: Tensor, motion: Tensor, truth: Tensor
) -> dict[str, float]:
    """Predicted motion (T, D) of a person (I,) against the true one."""
    nobody = torch.zeros_like(identity)
    openings = [face_model.mouth_opening(nobody[None], m) for m in (motion, truth)]
    face, mouth = landmark_distances(face_model, identity, motion, truth)
    mean_face, mean_mouth = landmark_distances(face_model, identity, network.motion_mean.expand_as(truth), truth)
    return {
        "mouth_correlation": float(correlation(*openings)),
        "m_lmd": mouth,
        "f_lmd": face,
        "mean_m_lmd": mean_mouth,
        "mean_f_lmd": mean_face,
    }


def loudness(speech: Tensor, frames: int) -> Tensor:
    """Smoothed log level (T,) of speech (N,): what opens a mouth that knows nothing else."""
    padded = torch.nn.functional.pad(speech, (0, max(0, frames * SAMPLES_PER_FRAME - len(speech))))
    power = padded[: frames * SAMPLES_PER_FRAME].reshape(frames, SAMPLES_PER_FRAME).square().mean(dim=1)
    return torch.from_numpy(gaussian_filter1d((power.sqrt() + QUIET).log().numpy(), LOUDNESS_SMOOTHING))
