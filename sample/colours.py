"""Named colours and the schemes that products wear."""

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "white": (244, 243, 238), "cream": (238, 224, 190), "black": (38, 38, 42), "grey": (140, 143, 148),
    "navy": (36, 50, 98), "blue": (44, 108, 196), "sky": (134, 190, 228), "teal": (20, 128, 132),
    "green": (52, 140, 74), "olive": (118, 118, 58), "mint": (160, 218, 188), "yellow": (244, 202, 62),
    "orange": (236, 128, 44), "red": (204, 44, 48), "wine": (116, 32, 54), "pink": (242, 158, 182),
    "magenta": (198, 44, 132), "purple": (104, 64, 156), "lilac": (190, 168, 224), "brown": (118, 78, 50),
    "sand": (206, 174, 126),
}  # fmt: skip
SKINS = ((246, 214, 190), (228, 186, 152), (198, 146, 108), (150, 102, 72), (104, 68, 48))


@dataclass(frozen=True)
class Scheme:
    """Names of COLOURS. base: most of the product; second: its pattern; accent: its print; trim: bands, soles, handles."""

    base: str
    second: str
    accent: str
    trim: str

    def swapped(self) -> "Scheme":
        """The same colours in other places."""
        return Scheme(base=self.second, second=self.base, accent=self.trim, trim=self.accent)


def draw_scheme(rng: np.random.Generator) -> Scheme:
    """Four different colours; base and second, and both of them and accent and trim, can be told apart."""
    names = list(COLOURS)
    while True:
        base, second, accent, trim = (names[i] for i in rng.permutation(len(names))[:4])
        apart = min(_distance(base, second), _distance(base, accent), _distance(base, trim), _distance(second, accent), _distance(second, trim))
        if apart > 110 and abs(_luma(base) - _luma(second)) > 45 and abs(_luma(base) - _luma(accent)) > 35:
            return Scheme(base, second, accent, trim)


def rgb(name: str) -> np.ndarray:
    return np.array(COLOURS[name], np.uint8)


def _luma(name: str) -> float:
    """ITU-R BT.601 luma, 0..255."""
    return float(np.dot(COLOURS[name], (0.299, 0.587, 0.114)))


def _distance(a: str, b: str) -> float:
    return float(np.linalg.norm(np.subtract(COLOURS[a], COLOURS[b])))
