"""A perfect generator: the painter of the synthetic corpus, which draws its people with any motion."""

from functools import cache

import numpy as np
import torch
from emohead.datamodules.sample import Clip
from emohead.datamodules.synthetic.corpus import Script, SyntheticConfig, make_clip, person_of, synthetic_scripts
from emohead.datamodules.synthetic.drawing import FacePainter
from emohead.datamodules.synthetic.face import synthetic_face_model
from emohead.models.face_model import POSE_DIM

CONFIG = SyntheticConfig(identities=3, clips=12, frames=48, size=128, seed=5)


def script_of(emotion: str) -> Script:
    """Who acts that emotion at its strongest."""
    found = [script for script in synthetic_scripts(CONFIG) if script.emotion == emotion]
    return max(found, key=lambda script: script.level or 0)


@cache
def clip_of(emotion: str) -> Clip:
    return make_clip(script_of(emotion))


def redrawn(emotion: str, motion: np.ndarray) -> np.ndarray:
    """The person of that clip with another motion (T, D): frames uint8 (T, S, S, 3)."""
    script, model = script_of(emotion), synthetic_face_model()
    person, moves = person_of(CONFIG.seed, script.identity), torch.from_numpy(motion)
    units, pose = moves[:, :-POSE_DIM], moves[:, -POSE_DIM:]
    points = model.project(model.vertices(torch.from_numpy(person.shape), units), pose).numpy()
    painter = FacePainter(person.look, CONFIG.size)
    return np.stack([painter(*row) for row in zip(points, units.numpy(), pose.numpy(), strict=True)])
