"""The sheet of augmented crops: what stands on it, and that nothing is needed for it but annotated data."""

import numpy as np
import pytest
from PIL import Image

from metric_sub.preview import (
    BATCH_SIDE,
    PLAIN_RGB,
    WIDTH,
    Block,
    Strip,
    blocks_of,
    blocks_of_models,
    draw_sheet,
    main,
    some_crops,
)
from shared.config import Config, dump_config
from shared.dataset import read_dataset
from shared.errors import UserError
from tests.limits import LIMITS


def changed(config, phases, augment):
    """The config with phases of (task, augmentation) and these augmentations, all off where not named."""
    tree = config.model_dump()
    train = tree["embed_train"]
    off = dict.fromkeys(next(iter(train["augment"].values())), 0.0)
    train["augment"] = {name: off | on for name, on in augment.items()}
    train["phases"] = [
        train["phases"][0] | {"share": 1 / len(phases), "task": task, "augment": name} for task, name in phases
    ]
    return Config.model_validate(tree)


@pytest.fixture
def blocks(tiny_data, tiny_config, tmp_path):
    """The blocks for phases and augmentations."""

    def make(phases, **augment):
        config = changed(tiny_config, phases, augment)
        crops = some_crops(read_dataset(tiny_data, LIMITS), config, tmp_path / "preview", fresh=False)
        return blocks_of(crops, config, config.embedders[0])

    return make


def test_the_verb_writes_a_picture_and_prints_where(tiny_data, tiny_config, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--data", str(tiny_data), "--work", str(tmp_path / "work")]
    main(arguments)
    assert capsys.readouterr().out == f"{tmp_path / 'work' / 'preview.png'}\n"
    first = np.asarray(Image.open(tmp_path / "work" / "preview.png"))
    assert first.shape[1:] == (WIDTH, 3) and first.shape[0] > 500
    main([*arguments, "--out", str(tmp_path / "deep" / "sheet.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'deep' / 'sheet.png'}\n"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "sheet.png")), first)  # the seed decides
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"preview", "preview.png"}  # no weights, no frames/


def test_each_augmentation_in_use_has_a_block_and_its_name(blocks):
    phases = [("products", "hard"), ("products", "light"), ("products", "hard")]
    hard, light, whole = blocks(phases, light={"flip": 0.5}, unused={"grey": 1.0}, hard={"noise": 1.0, "jpeg": 0.25})
    assert hard.heading == "a: hard, phase 1 (products), 3 (products)" and hard.text == "noise 1, jpeg 0.25"
    assert light.heading == "a: light, phase 2 (products)" and light.text == "flip 0.5"
    assert whole.heading == "a: whole batches"


def test_every_embedder_that_trains_otherwise_is_drawn(tiny_data, tiny_config, tmp_path):
    tree = changed(tiny_config, [("products", "on")], {"on": {"flip": 0.5}, "other": {"grey": 1.0}}).model_dump()
    first, phase = tree["embedders"][0], tree["embed_train"]["phases"][0]
    tree["embedders"] = [
        first | {"name": "a", "aspect_groups": 1, "train": {}},
        first | {"name": "b", "aspect_groups": 1, "train": {}, "seed": 9, "input_size": 32},
        first | {"name": "c", "aspect_groups": 1, "train": {"phases": [phase | {"augment": "other"}]}},
        first | {"name": "d", "aspect_groups": 3, "train": {}},
    ]
    config = Config.model_validate(tree)
    crops = some_crops(read_dataset(tiny_data, LIMITS), config, tmp_path / "preview", fresh=False)
    headings = [block.heading for block in blocks_of_models(crops, config)]
    assert headings == [
        *("a: on, phase 1 (products)", "a: whole batches"),
        *("c: other, phase 1 (products)", "c: whole batches"),
        *("d: on, phase 1 (products)", "d: whole batches"),
    ]


def test_each_product_has_its_photo_and_its_frame_beside_augmented_versions(blocks):
    block = blocks([("products", "on")], on={"flip": 0.5})[0]
    captions = [strip.caption for strip in block.strips]
    assert [lines[0].partition(" ")[0] for lines in captions] == ["000000,", "000000,", "000001,", "000001,"]
    assert [lines[0].split()[1] for lines in captions] == ["photo", "frame"] * 2
    for strip in block.strips:
        plain, *augmented = strip.pictures
        assert strip.n_plain == 1 and len(augmented) > 5 and plain.dtype == np.uint8
        assert strip.caption[2] == f"{plain.shape[1]} x {plain.shape[0]} px"
        kinds = {"same" if np.array_equal(each, plain) else "other" for each in augmented}
        assert kinds == {"same", "other"}
        for each in augmented:
            assert np.array_equal(each, plain) or np.array_equal(each[:, ::-1], plain)


def test_batches_are_whole_and_of_each_group_and_task(blocks, tiny_config):
    whole = blocks([("views", "off"), ("products", "on")], off={}, on={"cutmix": 1.0})[-1]
    assert {strip.side for strip in whole.strips} == {BATCH_SIDE}
    assert all(len(strip.pictures) == tiny_config.embedders[0].batch_size for strip in whole.strips)
    phases = [strip.caption[0].rpartition(" ")[2] for strip in whole.strips]
    assert set(phases) == {"1", "2"} and phases == sorted(phases)
    assert len({strip.caption[0] for strip in whole.strips}) == len(whole.strips)
    for strip, phase in zip(whole.strips, phases, strict=True):
        assert strip.caption[2].startswith("two views of 2 crops" if phase == "1" else "4 crops, products: ")
        assert strip.caption[1] == f"{strip.pictures[0].shape[1]} x {strip.pictures[0].shape[0]} px"
    assert any(line.startswith("mixed: 0.") for strip in whole.strips for line in strip.caption)


def test_pictures_stand_in_their_own_shape_and_the_plain_one_is_framed():
    green, red = np.full((160, 40, 3), (0, 255, 0), np.uint8), np.full((160, 40, 3), (255, 0, 0), np.uint8)
    strip = Strip(["name ж", "a very long name of a file that passes the place that it has"], [green, red, red], 50, 1)
    sheet = np.asarray(draw_sheet([Block("heading", "text", [strip])]))
    assert (sheet == PLAIN_RGB).all(axis=2).any()
    for colour, n_pictures in (((0, 255, 0), 1), ((255, 0, 0), 2)):
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert np.ptp(rows) + 1 == 100 and len(rows) == n_pictures * 100 * 25  # 50 x 50 pixels of 4 : 1


def test_a_strip_that_is_too_long_goes_on_below():
    strip = Strip(["many"], [np.full((64, 64, 3), 9, np.uint8)] * 50, 56)
    sheet = np.asarray(draw_sheet([Block("heading", "text", [strip])]))
    assert (sheet == 9).all(axis=2).sum() == 50 * 56 * 56


def test_data_without_products_is_refused(tiny_data, tiny_config, tmp_path):
    for path in tiny_data.glob("*/*_annotation/**/*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no labelled product to show"):
        some_crops(read_dataset(tiny_data, LIMITS), tiny_config, tmp_path / "preview", fresh=False)
