"""The look of one person of the synthetic corpus apart from the shape of the face: colours and styles."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]  # RGB

HAIR_STYLES = ("short", "quiff", "parted", "long", "bob", "shaved", "bun", "curly")
BEARDED_STYLES = ("short", "quiff", "parted", "shaved", "curly")
# fmt: off
SKIN_TONES = (
    (245, 214, 190), (236, 196, 165), (224, 178, 142), (203, 152, 114), (172, 120, 84), (134, 88, 60), (100, 66, 46),
)
HAIR_COLOURS = (
    (36, 30, 28), (62, 44, 34), (98, 66, 44), (140, 92, 50), (208, 170, 106), (156, 72, 40), (158, 156, 154),
)
EYE_COLOURS = ((92, 60, 36), (70, 46, 30), (84, 120, 84), (80, 120, 160), (110, 140, 150), (120, 96, 50))
CLOTHES = (
    (46, 62, 92), (128, 46, 50), (60, 100, 76), (70, 70, 76), (196, 192, 184), (158, 116, 62), (88, 60, 110),
    (60, 120, 130),
)
BACKDROPS = (
    (122, 136, 154), (172, 154, 130), (84, 120, 128), (146, 160, 140), (78, 78, 96), (186, 182, 176), (140, 108, 104),
    (116, 104, 140), (96, 84, 72), (150, 176, 190),
)
# fmt: on


@dataclass(frozen=True)
class Look:
    """Colours and styles of one person; constant over its clips."""

    skin: Colour
    hair: Colour
    eyes: Colour
    lips: Colour
    clothes: Colour
    backdrop: Colour
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
            skin=as_colour(skin),
            hair=hair,
            eyes=EYE_COLOURS[rng.integers(2)] if dark else pick(EYE_COLOURS),
            lips=as_colour(lips),
            clothes=pick(CLOTHES),
            backdrop=pick(BACKDROPS),
            hair_style=style,
            brow_thickness=float(rng.uniform(0.038, 0.07)),
            light_side=float(rng.uniform(-1, 1)),
            glasses=bool(rng.random() < 0.15),
            beard=bool(style in BEARDED_STYLES and rng.random() < 0.35),
        )


def as_colour(values: np.ndarray) -> Colour:
    r, g, b = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return r, g, b


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter."""
    return as_colour(np.array(colour) * factor)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    return as_colour(np.array(a) * (1 - share) + np.array(b) * share)
