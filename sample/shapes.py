"""The forms of products: outlines with parameters, one function per group of categories.

Units: x from -0.5 to 0.5 around the middle, y from 0 (top) to 1; what is worn hangs from the body's anchors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Panel:
    """A filled outline (N, 2), or where width > 0 a stroke of that width along it.

    paint: fabric (base and texture), base, second, accent, trim, inside (base in shadow, not drawn when worn), dark, metal.
    """

    outline: np.ndarray
    paint: str = "fabric"
    tone: float = 1.0
    width: float = 0.0


@dataclass(frozen=True)
class Body:
    """Where a body stands in the product: neck and hips (x is 0), limbs as (start, end) of the right-hand side."""

    neck_y: float | None = None
    hips_y: float = 0.75
    hip_width: float = 0.15
    arm: tuple[tuple[float, float], tuple[float, float]] | None = None
    top_covered: bool = True
    legs_bare: bool = False
    head_only_y: float | None = None


@dataclass(frozen=True)
class Shape:
    """panels, back to front; the print lies on panel number `printed` at print_at (x, y) with print_radius, under all later panels."""

    panels: list[Panel]
    printed: int
    print_at: tuple[float, float]
    print_radius: float
    seams: list[np.ndarray] = field(default_factory=list)
    buttons: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    button_radius: float = 0.012
    surface: str = "cloth"  # cloth, round (an upright cylinder) or stiff
    body: Body | None = None


def build_shape(category: str, seed: int, back: bool) -> Shape:
    """The shape of a category; the same seed gives the front and the back of the same product."""
    return CATEGORIES[category](np.random.default_rng(seed), category, back)


def _top(rng: np.random.Generator, category: str, back: bool) -> Shape:
    jacket = category == "jacket"
    shoulder, chest = rng.uniform(0.18, 0.23), rng.uniform(0.185, 0.225)
    waist, hem = chest * rng.uniform(0.82, 1.05), chest * rng.uniform(0.95, 1.2)
    top, bottom = 0.1, rng.uniform(0.66, 0.86) if category != "jacket" else rng.uniform(0.7, 0.88)
    neck, depth = rng.uniform(0.07, 0.105), rng.uniform(0.05, 0.13)
    v_neck, hem_curve = rng.uniform() < 0.35, rng.choice([0.0, 0.03, -0.02])
    sleeve = {"T-shirt": rng.uniform(0.14, 0.24), "vest": 0.0}.get(category, rng.uniform(0.42, 0.52))
    spread, thick = np.radians(rng.uniform(24, 52) if sleeve < 0.3 else rng.uniform(16, 34)), rng.uniform(0.075, 0.1)
    raglan, cuffs, hem_band = rng.uniform() < 0.35, rng.uniform() < 0.5, rng.uniform() < 0.35
    collar = str(rng.choice(["none", "band", "band", "polo", "hood"])) if not jacket else str(rng.choice(["polo", "hood", "band"]))
    collar = "band" if category == "vest" and collar != "none" else collar
    front = str(rng.choice(["plain", "plain", "pocket", "placket", "pouch"])) if not jacket else "zip" if rng.uniform() < 0.5 else "buttons"
    yoke, back_seam = rng.uniform() < 0.5, rng.uniform() < 0.5
    pocket_side = float(rng.choice([-1, 1]))
    shoulder = shoulder * (0.72 if category == "vest" else 1)
    neck = min(neck, shoulder * 0.62)

    drop = 0.018 if back else depth
    pit = top + 0.21 if category == "vest" else top + 0.04 + thick * 1.7
    side = [(shoulder, top + 0.035), (shoulder * 0.96 if category == "vest" else chest, pit * 0.6 + top * 0.4 if category == "vest" else pit),
            (chest, pit), (waist, (pit + bottom) / 2), (hem, bottom - 0.01), (hem, bottom)]  # fmt: skip
    collar_line = _neckline(neck, top, drop, v_neck and not back)
    torso = np.concatenate([collar_line, side, [(0, bottom + hem_curve)], _mirror(side)])
    panels = [Panel(_round_corners(np.array([(neck, top), (neck * 0.7, top - 0.012), (-neck * 0.7, top - 0.012), (-neck, top), (-neck * 0.8, top + depth), (neck * 0.8, top + depth)])), "inside", 0.55)]
    if collar == "hood" and not back:
        panels.append(Panel(_ellipse(0, top - 0.005, neck * 1.35, 0.075), "fabric", 0.72))
    direction = np.array([np.sin(spread), np.cos(spread)])
    across = np.array([direction[1], -direction[0]])
    start = np.array([shoulder - 0.01, top + 0.035])
    end = start + direction * sleeve
    if sleeve:
        pit_point = np.array([chest - 0.012, pit + 0.01])
        wrist = thick * (0.92 if sleeve < 0.3 else 0.6)
        centre_end = (start + pit_point) / 2 * 0.35 + 0.65 * (start - across * thick * 0.2) + direction * sleeve
        a, b = centre_end + across * wrist / 2, centre_end - across * wrist / 2
        sleeve_outline = np.array([start - (0.03, 0.012), start, a, b, pit_point, pit_point - (0.03, 0)])
        cuff = np.array([a - direction * 0.03, a + direction * 0.002, b + direction * 0.002, b - direction * 0.03])
        cuff += np.sign(cuff - centre_end) * 0.002
        for sign in (1, -1):
            panels.append(Panel(_round_corners(sleeve_outline * (sign, 1), 1), "second" if raglan else "fabric", 0.93))
            if cuffs:
                panels.append(Panel(cuff * (sign, 1), "trim"))
        end = centre_end
    panels.append(Panel(_round_corners(torso, 1)))
    printed = len(panels) - 1
    if hem_band:
        panels.append(Panel(np.array([(hem + 0.002, bottom - 0.04), (hem + 0.002, bottom), (0, bottom + hem_curve), (-hem - 0.002, bottom), (-hem - 0.002, bottom - 0.04), (0, bottom - 0.04 + hem_curve)]), "trim"))
    seams = [np.array(side)[1 if category == "vest" else 0:3] * (sign, 1) for sign in (1, -1)] if sleeve else []
    buttons = np.zeros((0, 2))
    if back:
        seams += [np.array([(-shoulder, top + 0.12), (0, top + 0.135), (shoulder, top + 0.12)])] if yoke else []
        seams += [np.array([(0, top + 0.14), (0, bottom - 0.02)])] if back_seam else []
        if collar == "hood":
            panels.append(Panel(_round_corners(np.array([(-neck * 1.5, top + 0.0), (neck * 1.5, top + 0.0), (neck * 1.3, top + 0.13), (0, top + 0.2), (-neck * 1.3, top + 0.13)])), "fabric", 0.9))
        else:
            panels.append(Panel(np.array([(-0.02, top + 0.03), (0.02, top + 0.03), (0.02, top + 0.055), (-0.02, top + 0.055)]), "trim"))
    elif front == "pocket":
        x, y = pocket_side * chest * 0.45, top + 0.2
        panels.append(Panel(np.array([(x - 0.045, y), (x + 0.045, y), (x + 0.045, y + 0.08), (x, y + 0.1), (x - 0.045, y + 0.08)]), "second"))
    elif front == "pouch":
        y = bottom - 0.21
        panels.append(Panel(np.array([(-0.075, y), (0.075, y), (0.125, y + 0.08), (0.125, y + 0.14), (-0.125, y + 0.14), (-0.125, y + 0.08)]), "fabric", 0.9))
    elif front in ("placket", "buttons"):
        low = top + drop + 0.16 if front == "placket" else bottom + hem_curve
        panels.append(Panel(np.array([(-0.018, top + drop - 0.004), (0.018, top + drop - 0.004), (0.018, low), (-0.018, low)]), "trim" if jacket else "base"))
        buttons = np.stack([np.zeros(6), np.linspace(top + drop + 0.03, low - 0.03, 6)], 1)[: 6 if front == "buttons" else 3 * 2 : 1 if front == "buttons" else 2]
    elif front == "zip":
        panels.append(Panel(np.array([(0, top + drop), (0, bottom + hem_curve)]), "dark", 1.0, 0.016))
        panels.append(Panel(np.array([(0, top + drop), (0, bottom + hem_curve)]), "metal", 1.0, 0.007))
    if collar == "band" or (collar == "polo" and back):
        panels.append(Panel(collar_line, "trim", 1.0, 0.026))
    elif collar == "polo":
        for sign in (1, -1):
            panels.append(Panel(np.array([(neck, top - 0.012), (0.005, top + drop), (neck * 0.62, top + drop + 0.06), (neck + 0.045, top + 0.03)]) * (sign, 1), "trim"))
    elif collar == "hood" and not back:
        panels.append(Panel(collar_line, "fabric", 0.85, 0.05))
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * neck * 0.4, top + drop), (sign * neck * 0.45, top + drop + 0.13)]), "trim", 1.0, 0.01))
    body = Body(neck_y=top, hips_y=bottom - 0.03, hip_width=min(hem, 0.19) * 0.85, arm=((shoulder - 0.02, top + 0.06), tuple(end if sleeve else (shoulder + 0.09, top + 0.3))))
    return Shape(panels, printed, (0, top + (0.3 if not back else 0.34)), 0.135, seams, buttons, 0.013, body=body)


def _dress(rng: np.random.Generator, category: str, back: bool) -> Shape:
    shoulder, bust, waist = rng.uniform(0.13, 0.16), rng.uniform(0.13, 0.155), rng.uniform(0.09, 0.12)
    hem, bottom = rng.uniform(0.19, 0.34), rng.uniform(0.8, 0.95)
    top, waist_y = 0.06, rng.uniform(0.34, 0.42)
    sleeves = str(rng.choice(["none", "straps", "short", "long"]))
    v_neck, depth = rng.uniform() < 0.5, rng.uniform(0.05, 0.11)
    belt, bands, tiers, collar, scallop = rng.uniform() < 0.6, int(rng.integers(0, 3)), int(rng.integers(0, 3)), rng.uniform() < 0.4, rng.uniform() < 0.3
    second_skirt, spread = rng.uniform() < 0.3, np.radians(rng.uniform(22, 45))
    drop, neck = (0.02 if back else depth), shoulder * 0.6
    strap_top = 0.12 if sleeves == "straps" else 0.0
    panels: list[Panel] = []
    if sleeves == "straps":
        line = np.array([(bust * 0.9, top + strap_top + 0.01), (0, top + strap_top + 0.03), (-bust * 0.9, top + strap_top + 0.01)])
        upper = [(bust, top + strap_top), (bust, top + strap_top + 0.08), (waist, waist_y)]
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * bust * 0.8, top + strap_top + 0.02), (sign * bust * 0.62, top)]), "trim", 1.0, 0.022))
    else:
        line = _neckline(neck, top, drop, v_neck and not back)
        upper = [(shoulder, top + 0.025), (shoulder * 0.93, top + 0.1), (bust, top + 0.14), (waist, waist_y)]
        panels.append(Panel(np.array([(neck, top), (-neck, top), (-neck * 0.8, top + depth), (neck * 0.8, top + depth)]), "inside", 0.55))
    direction = np.array([np.sin(spread), np.cos(spread)])
    start = np.array([shoulder - 0.01, top + 0.06])
    end = start + direction * (0.11 if sleeves == "short" else 0.33)
    if sleeves in ("short", "long"):
        for sign in (1, -1):
            panels.append(Panel(np.array([start * (sign, 1), end * (sign, 1)]), "fabric", 0.92, 0.075))
            panels.append(Panel(np.array([end - direction * 0.015, end]) * (sign, 1), "trim", 1.0, 0.078))
    skirt_side = [(waist, waist_y), (waist + (hem - waist) * 0.55, waist_y + (bottom - waist_y) * 0.45), (hem, bottom - 0.01), (hem, bottom)]
    t = np.linspace(1, -1, 41)[1:-1]
    hem_line = np.stack([t * hem, bottom + 0.03 * (1 - t**2) + (0.014 * np.abs(np.sin(t * 9)) if scallop else 0)], 1)
    skirt = np.concatenate([skirt_side, hem_line, _mirror(skirt_side)])
    panels.append(Panel(_round_corners(skirt, 1), "second" if second_skirt else "fabric", 0.97))
    for i in range(bands):
        y = bottom - 0.035 - 0.06 * i
        x = _x_at(np.array(skirt_side), y)
        panels.append(Panel(np.array([(x, y), (0, y + 0.03), (-x, y)]) if not scallop else np.array([(x, y), (-x, y)]), "trim", 1.0, 0.02))
    panels.append(Panel(_round_corners(np.concatenate([line, upper, _mirror(upper)]), 1)))
    printed = len(panels) - 1
    if belt:
        panels.append(Panel(np.array([(waist + 0.004, waist_y), (-waist - 0.004, waist_y)]), "trim", 1.0, 0.034))
        if not back:
            panels.append(Panel(_ellipse(0, waist_y, 0.024, 0.02), "accent"))
    if collar and sleeves != "straps":
        panels.append(Panel(line, "accent", 1.0, 0.022))
    seams = [np.array([(-_x_at(np.array(skirt_side), y), y), (0, y + 0.02), (_x_at(np.array(skirt_side), y), y)]) for y in np.linspace(waist_y, bottom, tiers + 2)[1:-1]]
    seams += [np.array([(0, top + drop), (0, waist_y + 0.1)])] if back else []
    body = Body(neck_y=top, hips_y=0.6, hip_width=0.11, arm=((shoulder - 0.01, top + 0.06), tuple(end if sleeves in ("short", "long") else (shoulder + 0.05, top + 0.25))), legs_bare=True)
    return Shape(panels, printed, (0, top + 0.21 if sleeves != "straps" else top + 0.23), 0.088, seams, body=body)


def _skirt(rng: np.random.Generator, category: str, back: bool) -> Shape:
    waist, hem, bottom = rng.uniform(0.15, 0.19), rng.uniform(0.24, 0.42), rng.uniform(0.62, 0.9)
    pleats, band_y, bands = int(rng.integers(0, 8)), 0.2, int(rng.integers(0, 3))
    bow, pockets, slit = rng.uniform() < 0.4, rng.uniform() < 0.4, rng.uniform() < 0.4
    t = np.linspace(1, -1, 41)
    ripple = 0.012 * np.cos(t * np.pi * max(pleats, 2))
    hem_line = np.stack([t * hem, bottom + 0.05 * (1 - t**2) + ripple], 1)
    side = [(waist, band_y), (waist + (hem - waist) * 0.6, band_y + (bottom - band_y) * 0.4)]
    panels = [Panel(np.concatenate([side, hem_line, _mirror(side)]))]
    for i in range(bands):
        y = 0.04 + 0.07 * i
        panels.append(Panel((hem_line - (0, y)) * (1 - y * 0.35, 1), "trim", 1.0, 0.024))
    panels.append(Panel(np.array([(waist, band_y - 0.045), (waist + 0.006, band_y + 0.012), (0, band_y + 0.025), (-waist - 0.006, band_y + 0.012), (-waist, band_y - 0.045), (0, band_y - 0.035)]), "second"))
    if bow and not back:
        for sign in (1, -1):
            panels.append(Panel(np.array([(0, band_y), (sign * 0.075, band_y - 0.035), (sign * 0.075, band_y + 0.045)]), "accent"))
    if back:
        panels.append(Panel(np.array([(0, band_y - 0.03), (0, band_y + 0.16)]), "dark", 1.0, 0.01))
    elif pockets:
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * waist * 0.95, band_y + 0.06), (sign * waist * 0.55, band_y + 0.09), (sign * waist * 0.5, band_y + 0.17)]), "trim", 1.0, 0.012))
    xs = np.linspace(-0.9, 0.9, pleats) if pleats else []
    seams = [np.array([(x * waist, band_y + 0.03), (x * hem, bottom - 0.01)]) for x in xs]
    seams += [np.array([(hem * 0.4, bottom - 0.2), (hem * 0.45, bottom + 0.03)])] if slit else []
    body = Body(hips_y=band_y - 0.02, hip_width=waist * 0.9, top_covered=False, legs_bare=True)
    return Shape(panels, 0, (0, band_y + (bottom - band_y) * 0.55), 0.13, seams, body=body)


def _trousers(rng: np.random.Generator, category: str, back: bool) -> Shape:
    short = category == "shorts"
    waist, top = rng.uniform(0.15, 0.18) * (1.3 if short else 1), 0.2 if short else 0.06
    bottom = rng.uniform(0.58, 0.75) if short else rng.uniform(0.88, 0.96)
    hip, crotch = waist * rng.uniform(1.12, 1.25), top + (0.26 if short else rng.uniform(0.25, 0.3))
    foot_mid, foot = (rng.uniform(0.16, 0.2), rng.uniform(0.12, 0.16)) if short else (rng.uniform(0.12, 0.19), rng.uniform(0.05, 0.11))
    stripe, cuffs, drawstring, patch = rng.uniform() < 0.4, rng.uniform() < 0.5, rng.uniform() < 0.5, rng.uniform() < 0.35
    cargo, bib = rng.uniform() < 0.35, rng.uniform() < 0.2
    leg = np.array([(0.0, top), (waist, top), (hip, (top + crotch) / 2), (foot_mid + foot, bottom - 0.005), (foot_mid + foot, bottom), (foot_mid - foot, bottom), (foot_mid - foot, bottom - 0.005), (0.0, crotch), (-0.005, top)])
    panels = [Panel(_round_corners(leg * (sign, 1), 1), "fabric", 1.0 if sign > 0 else 0.97) for sign in (1, -1)]
    printed = 0
    if stripe:
        for sign in (1, -1):
            panels.append(Panel(np.array([(waist * 0.93, top), (hip * 0.93, (top + crotch) / 2), (foot_mid + foot * 0.8, bottom)]) * (sign, 1), "trim", 1.0, 0.026))
    if cuffs:
        for sign in (1, -1):
            panels.append(Panel(np.array([(foot_mid - foot - 0.003, bottom - 0.045), (foot_mid + foot + 0.003, bottom - 0.045), (foot_mid + foot + 0.003, bottom), (foot_mid - foot - 0.003, bottom)]) * (sign, 1), "second"))
    if bib:
        low, high = top + 0.01, top - (0.16 if short else 0.05)
        panels.append(Panel(np.array([(-waist * 0.6, low), (-waist * 0.5, high), (waist * 0.5, high), (waist * 0.6, low)]), "second" if back else "fabric"))
    panels.append(Panel(np.array([(-waist - 0.003, top - 0.02), (waist + 0.003, top - 0.02), (waist + 0.005, top + 0.028), (-waist - 0.005, top + 0.028)]), "second" if drawstring else "base", 0.9))
    seams = [np.array([(0, top + 0.03), (0, crotch)])]
    if back:
        for sign in (1, -1):
            x, y = sign * waist * 0.55, top + 0.07
            panels.append(Panel(np.array([(x - 0.05, y), (x + 0.05, y), (x + 0.05, y + 0.09), (x, y + 0.11), (x - 0.05, y + 0.09)]), "second" if patch else "fabric", 0.88))
    else:
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * waist * 0.55, top + 0.03), (sign * waist * 0.7, top + 0.09), (sign * hip * 0.95, top + 0.13)]), "dark", 1.0, 0.006))
        if drawstring:
            for sign in (1, -1):
                panels.append(Panel(np.array([(sign * 0.012, top), (sign * 0.035, top + 0.11)]), "trim", 1.0, 0.012))
        if cargo:
            y = (crotch + bottom) / 2 - (0.02 if short else 0.08)
            x = (hip + foot_mid + foot) / 2 - 0.03
            for sign in (1, -1):
                panels.append(Panel(np.array([(x - 0.08, y), (x + 0.02, y), (x + 0.02, y + 0.1), (x - 0.08, y + 0.1)]) * (sign, 1), "second"))
    body = Body(hips_y=top, hip_width=waist * 0.85, top_covered=False, legs_bare=True)
    at = ((foot_mid + 0.02, crotch + 0.09) if short else (foot_mid - 0.01, crotch + 0.13))
    return Shape(panels, printed, at, 0.085 if short else 0.075, seams, np.array([(0, top + 0.004)]), 0.012, body=body)


def _bag(rng: np.random.Generator, category: str, back: bool) -> Shape:
    top_w, low_w = rng.uniform(0.2, 0.38), rng.uniform(0.25, 0.4)
    top, bottom = rng.uniform(0.36, 0.48), rng.uniform(0.78, 0.92)
    handle, flap, pocket, band = str(rng.choice(["tote", "single", "strap"])), rng.uniform() < 0.45, rng.uniform() < 0.4, rng.uniform() < 0.5
    round_ = int(rng.integers(1, 4))
    rise, spread, width = rng.uniform(0.2, 0.32), rng.uniform(0.35, 0.65), rng.uniform(0.025, 0.045)
    panels: list[Panel] = []
    t = np.linspace(0, np.pi, 30)
    if handle == "tote":
        panels.append(Panel(np.stack([top_w * spread * np.cos(t), top + 0.02 - rise * 0.85 * np.sin(t)], 1), "trim", 0.7, width))
    arc = np.stack([top_w * (spread if handle == "tote" else 0.95 if handle == "strap" else 0.7) * np.cos(t), top + 0.03 - rise * (1.15 if handle == "strap" else 1) * np.sin(t)], 1)
    panels.append(Panel(arc, "trim", 1.0, width * (0.7 if handle == "strap" else 1)))
    outline = np.array([(-top_w, top), (0, top), (top_w, top), (low_w, bottom), (0, bottom), (-low_w, bottom)])
    panels.append(Panel(_round_corners(outline, round_)))
    printed = len(panels) - 1
    mid = top + (bottom - top) * 0.42
    if band:
        panels.append(Panel(_round_corners(np.array([(-low_w + 0.004, bottom - 0.09), (low_w - 0.004, bottom - 0.09), (low_w * 0.97, bottom - 0.005), (-low_w * 0.97, bottom - 0.005)]), 1), "second"))
    buttons = np.zeros((0, 2))
    if flap and not back:
        panels.append(Panel(_round_corners(np.array([(-top_w * 1.01, top - 0.004), (top_w * 1.01, top - 0.004), (top_w * 0.9, mid - 0.06), (0, mid + 0.0), (-top_w * 0.9, mid - 0.06)]), 1), "second"))
        panels.append(Panel(_ellipse(0, mid - 0.035, 0.026, 0.026), "metal"))
    elif not flap:
        panels.append(Panel(np.array([(-top_w * 0.96, top + 0.03), (top_w * 0.96, top + 0.03)]), "trim", 1.0, 0.018))
    if back or pocket:
        w = low_w * 0.5
        panels += [Panel(np.array([(-w, bottom - 0.2), (w, bottom - 0.2), (w * 0.94, bottom - 0.04), (-w * 0.94, bottom - 0.04)]), "fabric" if not back else "base", 0.88)] if back else []
    y = (mid + bottom) / 2 + 0.01 if flap else (top + bottom) / 2
    return Shape(panels, printed, (0, y - (0.02 if band else 0)), 0.115 if flap else 0.15, [], buttons, surface="stiff")


def _bottle(rng: np.random.Generator, category: str, back: bool) -> Shape:
    body, neck = rng.uniform(0.13, 0.22), rng.uniform(0.05, 0.085)
    shoulder_y, neck_y = rng.uniform(0.26, 0.42), rng.uniform(0.14, 0.2)
    pinch, cap_h, foot = rng.uniform(0.8, 1.1), rng.uniform(0.05, 0.11), rng.uniform(0.85, 1.0)
    handle, bands, pump = rng.uniform() < 0.25, int(rng.integers(0, 3)), rng.uniform() < 0.3
    side = [(neck, neck_y), (neck, neck_y + 0.04), (body, shoulder_y), (body * pinch, (shoulder_y + 0.95) / 2), (body, 0.88), (body * foot, 0.95), (body * foot, 0.955)]
    panels: list[Panel] = []
    if handle:
        t = np.linspace(-np.pi / 2, np.pi / 2, 20)
        panels.append(Panel(np.stack([body * 0.9 + 0.09 * np.cos(t), shoulder_y + 0.16 + 0.13 * np.sin(t)], 1), "trim", 0.9, 0.04))
    panels.append(Panel(_round_corners(np.concatenate([side, _mirror(side)]), 2)))
    printed = len(panels) - 1
    if pump:
        panels.append(Panel(np.array([(0, neck_y), (0, neck_y - 0.09), (-0.11, neck_y - 0.085)]), "trim", 0.85, 0.026))
    panels.append(Panel(_round_corners(np.array([(-neck * 1.15, neck_y - cap_h), (neck * 1.15, neck_y - cap_h), (neck * 1.2, neck_y + 0.012), (-neck * 1.2, neck_y + 0.012)]), 1), "trim"))
    for i in range(bands):
        y = 0.9 - 0.04 * i
        panels.append(Panel(np.array([(-body * 0.99, y), (body * 0.99, y)]), "second" if i else "accent", 1.0, 0.02))
    if back:
        for y in np.linspace(0.55, 0.7, 6):
            panels.append(Panel(np.array([(-body * 0.5, y), (body * 0.5, y)]), "dark", 1.0, 0.006))
        panels.append(Panel(np.array([(-body * 0.4, 0.73), (body * 0.4, 0.73), (body * 0.4, 0.8), (-body * 0.4, 0.8)]), "metal"))
    return Shape(panels, printed, (0, shoulder_y + 0.22 if not back else shoulder_y + 0.06), body * (0.8 if not back else 0.35), surface="round")


def _carton(rng: np.random.Generator, category: str, back: bool) -> Shape:
    width, depth = rng.uniform(0.19, 0.3), rng.uniform(0.06, 0.12)
    top, bottom, gable = rng.uniform(0.22, 0.4), 0.95, rng.uniform() < 0.6
    slope, split, corner, cap = rng.uniform(0.03, 0.06), rng.uniform(0.66, 0.85), rng.uniform() < 0.4, rng.uniform() < 0.6
    left, right = -width, width - depth
    front = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    side = np.array([(right, top), (right + depth, top - slope), (right + depth, bottom - slope), (right, bottom)])
    panels = [Panel(side, "second", 0.72)]
    if gable:
        ridge = top - 0.13
        panels += [Panel(np.array([(right, top), (right + depth, top - slope), (right + depth * 0.5, ridge - slope * 0.4)]), "base", 0.66), Panel(np.array([(left, top), (right, top), (right + depth * 0.4, ridge), (left + depth * 0.4, ridge)]), "trim", 0.95),
                   Panel(np.array([(left + depth * 0.4, ridge), (right + depth * 0.5, ridge), (right + depth * 0.5, ridge - 0.045), (left + depth * 0.4, ridge - 0.045)]), "base", 0.9)]  # fmt: skip
        if cap:
            panels.append(Panel(_ellipse((left + right) / 2 + 0.02, (top + ridge) / 2, 0.05, 0.038), "accent"))
    else:
        panels.append(Panel(np.array([(left, top), (right, top), (right + depth, top - slope), (left + depth, top - slope)]), "base", 1.1))
    panels.append(Panel(front))
    printed = len(panels) - 1
    y = top + (bottom - top) * split
    panels.append(Panel(np.array([(left, y), (right, y - (0.05 if corner else 0)), (right, bottom), (left, bottom)]), "second"))
    x = (left + right) / 2
    if back:
        for line in np.linspace(y + 0.02, bottom - 0.04, 5):
            panels.append(Panel(np.array([(left + 0.04, line), (right - 0.04, line)]), "trim", 1.0, 0.007))
    else:
        panels.append(Panel(np.array([(x - 0.1, y + 0.06), (x + 0.1, y + 0.06)]), "trim", 1.0, 0.03))
    return Shape(panels, printed, (x, top + (y - top) * 0.5), min((y - top) * 0.42, (right - left) * 0.42) * (0.6 if back else 1), surface="stiff")


def _shoe(rng: np.random.Generator, category: str, back: bool) -> Shape:
    sole, boot = rng.uniform(0.04, 0.1), rng.uniform() < 0.35
    collar_y = rng.uniform(0.12, 0.22) if boot else rng.uniform(0.32, 0.4)
    toe, tongue, heel = rng.uniform(0.12, 0.17), rng.uniform(0.03, 0.07), rng.uniform(0, 0.05)
    toe_cap, heel_patch, strap, laces, wedge = rng.uniform() < 0.6, rng.uniform() < 0.6, rng.uniform() < 0.3, int(rng.integers(3, 6)), rng.uniform(0, 0.05)
    base = 0.72
    upper = np.array([(-0.43, base), (-0.43, collar_y + 0.03), (-0.4, collar_y), (-0.19, collar_y + 0.02), (-0.15 + tongue, collar_y - 0.02), (-0.02, collar_y + (0.24 if boot else 0.1)), (0.16, base - toe - 0.07), (0.36, base - toe), (0.45, base - 0.06), (0.44, base)])
    panels = [Panel(_round_corners(upper, 2))]
    if toe_cap:
        panels.append(Panel(_round_corners(np.array([(0.25, base), (0.27, base - toe * 0.98), (0.36, base - toe), (0.45, base - 0.06), (0.44, base)]), 1), "second"))
    if heel_patch:
        panels.append(Panel(_round_corners(np.array([(-0.432, base), (-0.432, collar_y + 0.1), (-0.33, collar_y + 0.16), (-0.28, base)]), 1), "second"))
    panels.append(Panel(_round_corners(np.array([(-0.45, base - 0.012), (0.3, base - 0.012), (0.46, base - 0.04), (0.47, base), (0.44, base + sole), (-0.44, base + sole + heel), (-0.455, base)]), 1), "trim"))
    panels.append(Panel(np.array([(-0.44, base + sole * 0.55 + wedge * 0.3), (0.445, base + sole * 0.5)]), "accent", 1.0, 0.016))
    a, b = np.array([-0.11, collar_y + 0.07]), np.array([0.13, base - toe - 0.075])
    for t in np.linspace(0.1, 0.9, laces):
        p = a + (b - a) * t
        panels.append(Panel(np.array([p + (0.03, -0.01), p + (-0.045, 0.06)]), "trim", 1.0, 0.018))
    if strap:
        panels.append(Panel(np.array([(0.1, base - 0.2), (-0.2, base - 0.06)]), "accent", 1.0, 0.05))
    flip = -1 if back else 1
    panels = [Panel(panel.outline * (flip, 1), panel.paint, panel.tone, panel.width) for panel in panels]
    return Shape(panels, 0, (flip * -0.08, base - 0.13), 0.085 if not back else 0.05, [], surface="stiff")


def _hat(rng: np.random.Generator, category: str, back: bool) -> Shape:
    kind = str(rng.choice(["cap", "beanie", "bucket"]))
    width, dome, brim = rng.uniform(0.27, 0.34), rng.uniform(0.26, 0.34), rng.uniform(0.1, 0.16)
    band, knob, ribs = rng.uniform() < 0.6, rng.uniform() < 0.7, int(rng.integers(0, 3))
    low = 0.62
    t = np.linspace(np.pi, 0, 30)
    crown = np.stack([width * np.cos(t), low - dome * np.sin(t) ** 0.8], 1)
    crown = np.concatenate([crown, [(width * 0.98, low + 0.04), (0, low + 0.07), (-width * 0.98, low + 0.04)]])
    panels, seams = [], []
    if knob:
        r = 0.075 if kind == "beanie" else 0.022
        panels.append(Panel(_ellipse(0, low - dome - r * 0.4, r, r), "accent"))
    if kind == "bucket":
        crown = np.array([(-width * 0.75, low - dome), (width * 0.75, low - dome), (width * 0.95, low + 0.03), (0, low + 0.06), (-width * 0.95, low + 0.03)])
        panels.append(Panel(_round_corners(np.array([(-width, low), (width, low), (width * 1.35, low + brim * 1.2), (0, low + brim * 1.75), (-width * 1.35, low + brim * 1.2)]), 2), "second", 0.85))
        panels.append(Panel(_round_corners(crown, 2)))
    else:
        panels.append(Panel(crown))
    printed = len(panels) - 1
    if kind == "cap":
        seams = [np.stack([x * width * np.cos(np.linspace(np.pi / 2, 0, 12)), low + 0.05 - (dome + 0.05) * np.sin(np.linspace(np.pi / 2, 0, 12))], 1) for x in ((-0.55, 0.55) if ribs else (-0.3, 0.3))]
        if back:
            panels.append(Panel(_ellipse(0, low + 0.02, width * 0.4, 0.09), "dark"))
            panels.append(Panel(np.array([(-width * 0.42, low + 0.055), (width * 0.42, low + 0.055)]), "second", 1.0, 0.04))
        else:
            panels.append(Panel(_round_corners(np.array([(-width * 0.95, low + 0.03), (0, low - 0.005), (width * 0.95, low + 0.03), (width * 1.02, low + brim), (0, low + brim * 1.7), (-width * 1.02, low + brim)]), 2), "second"))
    elif kind == "beanie":
        panels.append(Panel(_round_corners(np.array([(-width * 1.03, low - 0.03), (0, low), (width * 1.03, low - 0.03), (width * 1.03, low + brim * 0.8), (0, low + brim * 0.8 + 0.03), (-width * 1.03, low + brim * 0.8)]), 1), "second"))
        seams = [np.array([(x * width, low), (x * width, low + brim * 0.75)]) for x in np.linspace(-0.9, 0.9, 9 + 4 * ribs)]
    elif band:
        panels.append(Panel(np.array([(-width * 0.93, low), (0, low + 0.035), (width * 0.93, low)]), "trim", 1.0, 0.045))
    return Shape(panels, printed, (0, low - dome * 0.42), dome * (0.36 if not back else 0.25), seams, body=Body(head_only_y=low))


def _mug(rng: np.random.Generator, category: str, back: bool) -> Shape:
    top_w, low_w = rng.uniform(0.2, 0.29), rng.uniform(0.17, 0.27)
    top, bottom = rng.uniform(0.2, 0.32), rng.uniform(0.78, 0.86)
    band, rim, foot, square = rng.uniform() < 0.4, rng.uniform() < 0.6, rng.uniform() < 0.4, rng.uniform() < 0.4
    reach = rng.uniform(0.12, 0.16)
    middle = (top_w + low_w) / 2
    t = np.linspace(-np.pi / 2, np.pi / 2, 20)
    bow = np.stack([middle - 0.02 + reach * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (0.4 if square else 1), (top + bottom) / 2 - 0.02 + (bottom - top) * 0.3 * np.sin(t)], 1)
    t = np.linspace(0, np.pi, 30)
    low_arc = np.stack([low_w * np.cos(t), bottom + 0.045 * np.sin(t)], 1)
    sign = -1 if back else 1
    panels = [Panel((bow - (0.06, 0)) * (sign, 1), "second", 0.95, 0.05), Panel(np.concatenate([[(top_w, top)], low_arc, [(-top_w, top)]]) - (sign * 0.06, 0))]
    x = -sign * 0.06
    if band:
        y = bottom - 0.07
        w = _x_at(np.array([(top_w, top), (low_w, bottom)]), y)
        panels.append(Panel(np.stack([x + w * np.cos(t), y + 0.045 * np.sin(t)], 1), "accent", 1.0, 0.045))
    if foot:
        panels.append(Panel(low_arc * (0.98, 1) + (x, -0.008), "trim", 1.0, 0.02))
    panels.append(Panel(_ellipse(x, top, top_w, 0.05), "trim" if rim else "second"))
    panels.append(Panel(_ellipse(x, top + 0.004, top_w * 0.93, 0.041), "dark", 1.3))
    return Shape(panels, 1, (x, (top + bottom) / 2 + 0.03), min(0.15, middle * 0.62) * (0.6 if back else 1), surface="round")


def _neckline(half_width: float, top: float, depth: float, v: bool) -> np.ndarray:
    """From left to right, down and up again."""
    t = np.linspace(-1, 1, 17)
    fall = 1 - np.abs(t) if v else np.sqrt(1 - t**2)
    return np.stack([t * half_width, top + depth * fall], axis=1)


def _mirror(right_side: list[tuple[float, float]]) -> np.ndarray:
    return np.array(right_side)[::-1] * (-1, 1)


def _ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def _round_corners(outline: np.ndarray, times: int = 2) -> np.ndarray:
    """Chaikin's corner cutting of a closed outline; a short cut, so that the form stays."""
    for _ in range(times):
        after, before = np.roll(outline, -1, axis=0), np.roll(outline, 1, axis=0)
        outline = np.stack([outline * 0.82 + before * 0.18, outline * 0.82 + after * 0.18], axis=1).reshape(-1, 2)
    return outline


def _x_at(side: np.ndarray, y: float) -> float:
    return float(np.interp(y, side[:, 1], side[:, 0]))


CATEGORIES: dict[str, Callable[[np.random.Generator, str, bool], Shape]] = {
    "T-shirt": _top, "long-sleeve": _top, "vest": _top, "jacket": _top, "dress": _dress, "skirt": _skirt, "trousers": _trousers, "shorts": _trousers,
    "bag": _bag, "bottle": _bottle, "carton": _carton, "shoe": _shoe, "hat": _hat, "mug": _mug,
}  # fmt: skip
