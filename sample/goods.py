"""The forms of what is not worn: bags, bottles, cartons, shoes, mugs. Their parameters are drawn first, so that front and back agree."""

import numpy as np

from sample.outlines import Panel, Shape, ellipse, mirror, round_corners, x_at


def draw_bag(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A bag: tote, handbag or shoulder bag, with or without flap; a pocket behind."""
    top_w, low_w = rng.uniform(0.2, 0.38), rng.uniform(0.25, 0.4)
    top, bottom = rng.uniform(0.36, 0.48), rng.uniform(0.78, 0.92)
    handle, flap, pocket, band = str(rng.choice(["tote", "single", "strap"])), rng.uniform() < 0.45, rng.uniform() < 0.4, rng.uniform() < 0.5
    round_ = int(rng.integers(1, 4))
    rise, spread, width = rng.uniform(0.2, 0.32), rng.uniform(0.35, 0.65), rng.uniform(0.025, 0.045)
    panels: list[Panel] = []
    t = np.linspace(0, np.pi, 30)
    if handle == "tote":
        panels.append(Panel(np.stack([top_w * spread * np.cos(t), top + 0.02 - rise * 0.85 * np.sin(t)], 1), "trim", 0.7, width))
    arc = np.stack([top_w * (spread if handle == "tote" else 0.95 if handle == "strap" else 0.7) * np.cos(t),
        top + 0.03 - rise * (1.15 if handle == "strap" else 1) * np.sin(t)], 1)
    panels.append(Panel(arc, "trim", 1.0, width * (0.7 if handle == "strap" else 1)))
    outline = np.array([(-top_w, top), (0, top), (top_w, top), (low_w, bottom), (0, bottom), (-low_w, bottom)])
    panels.append(Panel(round_corners(outline, round_)))
    printed = len(panels) - 1
    mid = top + (bottom - top) * 0.42
    if band:
        panels.append(Panel(round_corners(np.array([(-low_w + 0.004, bottom - 0.09), (low_w - 0.004, bottom - 0.09), (low_w * 0.97, bottom - 0.005),
            (-low_w * 0.97, bottom - 0.005)]), 1), "second"))
    buttons = np.zeros((0, 2))
    if flap and not back:
        panels.append(Panel(round_corners(np.array([(-top_w * 1.01, top - 0.004), (top_w * 1.01, top - 0.004), (top_w * 0.9, mid - 0.06),
            (0, mid + 0.0), (-top_w * 0.9, mid - 0.06)]), 1), "second"))
        panels.append(Panel(ellipse(0, mid - 0.035, 0.026, 0.026), "metal"))
    elif not flap:
        panels.append(Panel(np.array([(-top_w, top + 0.03), (top_w, top + 0.03)]), "trim", 1.0, 0.018, True))
    if back or pocket:
        w = low_w * 0.5
        panels += [Panel(np.array([(-w, bottom - 0.2), (w, bottom - 0.2), (w * 0.94, bottom - 0.04),
            (-w * 0.94, bottom - 0.04)]), "fabric" if not back else "base", 0.88)] if back else []
    y = (mid + bottom) / 2 + 0.01 if flap else (top + bottom) / 2
    return Shape(panels, printed, (0, y - (0.02 if band else 0)), 0.115 if flap else 0.15, [], buttons, surface="stiff")


def draw_bottle(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A bottle: its profile, cap or pump, handle, bands; small print behind."""
    body, neck = rng.uniform(0.13, 0.22), rng.uniform(0.05, 0.085)
    shoulder_y, neck_y = rng.uniform(0.26, 0.42), rng.uniform(0.14, 0.2)
    pinch, cap_h, foot = rng.uniform(0.8, 1.1), rng.uniform(0.05, 0.11), rng.uniform(0.85, 1.0)
    handle, bands, pump = rng.uniform() < 0.25, int(rng.integers(0, 3)), rng.uniform() < 0.3
    side = [(neck, neck_y), (neck, neck_y + 0.04), (body, shoulder_y), (body * pinch, (shoulder_y + 0.95) / 2), (body, 0.88), (body * foot, 0.95),
        (body * foot, 0.955)]
    panels: list[Panel] = []
    if handle:
        t = np.linspace(-np.pi / 2, np.pi / 2, 20)
        panels.append(Panel(np.stack([body * 0.9 + 0.09 * np.cos(t), shoulder_y + 0.16 + 0.13 * np.sin(t)], 1), "trim", 0.9, 0.04))
    panels.append(Panel(round_corners(np.concatenate([side, mirror(side)]), 2)))
    printed = len(panels) - 1
    if pump:
        panels.append(Panel(np.array([(0, neck_y), (0, neck_y - 0.09), (-0.11, neck_y - 0.085)]), "trim", 0.85, 0.026))
    panels.append(Panel(round_corners(np.array([(-neck * 1.15, neck_y - cap_h), (neck * 1.15, neck_y - cap_h), (neck * 1.2, neck_y + 0.012),
        (-neck * 1.2, neck_y + 0.012)]), 1), "trim"))
    for i in range(bands):
        y = 0.9 - 0.04 * i
        panels.append(Panel(np.array([(-body * 0.99, y), (body * 0.99, y)]), "second" if i else "accent", 1.0, 0.02, True))
    if back:
        for y in np.linspace(0.55, 0.7, 6):
            panels.append(Panel(np.array([(-body * 0.5, y), (body * 0.5, y)]), "dark", 1.0, 0.006))
        panels.append(Panel(np.array([(-body * 0.4, 0.73), (body * 0.4, 0.73), (body * 0.4, 0.8), (-body * 0.4, 0.8)]), "metal"))
    return Shape(panels, printed, (0, shoulder_y + 0.22 if not back else shoulder_y + 0.06), body * (0.8 if not back else 0.35), surface="round")


def draw_carton(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A box or a gable-top carton that shows its front and one side."""
    width, depth = rng.uniform(0.19, 0.3), rng.uniform(0.06, 0.12)
    top, bottom, gable = rng.uniform(0.22, 0.4), 0.95, rng.uniform() < 0.6
    slope, split, corner, cap = rng.uniform(0.03, 0.06), rng.uniform(0.66, 0.85), rng.uniform() < 0.4, rng.uniform() < 0.6
    left, right = -width, width - depth
    front = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    side = np.array([(right, top), (right + depth, top - slope), (right + depth, bottom - slope), (right, bottom)])
    panels = [Panel(side, "second", 0.72)]
    if gable:
        ridge = top - 0.13
        panels += [Panel(np.array([(right, top), (right + depth, top - slope), (right + depth * 0.5, ridge - slope * 0.4)]), "base", 0.66),
            Panel(np.array([(left, top), (right, top), (right + depth * 0.4, ridge), (left + depth * 0.4, ridge)]), "trim", 0.95),
                   Panel(np.array([(left + depth * 0.4, ridge), (right + depth * 0.5, ridge), (right + depth * 0.5, ridge - 0.045),
                       (left + depth * 0.4, ridge - 0.045)]), "base", 0.9)]  # fmt: skip
        if cap:
            panels.append(Panel(ellipse((left + right) / 2 + 0.02, (top + ridge) / 2, 0.05, 0.038), "accent"))
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


def draw_shoe(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A shoe or boot from the side; its back view is the other side."""
    sole, boot = rng.uniform(0.04, 0.1), rng.uniform() < 0.35
    collar_y = rng.uniform(0.12, 0.22) if boot else rng.uniform(0.32, 0.4)
    toe, tongue, heel = rng.uniform(0.12, 0.17), rng.uniform(0.03, 0.07), rng.uniform(0, 0.05)
    toe_cap, heel_patch, strap, laces, wedge = rng.uniform() < 0.6, rng.uniform() < 0.6, rng.uniform() < 0.3, int(rng.integers(3, 6)), rng.uniform(0, 0.05)
    base = 0.72
    upper = np.array([(-0.43, base), (-0.43, collar_y + 0.03), (-0.4, collar_y), (-0.19, collar_y + 0.02), (-0.15 + tongue, collar_y - 0.02),
        (-0.02, collar_y + (0.24 if boot else 0.1)), (0.16, base - toe - 0.07), (0.36, base - toe), (0.45, base - 0.06), (0.44, base)])
    panels = [Panel(round_corners(upper, 2))]
    if toe_cap:
        panels.append(Panel(round_corners(np.array([(0.25, base), (0.27, base - toe * 0.98), (0.36, base - toe), (0.45, base - 0.06),
            (0.44, base)]), 1), "second"))
    if heel_patch:
        panels.append(Panel(round_corners(np.array([(-0.432, base), (-0.432, collar_y + 0.1), (-0.33, collar_y + 0.16), (-0.28, base)]), 1), "second"))
    panels.append(Panel(round_corners(np.array([(-0.45, base - 0.012), (0.3, base - 0.012), (0.46, base - 0.04), (0.47, base), (0.44, base + sole),
        (-0.44, base + sole + heel), (-0.455, base)]), 1), "trim"))
    panels.append(Panel(np.array([(-0.44, base + sole * 0.55 + wedge * 0.3), (0.445, base + sole * 0.5)]), "accent", 1.0, 0.016))
    a, b = np.array([-0.11, collar_y + 0.07]), np.array([0.13, base - toe - 0.075])
    for t in np.linspace(0.1, 0.9, laces):
        p = a + (b - a) * t
        panels.append(Panel(np.array([p + (0.03, -0.01), p + (-0.045, 0.06)]), "trim", 1.0, 0.018))
    if strap:
        panels.append(Panel(np.array([(0.1, base - 0.2), (-0.2, base - 0.06)]), "accent", 1.0, 0.05, True))
    flip = -1 if back else 1
    panels = [Panel(panel.outline * (flip, 1), panel.paint, panel.tone, panel.width, panel.clipped) for panel in panels]
    return Shape(panels, 0, (flip * -0.08, base - 0.13), 0.085 if not back else 0.05, [], surface="stiff")


def draw_mug(rng: np.random.Generator, category: str, back: bool) -> Shape:
    """A mug; its back view has the handle on the other side."""
    top_w, low_w = rng.uniform(0.2, 0.29), rng.uniform(0.17, 0.27)
    top, bottom = rng.uniform(0.2, 0.32), rng.uniform(0.78, 0.86)
    band, rim, foot, square = rng.uniform() < 0.4, rng.uniform() < 0.6, rng.uniform() < 0.4, rng.uniform() < 0.4
    reach = rng.uniform(0.12, 0.16)
    middle = (top_w + low_w) / 2
    t = np.linspace(-np.pi / 2, np.pi / 2, 20)
    bow = np.stack([middle - 0.02 + reach * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (0.4 if square else 1),
        (top + bottom) / 2 - 0.02 + (bottom - top) * 0.3 * np.sin(t)], 1)
    t = np.linspace(0, np.pi, 30)
    low_arc = np.stack([low_w * np.cos(t), bottom + 0.045 * np.sin(t)], 1)
    sign = -1 if back else 1
    panels = [Panel((bow - (0.06, 0)) * (sign, 1), "second", 0.95, 0.05), Panel(np.concatenate([[(top_w, top)],
        low_arc, [(-top_w, top)]]) - (sign * 0.06, 0))]
    x = -sign * 0.06
    if band:
        y = bottom - 0.07
        w = x_at(np.array([(top_w, top), (low_w, bottom)]), y)
        panels.append(Panel(np.stack([x + w * np.cos(t), y + 0.045 * np.sin(t)], 1), "accent", 1.0, 0.045, True))
    if foot:
        panels.append(Panel(low_arc * (0.98, 1) + (x, -0.008), "trim", 1.0, 0.02, True))
    panels.append(Panel(ellipse(x, top, top_w, 0.05), "trim" if rim else "second"))
    panels.append(Panel(ellipse(x, top + 0.004, top_w * 0.93, 0.041), "dark", 1.3))
    return Shape(panels, 1, (x, (top + bottom) / 2 + 0.03), min(0.15, middle * 0.62) * (0.6 if back else 1), surface="round")
