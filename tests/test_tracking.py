"""The face tracker against MediaPipe's own, and its conventions: which way x, y, angles and regions go."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from emohead.datamodules.tracking.detector import Guesses, merged
from emohead.datamodules.tracking.mesh import (
    LEFT_EYE,
    LIPS,
    MAP,
    PARTS,
    RIGHT_EYE,
    cut_patch,
    from_patch,
    patch_of,
)
from emohead.datamodules.tracking.region import Region
from emohead.datamodules.tracking.tracker import FaceTracker, region_of

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A drawn face, uint8 (192, 192, 3)."""
    return cv2.cvtColor(cv2.imread(str(HERE / "face.png")), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """Points (478, 3) that mediapipe 0.10.21 finds on that face."""
    return np.array(json.loads((HERE / "face_points.json").read_text())["points"])


def moved(face: np.ndarray, left: int, top: int, size: int = 400) -> np.ndarray:
    frame = np.full((size, size, 3), 90, np.uint8)
    frame[top : top + 192, left : left + 192] = face
    return frame


# -- conventions -----------------------------------------------------------------------------------------------------


def test_a_region_is_cut_out_upright() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[20:30, 60:70] = 255
    turned = Region((65.0, 25.0), 40.0, math.radians(90))  # its upper edge runs down: its left is the picture's top
    points = np.array([[0, 0, 1.0], [80, 0, 0], [40, 40, 0]])
    np.testing.assert_allclose(turned.to_picture(points, 80), [[85, 5, 0.5], [85, 45, 0], [65, 25, 0]], atol=1e-5)
    cut = turned.cut(picture, 80)
    assert cut[40, 40].min() == 255
    assert cut[:, :25].max() == cut[:25].max() == 0


def test_a_region_about_a_box_is_level_with_the_eyes() -> None:
    region = Region.around(np.array([[10, 20], [30, 80]]), np.array([[12, 40], [22, 50]]), scale=1.5)
    assert region == Region((20.0, 50.0), 90.0, pytest.approx(math.radians(45)))


def test_guesses_of_one_face_are_averaged_by_score() -> None:
    boxes = np.zeros((4, 8, 2))
    boxes[:, 0] = [[0.1, 0.1], [0.12, 0.1], [0.6, 0.6], [0.1, 0.12]]
    boxes[:, 1] = boxes[:, 0] + 0.3
    boxes[:, 2] = [[0.2, 0.2], [0.3, 0.2], [0.7, 0.7], [0.2, 0.2]]
    surest, other = merged(Guesses(np.array([0.6, 0.9, 0.8, 0.5]), boxes))
    np.testing.assert_allclose(surest[2], [(0.6 * 0.2 + 0.9 * 0.3 + 0.5 * 0.2) / 2, 0.2])
    np.testing.assert_allclose(other, boxes[2])


def test_a_patch_shows_what_its_points_say() -> None:
    """A map whose features are its own coordinates: what a patch holds in its middle is where its middle lies."""
    rng = np.random.default_rng(0)
    points = np.column_stack((rng.uniform(60, 130, (468, 2)), np.zeros(468)))
    points[list(LIPS.corners), :2] = [[70, 90], [110, 110]]
    patch = patch_of(LIPS, points)
    features = np.stack(np.meshgrid(np.arange(MAP) + 0.5, np.arange(MAP) + 0.5), axis=-1).astype(np.float32)
    shown = cut_patch(features, patch)  # (16, 16, 2): x and y in cells of the map
    cells = np.stack(np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5), axis=-1).reshape(-1, 2)
    inside = (shown.reshape(-1, 2) > 0).all(axis=1)
    assert inside.mean() > 0.8
    expected = from_patch(cells * 4, patch) / 4  # points of a patch have 4 pixels to the cell, as those of the picture
    np.testing.assert_allclose(shown.reshape(-1, 2)[inside], expected[inside], atol=1e-3)
    level = shown[8, 12] - shown[8, 4]
    assert math.atan2(level[1], level[0]) == pytest.approx(math.atan2(20, 40), abs=1e-3)


def test_parts_are_of_the_same_points_left_and_right() -> None:
    assert [len(set(part.points.tolist())) for part in PARTS] == [80, 71, 71]
    assert not set(RIGHT_EYE.points.tolist()) & set(LEFT_EYE.points.tolist())
    assert {*LIPS.corners} < set(LIPS.points.tolist())


# -- the networks ----------------------------------------------------------------------------------------------------

needs_networks = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="needs the extra `prepare`")


@needs_networks
def test_points_are_those_of_mediapipe(face: np.ndarray, reference: np.ndarray) -> None:
    (points,) = FaceTracker(video=False).faces(face)
    assert np.abs(points - reference).max() < 0.2  # pixels, of a face that is 142 high


@needs_networks
@pytest.mark.parametrize("degrees", [-35, 20])
def test_a_turned_face_has_turned_points(face: np.ndarray, reference: np.ndarray, degrees: float) -> None:
    matrix = cv2.getRotationMatrix2D((200, 200), degrees, 1.0)
    turned = cv2.warpAffine(moved(face, 104, 104), matrix, (400, 400), borderValue=(90, 90, 90))
    (points,) = FaceTracker(video=False).faces(turned)
    expected = (reference[:, :2] + 104) @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(points[:, :2] - expected).mean() < 0.015 * 142


@needs_networks
def test_a_face_is_followed_and_left_when_it_goes(face: np.ndarray) -> None:
    tracker = FaceTracker(video=True, max_faces=1)
    for left in (40, 55, 70):
        (points,) = tracker.faces(moved(face, left, 100))
        assert abs(points[:, 0].mean() - (left + 96)) < 10
    assert tracker.faces(np.full((400, 400, 3), 90, np.uint8)) == []
    (points,) = tracker.faces(moved(face, 200, 20))  # elsewhere: it is looked for in the whole picture again
    assert abs(points[:, 1].mean() - (20 + 96)) < 20


@needs_networks
def test_two_faces_are_two_and_the_larger_comes_first(face: np.ndarray) -> None:
    frame = np.full((300, 500, 3), 90, np.uint8)
    frame[50:242, 280:472] = face
    frame[80:224, 40:184] = cv2.resize(face, (144, 144))
    tracker = FaceTracker(video=True)
    for _ in range(3):
        large, small = tracker.faces(frame)
        assert large[:, 0].mean() > 250 > small[:, 0].mean()
        assert np.ptp(large[:, 1]) > np.ptp(small[:, 1])


@needs_networks
def test_the_region_of_a_known_face_holds_it(reference: np.ndarray) -> None:
    region = region_of(reference)
    assert region.side == pytest.approx(1.5 * np.ptp(reference[:, :2], axis=0).max())
    assert abs(region.angle) < 0.2
