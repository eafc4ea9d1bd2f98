"""How well motion follows speech: mouth opening, and the landmark distances of the field.

Shapes: B motions, T frames, N samples of speech, D values of motion, E width of the emotion space.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ...datamodules.dataset.reader import ClipReader
from ...datamodules.sample import EMOTIONS
from ...models.emotion_student import EmotionEncoder
from ...models.face_model import FaceModel
from ...models.motion import AudioTo3DMM
from ...models.timing import SAMPLES_PER_FRAME
from ..metrics import correlation, landmark_distances
from .common import Advance, ClipFigures, averages, keys_of, name_embeddings, no_advance
from .jury import Jury

LOUDNESS_SMOOTHING = 1.0  # frames
QUIET = 1e-3  # root mean square that counts as silence


@torch.inference_mode()
def evaluate_jury(
    jury: Jury,
    network: AudioTo3DMM,
    encoder: EmotionEncoder,
    reader: ClipReader,
    split: str,
    *,
    unseen: Sequence[str] = (),
    advance: Advance = no_advance,
) -> dict[str, float]:
    """The jury's figures of the motion made for each clip's speech, once with each of the eight emotions.

    `sync_confidence` and `sync_offset`: see `Jury.judge`. `emotion_accuracy`: share of (clip, emotion) in which the
    motion made for the name of that emotion shows that emotion, of those that the jury knows; `emotion_accuracy_happy`
    and its like: of one emotion. `kept_opening`: the correlation of mouth opening between two emotions of the same
    speech, over all pairs. `true_…` and `foreign_…`: how far the jury can be believed, see `Jury.figures`.
    """
    texts = name_embeddings(encoder)  # (8, E)
    found: list[ClipFigures] = []
    for key in keys_of(reader, split):
        speech, identity = torch.from_numpy(reader.speech(key))[None], reader.info(key).identity
        nobody = torch.zeros(len(texts), reader.face_model.num_identity)
        motion = network.generate(speech.expand(len(texts), -1), texts, nobody)  # (8, T, D)
        figures = acted_emotions(jury, identity, motion)
        openings = reader.face_model.mouth_opening(nobody[:, None], motion)  # (8, T)
        pairs = [float(correlation(openings[a], openings[b])) for a in range(len(texts)) for b in range(a)]
        figures["kept_opening"] = float(np.mean(pairs))
        own = network.generate(speech, encoder.encode_speech(speech), nobody[:1])[0]
        found.append((reader.info(key).emotion, figures | jury.judge(identity, speech, own)))
        advance(1)
    return averages(found) | jury.figures(unseen)


def acted_emotions(jury: Jury, identity: str, motion: Tensor) -> dict[str, float]:
    """Whether motion (8, T, D), made for each of the eight emotions, shows it: the mean and each by its name."""
    if not jury.classifiers:
        return {}
    asked = {name: motion[number] for number, name in enumerate(EMOTIONS) if name in jury.emotions}
    right = {name: float(jury.emotion_of(identity, moved) == name) for name, moved in asked.items()}
    each = {f"emotion_accuracy_{name}": value for name, value in right.items()}
    return {"emotion_accuracy": float(np.mean(list(right.values())))} | each


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
