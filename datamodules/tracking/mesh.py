"""478 points on one face: MediaPipe's face mesh (Kartynnik et al. 2019, arXiv:1907.06724) with attention to lips, eyes
and irises (Grishchenko et al. 2020, arXiv:2006.10962).

One network finds all points and keeps a map of features. About the lips and each eye a turned patch is cut out of that
map, and a second network finds the points in the patches more exactly. Of these x and y are taken, z stays the mesh's.
In the patch of an eye it finds an iris too, its middle and four points of its rim, whose z is that of the lids.
"""

import math
from dataclasses import dataclass

import numpy as np

from ...models.face_model_fit import IRISES, NUM_MESH
from .network import Network
from .region import Region

SIZE = 192  # pixels, of the picture that the network sees
MAP = 48  # cells, of a side of the map of features
PATCH = 16  # cells, of a side of a patch
PATCH_ROOM = 1.5  # width and height of a patch over those of its points


@dataclass(frozen=True)
class Part:
    """A part of the face whose points are found in a patch of its own."""

    corners: tuple[int, int]  # points left and right in the picture, between which the patch is level
    points: np.ndarray  # which of the mesh's


# fmt: off
LIPS = Part((61, 291), np.array((
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,  # outer
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,  # inner
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,
    62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
)))
RIGHT_EYE = Part((33, 133), np.array((  # the person's right: on the left in the picture
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,  # the lids' edges
    130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190,
    226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189,
    35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245, 156, 70, 63, 105, 66, 107, 55, 193,
)))
LEFT_EYE = Part((362, 263), np.array((
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
    359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414,
    446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413,
    265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465, 383, 300, 293, 334, 296, 336, 285, 417,
)))
# fmt: on
PARTS = (LIPS, RIGHT_EYE, LEFT_EYE)
LIDS = slice(16)  # of an eye's points: the edges of the lids


class FaceMesh:
    def __init__(self) -> None:
        self._mesh = Network("face_mesh.tflite")
        self._refine = Network("face_mesh_refine.tflite")

    def points(self, picture: np.ndarray, region: Region) -> np.ndarray | None:
        """Points float32 (478, 3) of the face in a region of picture uint8 (H, W, 3), in its pixels; None: no face."""
        shown = region.cut(picture, SIZE)[None].astype(np.float32) / 255
        raw, face, features = self._mesh(shown)
        if face.item() <= 0:  # the logit: less likely a face than not
            return None
        points = np.concatenate([raw.reshape(NUM_MESH, 3), np.zeros((10, 3), np.float32)])
        patches = [patch_of(part, points) for part in PARTS]
        cut = [cut_patch(features[0], patch)[None] for patch in patches]
        *refined, right, left = self._refine(*cut)
        for part, patch, found in zip(PARTS, patches, refined, strict=True):
            points[part.points, :2] = from_patch(found.reshape(-1, 2), patch)
        for eye, patch, iris, found in zip(PARTS[1:], patches[1:], IRISES, (right, left), strict=True):
            points[iris, :2] = from_patch(found.reshape(-1, 2), patch)
            points[iris, 2] = points[eye.points[LIDS], 2].mean()
        return region.to_picture(points, SIZE).astype(np.float32)


def patch_of(part: Part, points: np.ndarray) -> np.ndarray:
    """Matrix (2, 3) from cells of a part's patch to cells of the map, from points (478, 3) in pixels of the picture."""
    flat = points[:, :2] * (MAP / SIZE)
    left, right = flat[list(part.corners)]
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    level = flat[part.points] @ turn  # (N, 2), turned back by the angle
    low, high = level.min(axis=0), level.max(axis=0)
    scaled = turn * ((high - low) * (PATCH_ROOM / PATCH))
    return np.column_stack((scaled, turn @ ((low + high) / 2) - scaled @ np.full(2, PATCH / 2)))


def cut_patch(features: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Features (48, 48, C) at the middles of a patch's cells, (16, 16, C), bilinear; zero beyond the map."""
    y, x = np.mgrid[:PATCH, :PATCH] + 0.5
    where = np.stack((x, y), axis=-1) @ patch[:, :2].T + patch[:, 2] - 0.5  # (16, 16, 2)
    outside = ((where < 0) | (where > MAP - 1)).any(axis=-1)
    where = np.clip(where, 0, MAP - 1)
    x0, y0 = np.minimum(where.astype(int), MAP - 2).transpose(2, 0, 1)
    right, below = (where - np.stack((x0, y0), axis=-1)).astype(np.float32).transpose(2, 0, 1)[..., None]
    upper = (1 - right) * features[y0, x0] + right * features[y0, x0 + 1]
    lower = (1 - right) * features[y0 + 1, x0] + right * features[y0 + 1, x0 + 1]
    found = (1 - below) * upper + below * lower
    found[outside] = 0
    return found


def from_patch(points: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Points (N, 2) of a patch, 4 pixels to the cell, -> pixels of the picture."""
    return points @ patch[:, :2].T + patch[:, 2] * (SIZE / MAP)
