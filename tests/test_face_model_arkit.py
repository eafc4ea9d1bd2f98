"""Blendshapes of a prepared data set as Live Link Face CSV."""

import csv
from pathlib import Path

import numpy as np
import pytest
from emohead.datamodules.dataset.writer import ShardWriter
from emohead.datamodules.face_models.arkit import (
    ARKIT_NAMES,
    COLUMNS,
    arkit_blendshapes,
    export_arkit,
    head_angles,
    timecode,
)
from emohead.models.errors import UserError
from emohead.models.face_model import FaceModel
from emohead.models.ict import ICT_EXPRESSIONS

from .shard_clips import face_model, make_clip, write_clips


def one_axis(name: str, value: float = 0.5) -> dict[str, float]:
    """The columns that are not zero when one axis of the model is at `value`."""
    expression = np.zeros((1, len(ICT_EXPRESSIONS)), np.float32)
    expression[0, ICT_EXPRESSIONS.index(name)] = value
    row = arkit_blendshapes(expression)[0]
    return {ARKIT_NAMES[i]: float(row[i]) for i in np.flatnonzero(row)}


def test_columns_are_those_of_the_app() -> None:
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52
    assert COLUMNS[:4] == ("Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft")
    assert COLUMNS[53:] == (
        *("TongueOut", "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll"),
        *("RightEyeYaw", "RightEyePitch", "RightEyeRoll"),
    )


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("eyeBlink_L", {"EyeBlinkLeft": 0.5}),
        ("mouthSmile_R", {"MouthSmileRight": 0.5}),
        ("jawLeft", {"JawLeft": 0.5}),
        ("mouthRollUpper", {"MouthRollUpper": 0.5}),
        ("browInnerUp_L", {"BrowInnerUp": 0.25}),
        ("cheekPuff_R", {"CheekPuff": 0.25}),
    ],
)
def test_each_axis_goes_to_its_blendshape(name: str, columns: dict[str, float]) -> None:
    assert one_axis(name) == columns


def test_every_blendshape_but_the_tongue_is_reached() -> None:
    reached = [column for name in ICT_EXPRESSIONS for column in one_axis(name)]
    assert set(ARKIT_NAMES) - set(reached) == {"TongueOut"}
    assert len(reached) == len(ICT_EXPRESSIONS)
    assert arkit_blendshapes(np.ones((1, 53), np.float32)).sum() == 51  # left and right together are the full shape


def test_values_are_clipped() -> None:
    assert one_axis("jawOpen", 1.7) == {"JawOpen": 1}
    assert one_axis("jawOpen", -0.3) == {}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((0.2, 0, 0), (0, -0.2, 0)),  # the nose goes down: HeadPitch falls
        ((0, 0.2, 0), (-0.2, 0, 0)),  # to image left, the person's right: HeadYaw falls
        ((0, 0, 0.2), (0, 0, -0.2)),  # image right goes down, to the person's left shoulder: HeadRoll falls
    ],
)
def test_head_angles(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    np.testing.assert_allclose(head_angles(np.array([ours]))[0], theirs, atol=1e-7)


def test_head_angles_of_a_turn_about_several_axes() -> None:
    """Yaw about y, then pitch, then roll about the head's own z, in axes with y up and z to the viewer."""
    ours = np.array([[0.3, -0.4, 0.2]])
    yaw, pitch, roll = head_angles(ours)[0]

    def turn(axis: int, angle: float) -> np.ndarray:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[[i, j], [i, j]] = np.cos(angle)
        matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
        return matrix

    flip = np.diag([1, -1, -1])
    wanted = flip @ turn(2, ours[0, 2]) @ turn(1, ours[0, 1]) @ turn(0, ours[0, 0]) @ flip
    np.testing.assert_allclose(turn(1, yaw) @ turn(0, -pitch) @ turn(2, roll), wanted, atol=1e-12)


def test_timecode_counts_sixtieths() -> None:
    assert [timecode(i) for i in (0, 1, 24, 25)] == [
        "00:00:00:00.000",
        "00:00:00:02.400",
        "00:00:00:57.600",
        "00:00:01:00.000",
    ]
    assert timecode(25 * 3661) == "01:01:01:00.000"


def test_export_writes_a_row_a_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = FaceModel(
        rng.normal(size=(68, 3)), rng.normal(size=(3, 68, 3)), rng.normal(size=(53, 68, 3)), np.arange(68), kind="ict"
    )
    motions = {}
    with ShardWriter(tmp_path / "data", size=32) as writer:
        for number in range(2):
            clip = make_clip(number)
            clip.motion = motions[clip.info.key] = rng.uniform(-0.2, 1.2, (30, 59)).astype(np.float32)
            writer.write(clip)
        writer.close(model)
    paths = export_arkit(tmp_path / "data", tmp_path / "csv")
    assert (
        [path.name for path in paths]
        == ["clip000.csv", "clip001.csv"]
        == sorted(p.name for p in (tmp_path / "csv").iterdir())
    )
    with open(paths[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert rows[7]["Timecode"] == timecode(7)
    assert {row["BlendShapeCount"] for row in rows} == {"61"}
    wanted = motions["clip001"][:, ICT_EXPRESSIONS.index("jawOpen")].clip(0, 1)
    np.testing.assert_allclose([float(row["JawOpen"]) for row in rows], wanted, atol=1e-6)
    np.testing.assert_allclose(float(rows[3]["HeadYaw"]), head_angles(motions["clip001"][3:4, 53:56])[0, 0], atol=1e-6)


def test_other_face_models_are_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", counts={"train": 1}, model=face_model())
    with pytest.raises(UserError, match=r"landmark.*--face-model") as error:
        export_arkit(tmp_path / "data", tmp_path / "csv")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "csv").exists()
