"""A portrait for inference: the one face of an image, cropped as the clips of a prepared data set are."""

import itertools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ...models.errors import UserError
from .face_tracker import FaceTracker, crop_box, crop_square, distinct_faces

MAX_FACES = 4
MIN_DETECTION_SIDE = 256  # smaller pictures are enlarged before a face is looked for
MARGINS = (0.0, 0.5, 1.0)  # space added around a picture, in sides: the detector misses faces that fill it
ZOOMS = (2, 4)  # and faces smaller than about a tenth of it, which are looked for in parts of the picture


def crop_portrait(path: Path | str, size: int, detect: bool = True) -> np.ndarray:
    """The face in an image file as uint8 (size, size, 3); without `detect` the largest square in its middle.

    Raises UserError if the file is no image, or holds no face or more than one.
    """
    image = _read_image(path)  # (H, W, 3)
    if not detect:
        height, width = image.shape[:2]
        side = min(height, width)
        return crop_square(image, ((width - side) // 2, (height - side) // 2, side), size)
    faces = find_faces(image)
    if not faces:
        raise UserError(path, "no face found", "give a picture of one face, seen from the front")
    if len(faces) > 1:
        raise UserError(path, f"{len(faces)} faces found", "give a picture of one face")
    return crop_square(image, crop_box(faces[0][None]), size)


def find_faces(image: np.ndarray) -> list[np.ndarray]:
    """Points float32 (468, 3) in pixels of every face in image uint8 (H, W, 3), largest first."""
    enlarge = max(1.0, MIN_DETECTION_SIDE / min(image.shape[:2]))
    if enlarge > 1:
        image = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    with FaceTracker(video=False, max_faces=MAX_FACES) as tracker:
        attempts = itertools.chain([_padded(image, m) for m in MARGINS], (_parts(image, zoom) for zoom in ZOOMS))
        for parts in attempts:
            found = [
                face + np.array([left, top, 0], np.float32) for left, top, part in parts for face in tracker.faces(part)
            ]
            if found:
                return [(face / enlarge).astype(np.float32) for face in distinct_faces(found)]
    return []


Part = tuple[int, int, np.ndarray]  # left, top and pixels of a part of a picture


def _padded(image: np.ndarray, margin: float) -> list[Part]:
    pad = round(margin * max(image.shape[:2]) / 2)
    return [(-pad, -pad, cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE))]


def _parts(image: np.ndarray, zoom: int) -> list[Part]:
    """Squares of the longer side / zoom that overlap by half."""
    height, width = image.shape[:2]
    side = max(height, width) // zoom
    corners = itertools.product(range(0, max(height - side // 2, 1), side // 2), range(0, width - side // 2, side // 2))
    return [(left, top, image[top : top + side, left : left + side]) for top, left in corners]


def _read_image(path: Path | str) -> np.ndarray:
    """Any image that PIL reads as uint8 (H, W, 3), upright, with transparent parts on white."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(path, "no such file") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(path, f"not a readable image ({type(error).__name__})") from None
