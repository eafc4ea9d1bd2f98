"""Paints a synthetic face: layered splines and soft light at twice the size, then reduced.

P is the array of projected vertices (V, 2) in pixels of the large canvas; colours are RGB.
"""

import cv2
import numpy as np

from .brush import SHIFT, curve, fixed
from .face import AU, CHEEKS, CHIN, CREASES, EARS, FOLDS, FOREHEAD, GLABELLA, HAIRLINE, IRIS
from .hair import HairPainter
from .look import Look, mix, shade


class FacePainter(HairPainter):
    """Draws frames of one person; background and constants are made once."""

    def __init__(self, look: Look, size: int) -> None:
        super().__init__(look, size)
        self.size = size
        self.background = self._background()
        centres = (np.arange(size // 2) + 0.5) * (self.canvas_size / (size // 2))
        self.light_grid = centres.astype(np.float32)

    def __call__(self, points: np.ndarray, expression: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Points (V, 2) in crop units, expression (K,), pose (6,) -> RGB frame uint8 (S, S, 3)."""
        p = (points + 1) / 2 * self.canvas_size
        self.unit = float(np.exp(pose[5])) * self.canvas_size / 2
        au = {name: float(expression[index]) for name, index in AU.items()}
        canvas = self.background.copy()
        self.hair_back(canvas, p)
        self._body(canvas, p, pose)
        canvas = self._skin(canvas, p, au)
        for side in (0, 1):
            self._eye(canvas, p, side)
            self._brow(canvas, p, side)
        self._nose(canvas, p)
        self._mouth(canvas, p)
        self.hair_front(canvas, p)
        if self.look.glasses:
            self._glasses(canvas, p)
        return cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)

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
        self.fill(canvas, curve(shoulders), self.look.clothes)
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
        self.fill(canvas, curve(neck), shade(self.look.skin, 0.83))
        shadow = body((-0.46, 0.5), (-0.45, 0.93), (0, 1.14), (0.45, 0.93), (0.46, 0.5))
        self.fill(canvas, curve(shadow + head * 0.8), shade(self.look.skin, 0.66))
        collar = body((-0.64, 1.13), (-0.36, 1.3), (0, 1.42), (0.36, 1.3), (0.64, 1.13))
        self.line(canvas, curve(collar), shade(self.look.clothes, 0.75), 0.05)

    def _skin(self, canvas: np.ndarray, p: np.ndarray, au: dict[str, float]) -> np.ndarray:
        scalp = p[list(HAIRLINE)][::-1] + self.off(0, -0.12) * np.sin(np.linspace(0, np.pi, 9))[:, None]
        outline = np.concatenate([curve(p[:17]), curve(scalp)])
        mask: np.ndarray = np.zeros(canvas.shape[:2], np.uint8)
        for ear in EARS:
            self.fill(mask, curve(p[list(ear)]), (255,))
        self.fill(mask, outline, (255,))
        light = cv2.resize(self._light(p, au), canvas.shape[:2], interpolation=cv2.INTER_LINEAR)
        skin = (light * np.array(self.look.skin, np.float32)).clip(0, 255).astype(np.uint8)
        cv2.copyTo(skin, mask, canvas)
        for ear in EARS:
            inner = p[list(ear)] * 0.6 + p[list(ear)].mean(0) * 0.4
            self.line(canvas, curve(inner[:4]), shade(self.look.skin, 0.68), 0.03)
        self.line(canvas, curve(p[:17]), shade(self.look.skin, 0.66), 0.012)
        if self.look.beard:
            self.beard(canvas, p)
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
            lines.append((curve(q[list(fold)]), strength))
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
            lines.append((curve(arch), 0.55 * surprise))
        for line, strength in lines:
            if strength > 0.05:
                cv2.polylines(layer, [fixed(line)], False, (int(min(strength, 1.0) * 255),), 1, cv2.LINE_AA, SHIFT)
        return cv2.GaussianBlur(layer, (3, 3), 0).astype(np.float32) * (0.30 / 255)

    def _eye(self, canvas: np.ndarray, p: np.ndarray, side: int) -> None:
        start = 36 + 6 * side
        upper, lower = p[[start, start + 1, start + 2, start + 3]], p[[start, start + 5, start + 4, start + 3]]
        upper = np.minimum(upper, np.stack([upper[:, 0], lower[:, 1]], 1))  # lids meet, they do not cross
        top, bottom = curve(upper), curve(lower)
        opening = np.concatenate([top, bottom[::-1]])
        mask: np.ndarray = np.zeros(canvas.shape[:2], np.uint8)
        self.fill(mask, opening, (255,))
        x, y, w, h = cv2.boundingRect(fixed(opening) >> SHIFT)
        x, y = max(x - 1, 0), max(y - 1, 0)
        area = (slice(y, y + h + 3), slice(x, x + w + 3))
        eye = np.empty_like(canvas[area])
        eye[:] = (236, 232, 228)
        iris = p[IRIS[side]] - (x, y)
        self.disc(eye, iris, (0.082, 0.082), shade(self.look.eyes, 0.55))
        self.disc(eye, iris, (0.068, 0.068), self.look.eyes)
        self.disc(eye, iris, (0.034, 0.034), (14, 10, 10))
        self.line(eye, top - (x, y - 0.012 * self.unit), (170, 158, 154), 0.022)  # the lid's shadow
        self.disc(eye, iris + self.off(0.026, -0.03), (0.016, 0.016), (255, 255, 255))
        alpha = mask[area][..., None].astype(np.uint16)
        canvas[area] = (eye * alpha + canvas[area] * (255 - alpha)) // 255
        skin = self.look.skin
        self.line(canvas, curve(p[list(CREASES[side])]), shade(skin, 0.62), 0.012)
        self.line(canvas, bottom, shade(skin, 0.60), 0.012)
        lash = mix(shade(skin, 0.3), (20, 14, 12), 0.6)
        self.line(canvas, top, lash, 0.028)

    def _brow(self, canvas: np.ndarray, p: np.ndarray, side: int) -> None:
        """Tapered towards the temple; points run from the outer to the inner end."""
        spine = p[17:22] if side == 0 else p[26:21:-1]
        ridge = curve(spine)
        profile = np.interp(np.linspace(0, 1, len(ridge)), (0, 0.35, 0.85, 1), (0.15, 0.8, 1.0, 0.8))
        half = np.stack([np.zeros(len(ridge)), profile * self.look.brow_thickness * 0.5 * self.unit], 1)
        colour = mix(shade(self.look.hair, 0.85), self.look.skin, 0.12)
        self.fill(canvas, np.concatenate([ridge - half, (ridge + half)[::-1]]), colour)

    def _nose(self, canvas: np.ndarray, p: np.ndarray) -> None:
        dark = shade(self.look.skin, 0.42)
        for wing, nostril, sign in ((31, 32, -1), (35, 34, 1)):
            centre = (p[wing] * 0.45 + p[nostril] * 0.55) + (0, 0.002 * self.unit)
            self.disc(canvas, centre, (0.034, 0.016), dark)
            side = (
                p[wing] + np.array([(sign * -0.005, -0.09), (sign * 0.03, -0.045), (sign * 0.005, 0.012)]) * self.unit
            )
            self.line(canvas, curve(side), shade(self.look.skin, 0.68), 0.014)

    def _mouth(self, canvas: np.ndarray, p: np.ndarray) -> None:
        lips = self.look.lips
        inner_top, inner_bottom = curve(p[60:65]), curve(p[[60, 67, 66, 65, 64]])
        outer_top, outer_bottom = curve(p[48:55]), curve(p[[48, 59, 58, 57, 56, 55, 54]])
        middle = curve(np.stack([p[60], (p[61] + p[67]) / 2, (p[62] + p[66]) / 2, (p[63] + p[65]) / 2, p[64]]))
        self.fill(canvas, np.concatenate([outer_top, middle[::-1]]), shade(lips, 0.86))
        self.fill(canvas, np.concatenate([middle, outer_bottom[::-1]]), lips)
        lower_lip = (p[57] + p[66]) / 2
        self.disc(canvas, lower_lip, (0.07, 0.014), mix(lips, (255, 240, 235), 0.30))
        gap = float(p[66, 1] - p[62, 1]) / self.unit
        if gap > 0.022:
            self._cavity(canvas, p, np.concatenate([inner_top, inner_bottom[::-1]]), gap)
        else:
            self.line(canvas, middle, shade(lips, 0.38), 0.016)

    def _cavity(self, canvas: np.ndarray, p: np.ndarray, opening: np.ndarray, gap: float) -> None:
        """Dark inside, teeth behind the upper lip, the tongue on the floor."""
        self.fill(canvas, opening, (52, 20, 22))
        mask: np.ndarray = np.zeros(canvas.shape[:2], np.uint8)
        self.fill(mask, opening, (255,))
        x, y, w, h = cv2.boundingRect(fixed(opening) >> SHIFT)
        area = (slice(max(y, 0), y + h + 1), slice(max(x, 0), x + w + 1))
        inside = canvas[area].copy()
        q = p - (max(x, 0), max(y, 0))
        if gap > 0.09:
            self.disc(inside, q[66] + (0, 0.02 * self.unit), (0.13, 0.35 * gap), (168, 74, 76))
        width = float(np.linalg.norm(p[64] - p[60])) / self.unit
        depth = min(0.075, 0.65 * gap, 0.22 * width)
        arc = np.concatenate([curve(q[[60, 61, 62, 63, 64]]), curve(q[[64, 63, 62, 61, 60]] + (0, depth * self.unit))])
        self.fill(inside, arc, (232, 226, 216))
        alpha = mask[area][..., None].astype(np.uint16)
        canvas[area] = (inside * alpha + canvas[area] * (255 - alpha)) // 255

    def _glasses(self, canvas: np.ndarray, p: np.ndarray) -> None:
        frame = (36, 34, 40)
        inner = []
        for side, start in ((-1, 36), (1, 42)):
            centre = p[start : start + 6].mean(0) + self.off(side * 0.015, 0.015)
            ring = [(0.23 * np.cos(a), 0.165 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 28, endpoint=False)]
            self.line(canvas, centre + np.array(ring) * self.unit, frame, 0.024, closed=True)
            self.line(canvas, np.stack([centre + self.off(side * 0.23, 0), p[0 if side < 0 else 16]]), frame, 0.02)
            inner.append(centre - self.off(side * 0.23, 0))
        self.line(canvas, np.stack(inner), frame, 0.024)
