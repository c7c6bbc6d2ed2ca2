"""Contact sheets: pictures in rows, each with lines of text under it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK_RGB, PAPER_RGB = (25, 25, 30), (231, 231, 237)
MARGIN, LINE_HEIGHT, FONT = 12, 17, 13  # px


def lay_out(
    title: str,
    key: Sequence[tuple[str, tuple[int, int, int]]],
    tiles: Sequence[tuple[Image.Image, Sequence[str]]],
    side: int,
    columns: int,
) -> Image.Image:
    """The tiles in rows of `columns` under the title and a key to the colours.

    key: what each colour (r, g, b) means. tiles: pictures of side x side px and the lines under each; a line that is too
    wide loses its beginning.
    """
    font = ImageFont.load_default(FONT)
    n_lines = max((len(caption) for _, caption in tiles), default=0)
    step_x, step_y = side + MARGIN, side + n_lines * LINE_HEIGHT + MARGIN
    top = 2 * LINE_HEIGHT + 3 * MARGIN
    n_rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * step_x + MARGIN, top + n_rows * step_y), PAPER_RGB)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), latin(title), INK_RGB, ImageFont.load_default(FONT + 3))
    left = MARGIN
    for words, colour in key:
        middle = MARGIN + 2 * LINE_HEIGHT
        draw.rectangle((left, middle - 6, left + 16, middle + 6), None, colour, 3)
        draw.text((left + 24, middle), words, INK_RGB, font, anchor="lm")
        left += 48 + int(draw.textlength(words, font))
    for place, (picture, caption) in enumerate(tiles):
        left, above = MARGIN + place % columns * step_x, top + place // columns * step_y
        sheet.paste(picture, (left, above))
        for number, line in enumerate(caption):
            line = fitted(latin(line), font, side)
            draw.text((left, above + side + 2 + number * LINE_HEIGHT), line, INK_RGB, font)
    return sheet


def latin(text: str) -> str:
    """The font has Latin letters alone: others are written as their numbers, so that names stay apart."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")


def fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its beginning cut where it is wider than `width` px: of a path the end tells most."""
    if font.getlength(text) <= width:
        return text
    return next(f"...{text[k:]}" for k in range(1, len(text) + 1) if font.getlength(f"...{text[k:]}") <= width)
