"""Expression of the `ict` face model as ARKit blendshapes, in the CSV of Epic's Live Link Face app.

Columns: Timecode, BlendShapeCount, the 52 blendshapes of Apple's ARFaceAnchor.BlendShapeLocation under the app's names
and in its order, then yaw, pitch and roll of head, left and right eye in radians. Unreal's LiveLinkFaceImporter reads
the timecode HH:MM:SS:FF.fff with frames of 1/60 s, whatever the rate of the rows; ours are 25 a second.

HeadYaw is positive to the person's left, HeadPitch upwards, HeadRoll towards the person's right shoulder: the angles of
ARKit's face anchor (x to the person's left, y up, z out of the face). Importers differ in signs: check with one clip.
Eyeballs are not tracked: their columns are 0, as is TongueOut, which ICT-FaceKit does not have.
"""

import csv
from pathlib import Path

import numpy as np
import torch

from ...models.errors import UserError
from ...models.face_model import POSE_DIM, rotation_matrix
from ...models.files import written_aside
from ...models.ict import ICT_EXPRESSIONS, KIND
from ..dataset.reader import ClipReader
from ..sample import FPS

_NAMES = """
EyeBlinkLeft EyeLookDownLeft EyeLookInLeft EyeLookOutLeft EyeLookUpLeft EyeSquintLeft EyeWideLeft
EyeBlinkRight EyeLookDownRight EyeLookInRight EyeLookOutRight EyeLookUpRight EyeSquintRight EyeWideRight
JawForward JawRight JawLeft JawOpen MouthClose MouthFunnel MouthPucker MouthRight MouthLeft
MouthSmileLeft MouthSmileRight MouthFrownLeft MouthFrownRight MouthDimpleLeft MouthDimpleRight
MouthStretchLeft MouthStretchRight MouthRollLower MouthRollUpper MouthShrugLower MouthShrugUpper
MouthPressLeft MouthPressRight MouthLowerDownLeft MouthLowerDownRight MouthUpperUpLeft MouthUpperUpRight
BrowDownLeft BrowDownRight BrowInnerUp BrowOuterUpLeft BrowOuterUpRight CheekPuff CheekSquintLeft
CheekSquintRight NoseSneerLeft NoseSneerRight TongueOut
"""
ARKIT_NAMES = tuple(_NAMES.split())
HEAD_NAMES = ("HeadYaw", "HeadPitch", "HeadRoll")
EYE_NAMES = ("LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll")
COLUMNS = ("Timecode", "BlendShapeCount", *ARKIT_NAMES, *HEAD_NAMES, *EYE_NAMES)
NUM_VALUES = len(COLUMNS) - 2  # the app counts the rotations as blendshapes
TIMECODE_RATE = 60


def export_arkit(folder: Path | str, out: Path | str) -> list[Path]:
    """Write `<key>.csv` into `out` for every clip of a prepared data set, each aside and renamed.

    Raises UserError if the data set's face model is not `ict`.
    """
    reader, out = ClipReader(folder), Path(out)
    kind = reader.manifest.face_model["kind"]
    if kind != KIND:
        raise UserError(
            folder,
            f"its face model is `{kind}`, and only `{KIND}` has ARKit's blendshapes",
            "prepare the data again with --face-model and a folder of ICT-FaceKit",
        )
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for key in reader.keys(None):
        paths.append(out / f"{key}.csv")
        write_arkit(paths[-1], reader.motion(key))
    return paths


def write_arkit(path: Path, motion: np.ndarray) -> None:
    """Write the motion (T, D) of a clip in the `ict` model, a row a frame."""
    blendshapes, head = arkit_blendshapes(motion[:, :-POSE_DIM]), head_angles(motion[:, -POSE_DIM:-3])
    eyes = ["0.0000000000"] * len(EYE_NAMES)
    with written_aside(path) as aside, open(aside, "w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for frame, values in enumerate(np.concatenate([blendshapes, head], axis=1)):
            writer.writerow([timecode(frame), NUM_VALUES, *(f"{value:.10f}" for value in values), *eyes])


def arkit_blendshapes(expression: np.ndarray) -> np.ndarray:
    """Expression (T, 53) of the `ict` model -> ARKit's blendshapes (T, 52) within [0, 1].

    ICT splits BrowInnerUp and CheekPuff into left and right: their mean, as the full blendshape is both.
    """
    assert expression.shape[1] == len(ICT_EXPRESSIONS), expression.shape
    clipped = np.clip(expression, 0, 1)
    place = {name: i for i, name in enumerate(ICT_EXPRESSIONS)}
    found = np.zeros((len(expression), len(ARKIT_NAMES)), np.float32)
    for column, name in enumerate(ARKIT_NAMES):
        if name != "TongueOut":
            found[:, column] = clipped[:, [place[own] for own in _ict_names(name)]].mean(axis=1)
    return found


def head_angles(angles: np.ndarray) -> np.ndarray:
    """Our pitch, yaw, roll (T, 3) -> ARKit's yaw, pitch, roll (T, 3), radians.

    Ours is Rz Ry Rx with y down and z away. With y up and z to the viewer, as in ARKit, the head's z axis gives yaw
    and pitch, and roll turns about it.
    """
    turn = np.array([1, -1, -1])
    axes = rotation_matrix(torch.from_numpy(np.asarray(angles, np.float64))).numpy() * turn * turn[:, None]
    x, y, z = axes[..., 0], axes[..., 1], axes[..., 2]  # (T, 3) each: the head's own axes
    yaw, pitch = np.arctan2(z[:, 0], z[:, 2]), np.arcsin(np.clip(z[:, 1], -1, 1))
    return np.stack([yaw, pitch, np.arctan2(x[:, 1], y[:, 1])], axis=-1)


def timecode(frame: int) -> str:
    """The time of a frame at 25 fps as HH:MM:SS:FF.fff, counted in sixtieths of a second."""
    seconds, rest = divmod(frame, FPS)
    sixtieths = rest * TIMECODE_RATE / FPS
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{sixtieths:06.3f}"


def _ict_names(name: str) -> list[str]:
    """ARKit's name -> ICT's: EyeBlinkLeft -> eyeBlink_L, JawLeft -> jawLeft, CheekPuff -> cheekPuff_L and _R."""
    plain = name[0].lower() + name[1:]
    if plain in ICT_EXPRESSIONS:
        return [plain]
    for side in ("Left", "Right"):
        if plain.endswith(side):
            return [f"{plain.removesuffix(side)}_{side[0]}"]
    return [f"{plain}_L", f"{plain}_R"]
