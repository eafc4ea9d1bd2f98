"""What mixed precision must leave alone: places, distances and squares come out as without it."""

from collections.abc import Callable

import pytest
import torch
from emohead.datamodules.batch import made_up_batch
from emohead.models.face_model import FaceModel
from emohead.models.flow import landmark_flow
from emohead.trainers.augmentation import augment_image
from emohead.trainers.engines.draws import Draws
from emohead.trainers.motion import gram, vertex_distance
from torch import Tensor

from .face_stage import make_stage

HALF = (torch.float16, torch.bfloat16)


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def places() -> Tensor:
    """Of landmarks on pixel centres, where the weights of the coarse flow are largest."""
    return (torch.arange(16).float().add(0.5) / 8 - 1)[:, None].expand(1, 16, 2)


def coarse_flow() -> Tensor:
    return landmark_flow(places() + 0.01 * seeded(1, 16, 2), places(), 16)


def landmarks() -> Tensor:
    model = FaceModel(
        kind="own",
        mean=seeded(80, 3).numpy(),
        identity_basis=seeded(4, 80, 3).numpy(),
        expression_basis=seeded(6, 80, 3).numpy(),
        landmark_index=torch.arange(68).numpy(),
    )
    return model.landmarks(seeded(2, 4), 0.1 * seeded(2, 12))


PRODUCTS = gram(seeded(6, 80, 3))


def lip_distance() -> Tensor:
    return vertex_distance(1e-4 * seeded(2, 5, 6), PRODUCTS)


def turned_pictures() -> Tensor:
    draws = Draws(0, rows=range(2), total=2)
    return augment_image(128 + 64 * seeded(2, 3, 32, 32), 1.0, draws)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("find", [coarse_flow, landmarks, lip_distance, turned_pictures])
def test_places_and_distances_are_those_of_float32(find: Callable[[], Tensor], dtype: torch.dtype) -> None:
    exact = find()
    with torch.autocast("cpu", dtype):
        found = find()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)


def test_the_first_steps_of_the_face_stage_in_float16_are_finite() -> None:
    stage, batch = make_stage(), made_up_batch("face", batch_size=4)
    with torch.autocast("cpu", torch.float16):
        losses = stage.losses(batch)
    assert all(value.isfinite() for value in losses.values()), losses
