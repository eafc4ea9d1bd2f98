"""A procedural 3D face: a linear model of 68 iBUG landmarks and helper vertices, with interpretable action units.

Shapes: V = 117 vertices, I = 12 identity coefficients, K = 18 action units. Axes and units as `models/face_model.py`
(x right, y down, z away from the viewer, outer eye corners 1 apart). "Left" and "right" are sides of the image.
"""

from functools import cache

import numpy as np

from ...models.face_model import FaceModel

ACTION_UNITS = (
    "jaw_open",
    "lips_wide",
    "lips_round",
    "corner_up_left",
    "corner_up_right",
    "corner_down",
    "upper_lip_raise",
    "lower_lip_depress",
    "lip_press",
    "inner_brow_raise",
    "outer_brow_raise",
    "brow_lower",
    "lid_close",
    "lid_wide",
    "cheek_raise",
    "nose_wrinkle",
    "gaze_x",
    "gaze_y",
)
IDENTITY_TRAITS = (
    "face_width",
    "jaw_width",
    "chin_length",
    "eye_size",
    "eye_distance",
    "nose_length",
    "nose_width",
    "mouth_width",
    "lip_thickness",
    "brow_height",
    "brow_slant",
    "forehead_height",
)
AU = {name: index for index, name in enumerate(ACTION_UNITS)}

# Vertices behind the landmarks; groups of two sides are listed left side first.
IRIS = (68, 69)
HAIRLINE = tuple(range(70, 79))  # from the left temple over the forehead to the right one
SKULL = tuple(range(79, 90))  # outline of the head above the ears, left to right
EARS = (tuple(range(90, 95)), tuple(range(95, 100)))  # from top to lobe
CHEEKS = (100, 101)
FOLDS = ((102, 103, 104), (105, 106, 107))  # nasolabial, nose to mouth
CREASES = ((108, 109, 110), (111, 112, 113))  # above the upper lid, outer to inner
FOREHEAD, CHIN, GLABELLA = 114, 115, 116
NUM_VERTICES = 117

# Left half (x <= 0) of the mean face as vertex: (x, y, z); the right half is its mirror image.
_LEFT = {
    **{0: (-0.79, -0.30, 0.50), 1: (-0.785, -0.08, 0.48), 2: (-0.755, 0.13, 0.44), 3: (-0.70, 0.34, 0.37)},
    **{4: (-0.61, 0.53, 0.27), 5: (-0.485, 0.69, 0.14), 6: (-0.335, 0.81, 0.02), 7: (-0.17, 0.885, -0.08)},
    8: (0, 0.91, -0.12),
    **{17: (-0.63, -0.54, 0.12), 18: (-0.54, -0.62, 0.02), 19: (-0.42, -0.65, -0.05), 20: (-0.29, -0.635, -0.09)},
    **{21: (-0.165, -0.60, -0.11), 27: (0, -0.36, -0.13), 28: (0, -0.23, -0.21), 29: (0, -0.10, -0.30)},
    **{30: (0, 0.03, -0.40), 31: (-0.165, 0.105, -0.16), 32: (-0.085, 0.135, -0.22), 33: (0, 0.15, -0.26)},
    **{36: (-0.50, -0.345, 0.06), 37: (-0.415, -0.43, 0.00), 38: (-0.28, -0.43, -0.02), 39: (-0.185, -0.33, 0.00)},
    **{40: (-0.28, -0.285, 0.00), 41: (-0.41, -0.285, 0.02), 48: (-0.275, 0.42, -0.10), 49: (-0.17, 0.365, -0.17)},
    **{50: (-0.065, 0.335, -0.21), 51: (0, 0.35, -0.22), 59: (-0.175, 0.49, -0.17), 58: (-0.08, 0.525, -0.20)},
    **{57: (0, 0.532, -0.205), 60: (-0.235, 0.42, -0.11), 61: (-0.09, 0.412, -0.19), 62: (0, 0.416, -0.20)},
    **{67: (-0.09, 0.422, -0.19), 66: (0, 0.426, -0.20), 68: (-0.345, -0.355, -0.01)},
    **{70: (-0.76, -0.52, 0.44), 71: (-0.69, -0.78, 0.30), 72: (-0.52, -0.97, 0.15), 73: (-0.27, -1.06, 0.05)},
    **{74: (0, -1.09, 0.02), 79: (-0.83, -0.22, 0.55), 80: (-0.88, -0.58, 0.55), 81: (-0.83, -0.95, 0.55)},
    **{82: (-0.64, -1.24, 0.50), 83: (-0.34, -1.41, 0.45), 84: (0, -1.46, 0.45)},
    **{90: (-0.77, -0.36, 0.58), 91: (-0.88, -0.42, 0.64), 92: (-0.91, -0.28, 0.66), 93: (-0.86, -0.08, 0.62)},
    **{94: (-0.77, 0.03, 0.56), 100: (-0.43, 0.06, -0.04), 102: (-0.20, 0.07, -0.14), 103: (-0.30, 0.20, -0.10)},
    **{104: (-0.365, 0.37, -0.05), 108: (-0.51, -0.40, 0.07), 109: (-0.35, -0.485, 0.0), 110: (-0.19, -0.39, 0.0)},
    **{114: (0, -0.85, -0.06), 115: (0, 0.76, -0.19), 116: (0, -0.50, -0.13)},
}
# fmt: off
_MIRROR_PAIRS = (
    *zip(range(0, 8), range(16, 8, -1), strict=True), *zip(range(17, 22), range(26, 21, -1), strict=True),
    (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
    (48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65), (68, 69),
    *zip(range(70, 74), range(78, 74, -1), strict=True), *zip(range(79, 84), range(89, 84, -1), strict=True),
    *zip(range(90, 95), range(95, 100), strict=True), (100, 101),
    *zip(range(102, 105), range(105, 108), strict=True), *zip(range(108, 111), range(111, 114), strict=True),
)

# Displacements (dx, dy, dz) of the left half at coefficient 1; mirrored unless the unit is one-sided.
_UNITS: dict[str, dict[tuple[int, ...], tuple[float, float, float]]] = {
    "jaw_open": {
        (8,): (0, .25, .05), (7,): (0, .24, .05), (6,): (.01, .21, .04), (5,): (.02, .15, .03), (4,): (.02, .08, .02),
        (3,): (.01, .03, .01), (115,): (0, .26, .05), (57,): (0, .29, .04), (58,): (0, .275, .04),
        (59,): (.01, .19, .03), (66,): (0, .29, .04), (67,): (.005, .26, .04), (48,): (.03, .085, .01),
        (60,): (.03, .085, .01), (49,): (.01, .01, 0), (61, 62): (0, -.012, 0), (50, 51): (0, -.01, 0),
        (104,): (.01, .06, 0), (103,): (0, .02, 0), (100,): (.01, .03, 0)},
    "lips_wide": {
        (48, 60): (-.08, -.005, .03), (49, 59): (-.05, 0, .015), (61, 67): (-.03, 0, .01), (50, 58): (-.015, 0, .01),
        (104,): (-.05, 0, 0), (103,): (-.02, 0, 0)},
    "lips_round": {
        (48, 60): (.105, 0, -.05), (49,): (.055, -.01, -.06), (59,): (.055, .015, -.06), (61, 67): (.04, 0, -.06),
        (50, 51): (.01, -.02, -.07), (57, 58): (.01, .025, -.07), (62,): (0, -.012, -.07), (66,): (0, .012, -.07),
        (104,): (.03, 0, 0)},
    "corner_up_left": {
        (48, 60): (-.06, -.10, .03), (49, 59): (-.035, -.045, .01), (61, 67): (-.01, -.012, 0), (50, 58): (-.01, 0, 0),
        (104,): (-.06, -.04, 0), (103,): (-.03, -.02, -.02), (100,): (-.01, -.05, -.02), (40, 41): (0, -.012, 0),
        (31,): (-.012, -.008, 0)},
    "corner_down": {
        (48, 60): (.005, .085, 0), (49,): (0, .03, 0), (59,): (0, .035, 0), (58,): (0, -.012, -.01),
        (57,): (0, -.02, -.015), (51, 50): (0, -.008, 0), (104,): (.01, .05, 0), (115,): (0, -.02, 0)},
    "upper_lip_raise": {
        (50, 51): (0, -.06, -.01), (49,): (0, -.05, 0), (61, 62): (0, -.028, 0), (48, 60): (0, -.015, 0),
        (31,): (-.02, -.02, 0), (102,): (-.02, -.03, 0), (103,): (-.02, -.03, 0)},
    "lower_lip_depress": {(57, 58): (0, .05, 0), (59,): (0, .035, 0), (66, 67): (0, .028, 0), (48, 60): (-.01, .01, 0)},
    "lip_press": {
        (50, 51): (0, .035, .02), (49,): (0, .022, .01), (57, 58): (0, -.045, .02), (59,): (0, -.03, .01),
        (115,): (0, -.02, 0)},
    "inner_brow_raise": {
        (21,): (.01, -.12, 0), (20,): (.01, -.075, 0), (19,): (0, -.02, 0), (17,): (0, .015, 0),
        (116,): (0, -.05, 0), (110,): (0, -.03, 0), (109,): (0, -.01, 0)},
    "outer_brow_raise": {
        (17,): (0, -.06, 0), (18,): (0, -.105, 0), (19,): (0, -.105, 0), (20,): (0, -.07, 0), (21,): (0, -.02, 0),
        (108, 109): (0, -.015, 0)},
    "brow_lower": {
        (21,): (.04, .115, 0), (20,): (.03, .09, 0), (19,): (.015, .05, 0), (18,): (0, .02, 0),
        (116,): (0, .05, 0), (110,): (0, .03, 0), (109,): (0, .015, 0)},
    "lid_close": {(37, 38): (0, .133, .01), (40, 41): (0, -.01, 0), (109,): (0, .035, 0)},
    "lid_wide": {(37, 38): (0, -.042, 0), (40, 41): (0, .012, 0), (109,): (0, -.012, 0)},
    "cheek_raise": {
        (40, 41): (0, -.032, 0), (100,): (0, -.05, -.03), (36,): (0, .006, 0), (103,): (-.015, -.02, 0),
        (104,): (-.02, 0, 0)},
    "nose_wrinkle": {
        (31,): (-.02, -.045, 0), (32, 33): (0, -.03, 0), (30,): (0, -.02, 0), (50, 51): (0, -.02, 0),
        (49,): (0, -.015, 0), (102,): (-.02, -.05, 0), (103,): (-.02, -.03, 0), (21,): (.015, .035, 0),
        (20,): (0, .02, 0), (116,): (0, .03, 0), (40, 41): (0, -.012, 0)},
}
# fmt: on


@cache
def synthetic_face_model() -> FaceModel:
    """The face model of every synthetic clip: kind "synthetic", constant arrays, so one checksum."""
    mean = np.zeros((NUM_VERTICES, 3))
    for vertex, position in _LEFT.items():
        mean[vertex] = position
    for left, right in _MIRROR_PAIRS:
        mean[right] = mean[left] * (-1, 1, 1)
    expression = np.stack([_unit_displacement(name) for name in ACTION_UNITS])
    return FaceModel(mean, _identity_basis(mean), expression, np.arange(68), kind="synthetic")


def _unit_displacement(name: str) -> np.ndarray:
    field = np.zeros((NUM_VERTICES, 3))
    if name == "gaze_x":
        field[list(IRIS), 0] = 0.075
        return field
    if name == "gaze_y":
        field[list(IRIS), 1] = 0.05
        field[[37, 38, 43, 44], 1] = 0.03
        return field
    for vertices, shift in _UNITS.get(name, _UNITS["corner_up_left"]).items():
        field[list(vertices)] = shift
    mirrored = field.copy()
    for left, right in _MIRROR_PAIRS:
        mirrored[right] = field[left] * (-1, 1, 1)
        if name == "corner_up_right":
            mirrored[left] = 0
    return field if name == "corner_up_left" else mirrored


def _identity_basis(mean: np.ndarray) -> np.ndarray:
    """One standard deviation of each trait: smooth fields over the mean face (12, V, 3)."""
    x, y, _ = mean.T
    basis = np.zeros((len(IDENTITY_TRAITS), NUM_VERTICES, 3))
    trait = dict(zip(IDENTITY_TRAITS, basis, strict=True))
    lower = 1 / (1 + np.exp(-(y - 0.45) / 0.12))  # 0 above the mouth, 1 below it
    outline = np.abs(x) > 0.5  # jaw, temples, skull and ears; the features stay where they are
    outline[4:13] = outline[list(HAIRLINE) + list(SKULL)] = True
    trait["face_width"][:, 0] = 0.045 * x * np.where(outline, 1.0, 0.4)
    trait["jaw_width"][:, 0] = 0.09 * x * outline * lower
    trait["chin_length"][:, 1] = 0.042 * np.clip((y - 0.53) / 0.38, 0, 1.0)
    for side in (range(36, 42), range(42, 48)):
        centre = mean[list(side)].mean(0)
        trait["eye_size"][list(side)] = (mean[list(side)] - centre) * (0.05, 0.13, 0)
    near_eyes = np.r_[36:48, IRIS, CREASES[0], CREASES[1]]
    trait["eye_distance"][near_eyes, 0] = 0.016 * np.sign(x[near_eyes])
    nose = np.r_[27:36, FOLDS[0][:1], FOLDS[1][:1]]
    trait["nose_length"][nose, 1] = 0.035 * (y[nose] + 0.36) / 0.5
    trait["nose_length"][nose, 2] = -0.02 * (y[nose] + 0.36) / 0.5
    trait["nose_width"][nose, 0] = 0.13 * x[nose]
    trait["mouth_width"][48:68, 0] = 0.09 * x[48:68]
    trait["lip_thickness"][48:60, 1] = 0.22 * (y[48:60] - 0.42)
    trait["brow_height"][17:27, 1] = -0.022
    trait["brow_slant"][17:27, 1] = 0.035 * (np.abs(x[17:27]) - 0.4) / 0.23
    forehead = np.r_[HAIRLINE, SKULL, FOREHEAD]
    trait["forehead_height"][forehead, 1] = 0.05 * np.clip((y[forehead] + 0.45) / 0.6, -1.2, 0)
    return basis
