"""Training batches: one aspect group each, products mixed, and nothing but seed and step decides."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.batches import EmbedderBatches, choose_rows, jitter_box
from shared.config import Config
from shared.frames import write_jpeg

tables = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=60).map(
    lambda rows: np.array(rows).T
)


@given(tables, st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_rows_are_of_one_group_and_none_twice_before_all_came(table, batch_size, per_product, seed):
    classes, groups = table
    rows = choose_rows(np.random.default_rng(seed), classes, groups, batch_size, per_product)
    assert rows.shape == (batch_size,)
    assert len(set(groups[rows])) == 1
    there = int((groups == groups[rows[0]]).sum())
    counts = Counter(rows.tolist())
    assert max(counts.values()) - (min(counts.values()) if len(counts) == there else 0) <= 1
    assert len(counts) == min(batch_size, there)


@given(tables, st.integers(1, 5), st.integers(0, 1000))
def test_products_come_by_turns_of_per_product_rows(table, per_product, seed):
    classes, groups = table
    groups = np.zeros_like(groups)
    rows = choose_rows(np.random.default_rng(seed), classes, groups, len(classes), per_product)
    left, place = Counter(classes.tolist()), 0
    while left:  # each turn takes up to per_product rows of every product that has some left, side by side
        seen = []
        for _ in range(len(left)):
            product = classes[rows[place]]
            n = min(per_product, left[product])
            assert (classes[rows[place : place + n]] == product).all()
            seen.append(int(product))
            place += n
        assert sorted(seen) == sorted(left)
        left = Counter({product: n - per_product for product, n in left.items() if n > per_product})


def test_a_batch_has_several_rows_of_a_product():
    classes = np.repeat(np.arange(20), 10)
    rows = choose_rows(np.random.default_rng(0), classes, np.zeros(200, int), 16, 4)
    assert sorted(Counter(classes[rows].tolist()).values()) == [4, 4, 4, 4]


def test_groups_are_drawn_in_proportion_to_their_sizes():
    groups = np.repeat([0, 1], [30, 10])
    rng = np.random.default_rng(0)
    share = np.mean([groups[choose_rows(rng, np.arange(40), groups, 1, 4)[0]] == 0 for _ in range(1000)])
    assert share == pytest.approx(0.75, abs=0.05)


def test_every_row_comes_in_time():
    rng, classes, groups = np.random.default_rng(0), np.arange(50) % 9, np.arange(50) % 3
    assert len(set(np.concatenate([choose_rows(rng, classes, groups, 8, 2) for _ in range(100)]))) == 50


@given(st.floats(0, 0.4), st.integers(0, 1000))
def test_jitter_moves_each_side_by_at_most_its_share(share, seed):
    moved = jitter_box(np.array([10.0, 20.0, 50.0, 100.0]), share, np.random.default_rng(seed)) - [10, 20, 50, 100]
    assert (np.abs(moved) <= np.array([40, 80, 40, 80]) * share + 1e-9).all()


def test_jitter_uses_its_whole_range():
    rng = np.random.default_rng(0)
    moved = np.array([jitter_box(np.array([0.0, 0.0, 1.0, 1.0]), 0.1, rng) - [0, 0, 1, 1] for _ in range(2000)])
    assert moved.min(axis=0) == pytest.approx([-0.1] * 4, abs=0.005) and moved.max(axis=0) == pytest.approx(
        [0.1] * 4, abs=0.005
    )


def changed(config, **keys):
    """The config with other values of embed_train; augmentation off where not named."""
    tree = config.model_dump()
    tree["embed_train"]["augment"] = dict.fromkeys(tree["embed_train"]["augment"], 0.0) | keys.pop("augment", {})
    tree["embed_train"].update(keys)
    return Config.model_validate(tree)


@pytest.fixture
def crops(tmp_path):
    """Thirty crops of five products, each filled with a grey that names its product; tall, square and wide."""
    rows = []
    for k in range(30):
        height, width = [(96, 40), (60, 60), (40, 96)][k % 3]
        write_jpeg(tmp_path / f"{k}.jpg", np.full((height, width, 3), 40 * (k % 5) + 20, np.uint8))
        rows.append((100 + 10 * (k % 5), str(tmp_path / f"{k}.jpg"), 2.0, 2.0, width - 2.0, height - 2.0))
    return pd.DataFrame(rows, columns=["product", "crop", "x1", "y1", "x2", "y2"])


def test_crops_have_their_products_class_and_their_groups_size(crops, tiny_config):
    batches = EmbedderBatches(crops, changed(tiny_config, scales=[1.0, 0.5]), tiny_config.embedders[0])
    assert batches.n_classes == 5 and batches.steps_per_epoch == 30 // 4 and len(batches) == 7
    shapes = set()
    for step in range(len(batches)):
        images, classes = batches[step]
        assert (
            images.dtype == torch.float32
            and classes.dtype == torch.int64
            and images.shape[:2] == (4, 3)
            and classes.shape == (4,)
        )
        greys = images.mean(dim=(1, 2, 3)) * 255
        assert greys.tolist() == pytest.approx(
            (40 * classes + 20).tolist(), abs=2
        )  # classes are numbered by rising product
        height, width = images.shape[2:]
        side = 64 if step % 2 == 0 else 32  # scales take turns
        assert abs(height * width - side**2) <= 0.5 * side**2 and height % 16 == width % 16 == 0
        shapes.add((height > width) - (height < width))
    assert len(shapes) > 1


def test_a_batch_depends_on_seed_and_step_alone(crops, tiny_config):
    config = changed(tiny_config, augment=dict.fromkeys(tiny_config.embed_train.augment.model_dump(), 0.5))
    model = tiny_config.embedders[0]
    batches = EmbedderBatches(crops, config, model)
    torch.manual_seed(0)
    first = [batches[step] for step in range(5)]
    torch.manual_seed(99)
    for step in (4, 1):
        again = EmbedderBatches(crops, config, model)[step]
        assert torch.equal(again[0], first[step][0]) and torch.equal(again[1], first[step][1])
    assert any(first[0][0].shape != other[0].shape or not torch.equal(first[0][0], other[0]) for other in first[1:])
    elsewhere = [
        EmbedderBatches(crops, config, model.model_copy(update={"seed": 7}))[step][1].tolist() for step in range(5)
    ]
    assert elsewhere != [classes.tolist() for _, classes in first]


def test_few_crops_still_make_a_step(crops, tiny_config):
    batches = EmbedderBatches(crops.iloc[:2], changed(tiny_config), tiny_config.embedders[0])
    assert batches.steps_per_epoch == 1 and batches[0][0].shape[0] == 4


def test_every_crop_has_a_jitter_of_its_own(tmp_path, tiny_config):
    write_jpeg(tmp_path / "ramp.jpg", np.tile(np.arange(96, dtype=np.uint8)[None, :, None] * 2, (96, 1, 3)))
    crops = pd.DataFrame(
        [(7, str(tmp_path / "ramp.jpg"), 30.0, 30.0, 60.0, 60.0)] * 4,
        columns=["product", "crop", "x1", "y1", "x2", "y2"],
    )
    means = {
        share: EmbedderBatches(crops, changed(tiny_config, augment={"box_jitter": share}), tiny_config.embedders[0])[0][
            0
        ].mean(dim=(1, 2, 3))
        for share in (0.0, 0.2)
    }
    assert (means[0.0] * 255).tolist() == pytest.approx([2 * 44.5] * 4, abs=2)  # columns 30 to 59
    assert len(set(means[0.2].tolist())) == 4
