"""Products as drawn: every form, texture and print; alike and unlike where they must be."""

from dataclasses import replace

import numpy as np
import pytest

from sample.colours import Scheme, rgb
from sample.prints import KINDS as PRINTS
from sample.prints import Print
from sample.products import BACK, FRONT, Product, draw_product
from sample.shapes import CATEGORIES
from sample.textures import KINDS as TEXTURES
from sample.textures import Texture, second_colour

SHIRT = Product("T-shirt", 3, Scheme("white", "navy", "red", "teal"), Texture("plain", 1), None, False)
SIZE = 128


def share_near(product: Product, colour: str) -> float:
    """The share of the front's opaque pixels that have about this colour, whatever the shade."""
    sprite = draw_product(product, FRONT, SIZE)
    pixels = sprite.rgba[sprite.own == 255][:, :3].astype(float)
    wanted = rgb(colour).astype(float)
    cosine = pixels @ wanted / np.maximum(np.linalg.norm(pixels, axis=1) * np.linalg.norm(wanted), 1)
    brightness = np.linalg.norm(pixels, axis=1) / np.linalg.norm(wanted)
    return float(((cosine > 0.985) & (np.abs(brightness - 0.95) < 0.25)).mean())


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("seed", range(6))
def test_every_form_fits_its_square_and_has_two_sides(category, seed):
    product = replace(SHIRT, category=category, shape_seed=seed)
    front, back = (draw_product(product, view, SIZE) for view in (FRONT, BACK))
    for sprite in (front, back):
        assert sprite.rgba.dtype == np.uint8 and sprite.own.shape == sprite.rgba.shape[:2]
        assert max(sprite.own.shape) <= SIZE + 4  # the margin of two pixels on each side
        assert (sprite.own >= 128).mean() > 0.2
        assert (sprite.rgba[..., :3] <= sprite.rgba[..., 3:]).all()  # premultiplied
    assert front.own.shape != back.own.shape or not np.array_equal(front.rgba, back.rgba)


def test_a_sprite_has_smooth_edges_and_no_flat_shade():
    sprite = draw_product(SHIRT, FRONT, SIZE)
    assert ((sprite.own > 0) & (sprite.own < 255)).any()
    assert len(np.unique(sprite.rgba[sprite.own == 255][:, 1])) > 20


def test_who_wears_it_is_not_part_of_the_product():
    alone, worn = draw_product(SHIRT, FRONT, SIZE), draw_product(SHIRT, FRONT, SIZE, np.random.default_rng(0))
    assert worn.rgba.shape[0] > 1.5 * alone.rgba.shape[0]
    assert abs(worn.own_box[2] - alone.own_box[2]) <= 2
    assert np.count_nonzero(worn.rgba[..., 3]) > 1.3 * np.count_nonzero(worn.own)


def test_colours_show_where_the_scheme_puts_them():
    assert share_near(SHIRT, "white") > 0.5 > 0.2 > share_near(SHIRT, "navy")
    swapped = replace(SHIRT, scheme=SHIRT.scheme.swapped())
    assert share_near(swapped, "navy") > 0.5 > 0.2 > share_near(swapped, "white")


def test_a_print_adds_its_colour():
    assert share_near(replace(SHIRT, print=Print("star", 4)), "red") > share_near(SHIRT, "red") + 0.03


@pytest.mark.parametrize("kind", [kind for kind in TEXTURES if kind != "plain"])
def test_textures_show_both_colours(kind):
    share = second_colour(Texture(kind, 7), 200)
    assert share.shape == (200, 200) and share.dtype == np.float32
    assert 0 <= share.min() < 0.1 and 0.25 < share.max() <= 1
    assert 0.04 < share.mean() < 0.9


def test_plain_shows_the_base_alone():
    assert not second_colour(Texture("plain", 7), 20).any()


@pytest.mark.parametrize("kind", PRINTS)
def test_prints_are_seen_and_differ(kind):
    plain, printed = (
        draw_product(product, FRONT, SIZE).rgba.astype(int) for product in (SHIRT, replace(SHIRT, print=Print(kind, 2)))
    )
    other = draw_product(
        replace(SHIRT, print=Print(PRINTS[(PRINTS.index(kind) + 1) % len(PRINTS)], 2)), FRONT, SIZE
    ).rgba.astype(int)
    assert 0.015 < (np.abs(printed - plain).max(axis=2) > 40).mean() < 0.25
    assert (np.abs(printed - other).max(axis=2) > 40).mean() > 0.005
