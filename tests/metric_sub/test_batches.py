"""Training batches: one aspect group each, products balanced, phases in turn, and nothing but seed and step decides."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from metric_sub.batches import EmbedderBatches, begins_of, choose_rows, choose_views, jitter_box
from shared.config import Config
from shared.errors import UserError
from shared.frames import read_picture, write_jpeg

rows_of_tables = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.booleans()), min_size=1, max_size=60)


def columns(table):
    """classes (N,), groups (N,), is_photo (N,) of rows."""
    classes, groups, is_photo = zip(*table, strict=True)
    return np.array(classes), np.array(groups), np.array(is_photo)


def chosen(seed, classes, is_photo, groups, batch_size, per_product):
    return choose_rows(np.random.default_rng(seed), classes, is_photo, groups, batch_size, per_product)


seeds, per_products = st.integers(0, 1000), st.integers(1, 5)


@given(rows_of_tables, st.integers(1, 40), per_products, seeds)
def test_a_batch_never_mixes_groups(table, batch_size, per_product, seed):
    classes, groups, is_photo = columns(table)
    rows = chosen(seed, classes, is_photo, groups, batch_size, per_product)
    assert rows.shape == (batch_size,) and len(set(groups[rows])) == 1
    views = choose_views(np.random.default_rng(seed), classes, groups, 2 * batch_size)
    assert views.shape == (2 * batch_size,) and len(set(groups[views])) == 1


@given(rows_of_tables, st.integers(2, 40), st.integers(2, 5), seeds)
def test_every_product_of_a_batch_has_a_positive_pair(table, batch_size, per_product, seed):
    classes, groups, is_photo = columns(table)
    rows = chosen(seed, classes, is_photo, groups, batch_size, per_product)
    assert min(Counter(classes[rows].tolist()).values()) >= 2


@given(rows_of_tables, st.integers(1, 40), st.integers(0, 1000))
def test_without_pairs_no_row_comes_again_before_all_came(table, batch_size, seed):
    classes, groups, is_photo = columns(table)
    rows = chosen(seed, classes, is_photo, groups, batch_size, 1)
    there = int((groups == groups[rows[0]]).sum())
    counts = Counter(rows.tolist())
    assert len(counts) == min(batch_size, there)
    assert max(counts.values()) - (min(counts.values()) if len(counts) == there else 0) <= 1


@given(rows_of_tables, st.integers(2, 5), seeds)
def test_products_come_by_turns_of_per_product_rows(table, per_product, seed):
    classes, _, is_photo = columns(table)
    left = Counter(classes.tolist())
    left = Counter({product: max(n, 2) for product, n in left.items()})  # a single row comes twice
    rows = chosen(seed, classes, is_photo, np.zeros(len(classes), int), sum(left.values()), per_product)
    assert set(rows.tolist()) == set(range(len(classes)))
    place = 0
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


@given(rows_of_tables, per_products, seeds)
def test_photos_and_frames_of_a_product_come_by_turns(table, per_product, seed):
    classes, _, is_photo = columns(table)
    rows = chosen(seed, classes, is_photo, np.zeros(len(classes), int), 2 * len(classes), per_product)
    for product in set(classes):
        mine = classes == product
        if mine.sum() < 2:
            continue
        kinds = is_photo[rows[classes[rows] == product][: mine.sum()]]
        n_paired = 2 * min(kinds.sum(), (~kinds).sum())
        assert (kinds[:n_paired:2] != kinds[1:n_paired:2]).all()  # by turns while there are both
        assert len(set(kinds[n_paired:])) <= 1


def test_which_kind_comes_first_is_drawn():
    kinds = np.tile([True, False], 5)
    first = [kinds[chosen(seed, np.zeros(10, int), kinds, np.zeros(10, int), 3, 3)[0]] for seed in range(200)]
    assert 0.4 < np.mean(first) < 0.6


def test_a_batch_by_hand():
    """Product 0: two photos, three frames. 1: a photo. 2: two frames. The end of the batch leaves a place for one more."""
    classes = np.array([0, 0, 0, 0, 0, 1, 2, 2])
    is_photo = np.array([True, True, False, False, False, True, False, False])
    for seed in range(50):
        rows = chosen(seed, classes, is_photo, np.zeros(8, int), 7, 2)
        turns = [tuple(rows[k : k + 2].tolist()) for k in (0, 2, 4)]
        assert sorted(classes[first] for first, _ in turns) == [0, 1, 2]
        assert {tuple(sorted(turn)) for turn in turns} >= {(5, 5), (6, 7)}
        mixed = next(turn for turn in turns if classes[turn[0]] == 0)
        assert is_photo[list(mixed)].sum() == 1
        assert classes[rows[6]] == 0 and rows[6] not in mixed  # the next turn begins with product 0's other rows


def test_a_place_too_few_for_a_pair_goes_to_a_product_that_has_one():
    classes = np.repeat(np.arange(4), 6)
    for seed in range(20):
        rows = chosen(seed, classes, np.zeros(24, bool), np.zeros(24, int), 9, 4)
        assert sorted(Counter(classes[rows].tolist()).values()) == [4, 5] and len(set(rows.tolist())) == 9
    rows = chosen(0, np.array([0, 0, 1, 1]), np.zeros(4, bool), np.zeros(4, int), 3, 2)
    assert rows[2] == rows[1]  # nothing else is left of that product: one row comes again


def test_a_batch_has_several_rows_of_a_product():
    classes = np.repeat(np.arange(20), 10)
    rows = chosen(0, classes, np.zeros(200, bool), np.zeros(200, int), 16, 4)
    assert sorted(Counter(classes[rows].tolist()).values()) == [4, 4, 4, 4]


def test_groups_are_drawn_in_proportion_to_their_sizes():
    groups = np.repeat([0, 1], [30, 10])
    first = [chosen(seed, np.arange(40), np.zeros(40, bool), groups, 1, 4)[0] for seed in range(1000)]
    views = [choose_views(np.random.default_rng(seed), np.arange(40), groups, 2)[0] for seed in range(1000)]
    assert np.mean(groups[first] == 0) == pytest.approx(0.75, abs=0.05)
    assert np.mean(groups[views] == 0) == pytest.approx(0.75, abs=0.05)


def test_every_row_comes_in_time():
    classes, groups, kinds = np.arange(50) % 9, np.arange(50) % 3, np.arange(50) % 2 == 0
    assert len(set(np.concatenate([chosen(seed, classes, kinds, groups, 8, 2) for seed in range(200)]))) == 50


@given(rows_of_tables, st.integers(1, 40), seeds)
def test_views_are_of_different_crops_where_there_are_enough(table, n_crops, seed):
    media, groups, _ = columns(table)
    rows = choose_views(np.random.default_rng(seed), media, groups, 2 * n_crops)
    assert rows[:n_crops].tolist() == rows[n_crops:].tolist()
    there = groups == groups[rows[0]]
    assert len(set(rows.tolist())) == min(n_crops, int(there.sum()))
    assert len(set(media[rows])) == min(n_crops, len(set(media[there])))  # and of different media


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(1, 500))
def test_phases_have_their_share_of_steps_and_one_at_least(weights, n_steps):
    shares = [weight / sum(weights) for weight in weights]
    begins = begins_of(shares, n_steps)
    assert begins[0] == 0 and begins[-1] == max(n_steps, len(shares)) and min(np.diff(begins)) >= 1
    wanted = np.cumsum(shares) * n_steps
    if min(np.diff([0, *np.round(wanted)])) >= 1:  # none had to be given a step
        assert np.abs(np.array(begins[1:]) - wanted).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("shares", "n_steps", "begins"),
    [
        ([1.0], 7, [0, 7]),
        ([0.25, 0.5, 0.25], 100, [0, 25, 75, 100]),
        ([0.3, 0.7], 5, [0, 2, 5]),  # 1.5 to the even 2
        ([0.01, 0.98, 0.01], 10, [0, 1, 9, 10]),
        ([0.98, 0.01, 0.01], 10, [0, 8, 9, 10]),
        ([0.5, 0.25, 0.25], 1, [0, 1, 2, 3]),
    ],
)
def test_phases_by_hand(shares, n_steps, begins):
    assert begins_of(shares, n_steps) == begins


@given(st.floats(0, 0.4), st.integers(0, 1000))
def test_jitter_moves_each_side_by_at_most_its_share(share, seed):
    moved = jitter_box(np.array([10.0, 20.0, 50.0, 100.0]), share, np.random.default_rng(seed)) - [10, 20, 50, 100]
    assert (np.abs(moved) <= np.array([40, 80, 40, 80]) * share + 1e-9).all()


def test_jitter_uses_its_whole_range():
    rng = np.random.default_rng(0)
    moved = np.array([jitter_box(np.array([0.0, 0.0, 1.0, 1.0]), 0.1, rng) - [0, 0, 1, 1] for _ in range(2000)])
    assert moved.min(axis=0) == pytest.approx([-0.1] * 4, abs=0.005)
    assert moved.max(axis=0) == pytest.approx([0.1] * 4, abs=0.005)


def changed(config, *phases, augment=None, **keys):
    """The config with other values of embed_train; `augment` by name, all off where not named, `phases` (share, task, augment)."""
    tree = config.model_dump()
    train = tree["embed_train"]
    off = dict.fromkeys(next(iter(train["augment"].values())), 0.0)
    train["augment"] = {name: off | on for name, on in (augment or {"off": {}}).items()}
    train["phases"] = [
        train["phases"][0] | {"share": share, "task": task, "augment": name}
        for share, task, name in phases or [(1.0, "products", next(iter(train["augment"])))]
    ]
    return Config.model_validate(tree | {"embed_train": train | keys})


COLUMNS = ["media_id", "product", "kind", "crop", "x1", "y1", "x2", "y2", "chroma"]


@pytest.fixture
def crops(tmp_path):
    """Thirty crops of five products, each filled with a grey that names its product; tall, square and wide. Every sixth is a
    photo. Six distractors, which are lighter."""
    rows = []
    for k in range(36):
        height, width = [(96, 40), (60, 60), (40, 96)][k % 3]
        grey = 40 * (k % 5) + 20 if k < 30 else 220 + 5 * (k - 30)
        write_jpeg(tmp_path / f"{k}.jpg", np.full((height, width, 3), grey, np.uint8))
        product, kind = 100 + 10 * (k % 5) if k < 30 else 0, "photo" if k % 6 == 0 else "video"
        rows.append((f"m{k}", product, kind, str(tmp_path / f"{k}.jpg"), 2.0, 2.0, width - 2.0, height - 2.0, 0.0))
    return pd.DataFrame(rows, columns=COLUMNS)


def greys(images):
    return (images.mean(dim=(1, 2, 3)) * 255).tolist()


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.classes, b.classes)


def test_crops_have_their_products_class_and_their_groups_size(crops, tiny_config):
    batches = EmbedderBatches(crops, changed(tiny_config, scales=[1.0, 0.5]), tiny_config.embedders[0])
    assert batches.n_classes == 5 and batches.steps_per_epoch == 30 // 4 and len(batches) == 7
    assert batches.classes.tolist() == [k % 5 for k in range(30)] + [-1] * 6
    shapes = set()
    for step in range(len(batches)):
        images, classes, other_classes, share = batches[step]
        assert images.dtype == torch.float32 and images.shape[:2] == (4, 3)
        assert classes.dtype == torch.int64 and classes.shape == (4,)
        assert torch.equal(other_classes, classes) and share == 1
        # classes are numbered by rising product, distractors never come
        assert greys(images) == pytest.approx((40 * classes + 20).tolist(), abs=2)
        height, width = images.shape[2:]
        side = 64 if step % 2 == 0 else 32  # scales take turns
        assert abs(height * width - side**2) <= 0.5 * side**2 and height % 16 == width % 16 == 0
        shapes.add((height > width) - (height < width))
    assert len(shapes) > 1


def test_a_batch_depends_on_seed_and_step_alone(crops, tiny_config):
    on = dict.fromkeys(next(iter(tiny_config.embed_train.augment.values())).model_dump(), 0.5)
    views = on | {"mixup": 0.0, "cutmix": 0.0}
    config = changed(tiny_config, (0.4, "views", "a"), (0.6, "products", "b"), augment={"a": views, "b": on})
    model = tiny_config.embedders[0]
    batches = EmbedderBatches(crops, config, model)
    torch.manual_seed(0)
    first = [batches[step] for step in range(len(batches))]
    torch.manual_seed(99)
    for step in (4, 1):
        assert same(EmbedderBatches(crops, config, model)[step], first[step])
    for step, batch in enumerate(DataLoader(batches, batch_size=None, sampler=range(7), num_workers=2)):
        assert same(batch, first[step]) and batch.share == first[step].share
    assert any(
        first[0].images.shape != other.images.shape or not torch.equal(first[0].images, other.images)
        for other in first[1:]
    )
    elsewhere = EmbedderBatches(crops, config, model.model_copy(update={"seed": 7}))
    assert [elsewhere[step].classes.tolist() for step in range(7)] != [batch.classes.tolist() for batch in first]


@pytest.mark.parametrize("task", ["products", "views"])
@pytest.mark.parametrize("n_processes", [2, 3])
def test_the_shares_of_processes_are_the_whole_batch(crops, tiny_config, task, n_processes):
    on = dict.fromkeys(["box_jitter", "flip", "affine", "colour", "noise", "cutout"], 0.3)
    config = changed(tiny_config, (1.0, task, "on"), augment={"on": on})
    model = tiny_config.embedders[0].model_copy(update={"batch_size": 12})
    whole = EmbedderBatches(crops, config, model)
    shares = [EmbedderBatches(crops, config, model, process, n_processes) for process in range(n_processes)]
    for step in range(len(whole)):
        expected = whole[step]
        for process, share in enumerate(shares):
            got = share[step]
            assert len(got.classes) == 12 // n_processes
            assert torch.equal(got.images, expected.images[process::n_processes])
            assert torch.equal(got.classes, expected.classes[process::n_processes])
            assert np.array_equal(share.rows_of(step), whole.rows_of(step))
            if task == "views":
                assert set(Counter(got.classes.tolist()).values()) == {2}  # both views of a crop


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_photos_get_the_scenes_of_videos_behind_them(crops, tiny_config, share):
    for row in crops[crops.kind == "photo"].itertuples():  # a dark product in the middle of white paper
        photo = read_picture(row.crop, 10_000_000)
        photo[:] = 255
        photo[20:-20, 10:-10] = 5
        write_jpeg(Path(row.crop), photo)
    batches = EmbedderBatches(
        crops, changed(tiny_config, augment={"on": {"backdrop": share}}), tiny_config.embedders[0]
    )
    scenes = {40 * k + 20 for k in range(5)} | {220 + 5 * k for k in range(1, 6)}  # row 30 is a photo
    corners = []
    for photo in np.flatnonzero(crops.kind == "photo"):
        for seed in range(20):
            image = batches.augmented(photo, (64, 64), "on", (0, 1, 2), np.random.default_rng(seed)) * 255
            corners.append(round(image[:, :3, :3].mean().item()))
            assert image[:, 31:33, 31:33].max() <= 8  # the product stays
    replaced = [corner for corner in corners if corner < 253]
    assert abs(len(replaced) / len(corners) - share) <= 0.15 * (share == 0.5)
    assert all(min(abs(scene - corner) for scene in scenes) <= 2 for corner in replaced)
    frame = np.flatnonzero(crops.kind == "video")[0]
    plain = batches.augmented(frame, (64, 64), "on", (0, 1, 2), np.random.default_rng(0)) * 255
    assert plain.mean().item() == pytest.approx(40 * (frame % 5) + 20, abs=2)


def test_distractors_on_tracks_are_products_where_they_are_wanted(crops, tiny_config):
    crops.loc[[30, 32], "product"], crops.loc[[33, 34], "product"] = -1, -2  # 31 and 35 stay distractors
    model = tiny_config.embedders[0].model_copy(update={"epochs": 10})
    without = EmbedderBatches(crops, changed(tiny_config), model)
    assert without.n_classes == 5 and without.classes.tolist() == [k % 5 for k in range(30)] + [-1] * 6
    batches = EmbedderBatches(crops, changed(tiny_config, distractor_tracks=True), model)
    assert batches.n_classes == 7 and batches.steps_per_epoch == 34 // 4
    expected = [2 + k % 5 for k in range(30)] + [1, -1, 1, 0, 0, -1]  # by rising number
    assert batches.classes.tolist() == expected
    seen = {int(row) for step in range(len(batches)) for row in batches.rows_of(step)}
    assert seen == set(range(36)) - {31, 35}


def test_a_model_may_train_in_its_own_way(crops, tiny_config):
    own = {"scales": [0.5], "per_product": 1, "phases": [changed(tiny_config).embed_train.phases[0].model_dump()]}
    tree = changed(tiny_config, (0.5, "views", "off"), (0.5, "products", "off")).model_dump()
    tree["embedders"][1]["train"] = own
    config = Config.model_validate(tree)
    first, second = (EmbedderBatches(crops, config, model) for model in config.embedders)
    assert [len(first.phase_begins), len(second.phase_begins)] == [3, 2]
    assert abs(first[0].images.shape[2] * first[0].images.shape[3] - 64**2) <= 0.5 * 64**2
    assert abs(second[0].images.shape[2] * second[0].images.shape[3] - 32**2) <= 0.5 * 32**2


def test_batches_that_cannot_be_shared_are_refused(crops, tiny_config):
    model = tiny_config.embedders[0].model_copy(update={"batch_size": 9})
    EmbedderBatches(crops, changed(tiny_config), model, 0, 3)
    with pytest.raises(UserError, match=r"embedders\.a\.batch_size: expected a multiple of 2 .* found 9"):
        EmbedderBatches(crops, changed(tiny_config), model, 0, 2)
    views = changed(tiny_config, (0.5, "views", "off"), (0.5, "products", "off"))
    with pytest.raises(UserError, match="expected a multiple of 2 .*two views"):
        EmbedderBatches(crops, views, model)
    EmbedderBatches(crops, views, model.model_copy(update={"batch_size": 8}), 0, 4)
    with pytest.raises(UserError, match="expected a multiple of 8 .* found 12"):
        EmbedderBatches(crops, views, model.model_copy(update={"batch_size": 12}), 0, 4)


def test_each_phase_has_its_steps_task_and_augmentation(crops, tiny_config):
    config = changed(
        tiny_config,
        (0.2, "views", "off"),
        (0.5, "products", "grey"),
        (0.3, "products", "off"),
        augment={"off": {}, "grey": {"cutout": 1.0}},
    )
    model = tiny_config.embedders[0].model_copy(update={"epochs": 3})
    batches = EmbedderBatches(crops, config, model)
    assert len(batches) == 21 and batches.phase_begins == [0, 4, 15, 21]  # 4.2, 14.7 and 21 of 21
    tasks = [batches.phase_of(step).task for step in range(21)]
    assert tasks == ["views"] * 4 + ["products"] * 17
    assert [batches.phase_of(step).augment for step in range(21)] == ["off"] * 4 + ["grey"] * 11 + ["off"] * 6
    flat = [all(crop.std() < 0.01 for crop in batches[step].images) for step in range(21)]
    assert flat == [True] * 4 + [False] * 11 + [True] * 6  # cut out parts are seen where they are wanted


def test_views_are_of_any_crop_and_of_equal_class(crops, tiny_config):
    config = changed(tiny_config, (1.0, "views", "on"), augment={"on": {"noise": 1.0}})
    model = tiny_config.embedders[0].model_copy(update={"epochs": 12, "batch_size": 6})
    batches, seen = EmbedderBatches(crops, config, model), set()
    for step in range(len(batches)):
        images, classes, other_classes, share = batches[step]
        assert sorted(Counter(classes.tolist()).values()) == [2, 2, 2] and set(classes.tolist()) == {0, 1, 2}
        assert torch.equal(other_classes, classes) and share == 1
        levels = greys(images)
        for k in range(6):
            for j in range(k):
                if classes[j] == classes[k]:
                    assert levels[j] == pytest.approx(levels[k], abs=2)  # one crop, each view with a noise of its own
                    assert not torch.equal(images[j], images[k])
        seen |= set(batches.rows_of(step).tolist())
    assert seen == set(range(36))  # distractors too


def test_mixed_batches_tell_both_classes_and_the_share(crops, tiny_config):
    model = tiny_config.embedders[0].model_copy(update={"batch_size": 12, "epochs": 10})
    config = changed(tiny_config, augment={"on": {"mixup": 0.5}})
    whole = EmbedderBatches(crops, config, model)
    halves = [EmbedderBatches(crops, config, model, process, 2) for process in range(2)]
    n_mixed = 0
    for step in range(len(whole)):
        images, classes, other_classes, share = whole[step]
        levels = share * (40 * classes + 20) + (1 - share) * (40 * other_classes + 20)  # greys mix as the crops do
        assert greys(images) == pytest.approx(levels.tolist(), abs=2)
        n_mixed += share < 1
        first, second = (half[step] for half in halves)
        assert first.share == second.share == share
        mine = sorted([*first.classes.tolist(), *second.classes.tolist()])
        assert mine == sorted(classes.tolist())
        for batch in (first, second):  # each mixes its own crops
            assert sorted(batch.other_classes.tolist()) == sorted(batch.classes.tolist())
    assert 0.2 < n_mixed / len(whole) < 0.8


def colour_in(image):
    """The mean of each channel, in steps of 10 of 255."""
    return (image.mean(dim=(1, 2)) * 25.5).round().int().tolist()


def test_recoloured_products_are_products_of_their_own(tmp_path, tiny_config):
    """Two colourful products and a grey one: which class stands for which order of the channels."""
    colours, rows = {100: (200, 100, 20), 110: (30, 180, 90), 120: (130, 120, 122)}, []
    for k in range(12):
        product = [100, 110, 120][k % 3]
        write_jpeg(tmp_path / f"{k}.jpg", np.full((60, 60, 3), colours[product], np.uint8))
        chroma = float(max(colours[product]) - min(colours[product]))
        rows.append((f"m{k}", product, "photo", str(tmp_path / f"{k}.jpg"), 0.0, 0.0, 60.0, 60.0, chroma))
    crops, model = pd.DataFrame(rows, columns=COLUMNS), tiny_config.embedders[0]
    model = model.model_copy(update={"batch_size": 6, "epochs": 60})
    seen: dict[int, list[int]] = {}
    batches = EmbedderBatches(crops, changed(tiny_config, recolour=0.7), model)
    assert batches.n_classes == 3 * 6
    for step in range(len(batches)):
        images, classes, _, _ = batches[step]
        for image, number in zip(images, classes.tolist(), strict=True):
            assert seen.setdefault(number, colour_in(image)) == colour_in(image)
        assert all(len(set(classes[classes % 3 == product].tolist())) == 1 for product in set((classes % 3).tolist()))
    assert [seen[number] for number in range(3)] == [[20, 10, 2], [3, 18, 9], [13, 12, 12]]
    assert set(seen) == {0, 1, 2} | {number for number in range(3, 18) if number % 3 != 2}  # grey is never recoloured
    for product in (0, 1):
        orders = [tuple(seen[number]) for number in sorted(seen) if number % 3 == product]
        assert sorted(orders) == sorted(itertools.permutations(seen[product]))
    never = EmbedderBatches(crops, changed(tiny_config), model)
    assert never.n_classes == 3 and all(set(never[step].classes.tolist()) <= {0, 1, 2} for step in range(9))


def test_few_crops_still_make_a_step(crops, tiny_config):
    batches = EmbedderBatches(crops.iloc[:2], changed(tiny_config), tiny_config.embedders[0])
    assert batches.steps_per_epoch == 1 and batches[0].images.shape[0] == 4


def test_every_crop_has_a_jitter_of_its_own(tmp_path, tiny_config):
    write_jpeg(tmp_path / "ramp.jpg", np.tile(np.arange(96, dtype=np.uint8)[None, :, None] * 2, (96, 1, 3)))
    crops = pd.DataFrame(
        [("m", 7, "photo", str(tmp_path / "ramp.jpg"), 30.0, 30.0, 60.0, 60.0, 0.0)] * 4, columns=COLUMNS
    )
    means = {
        share: greys(
            EmbedderBatches(
                crops, changed(tiny_config, augment={"on": {"box_jitter": share}}), tiny_config.embedders[0]
            )[0].images
        )
        for share in (0.0, 0.2)
    }
    assert means[0.0] == pytest.approx([2 * 44.5] * 4, abs=2)  # columns 30 to 59
    assert len(set(means[0.2])) == 4


def test_what_the_config_leaves_to_the_backbone_is_its_own(crops, tiny_config):
    model = tiny_config.embedders[0].model_copy(update={"input_size": None})
    images = EmbedderBatches(crops, changed(tiny_config, scales=[1.0]), model)[0].images
    assert images.shape[2] * images.shape[3] == pytest.approx(176**2, rel=0.1)  # timm's resnet10t
