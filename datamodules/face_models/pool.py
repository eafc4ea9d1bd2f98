"""One `landmark` face model for several data sets, so that they can be trained on together.

Tars hold no 3D tracks, but motion, identity and face model give back the 478 vertices of every frame at pose zero. The
pooled model is built from evenly spread frames of all of them: what each model has left out of its tracks is lost, a
person's rest pose beyond the axes of identity included. Motion stays in the old models: prepare the data sets again in
this one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...models.errors import UserError
from ...models.face_model import POSE_DIM, FaceModel
from ...models.face_model_fit import NUM_TRACKED
from ...models.landmark_model import MAX_BUILD_FRAMES, build_landmark_model
from ..dataset.reader import ClipReader
from ..sample import NEUTRAL

KIND = "landmark"


def pool_face_models(
    folders: Sequence[Path | str], max_frames: int = MAX_BUILD_FRAMES, *, holdout_emotions: Sequence[str] = ()
) -> FaceModel:
    """Prepared data sets -> the `landmark` model of their train splits; memory holds at most `max_frames` faces,
    and as many of neutral clips, in which faces are at rest.

    People are told apart by data set and identity, so parts of one data set may be given as several folders. Raises
    UserError if there is no folder, or one whose face model is not `landmark`.
    """
    if not folders:
        raise UserError("facemodel fit", "no data set given", "name the folders that `emohead prepare` wrote")
    readers = [ClipReader(folder) for folder in folders]
    for reader in readers:
        model = reader.face_model
        if model.kind != KIND or len(model.mean) != NUM_TRACKED:
            raise UserError(
                reader.folder,
                f"its face model is `{model.kind}` with {len(model.mean)} vertices, and only `{KIND}` ones "
                f"with {NUM_TRACKED} are pooled",
                "prepare all data sets with one --face-model instead",
            )
    chosen = [
        (reader, key)
        for reader in readers
        for key in reader.keys("train")
        if reader.info(key).emotion not in holdout_emotions
    ]
    neutral = [(reader, key) for reader, key in chosen if reader.info(key).emotion == NEUTRAL]
    return build_landmark_model(*_faces(chosen, max_frames), resting=_faces(neutral, max_frames))


def _faces(chosen: Sequence[tuple[ClipReader, str]], max_frames: int) -> tuple[list[np.ndarray], list[str]]:
    """Evenly spread frames of clips, counted through, as vertices (t, 478, 3), and who is seen in each."""
    stride = max(1, -(-sum(reader.info(key).frames for reader, key in chosen) // max_frames))
    clips, people, position = [], [], 0
    for reader, key in chosen:
        motion, info = reader.motion(key), reader.info(key)
        expression = motion[-position % stride :: stride, :-POSE_DIM]
        position += len(motion)
        if len(expression):
            with torch.no_grad():
                faces = reader.face_model.vertices(torch.from_numpy(reader.identity(key)), torch.from_numpy(expression))
            clips.append(faces.numpy())
            people.append(f"{info.dataset}/{info.identity}")
    return clips, people
