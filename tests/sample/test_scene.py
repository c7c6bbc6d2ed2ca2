"""Boxes against pixels: a product is painted in two loud colours, and where the frames differ, there it is seen."""

from dataclasses import replace

import numpy as np
import pytest

from sample.catalogue import plan_items
from sample.difficulty import Difficulty
from sample.photos import photo_scenes
from sample.products import BACK, FRONT, Sprite, draw_product
from sample.scene import Layer, Scene, annotations, render
from sample.videos import video_scene

# Everything happens in every video, and no product is too little seen to be labelled.
BUSY = replace(
    Difficulty(),
    hand=1.0,
    banner=1.0,
    absent=1.0,
    replaced=1.0,
    turned_round=1.0,
    distractors=(3, 3),
    smallest_visible=0.0,
)
ITEMS = [item for item in plan_items(40, 2, BUSY) if item.item_id]
N_FRAMES = 40


def painted(sprite: Sprite, colour: tuple[int, int, int]) -> Sprite:
    """The same cut-out with the product, not the body, in one colour."""
    own, alpha = sprite.own[..., None] / 255, sprite.rgba[..., 3:] / 255
    body = 1 - np.divide(own, alpha, out=np.zeros_like(own), where=alpha > 0).clip(0, 1)  # of what covers the pixel
    rgb = sprite.rgba[..., :3] * body + np.array(colour) * own  # colours are premultiplied by alpha
    return Sprite(np.dstack([rgb.round().astype(np.uint8), sprite.rgba[..., 3]]), sprite.own)


def seen_box(scene: Scene, number: int, index: int) -> tuple[list[int] | None, int]:
    """The box of the pixels of which layer `number` gives at least half, and their count, found from rendered frames alone."""
    neutral = replace(
        scene,
        light=np.tile(np.arange(256, dtype=np.uint8), (scene.n_frames, 3, 1)),
        light_map=np.full_like(scene.light_map, 128),
        blurs=np.ones_like(scene.blurs),
    )
    frames = []
    for colour in ((255, 0, 255), (0, 255, 0)):
        layers = list(neutral.layers)
        layers[number] = replace(
            layers[number], sprites=tuple(painted(sprite, colour) for sprite in layers[number].sprites)
        )
        frames.append(render(replace(neutral, layers=tuple(layers)), index).astype(int))
    y, x = np.nonzero(np.abs(frames[0] - frames[1]).max(axis=2) >= 128)
    return ([int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1] if len(x) else None), len(x)


def check_boxes(scene: Scene, index: int) -> int:
    """Every labelled layer's box is the seen one, to a pixel of rounding; gives the number of boxes."""
    found = annotations(scene, index)
    labelled = [number for number, layer in enumerate(scene.layers) if layer.label is not None]
    expected = []
    for number in labelled:
        box, count = seen_box(scene, number, index)
        if box is not None and min(box[2] - box[0], box[3] - box[1]) > 6 and count > 60:
            expected.append((scene.layers[number].label, box))
    slivers = len(found) - len(expected)  # what is seen by a few pixels only may be labelled or not
    assert 0 <= slivers <= len(labelled) - len(expected)
    for label, box in expected:
        assert any(a["label"] == label and np.abs(np.subtract(a["box"], box)).max() <= 1 for a in found), (
            label,
            box,
            found,
        )
    for annotation in found:
        x1, y1, x2, y2 = annotation["box"]
        assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height
    return len(found)


@pytest.mark.parametrize("item", ITEMS[:12], ids=lambda item: item.name)
def test_boxes_of_frames_are_exact(item):
    scene = video_scene(np.random.default_rng(item.number), item.product, item.extras, item.instance_id, N_FRAMES, BUSY)
    assert sum(check_boxes(scene, index) for index in (0, 13, 26, 39)) > 0


@pytest.mark.parametrize("item", ITEMS[12:18], ids=lambda item: item.name)
def test_boxes_of_photos_are_exact(item):
    sprites = [draw_product(item.product, view, 400) for view in (FRONT, BACK)]
    scenes = photo_scenes(np.random.default_rng(item.number), item.product, item.instance_id, *sprites, BUSY)
    assert 2 <= len(scenes) <= 4
    assert [check_boxes(scene, 0) for scene in scenes] == [1] * len(scenes)
    assert all(400 <= scene.width <= 480 and 400 <= scene.height <= 560 for scene in scenes)
    assert [annotations(scene, 0)[0]["instance_id"] for scene in scenes] == [item.instance_id] * len(scenes)


def square_scene(x: int, y: int, smallest_visible: float, cover: np.ndarray | None = None) -> Scene:
    """An opaque square of 40 pixels at (x, y) in a frame of 100 x 80; `cover`: a banner at the upper left."""
    sprite = Sprite(np.full((40, 40, 4), 255, np.uint8), np.full((40, 40), 255, np.uint8))
    layer = Layer(
        (sprite,),
        np.array([0]),
        np.array([[(1, 0, x), (0, 1, y), (0, 0, 1)]], float),
        np.array([True]),
        "bag",
        27000101,
    )
    light = np.tile(np.arange(256, dtype=np.uint8), (1, 3, 1))
    banners = () if cover is None else ((0, 0, cover),)
    return Scene(
        100,
        80,
        np.zeros((80, 100, 4), np.uint8),
        np.array([[(1, 0, 0), (0, 1, 0)]], float),
        (layer,),
        light,
        np.full((80, 100, 3), 128, np.uint8),
        np.ones((1, 2), int),
        banners,
        smallest_visible,
    )


OPAQUE, GLASS = np.full((20, 100, 4), 255, np.uint8), np.full((20, 100, 4), 100, np.uint8)


@pytest.mark.parametrize(("x", "y", "smallest", "cover", "box"), [
    (30, 20, 0.1, None, [30, 20, 70, 60]),  # whole
    (80, 60, 0.1, None, [80, 60, 100, 80]),  # cut by two edges: a quarter is left
    (80, 60, 0.3, None, None),  # which is less than three tenths
    (-20, 20, 0.1, None, [0, 20, 20, 60]),
    (30, 0, 0.1, OPAQUE, [30, 20, 70, 40]),  # half under the banner
    (30, 0, 0.1, GLASS, [30, 0, 70, 40]),  # seen through it
    (30, -20, 0.1, OPAQUE, None),  # nothing left
    (200, 20, 0.0, None, None),
])  # fmt: skip
def test_box_of_a_square(x, y, smallest, cover, box):
    found = annotations(square_scene(x, y, smallest, cover), 0)
    assert [annotation["box"] for annotation in found] == ([box] if box else [])


def test_layers_hide_what_is_behind_them():
    scene = square_scene(30, 20, 0.0)
    front = replace(
        scene.layers[0], homographies=np.array([[(1, 0, 30), (0, 1, 30), (0, 0, 1)]], float), label="hat", instance_id=0
    )
    found = annotations(replace(scene, layers=(*scene.layers, front)), 0)
    assert [(a["label"], a["box"], a["instance_id"]) for a in found] == [
        ("bag", [30, 20, 70, 30], 27000101),
        ("hat", [30, 30, 70, 70], 0),
    ]


def test_absence_leaves_frames_without_the_product():
    away = replace(BUSY, absent_length=(0.5, 0.5), smallest_visible=0.1)
    item = ITEMS[0]
    ids = []
    for seed in range(3):
        scene = video_scene(np.random.default_rng(seed), item.product, item.extras, item.instance_id, N_FRAMES, away)
        ids.append(
            [item.instance_id in {a["instance_id"] for a in annotations(scene, index)} for index in range(N_FRAMES)]
        )
    assert any(ids[0]) and not all(ids[0]) and all(any(shown) for shown in ids)


def test_a_video_without_item_has_distractors_only():
    item = ITEMS[0]
    scene = video_scene(np.random.default_rng(0), None, item.extras, 0, 10, BUSY)
    assert {a["instance_id"] for a in annotations(scene, 0)} == {0}
