"""One `landmark` face model for several data sets, so that they can be trained on together.

Tars hold no 3D tracks, but motion, identity and face model give back the 468 vertices of every frame at pose zero. The
pooled model is built from evenly spread frames of all of them: what each model has left out of its tracks (below 0.3 %
of the eye distance on real clips) is lost. Motion stays in the old models: prepare the data sets again in this one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...models.errors import UserError
from ...models.face_model import POSE_DIM, FaceModel
from ...models.face_model_fit import MAX_BUILD_FRAMES, NUM_TRACKED, build_landmark_model
from ..dataset.reader import ClipReader

KIND = "landmark"


def pool_face_models(folders: Sequence[Path | str], max_frames: int = MAX_BUILD_FRAMES) -> FaceModel:
    """Prepared data sets -> the `landmark` model of all; memory holds at most `max_frames` faces.

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
    total = sum(shard.frames for reader in readers for shard in reader.manifest.shards)
    clips, people = _faces(readers, stride=-(-total // max_frames))
    return build_landmark_model(clips, people)


def _faces(readers: Sequence[ClipReader], stride: int) -> tuple[list[np.ndarray], list[str]]:
    """Every `stride`-th frame of all clips, counted through, as vertices (t, 468, 3), and who is seen in each clip."""
    clips, people, position = [], [], 0
    for reader in readers:
        model = reader.face_model
        for key in reader.keys(None):
            frames, info = len(motion := reader.motion(key)), reader.info(key)
            chosen = motion[-position % stride :: stride, :-POSE_DIM]
            position += frames
            if len(chosen):
                with torch.no_grad():
                    faces = model.vertices(torch.from_numpy(reader.identity(key)), torch.from_numpy(chosen))
                clips.append(faces.numpy())
                people.append(f"{info.dataset}/{info.identity}")
    return clips, people
