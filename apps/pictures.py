"""Contact sheets: many small pictures as one."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 6  # pixels between cells
BACKGROUND, INK = (28, 33, 41), (226, 229, 234)  # reads well on a light and on a dark page


def contact_sheet(images: list[np.ndarray], columns: int, labels: list[str] | None = None) -> np.ndarray:
    """Lay pictures out in rows of `columns`, each centred in its cell with its label below.

    Args:
        images: uint8 RGB, (H, W, 3) each; sizes may differ.
        columns: pictures in a row.
        labels: one for each picture; "" for none.

    Returns:
        uint8 RGB (height, width, 3).
    """
    assert labels is None or len(labels) == len(images)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    strip = max(14, round(height * 0.15)) if labels else 0
    columns, rows = min(columns, len(images)), -(-len(images) // columns)
    size = (columns * (width + GAP) + GAP, rows * (height + strip + GAP) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + strip + GAP)
        inset = ((width - image.shape[1]) // 2, (height - image.shape[0]) // 2)
        sheet.paste(Image.fromarray(image), (left + inset[0], top + inset[1]))
        if labels and labels[index]:
            _write(ImageDraw.Draw(sheet), labels[index], (left + width / 2, top + height + strip / 2), width, strip)
    return np.asarray(sheet)


def _write(draw: ImageDraw.ImageDraw, text: str, centre: tuple[float, float], width: int, height: int) -> None:
    """Text around a point, as large as fits into the box."""
    size = max(9.0, height * 0.72)
    font = ImageFont.load_default(size)
    if (needed := draw.textlength(text, font=font)) > width:
        font = ImageFont.load_default(max(7.0, size * width / needed))
    draw.text(centre, text, fill=INK, font=font, anchor="mm")
