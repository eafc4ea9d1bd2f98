"""A portrait for inference: the one face of an image, cropped as the clips of a prepared data set are."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..models.errors import UserError
from .tracking import FaceTracker, crop_box, crop_square

MAX_FACES = 4
MIN_DETECTION_SIDE = 256  # smaller pictures are enlarged before a face is looked for
MARGINS = (0.0, 0.5, 1.0)  # space added around a picture, in sides: the detector misses faces that fill it


def crop_portrait(path: Path | str, size: int, detect: bool = True) -> np.ndarray:
    """The face in an image file as uint8 (size, size, 3); without `detect` the largest square in its middle.

    Raises UserError where the file is no image, or holds no face or more than one.
    """
    image = _read_image(path)  # (H, W, 3)
    if not detect:
        height, width = image.shape[:2]
        side = min(height, width)
        return crop_square(image, ((width - side) // 2, (height - side) // 2, side), size)
    faces = find_faces(image)
    if not faces:
        raise UserError(f"{path}: no face found; give a picture of one face, seen from the front")
    if len(faces) > 1:
        raise UserError(f"{path}: {len(faces)} faces found; give a picture of one face")
    return crop_square(image, crop_box(faces[0][None]), size)


def find_faces(image: np.ndarray) -> list[np.ndarray]:
    """Points float32 (468, 3) in pixels of every face in image uint8 (H, W, 3), largest first."""
    enlarge = max(1.0, MIN_DETECTION_SIDE / min(image.shape[:2]))
    enlarged = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC) if enlarge > 1 else image
    with FaceTracker(video=False, max_faces=MAX_FACES) as tracker:
        for margin in MARGINS:
            pad = round(margin * max(enlarged.shape[:2]) / 2)
            padded = cv2.copyMakeBorder(enlarged, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
            faces = tracker.faces(padded)
            if faces:
                return [(face - (pad, pad, 0)).astype(np.float32) / np.float32(enlarge) for face in faces]
    return []


def _read_image(path: Path | str) -> np.ndarray:
    """Any image that PIL reads as uint8 (H, W, 3), upright, on white where it is transparent."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from None
