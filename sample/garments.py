"""The forms of what is worn: tops, dresses, skirts, trousers, hats. Their parameters are drawn first, so that front and back agree."""

import numpy as np

from sample.outlines import Body, Panel, Shape, ellipse, mirror, round_corners, x_at


def draw_top(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A T-shirt, long-sleeve, vest or jacket: neckline, collar, sleeves, and a pocket, buttons or a zip in front."""
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
    torso = np.concatenate([collar_line, side, [(0, bottom + hem_curve)], mirror(side)])
    panels = [Panel(round_corners(np.array([(neck, top), (neck * 0.7, top - 0.012), (-neck * 0.7, top - 0.012), (-neck, top),
        (-neck * 0.8, top + depth), (neck * 0.8, top + depth)])), "inside", 0.55)]
    if collar == "hood" and not back:
        panels.append(Panel(ellipse(0, top - 0.005, neck * 1.35, 0.075), "fabric", 0.72))
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
            panels.append(Panel(round_corners(sleeve_outline * (sign, 1), 1), "second" if raglan else "fabric", 0.93))
            if cuffs:
                panels.append(Panel(cuff * (sign, 1), "trim"))
        end = centre_end
    panels.append(Panel(round_corners(torso, 1)))
    printed = len(panels) - 1
    if hem_band:
        panels.append(Panel(np.array([(hem + 0.002, bottom - 0.04), (hem + 0.002, bottom), (0, bottom + hem_curve), (-hem - 0.002, bottom),
            (-hem - 0.002, bottom - 0.04), (0, bottom - 0.04 + hem_curve)]), "trim"))
    seams = [np.array(side)[1 if category == "vest" else 0:3] * (sign, 1) for sign in (1, -1)] if sleeve else []
    buttons = np.zeros((0, 2))
    if back:
        seams += [np.array([(-shoulder, top + 0.12), (0, top + 0.135), (shoulder, top + 0.12)])] if yoke else []
        seams += [np.array([(0, top + 0.14), (0, bottom - 0.02)])] if back_seam else []
        if collar == "hood":
            panels.append(Panel(round_corners(np.array([(-neck * 1.5, top + 0.0), (neck * 1.5, top + 0.0), (neck * 1.3, top + 0.13), (0, top + 0.2),
                (-neck * 1.3, top + 0.13)])), "fabric", 0.9))
        else:
            panels.append(Panel(np.array([(-0.02, top + 0.03), (0.02, top + 0.03), (0.02, top + 0.055), (-0.02, top + 0.055)]), "trim"))
    elif front == "pocket":
        x, y = pocket_side * chest * 0.45, top + 0.2
        panels.append(Panel(np.array([(x - 0.045, y), (x + 0.045, y), (x + 0.045, y + 0.08), (x, y + 0.1), (x - 0.045, y + 0.08)]), "second"))
    elif front == "pouch":
        y = bottom - 0.21
        panels.append(Panel(np.array([(-0.075, y), (0.075, y), (0.125, y + 0.08), (0.125, y + 0.14), (-0.125, y + 0.14),
            (-0.125, y + 0.08)]), "fabric", 0.9))
    elif front in ("placket", "buttons"):
        low = top + drop + 0.16 if front == "placket" else bottom + hem_curve
        panels.append(Panel(np.array([(-0.018, top + drop - 0.004), (0.018, top + drop - 0.004), (0.018, low),
            (-0.018, low)]), "trim" if jacket else "base"))
        buttons = np.stack([np.zeros(6), np.linspace(top + drop + 0.03, low - 0.03, 6)], 1)[:: 1 if front == "buttons" else 2]
    elif front == "zip":
        panels.append(Panel(np.array([(0, top + drop), (0, bottom + hem_curve)]), "dark", 1.0, 0.016))
        panels.append(Panel(np.array([(0, top + drop), (0, bottom + hem_curve)]), "metal", 1.0, 0.007))
    if collar == "band" or (collar == "polo" and back):
        panels.append(Panel(collar_line, "trim", 1.0, 0.026))
    elif collar == "polo":
        for sign in (1, -1):
            panels.append(Panel(np.array([(neck, top - 0.012), (0.005, top + drop), (neck * 0.62, top + drop + 0.06),
                (neck + 0.045, top + 0.03)]) * (sign, 1), "trim"))
    elif collar == "hood" and not back:
        panels.append(Panel(collar_line, "fabric", 0.85, 0.05))
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * neck * 0.4, top + drop), (sign * neck * 0.45, top + drop + 0.13)]), "trim", 1.0, 0.01))
    body = Body(neck_y=top, hips_y=bottom - 0.03, hip_width=min(hem, 0.19) * 0.85, arm=((shoulder - 0.02, top + 0.06),
        tuple(end if sleeve else (shoulder + 0.09, top + 0.3))))
    return Shape(panels, printed, (0, top + (0.3 if not back else 0.34)), 0.135, seams, buttons, 0.013, body=body)


def draw_dress(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A dress: bodice and skirt, with or without sleeves, belt, bands and tiers."""
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
    skirt = np.concatenate([skirt_side, hem_line, mirror(skirt_side)])
    panels.append(Panel(round_corners(skirt, 1), "second" if second_skirt else "fabric", 0.97))
    for i in range(bands):
        y = bottom - 0.035 - 0.06 * i
        x = x_at(np.array(skirt_side), y)
        panels.append(Panel(np.array([(x, y), (0, y + 0.03), (-x, y)]) if not scallop else np.array([(x, y), (-x, y)]), "trim", 1.0, 0.02, True))
    panels.append(Panel(round_corners(np.concatenate([line, upper, mirror(upper)]), 1)))
    printed = len(panels) - 1
    if belt:
        panels.append(Panel(np.array([(waist + 0.004, waist_y), (-waist - 0.004, waist_y)]), "trim", 1.0, 0.034))
        if not back:
            panels.append(Panel(ellipse(0, waist_y, 0.024, 0.02), "accent"))
    if collar and sleeves != "straps":
        panels.append(Panel(line, "accent", 1.0, 0.022))
    seams = [np.array([(-x_at(np.array(skirt_side), y), y), (0, y + 0.02), (x_at(np.array(skirt_side), y), y)]) for y in np.linspace(waist_y, bottom,
        tiers + 2)[1:-1]]
    seams += [np.array([(0, top + drop), (0, waist_y + 0.1)])] if back else []
    body = Body(neck_y=top, hips_y=0.6, hip_width=0.11, arm=((shoulder - 0.01, top + 0.06), tuple(end if sleeves in ("short",
        "long") else (shoulder + 0.05, top + 0.25))), legs_bare=True)
    return Shape(panels, printed, (0, top + 0.21 if sleeves != "straps" else top + 0.23), 0.088, seams, body=body)


def draw_skirt(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A skirt: waistband, pleats, bands, a bow or pockets in front, a zip behind."""
    waist, hem, bottom = rng.uniform(0.15, 0.19), rng.uniform(0.24, 0.42), rng.uniform(0.62, 0.9)
    pleats, band_y, bands = int(rng.integers(0, 8)), 0.2, int(rng.integers(0, 3))
    bow, pockets, slit = rng.uniform() < 0.4, rng.uniform() < 0.4, rng.uniform() < 0.4
    t = np.linspace(1, -1, 41)
    ripple = 0.012 * np.cos(t * np.pi * max(pleats, 2))
    hem_line = np.stack([t * hem, bottom + 0.05 * (1 - t**2) + ripple], 1)
    side = [(waist, band_y), (waist + (hem - waist) * 0.6, band_y + (bottom - band_y) * 0.4)]
    panels = [Panel(np.concatenate([side, hem_line, mirror(side)]))]
    for i in range(bands):
        y = 0.04 + 0.07 * i
        panels.append(Panel((hem_line - (0, y)) * (1 - y * 0.35, 1), "trim", 1.0, 0.024, True))
    panels.append(Panel(np.array([(waist, band_y - 0.045), (waist + 0.006, band_y + 0.012), (0, band_y + 0.025), (-waist - 0.006, band_y + 0.012),
        (-waist, band_y - 0.045), (0, band_y - 0.035)]), "second"))
    if bow and not back:
        for sign in (1, -1):
            panels.append(Panel(np.array([(0, band_y), (sign * 0.075, band_y - 0.035), (sign * 0.075, band_y + 0.045)]), "accent"))
    if back:
        panels.append(Panel(np.array([(0, band_y - 0.03), (0, band_y + 0.16)]), "dark", 1.0, 0.01))
    elif pockets:
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * waist * 0.95, band_y + 0.06), (sign * waist * 0.55, band_y + 0.09),
                (sign * waist * 0.5, band_y + 0.17)]), "trim", 1.0, 0.012))
    xs = np.linspace(-0.9, 0.9, pleats) if pleats else []
    seams = [np.array([(x * waist, band_y + 0.03), (x * hem, bottom - 0.01)]) for x in xs]
    seams += [np.array([(hem * 0.4, bottom - 0.2), (hem * 0.45, bottom + 0.03)])] if slit else []
    body = Body(hips_y=band_y - 0.02, hip_width=waist * 0.9, legs_bare=True)
    return Shape(panels, 0, (0, band_y + (bottom - band_y) * 0.55), 0.13, seams, body=body)


def draw_trousers(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """Trousers or shorts: cut of the legs, stripes, cuffs, drawstring, pockets."""
    short = category == "shorts"
    waist, top = rng.uniform(0.15, 0.18) * (1.3 if short else 1), 0.2 if short else 0.06
    bottom = rng.uniform(0.58, 0.75) if short else rng.uniform(0.88, 0.96)
    hip, crotch = waist * rng.uniform(1.12, 1.25), top + (0.26 if short else rng.uniform(0.25, 0.3))
    foot_mid, foot = (rng.uniform(0.16, 0.2), rng.uniform(0.12, 0.16)) if short else (rng.uniform(0.12, 0.19), rng.uniform(0.05, 0.11))
    stripe, cuffs, drawstring, patch = rng.uniform() < 0.4, rng.uniform() < 0.5, rng.uniform() < 0.5, rng.uniform() < 0.35
    cargo = rng.uniform() < 0.35
    leg = np.array([(0.0, top), (waist, top), (hip, (top + crotch) / 2), (foot_mid + foot, bottom - 0.005), (foot_mid + foot, bottom),
        (foot_mid - foot, bottom), (foot_mid - foot, bottom - 0.005), (0.0, crotch), (-0.005, top)])
    panels = [Panel(round_corners(leg * (sign, 1), 1), "fabric", 1.0 if sign > 0 else 0.97) for sign in (1, -1)]
    printed = 0
    if stripe:
        for sign in (1, -1):
            panels.append(Panel(np.array([(waist * 0.93, top), (hip * 0.93, (top + crotch) / 2),
                (foot_mid + foot * 0.8, bottom)]) * (sign, 1), "trim", 1.0, 0.026, True))
    if cuffs:
        for sign in (1, -1):
            panels.append(Panel(np.array([(foot_mid - foot - 0.003, bottom - 0.045), (foot_mid + foot + 0.003, bottom - 0.045),
                (foot_mid + foot + 0.003, bottom), (foot_mid - foot - 0.003, bottom)]) * (sign, 1), "second"))
    panels.append(Panel(np.array([(-waist - 0.003, top - 0.02), (waist + 0.003, top - 0.02), (waist + 0.005, top + 0.028),
        (-waist - 0.005, top + 0.028)]), "second" if drawstring else "base", 0.9))
    seams = [np.array([(0, top + 0.03), (0, crotch)])]
    if back:
        for sign in (1, -1):
            x, y = sign * waist * 0.55, top + 0.07
            panels.append(Panel(np.array([(x - 0.05, y), (x + 0.05, y), (x + 0.05, y + 0.09), (x, y + 0.11),
                (x - 0.05, y + 0.09)]), "second" if patch else "fabric", 0.88))
    else:
        for sign in (1, -1):
            panels.append(Panel(np.array([(sign * waist * 0.55, top + 0.03), (sign * waist * 0.7, top + 0.09),
                (sign * hip * 0.95, top + 0.13)]), "dark", 1.0, 0.006))
        if drawstring:
            for sign in (1, -1):
                panels.append(Panel(np.array([(sign * 0.012, top), (sign * 0.035, top + 0.11)]), "trim", 1.0, 0.012))
        if cargo:
            y = (crotch + bottom) / 2 - (0.02 if short else 0.08)
            x = (hip + foot_mid + foot) / 2 - 0.03
            for sign in (1, -1):
                panels.append(Panel(np.array([(x - 0.08, y), (x + 0.02, y), (x + 0.02, y + 0.1), (x - 0.08, y + 0.1)]) * (sign, 1), "second"))
    body = Body(hips_y=top, hip_width=waist * 0.85, legs_bare=True)
    at = ((foot_mid + 0.02, crotch + 0.09) if short else (foot_mid - 0.01, crotch + 0.13))
    return Shape(panels, printed, at, 0.1 if short else 0.09, seams, np.array([(0, top + 0.004)]), 0.012, body=body)


def draw_hat(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A cap, a beanie or a bucket hat."""
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
        panels.append(Panel(ellipse(0, low - dome - r * 0.4, r, r), "accent"))
    if kind == "bucket":
        crown = np.array([(-width * 0.75, low - dome), (width * 0.75, low - dome), (width * 0.95, low + 0.03), (0, low + 0.06),
            (-width * 0.95, low + 0.03)])
        panels.append(Panel(round_corners(np.array([(-width, low), (width, low), (width * 1.35, low + brim * 1.2), (0, low + brim * 1.75),
            (-width * 1.35, low + brim * 1.2)]), 2), "second", 0.85))
        panels.append(Panel(round_corners(crown, 2)))
    else:
        panels.append(Panel(crown))
    printed = len(panels) - 1
    if kind == "cap":
        seams = [np.stack([x * width * np.cos(np.linspace(np.pi / 2, 0, 12)), low + 0.05 - (dome + 0.05) * np.sin(np.linspace(np.pi / 2, 0, 12))],
            1) for x in ((-0.55, 0.55) if ribs else (-0.3, 0.3))]
        if back:
            panels.append(Panel(ellipse(0, low + 0.02, width * 0.4, 0.09), "dark"))
            panels.append(Panel(np.array([(-width * 0.42, low + 0.055), (width * 0.42, low + 0.055)]), "second", 1.0, 0.04))
        else:
            panels.append(Panel(round_corners(np.array([(-width * 0.95, low + 0.03), (0, low - 0.005), (width * 0.95, low + 0.03),
                (width * 1.02, low + brim), (0, low + brim * 1.7), (-width * 1.02, low + brim)]), 2), "second"))
    elif kind == "beanie":
        panels.append(Panel(round_corners(np.array([(-width * 1.03, low - 0.03), (0, low), (width * 1.03, low - 0.03),
            (width * 1.03, low + brim * 0.8), (0, low + brim * 0.8 + 0.03), (-width * 1.03, low + brim * 0.8)]), 1), "second"))
        seams = [np.array([(x * width, low), (x * width, low + brim * 0.75)]) for x in np.linspace(-0.9, 0.9, 9 + 4 * ribs)]
    elif band:
        panels.append(Panel(np.array([(-width * 0.93, low), (0, low + 0.035), (width * 0.93, low)]), "trim", 1.0, 0.045))
    return Shape(panels, printed, (0, low - dome * 0.42), dome * (0.36 if not back else 0.25), seams, body=Body(head_only_y=low, head_width=width))


def _neckline(half_width: float, top: float, depth: float, v: bool) -> np.ndarray:
    """From left to right, down and up again."""
    t = np.linspace(-1, 1, 17)
    fall = 1 - np.abs(t) if v else np.sqrt(1 - t**2)
    return np.stack([t * half_width, top + depth * fall], axis=1)
