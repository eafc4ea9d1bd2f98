"""A portrait for inference: the one face of an image, cropped as the clips of a prepared data set are."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ...models.errors import UserError
from ..tracking.tracker import FaceTracker, distinct_faces
from .crop import crop_box, crop_square

MAX_FACES = 4
MIN_DETECTION_SIDE = 256  # smaller pictures are enlarged before a face is looked for
MARGINS = (0.0, 0.5, 1.0)  # space added around a picture, in sides: the detector misses faces that fill it
TRACKED_SIDE = 1280  # pixels, of a picture in which faces are looked for, so that memory is bounded
MAX_PIXELS = 24_000_000  # of a picture that is kept
MAX_DECODED = 150_000_000  # and of one that cannot be reduced while it is decoded: half a gigabyte
LEAST_SIDE = 16  # pixels
LONGEST = 20  # times as long as wide: a screenshot of a whole page
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
    """Points float32 (478, 3) in pixels of every face in image uint8 (H, W, 3), largest first.

    However large the image is, the tracker is shown parts of it, at most `TRACKED_SIDE` pixels long.
    """
    enlarge = max(1.0, MIN_DETECTION_SIDE / min(image.shape[:2]))
    if enlarge > 1:
        image = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    tracker = FaceTracker(video=False, max_faces=MAX_FACES)
    attempts = [(_lengths(image), margin) for margin in MARGINS] + [(_squares(image, zoom), 0.0) for zoom in ZOOMS]
    for parts, margin in attempts:
        found = [face for part in parts for face in _faces_of(tracker, part, margin)]
        if found:
            return [(face / enlarge).astype(np.float32) for face in distinct_faces(found)]
    return []


Part = tuple[int, int, np.ndarray]  # left, top and pixels of a part of a picture


def _faces_of(tracker: FaceTracker, part: Part, margin: float) -> list[np.ndarray]:
    """Points (478, 3) of the faces in a part with a margin about it, in pixels of the whole picture."""
    left, top, pixels = part
    scale = min(1.0, TRACKED_SIDE / max(pixels.shape[:2]) / (1 + margin))
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pad = round(margin * max(pixels.shape[:2]) / 2)
    pixels = cv2.copyMakeBorder(pixels, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    corner = np.array([pad - left * scale, pad - top * scale, 0], np.float32)
    return [(face - corner) / scale for face in tracker.faces(pixels)]


def _lengths(image: np.ndarray) -> list[Part]:
    """The picture, a long one as pieces that are twice as long as wide and overlap by half."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    if long <= 2 * short:
        return [(0, 0, image)]
    starts = [*range(0, long - 2 * short, short), long - 2 * short]
    if height > width:
        return [(0, start, image[start : start + 2 * short]) for start in starts]
    return [(start, 0, image[:, start : start + 2 * short]) for start in starts]


def _squares(image: np.ndarray, zoom: int) -> list[Part]:
    """Squares of the longer side / zoom, or of the shorter one if that is less, that overlap by half."""
    height, width = image.shape[:2]
    side = min(max(height, width) // zoom, height, width)
    corners = itertools.product(range(0, max(height - side // 2, 1), side // 2), range(0, width - side // 2, side // 2))
    return [(left, top, image[top : top + side, left : left + side]) for top, left in corners]


def _read_image(path: Path | str) -> np.ndarray:
    """Any image that PIL reads as uint8 (H, W, 3), upright, with transparent parts on white.

    A large one is reduced to `MAX_PIXELS`, if its format allows that while it is decoded.
    """
    if not Path(path).exists():
        raise UserError(path, "no such file")
    try:
        with _any_size(), Image.open(path) as file:
            _check_sides(path, *file.size)
            factor = math.ceil((file.width * file.height / MAX_PIXELS) ** 0.5)
            file.draft("RGB", (file.width // factor, file.height // factor))  # a JPEG is decoded at 1/2, 1/4 or 1/8
            if file.width * file.height > MAX_DECODED:
                megapixels = f"{file.width * file.height / 1e6:.0f} megapixels"
                raise UserError(path, f"{megapixels} are more than can be read", "save it smaller, or as JPEG")
            image = _eight_bits(ImageOps.exif_transpose(file))  # other modes are converted to pictures without EXIF
            factor = math.ceil((image.width * image.height / MAX_PIXELS) ** 0.5)
            return np.array(image.reduce(factor) if factor > 1 else image)
    except UserError:
        raise
    except Exception as error:  # decoders raise all kinds of things on damaged files
        raise UserError(path, f"not a readable image ({type(error).__name__})") from None


def _check_sides(path: Path | str, width: int, height: int) -> None:
    size = f"{width} x {height} pixels"
    if min(width, height) < LEAST_SIDE:
        raise UserError(path, f"{size} are too few for a face", f"give at least {LEAST_SIDE} a side")
    if max(width, height) > LONGEST * min(width, height):
        raise UserError(path, f"{size} are a strip, no picture of a face", "cut the face out")


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB with 8 bits a channel, transparent parts on white."""
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) // 256).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """PIL refuses large images by their header, also those that it can reduce while it decodes them."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
