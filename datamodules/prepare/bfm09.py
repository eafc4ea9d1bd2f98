"""Coefficients of Deep3DFaceRecon (`.mat`) as motion in our conventions.

A file holds, for N frames at 25 fps, `coeff` (N, 257): identity 80, expression 64, texture 80, angles 3, lighting 27,
translation 3; and `transform_params` (N, 5): width and height of the picture, scale s, centre t0, t1.
Sources: Deep3DFaceRecon_pytorch, models/bfm.py (compute_rotation, transform, to_camera, perspective_projection) and
util/preprocess.py (align_img, resize_n_crop_img); PIRenderer's scripts/face_recon_videos.py writes the files.

Rotation. Theirs is R = Rz(c) Ry(b) Rx(a), p = R v + t, with x right, y up, z to the viewer. Our axes are theirs after
half a turn about x, F = diag(1, -1, -1). F Rx(a) F = Rx(a), F Ry(b) F = Ry(-b), F Rz(c) F = Rz(-c), hence exactly
pitch = a, yaw = -b, roll = -c in our order.

Translation and scale. Their camera stands 10 dm off, focal length 1015, in a picture of 224 pixels with y down:
u = 112 + 1015 p_x / (10 - p_z), v = 112 - 1015 p_y / (10 - p_z). Ours is weak perspective: all points are taken to lie
as deep as the origin of the face, 10 - t_z. So the origin is at u = 112 + 1015 t_x / (10 - t_z), v likewise, and one
face unit (0.9 dm, models/bfm.py) is 0.9 * 1015 / (10 - t_z) pixels. A point h dm before the origin is off by h / 10 of
its distance from it, a few per cent: that is perspective, which our model leaves out.

Crop. Those 224 pixels were cut at (left, up) out of the picture resized to (w, h) = (int(W s), int(H s)), where
left = int(w / 2 - 112 + (t0 - W / 2) s) and up = int(h / 2 - 112 + (H / 2 - t1) s); t1 counts upwards. Undone that
gives pixels of the picture, and these give units of our own crop.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from ...models.bfm import DECIMETRES_PER_UNIT, NUM_IDENTITY, load_mat
from ...models.errors import UserError
from .listing import Source

NUM_COEFFICIENTS, NUM_TRANSFORM = 257, 5
EXPRESSION, ANGLES, TRANSLATION = slice(80, 144), slice(224, 227), slice(254, 257)
FOCAL, CENTRE, CAMERA_DISTANCE = 1015.0, 112.0, 10.0  # pixels, pixels of 224, decimetres
SIGNS = np.array([1.0, -1.0, -1.0])  # of pitch, yaw, roll


def coefficients_file(folder: Path, source: Source) -> Path:
    """The `.mat` of a source's video: named as the video is inside the data set, or else as the video alone."""
    inside, alone = _names(folder, source)
    return alone if alone.is_file() and not inside.is_file() else inside


def check_files(folder: Path, sources: Sequence[Source]) -> None:
    """Raise UserError for a `.mat` that may be of several videos: MEAD names a take of everybody 001.mp4."""
    videos = list({source.path: source for source in sources}.values())  # intervals of a video share its file
    inside, alone = (Counter(names) for names in zip(*(_names(folder, video) for video in videos), strict=True))
    for video in videos:
        file = coefficients_file(folder, video)
        claims = inside[file] if file == _names(folder, video)[0] else alone[file]
        if claims > 1 and file.is_file():
            problem = f"may be of {claims} videos, {video.name} among them"
            raise UserError(file, problem, "give each its own file, such as anna/001.mat for anna/001.mp4")


def _names(folder: Path, source: Source) -> tuple[Path, Path]:
    """The `.mat` named as a source's video is inside the data set, and as the video alone."""
    alone = folder / f"{source.path.stem}.mat"
    if source.stop is not None:  # the name of an interval is no path
        return alone, alone
    return folder / PurePath(source.name).with_suffix(".mat"), alone


def read_coefficients(
    path: Path | str,
    *,
    crop: tuple[float, float, float] | None = None,  # left, top, side in pixels of the picture
    picture: tuple[int, int] | None = None,  # width and height that the file must have been made of
) -> tuple[np.ndarray, np.ndarray]:
    """A `.mat` -> identity (80,), the mean over frames, and motion (N, 64 + 6) in units of `crop`.

    Without a `crop`, the crop is the centred square as wide as the picture's longer side: all of a square picture.
    Raises UserError if the file is damaged, has another layout or was made of pictures of another size.
    """
    arrays = load_mat(path, "coeff", "transform_params")
    coeff, transform = arrays["coeff"], arrays["transform_params"]
    if coeff.ndim != 2 or coeff.shape[1] != NUM_COEFFICIENTS or not len(coeff):
        raise UserError(path, f"coeff has shape {coeff.shape}, not (frames, {NUM_COEFFICIENTS})")
    if transform.shape != (len(coeff), NUM_TRANSFORM):
        raise UserError(path, f"transform_params has shape {transform.shape}, not ({len(coeff)}, {NUM_TRANSFORM})")
    if not (np.isfinite(coeff).all() and np.isfinite(transform).all() and (transform[:, :3] > 0).all()):
        raise UserError(path, "holds nan, infinite values or a picture without size", "run Deep3DFaceRecon again")
    if (coeff[:, TRANSLATION.stop - 1] >= CAMERA_DISTANCE).any():
        raise UserError(path, "puts the face behind the camera", "run Deep3DFaceRecon again")
    if picture is not None and not (transform[:, :2] == picture).all():
        made_of = f"{transform[0, 0]:.0f} x {transform[0, 1]:.0f}"
        raise UserError(path, f"made of pictures of {made_of}, the clip has {picture[0]} x {picture[1]}")
    centre, scale = _in_picture(coeff[:, TRANSLATION], transform)
    if crop is None:
        width, height = transform[0, :2]
        side = max(width, height)
        crop = ((width - side) / 2, (height - side) / 2, side)
    left, top, side = crop
    shift = (centre - (left + side / 2, top + side / 2)) * (2 / side)
    parts = [coeff[:, EXPRESSION], coeff[:, ANGLES] * SIGNS, shift, np.log(scale * 2 / side)[:, None]]
    return coeff[:, :NUM_IDENTITY].mean(axis=0).astype(np.float32), np.concatenate(parts, axis=1).astype(np.float32)


def _in_picture(translation: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face's origin in pixels of the picture (N, 2), y down, and the pixels of a face unit (N,)."""
    size, s, t = transform[:, :2], transform[:, 2:3], transform[:, 3:5] * (1, -1)
    resized = np.trunc(size * s)  # (N, 2)
    origin = np.trunc(resized / 2 - CENTRE + (t - size / 2 * (1, -1)) * s)  # left and up of their crop
    depth = CAMERA_DISTANCE - translation[:, 2:]  # (N, 1)
    crop = CENTRE + FOCAL * translation[:, :2] * (1, -1) / depth
    shrink = size / resized
    scale = FOCAL * DECIMETRES_PER_UNIT / depth[:, 0] * shrink.mean(axis=1)
    return (crop + origin) * shrink, scale
