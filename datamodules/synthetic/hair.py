"""Hair and beard of a synthetic face.

P is the array of projected vertices (V, 2) in pixels of the large canvas; colours are RGB.
"""

import cv2
import numpy as np

from .brush import SHIFT, Brush, curve, fixed
from .face import HAIRLINE, SKULL
from .look import Look, shade

NUM_STRANDS = 48
# By hair style: how far the fringe hangs over the 9 points of the hairline, how high the hair stands over the 11 of
# the skull (face units).
FRINGES = {
    "short": (0.0, 0.02, 0.04, 0.02, 0.04, 0.02, 0.04, 0.02, 0.0),
    "quiff": (0.0, 0.0, -0.02, -0.05, -0.06, -0.05, -0.02, 0.0, 0.0),
    "parted": (0.0, 0.0, -0.02, 0.14, 0.20, 0.16, 0.12, 0.06, 0.0),
    "bob": (0.10, 0.16, 0.24, 0.30, 0.31, 0.30, 0.24, 0.16, 0.10),
}
VOLUMES = {
    "short": (0.0,) * 11,
    "quiff": (0.0, 0.0, 0.02, 0.06, 0.12, 0.16, 0.14, 0.06, 0.02, 0.0, 0.0),
    "long": (0.0, 0.0, 0.03, 0.05, 0.06, 0.06, 0.06, 0.05, 0.03, 0.0, 0.0),
    "curly": (0.0, 0.02, 0.05, 0.08, 0.09, 0.09, 0.09, 0.08, 0.05, 0.02, 0.0),
}


class HairPainter(Brush):
    def __init__(self, look: Look, size: int) -> None:
        super().__init__(size)
        self.look = look
        tones = (
            np.arange(256)[None, :, None] / 128 * np.array(look.hair)
            + np.maximum(np.arange(256) - 128, 0)[:, None] * 0.25
        )
        self.hair_table = np.clip(tones, 0, 255).astype(np.uint8)  # light (128 = 1) -> hair colour, with some gloss

    def hair_back(self, canvas: np.ndarray, p: np.ndarray) -> None:
        style = self.look.hair_style
        skull, dark = p[list(SKULL)], shade(self.look.hair, 0.76)
        if style in ("long", "bob"):
            length = 1.8 if style == "long" else 1.0
            left = [skull[0] + self.off(x, y * length) for x, y in ((-0.10, 0.0), (-0.17, 0.5), (-0.10, 1.0))]
            right = [skull[-1] + self.off(x, y * length) for x, y in ((0.10, 1.0), (0.17, 0.5), (0.10, 0.0))]
            self.fill(canvas, curve(np.array([*skull[1:-1], *right[::-1], *left[::-1]]), closed=True), dark)
        if style == "bun":
            self.disc(canvas, skull[5] + self.off(0, 0.02), (0.34, 0.20), dark)
        if style == "shaved":
            self.fill(canvas, curve(skull * 0.94 + p[27] * 0.06), shade(self.look.skin, 0.85))
        if style == "curly":
            for index, centre in enumerate(curve(skull)[::3]):
                self.disc(canvas, centre, (0.16, 0.16), shade(self.look.hair, (0.66, 0.8, 0.95)[index % 3]))

    def hair_front(self, canvas: np.ndarray, p: np.ndarray) -> None:
        """The cap between hairline and skull: shaded along its depth, with strands, and a soft edge."""
        style = self.look.hair_style
        skull, fringe = p[list(SKULL)], p[list(HAIRLINE)].copy()
        fringe[:, 1] += np.array(FRINGES.get(style, FRINGES["short"])) * self.unit
        skull[:, 1] -= np.array(VOLUMES.get(style, VOLUMES["short"])) * self.unit
        if style == "shaved":
            skull = skull * 0.94 + p[27] * 0.06
        ends = np.array([p[0] * 0.7 + skull[0] * 0.3, p[16] * 0.7 + skull[-1] * 0.3])
        if style in ("long", "bob"):
            ends[:, 1] += 0.3 * self.unit
        inner = curve(np.concatenate([ends[:1], fringe, ends[1:]]))
        outer = curve(skull)
        mask: np.ndarray = np.zeros(canvas.shape[:2], np.uint8)
        self.fill(mask, np.concatenate([outer, inner[::-1]]), (255 if style != "shaved" else 130,))
        bottom = int(np.clip(inner[:, 1].max() + 4, 1, self.canvas_size))
        mask = cv2.blur(mask[:bottom], (3, 3))
        hair = self._strands(inner, outer, bottom)
        alpha = mask[..., None].astype(np.uint16)
        canvas[:bottom] = (hair * alpha + canvas[:bottom] * (255 - alpha)) // 255

    def _strands(self, inner: np.ndarray, outer: np.ndarray, bottom: int) -> np.ndarray:
        """Hair colour uint8 (bottom, S, 3): lines from the hairline to the skull, blurred into a sheen."""
        half = 0.5  # of the canvas: the strands are soft anyway
        size = (round(self.canvas_size * half), round(bottom * half))
        sheen: np.ndarray = np.full(size[::-1], 105, np.uint8)
        roots = inner[np.linspace(0, len(inner) - 1, NUM_STRANDS).astype(int)] * half
        tips = outer[np.linspace(0, len(outer) - 1, NUM_STRANDS).astype(int)] * half
        width = max(1, round(0.05 * self.unit * half))
        parts = ((0.0, 0.35, 92), (0.30, 0.72, 138), (0.70, 1.0, 104))  # from, to along the strand, light (128 = 1)
        for begin, end, light in parts:
            lines = fixed(np.stack([roots + (tips - roots) * begin, roots + (tips - roots) * end], axis=1))
            for group, tone in enumerate((-18, 12, -6, 20, 0)):
                members = list(lines[(group * 2) % 5 :: 5])
                cv2.polylines(sheen, members, False, (light + tone,), width, cv2.LINE_AA, SHIFT)
        sheen = cv2.blur(sheen, (3, 5))
        sheen = cv2.resize(sheen, (self.canvas_size, bottom), interpolation=cv2.INTER_LINEAR)
        return cv2.LUT(cv2.merge([sheen] * 3), self.hair_table)

    def beard(self, canvas: np.ndarray, p: np.ndarray) -> None:
        moustache = p[[53, 52, 51, 50, 49]] + self.off(0, -0.055)
        cheeks = [(p[jaw] * 0.45 + p[corner] * 0.55) + self.off(0, 0.09) for jaw, corner in ((14, 54), (2, 48))]
        lower = np.concatenate([curve(p[1:16]), cheeks[:1], moustache, cheeks[1:]])
        mask: np.ndarray = np.zeros(canvas.shape[:2], np.uint8)
        self.fill(mask, lower, (150,))
        self.fill(mask, curve(p[list(range(48, 60))], closed=True), (0,))
        mask = cv2.GaussianBlur(mask, (0, 0), 0.035 * self.unit)
        alpha = (mask.astype(np.float32) / 255)[..., None]
        canvas[:] = (canvas * (1 - alpha) + np.array(self.look.hair, np.float32) * alpha).astype(np.uint8)
