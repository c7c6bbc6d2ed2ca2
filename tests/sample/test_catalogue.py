"""The plan: parts, ids, kinds, and what siblings share."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from sample.catalogue import Item, plan_items
from sample.colours import COLOURS, draw_scheme
from sample.difficulty import Difficulty

DIFFICULTY = Difficulty()
ITEMS = plan_items(400, 5, DIFFICULTY)
CATALOGUE = [item for item in ITEMS if item.item_id]


def families() -> dict[int, list[Item]]:
    members = defaultdict(list)
    for item in CATALOGUE:
        members[item.family].append(item)
    return members


def test_parts_have_their_shares():
    assert Counter(item.part for item in CATALOGUE) == {"train": 280, "validation": 40, "test": 80}


def test_kinds_have_their_shares():
    kinds = Counter(item.kind for item in ITEMS)
    shown = sum(bool(item.video_id) for item in CATALOGUE)
    assert set(kinds) == {"plain", "colour-sibling", "print-sibling", "texture-sibling", "D", "N"}
    assert kinds["D"] == 42 + 6 + 12  # 15 % of each part
    assert kinds["N"] == 24 + 3 + 7  # a tenth of the videos of each part
    assert 0.2 < kinds["plain"] / shown < 0.4


def test_ids_are_six_digits_and_meet_nowhere():
    ids = [item.item_id or item.video_id for item in ITEMS]
    assert len(set(ids)) == len(ids) == len({item.number for item in ITEMS})
    assert all(len(text) == 6 and text.isdigit() for text in ids)
    assert all(item.video_id in ("", item.item_id) for item in CATALOGUE)


def test_instance_id_follows_watch_and_buy():
    assert {item.instance_id for item in CATALOGUE if item.item_id == "070012"} == {27001201}
    assert {item.instance_id for item in ITEMS if not item.item_id} == {0}


def test_a_family_stays_in_one_part():
    assert all(len({item.part for item in members}) == 1 for members in families().values())


@pytest.mark.parametrize("kind", ["colour-sibling", "print-sibling", "texture-sibling"])
def test_siblings_share_what_they_must_and_differ_in_what_they_must(kind):
    seen = 0
    for members in families().values():
        if kind not in {item.kind for item in members}:
            continue
        seen += 1
        products = [item.product for item in members]
        n = len(products)
        assert n >= 2
        assert len({(product.category, product.shape_seed) for product in products}) == 1
        colours = len({product.scheme for product in products})
        prints = len({product.print.kind if product.print else None for product in products})
        textures = len({product.texture.kind for product in products})
        assert (colours, prints, textures) == {
            "colour-sibling": (n, 1, 1),
            "print-sibling": (1, n, 1),
            "texture-sibling": (1, 1, n),
        }[kind]
    assert seen > 5


def test_plain_items_are_alone():
    assert all(len(members) == 1 for members in families().values() if "plain" in {item.kind for item in members})


def test_colour_siblings_have_different_main_colours():
    for members in families().values():
        if "colour-sibling" in {item.kind for item in members}:
            assert len({item.product.scheme.base for item in members}) == len(members)


def test_a_video_without_item_shows_no_catalogue_product_as_its_own():
    known = {item.product for item in CATALOGUE}
    assert all(item.product not in known for item in ITEMS if item.kind == "N")
    assert {item.product is None for item in ITEMS if item.kind == "N"} == {True, False}


def test_the_plan_depends_on_the_seed_alone():
    assert plan_items(30, 1, DIFFICULTY) == plan_items(30, 1, DIFFICULTY)
    assert plan_items(30, 1, DIFFICULTY) != plan_items(30, 2, DIFFICULTY)


def test_a_scheme_is_of_four_colours_that_differ():
    for seed in range(20):
        scheme = draw_scheme(np.random.default_rng(seed))
        names = {scheme.base, scheme.second, scheme.accent, scheme.trim}
        assert len(names) == 4 <= len(names & set(COLOURS))
