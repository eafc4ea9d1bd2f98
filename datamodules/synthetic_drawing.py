"""Paints a synthetic face: layered splines and soft light at twice the size, then reduced.

P is the array of projected vertices (V, 2) in pixels of the large canvas; colours are RGB.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .synthetic_face import AU, CHEEKS, CHIN, CREASES, EARS, FOLDS, FOREHEAD, GLABELLA, HAIRLINE, IRIS, SKULL

SUPERSAMPLING = 2
SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions
HAIR_STYLES = ("short", "parted", "long", "bob", "shaved", "bun", "curly")
SKIN_TONES = (
    (245, 214, 190),
    (236, 196, 165),
    (224, 178, 142),
    (203, 152, 114),
    (172, 120, 84),
    (134, 88, 60),
    (96, 62, 44),
)
HAIR_COLOURS = (
    (32, 26, 24),
    (58, 40, 30),
    (94, 62, 40),
    (140, 92, 50),
    (206, 168, 104),
    (150, 66, 36),
    (150, 148, 146),
)
EYE_COLOURS = ((92, 60, 36), (70, 46, 30), (84, 120, 84), (80, 120, 160), (110, 140, 150), (120, 96, 50))
CLOTHES = ((46, 62, 92), (120, 44, 48), (60, 96, 74), (70, 70, 76), (190, 186, 178), (150, 110, 60), (84, 58, 104))
BACKDROPS = (
    (118, 128, 138),
    (150, 140, 126),
    (96, 112, 120),
    (140, 150, 140),
    (86, 84, 96),
    (168, 160, 158),
    (120, 104, 100),
)


@dataclass(frozen=True)
class Look:
    """Colours and styles of one person; constant over its clips."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    eyes: tuple[int, int, int]
    lips: tuple[int, int, int]
    clothes: tuple[int, int, int]
    backdrop: tuple[int, int, int]
    hair_style: str
    brow_thickness: float  # face units
    light_side: float  # -1 from the left .. 1 from the right
    glasses: bool
    beard: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        """A random but harmonious look."""
        skin = np.array(SKIN_TONES[rng.integers(len(SKIN_TONES))]) + rng.integers(-8, 9)
        dark = skin.mean() < 140
        hair = HAIR_COLOURS[rng.integers(3 if dark else len(HAIR_COLOURS))]
        lips = skin * (0.86, 0.62, 0.60) + (14, 4, 8) + rng.integers(-6, 7)
        style = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
        pick = lambda table: table[rng.integers(len(table))]  # noqa: E731
        return cls(
            skin=_colour(skin),
            hair=hair,
            eyes=EYE_COLOURS[rng.integers(2)] if dark else pick(EYE_COLOURS),
            lips=_colour(lips),
            clothes=pick(CLOTHES),
            backdrop=pick(BACKDROPS),
            hair_style=style,
            brow_thickness=float(rng.uniform(0.038, 0.07)),
            light_side=float(rng.uniform(-1, 1)),
            glasses=bool(rng.random() < 0.15),
            beard=bool(style in ("short", "parted", "shaved", "curly") and rng.random() < 0.35),
        )


def _colour(values: np.ndarray) -> tuple[int, int, int]:
    r, g, b = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return r, g, b


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return _colour(np.array(colour) * factor)


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    return _colour(np.array(a) * (1 - share) + np.array(b) * share)


@cache
def _spline(num_points: int, closed: bool, steps: int = 5) -> np.ndarray:
    """Catmull-Rom as a matrix: control points (n, 2) -> curve (m, 2)."""
    spans = num_points if closed else num_points - 1
    matrix = np.zeros((spans * steps + (not closed), num_points))
    for span in range(spans):
        knots = [span - 1, span, span + 1, span + 2]
        knots = [k % num_points if closed else min(max(k, 0), num_points - 1) for k in knots]
        for step in range(steps):
            t = step / steps
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            for knot, weight in zip(knots, weights, strict=True):
                matrix[span * steps + step, knot] += weight / 2
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def _curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    return _spline(len(points), closed) @ points


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels (pixel i covers [i, i + 1)) to OpenCV's fixed-point coordinates (pixel i is centred on i)."""
    return np.rint((points - 0.5) * (1 << SHIFT)).astype(np.int32)


class FacePainter:
    """Draws frames of one person; background and constants are made once."""

    def __init__(self, look: Look, size: int) -> None:
        self.look = look
        self.size = size
        self.canvas_size = size * SUPERSAMPLING
        self.unit = 1.0  # pixels of a face unit, set for every frame
        self.background = self._background()
        centres = (np.arange(size // 2) + 0.5) * (self.canvas_size / (size // 2))
        self.light_grid = centres.astype(np.float32)

    def __call__(self, points: np.ndarray, expression: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Points (V, 2) in crop units, expression (K,), pose (6,) -> RGB frame uint8 (S, S, 3)."""
        p = (points + 1) / 2 * self.canvas_size
        self.unit = float(np.exp(pose[5])) * self.canvas_size / 2
        au = {name: float(expression[index]) for name, index in AU.items()}
        canvas = self.background.copy()
        self._hair_back(canvas, p)
        self._body(canvas, p, pose)
        canvas = self._skin(canvas, p, au)
        for side in (0, 1):
            self._eye(canvas, p, side)
            self._brow(canvas, p, side)
        self._nose(canvas, p)
        self._mouth(canvas, p)
        self._hair_front(canvas, p)
        if self.look.glasses:
            self._glasses(canvas, p)
        return cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)

    # ------------------------------------------------------------------ primitives
    def _fill(self, canvas: np.ndarray, points: np.ndarray, colour: tuple) -> None:
        cv2.fillPoly(canvas, [_fixed(points)], colour, cv2.LINE_AA, SHIFT)

    def _line(self, canvas: np.ndarray, points: np.ndarray, colour: tuple, width: float, closed: bool = False) -> None:
        """A polyline; width in face units."""
        thickness = max(1, round(width * self.unit))
        cv2.polylines(canvas, [_fixed(points)], closed, colour, thickness, cv2.LINE_AA, SHIFT)

    def _disc(self, canvas: np.ndarray, centre: np.ndarray, radii: tuple[float, float], colour: tuple) -> None:
        """A filled ellipse; radii in face units."""
        axes = tuple(round(r * self.unit * (1 << SHIFT)) for r in radii)
        x, y = _fixed(centre).tolist()
        cv2.ellipse(canvas, (x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, SHIFT)

    # ------------------------------------------------------------------ layers
    def _background(self) -> np.ndarray:
        grid = np.linspace(-1, 1, self.canvas_size)
        x, y = np.meshgrid(grid, grid)
        light = 1.05 - 0.22 * y - 0.10 * (x**2 + y**2) + 0.10 * self.look.light_side * x
        return np.clip(light[..., None] * np.array(self.look.backdrop), 0, 255).astype(np.uint8)

    def _body(self, canvas: np.ndarray, p: np.ndarray, pose: np.ndarray) -> None:
        """Neck and shoulders: they follow the head's place, not its rotation."""
        origin = (pose[3:5] * (0.8, 0.9) + 1) / 2 * self.canvas_size
        body = lambda *xy: origin + np.array(xy) * self.unit  # noqa: E731
        shoulders = body(
            (-2.2, 2.0), (-1.5, 1.42), (-0.95, 1.27), (-0.5, 1.12), (0.5, 1.12), (0.95, 1.27), (1.5, 1.42), (2.2, 2.0)
        )
        self._fill(canvas, _curve(shoulders), self.look.clothes)
        head = (p[6] + p[10]) / 2 - body((0, 0.81))[0]
        neck = body(
            (-0.5, 0.3),
            (-0.46, 0.8),
            (-0.47, 1.06),
            (-0.6, 1.16),
            (0, 1.42),
            (0.6, 1.16),
            (0.47, 1.06),
            (0.46, 0.8),
            (0.5, 0.3),
        )
        neck[[0, 1, 7, 8]] += head * 0.8
        self._fill(canvas, _curve(neck), _shade(self.look.skin, 0.80))
        shadow = body((-0.46, 0.5), (-0.45, 0.93), (0, 1.14), (0.45, 0.93), (0.46, 0.5))
        self._fill(canvas, _curve(shadow + head * 0.8), _shade(self.look.skin, 0.66))
        collar = body((-0.64, 1.13), (-0.36, 1.3), (0, 1.42), (0.36, 1.3), (0.64, 1.13))
        self._line(canvas, _curve(collar), _shade(self.look.clothes, 0.75), 0.05)

    def _skin(self, canvas: np.ndarray, p: np.ndarray, au: dict[str, float]) -> np.ndarray:
        outline = np.concatenate([_curve(p[:17]), _curve(p[list(HAIRLINE)][::-1])])
        mask = np.zeros(canvas.shape[:2], np.uint8)
        for ear in EARS:
            self._fill(mask, _curve(p[list(ear)]), 255)
        self._fill(mask, outline, 255)
        light = cv2.resize(self._light(p, au), canvas.shape[:2], interpolation=cv2.INTER_LINEAR)
        skin = (light * np.array(self.look.skin, np.float32)).clip(0, 255).astype(np.uint8)
        cv2.copyTo(skin, mask, canvas)
        for ear in EARS:
            inner = p[list(ear)] * 0.6 + p[list(ear)].mean(0) * 0.4
            self._line(canvas, _curve(inner[:4]), _shade(self.look.skin, 0.68), 0.03)
        self._line(canvas, _curve(p[:17]), _shade(self.look.skin, 0.66), 0.012)
        if self.look.beard:
            self._beard(canvas, p)
        return canvas

    def _light(self, p: np.ndarray, au: dict[str, float]) -> np.ndarray:
        """Soft light as a sum of separable Gaussian spots: float32 (S/2, S/2, 3), 1 = the plain skin colour."""
        side = self.look.light_side
        smile = (au["corner_up_left"] + au["corner_up_right"]) / 2
        raise_cheek = 0.5 * au["cheek_raise"] + 0.3 * smile
        mid = (p[27] + p[30]) / 2
        unit_x, unit_y = np.array([self.unit, 0]), np.array([0, self.unit])
        eyes = [p[36:42].mean(0), p[42:48].mean(0)]
        blush = (1.0, 0.45, 0.5)
        spots = [  # centre, sigma x, sigma y (face units), strength, tint
            (mid + side * 0.15 * unit_x - 0.05 * unit_y, 0.55, 0.80, 0.36, (1, 1, 1)),
            (mid - side * 1.0 * unit_x, 0.45, 1.2, -0.22 * abs(side), (1, 1, 1)),
            (p[FOREHEAD] + side * 0.18 * unit_x, 0.30, 0.16, 0.10, (1, 1, 1)),
            (p[CHIN], 0.13, 0.07, 0.09, (1, 1, 1)),
            ((p[57] + p[CHIN]) / 2 - 0.02 * unit_y, 0.14, 0.035, -0.12, (1, 1, 1)),
            ((p[33] + p[51]) / 2, 0.03, 0.06, -0.07, (1, 1, 1)),
            (p[33] + 0.03 * unit_y, 0.14, 0.035, -0.18, (1, 1, 1)),
            ((p[27] + p[28]) / 2 + side * 0.03 * unit_x, 0.04, 0.14, 0.13, (1, 1, 1)),
            (p[30] + (0.02 * side * unit_x - 0.01 * unit_y), 0.06, 0.05, 0.18, (1, 1, 1)),
            ((p[29] + p[31]) / 2, 0.035, 0.10, -0.10 * (1 + 0.6 * side), (1, 1, 1)),
            ((p[29] + p[35]) / 2, 0.035, 0.10, -0.10 * (1 - 0.6 * side), (1, 1, 1)),
            *[(eye - 0.03 * unit_y, 0.17, 0.09, -0.15, (1, 1.05, 1)) for eye in eyes],
            *[(p[crease[1]] - 0.035 * unit_y, 0.12, 0.03, 0.07, (1, 1, 1)) for crease in CREASES],
            *[(p[c], 0.17, 0.13, 0.10 + 0.10 * raise_cheek, (1, 0.9, 0.9)) for c in CHEEKS],
            *[(p[c] + 0.05 * unit_y, 0.17, 0.13, -0.16 - 0.10 * raise_cheek, (0, blush[1], blush[2])) for c in CHEEKS],
            (p[GLABELLA], 0.06, 0.06, -0.10 * au["brow_lower"], (1, 1, 1)),
        ]
        centres = np.array([spot[0] for spot in spots], np.float32)
        sigma = np.array([spot[1:3] for spot in spots], np.float32) * self.unit
        amount = np.array([np.multiply(spot[3], spot[4]) for spot in spots], np.float32)
        gx = np.exp(-0.5 * ((self.light_grid - centres[:, :1]) / sigma[:, :1]) ** 2)  # (n, S/2)
        gy = np.exp(-0.5 * ((self.light_grid - centres[:, 1:]) / sigma[:, 1:]) ** 2)
        weighted = (gx[:, :, None] * amount[:, None]).reshape(len(spots), -1)
        light = 0.72 + (gy.T @ weighted).reshape(len(self.light_grid), -1, 3)
        return light - self._folds(p, au)[..., None] * np.array((0.7, 1.0, 1.0), np.float32)

    def _folds(self, p: np.ndarray, au: dict[str, float]) -> np.ndarray:
        """Wrinkles as blurred dark lines, float32 (S/2, S/2)."""
        half = len(self.light_grid)
        layer = np.zeros((half, half), np.uint8)
        q = p * (half / self.canvas_size)
        unit = self.unit * half / self.canvas_size
        lines: list[tuple[np.ndarray, float]] = []
        for side, fold in enumerate(FOLDS):
            smile = au["corner_up_left" if side == 0 else "corner_up_right"]
            strength = 0.25 + 0.5 * smile + 0.5 * au["nose_wrinkle"] + 0.25 * au["upper_lip_raise"]
            lines.append((_curve(q[list(fold)]), strength))
        down = au["corner_down"]
        lines += [(np.stack([q[c], q[c] + (s * 0.05 * unit, 0.10 * unit)]), 0.6 * down) for c, s in ((48, -1), (54, 1))]
        frown, wrinkle = au["brow_lower"], au["nose_wrinkle"]
        g = q[GLABELLA]
        lines += [(g + unit * np.array([(x, -0.10), (x * 0.9, 0.04)]), 0.8 * frown) for x in (-0.045, 0.045)]
        lines += [(g + unit * np.array([(-0.07, y), (0, y + 0.02), (0.07, y)]), 0.6 * wrinkle) for y in (0.10, 0.17)]
        surprise = max(au["inner_brow_raise"], au["outer_brow_raise"])
        width = 0.42 if au["outer_brow_raise"] > 0.6 * au["inner_brow_raise"] else 0.22
        for y in (-0.10, 0.0, 0.10):
            arch = np.array([(-width, 0.03), (0, 0), (width, 0.03)]) * unit + q[FOREHEAD] + (0, y * unit)
            lines.append((_curve(arch), 0.55 * surprise))
        for line, strength in lines:
            if strength > 0.05:
                cv2.polylines(layer, [_fixed(line)], False, int(min(strength, 1.0) * 255), 1, cv2.LINE_AA, SHIFT)
        return cv2.GaussianBlur(layer, (3, 3), 0).astype(np.float32) * (0.30 / 255)

    def _beard(self, canvas: np.ndarray, p: np.ndarray) -> None:
        lower = np.concatenate([_curve(p[2:15]), p[[53, 52, 51, 50, 49]] + (0, -0.06 * self.unit)])
        mask = np.zeros(canvas.shape[:2], np.uint8)
        self._fill(mask, lower, 150)
        self._fill(mask, _curve(p[list(range(48, 60))], closed=True), 0)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.035 * self.unit)
        alpha = (mask.astype(np.float32) / 255)[..., None]
        canvas[:] = (canvas * (1 - alpha) + np.array(self.look.hair, np.float32) * alpha).astype(np.uint8)

    def _eye(self, canvas: np.ndarray, p: np.ndarray, side: int) -> None:
        start = 36 + 6 * side
        upper, lower = p[[start, start + 1, start + 2, start + 3]], p[[start, start + 5, start + 4, start + 3]]
        upper = np.minimum(upper, np.stack([upper[:, 0], lower[:, 1]], 1))  # lids meet, they do not cross
        top, bottom = _curve(upper), _curve(lower)
        opening = np.concatenate([top, bottom[::-1]])
        mask = np.zeros(canvas.shape[:2], np.uint8)
        self._fill(mask, opening, 255)
        x, y, w, h = cv2.boundingRect(_fixed(opening) >> SHIFT)
        x, y = max(x - 1, 0), max(y - 1, 0)
        area = (slice(y, y + h + 3), slice(x, x + w + 3))
        eye = np.empty_like(canvas[area])
        eye[:] = (236, 232, 228)
        iris = p[IRIS[side]] - (x, y)
        self._disc(eye, iris, (0.082, 0.082), _shade(self.look.eyes, 0.55))
        self._disc(eye, iris, (0.068, 0.068), self.look.eyes)
        self._disc(eye, iris, (0.034, 0.034), (14, 10, 10))
        self._line(eye, top - (x, y - 0.012 * self.unit), (170, 158, 154), 0.022)  # the lid's shadow
        self._disc(eye, iris + (0.026 * self.unit, -0.03 * self.unit), (0.016, 0.016), (255, 255, 255))
        alpha = mask[area][..., None].astype(np.uint16)
        canvas[area] = (eye * alpha + canvas[area] * (255 - alpha)) // 255
        skin = self.look.skin
        self._line(canvas, _curve(p[list(CREASES[side])]), _shade(skin, 0.62), 0.012)
        self._line(canvas, bottom, _shade(skin, 0.60), 0.012)
        lash = _mix(_shade(skin, 0.3), (20, 14, 12), 0.6)
        self._line(canvas, top, lash, 0.028)

    def _brow(self, canvas: np.ndarray, p: np.ndarray, side: int) -> None:
        """Tapered towards the temple; points run from the outer to the inner end."""
        spine = p[17:22] if side == 0 else p[26:21:-1]
        curve = _curve(spine)
        profile = np.interp(np.linspace(0, 1, len(curve)), (0, 0.35, 0.85, 1), (0.15, 0.8, 1.0, 0.8))
        half = np.stack([np.zeros(len(curve)), profile * self.look.brow_thickness * 0.5 * self.unit], 1)
        colour = _mix(_shade(self.look.hair, 0.85), self.look.skin, 0.12)
        self._fill(canvas, np.concatenate([curve - half, (curve + half)[::-1]]), colour)

    def _nose(self, canvas: np.ndarray, p: np.ndarray) -> None:
        dark = _shade(self.look.skin, 0.42)
        for wing, nostril, sign in ((31, 32, -1), (35, 34, 1)):
            centre = (p[wing] * 0.45 + p[nostril] * 0.55) + (0, 0.002 * self.unit)
            self._disc(canvas, centre, (0.034, 0.016), dark)
            side = (
                p[wing] + np.array([(sign * -0.005, -0.09), (sign * 0.03, -0.045), (sign * 0.005, 0.012)]) * self.unit
            )
            self._line(canvas, _curve(side), _shade(self.look.skin, 0.68), 0.014)

    def _mouth(self, canvas: np.ndarray, p: np.ndarray) -> None:
        lips = self.look.lips
        inner_top, inner_bottom = _curve(p[60:65]), _curve(p[[60, 67, 66, 65, 64]])
        outer_top, outer_bottom = _curve(p[48:55]), _curve(p[[48, 59, 58, 57, 56, 55, 54]])
        middle = _curve(np.stack([p[60], (p[61] + p[67]) / 2, (p[62] + p[66]) / 2, (p[63] + p[65]) / 2, p[64]]))
        self._fill(canvas, np.concatenate([outer_top, middle[::-1]]), _shade(lips, 0.86))
        self._fill(canvas, np.concatenate([middle, outer_bottom[::-1]]), lips)
        lower_lip = (p[57] + p[66]) / 2
        self._disc(canvas, lower_lip, (0.07, 0.014), _mix(lips, (255, 240, 235), 0.30))
        gap = float(p[66, 1] - p[62, 1]) / self.unit
        if gap > 0.022:
            self._cavity(canvas, p, np.concatenate([inner_top, inner_bottom[::-1]]), gap)
        else:
            self._line(canvas, middle, _shade(lips, 0.38), 0.016)

    def _cavity(self, canvas: np.ndarray, p: np.ndarray, opening: np.ndarray, gap: float) -> None:
        """Dark inside, teeth behind the upper lip, the tongue on the floor."""
        self._fill(canvas, opening, (52, 20, 22))
        mask = np.zeros(canvas.shape[:2], np.uint8)
        self._fill(mask, opening, 255)
        x, y, w, h = cv2.boundingRect(_fixed(opening) >> SHIFT)
        area = (slice(max(y, 0), y + h + 1), slice(max(x, 0), x + w + 1))
        inside = canvas[area].copy()
        q = p - (max(x, 0), max(y, 0))
        if gap > 0.09:
            self._disc(inside, q[66] + (0, 0.02 * self.unit), (0.13, 0.35 * gap), (168, 74, 76))
        depth = min(0.075, 0.65 * gap)
        arc = np.concatenate(
            [_curve(q[[60, 61, 62, 63, 64]]), _curve(q[[64, 63, 62, 61, 60]] + (0, depth * self.unit))]
        )
        self._fill(inside, arc, (232, 226, 216))
        alpha = mask[area][..., None].astype(np.uint16)
        canvas[area] = (inside * alpha + canvas[area] * (255 - alpha)) // 255

    # ------------------------------------------------------------------ hair
    def _hair_back(self, canvas: np.ndarray, p: np.ndarray) -> None:
        style = self.look.hair_style
        skull, down = p[list(SKULL)], np.array([0, self.unit])
        side = np.array([self.unit, 0])
        dark = _shade(self.look.hair, 0.72)
        if style in ("long", "bob"):
            length = 1.75 if style == "long" else 1.0
            left, right = skull[0] - 0.12 * side, skull[-1] + 0.12 * side
            sheet = [left + length * down * 0.5 - 0.06 * side, left + length * down]
            mirror = [right + length * down, right + length * down * 0.5 + 0.06 * side]
            self._fill(canvas, _curve(np.array([*skull, *mirror[::-1], *sheet[::-1]]), closed=True), dark)
        if style == "bun":
            self._disc(canvas, skull[5] - 0.02 * down, (0.30, 0.24), dark)
        if style == "curly":
            for index, centre in enumerate(_curve(skull)[::3]):
                self._disc(canvas, centre, (0.17, 0.17), dark if index % 2 else self.look.hair)

    def _hair_front(self, canvas: np.ndarray, p: np.ndarray) -> None:
        style, hair = self.look.hair_style, self.look.hair
        skull, line = p[list(SKULL)], p[list(HAIRLINE)]
        up = np.array([0, -self.unit])
        if style == "shaved":
            return self._buzz_cut(canvas, skull, line, p)
        fringe = line.copy()
        if style == "parted":
            fringe += np.array([0, 0, 0.02, -0.14, -0.20, -0.16, -0.12, -0.06, 0])[:, None] * up
        if style == "bob":
            fringe += np.array([-0.1, -0.16, -0.24, -0.30, -0.31, -0.30, -0.24, -0.16, -0.1])[:, None] * up
        ends = np.array([p[0] * 0.7 + skull[0] * 0.3, p[16] * 0.7 + skull[-1] * 0.3])
        if style in ("long", "bob"):
            ends += np.array([0, 0.35 * self.unit])
        lower = np.concatenate([ends[1:], fringe[::-1], ends[:1]])
        cap = np.concatenate([_curve(skull), _curve(lower)])
        self._fill(canvas, cap, hair)
        light, dark = _mix(hair, (255, 236, 200), 0.16), _shade(hair, 0.72)
        inner, outer = _curve(fringe), _curve(skull[1:-1])
        roots = np.linspace(0, len(inner) - 1, 14).astype(int)
        tips = np.linspace(1, len(outer) - 2, 14).astype(int)
        for index, (a, b) in enumerate(zip(inner[roots], outer[tips], strict=True)):
            strand = np.stack([a, a * 0.55 + b * 0.45 + 0.05 * up, b])
            self._line(canvas, _curve(strand), light if index % 3 == 1 else dark, 0.014)
        self._line(canvas, inner, dark, 0.02)

    def _buzz_cut(self, canvas: np.ndarray, skull: np.ndarray, line: np.ndarray, p: np.ndarray) -> None:
        stubble = _mix(self.look.skin, self.look.hair, 0.55)
        scalp = skull * 0.93 + p[27] * 0.07
        self._fill(canvas, np.concatenate([_curve(scalp), _curve(line[::-1])]), stubble)

    def _glasses(self, canvas: np.ndarray, p: np.ndarray) -> None:
        frame = (36, 34, 40)
        inner = []
        for side, start in ((-1, 36), (1, 42)):
            centre = p[start : start + 6].mean(0) + (side * 0.015 * self.unit, 0.015 * self.unit)
            ring = [(0.23 * np.cos(a), 0.165 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 28, endpoint=False)]
            self._line(canvas, centre + np.array(ring) * self.unit, frame, 0.024, closed=True)
            self._line(canvas, np.stack([centre + (side * 0.23 * self.unit, 0), p[0 if side < 0 else 16]]), frame, 0.02)
            inner.append(centre - (side * 0.23 * self.unit, 0))
        self._line(canvas, np.stack(inner), frame, 0.024)
