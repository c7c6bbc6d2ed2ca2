"""Products in plain folders: drawn ones whose answer is known, who is asked, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.products import kind_of, main, product_box, style_of, styles_outside
from metric_sub.embedder import build_embedder, save_embedder
from shared.config import dump_config
from shared.errors import UserError

RED, GREEN, BLUE, GREY = (220, 20, 20), (20, 200, 30), (20, 30, 210), (120, 120, 120)


def on_paper(colour, box=(10, 20, 40, 60), shape=(80, 60)):
    image = np.full((*shape, 3), 255, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = colour
    return image


@pytest.fixture
def folder(tmp_path):
    """Styles a (red, and grey as a distractor), b (green), c (blue, its back as red as a), d (blue, its back grey)."""
    pictures = {
        "a-red": {"catalogue-a-red_main": RED, "query-a-red_back": RED, "query-a-red_alt1": RED},
        "a-grey": {"distractor-a-grey_main": GREY},
        "b-green": {"catalogue-b-green_main": GREEN, "query-b-green_001": GREEN},
        "c-blue": {"catalogue-c-blue_main": BLUE, "query-c-blue_back": RED},
        "d-blue": {"catalogue-d-blue_main": BLUE, "query-d-blue_back": GREY},
    }
    for product, of_product in pictures.items():
        for k, (name, colour) in enumerate(of_product.items()):
            (tmp_path / "products" / product).mkdir(parents=True, exist_ok=True)
            Image.fromarray(on_paper(colour, (5 + k, 5, 40, 70))).save(tmp_path / "products" / product / f"{name}.png")
    return tmp_path / "products"


@pytest.fixture
def weights(tiny_config, tmp_path):
    torch.manual_seed(0)
    for model in tiny_config.embedders:
        net = build_embedder(model, tiny_config.embed, load_pretrained=False)
        save_embedder(tmp_path / "weights" / model.name, [net], model, tiny_config.embed, {}, 0)
    (tmp_path / "weights" / "config.yaml").write_text(dump_config(tiny_config))
    return tmp_path / "weights"


def run(folder, weights, capsys, *more):
    main(["--folder", str(folder), "--weights", str(weights), *more])
    printed = capsys.readouterr()
    assert "recall@10*" in printed.err
    return json.loads(printed.out)


def test_figures_with_and_without_distractors(folder, weights, capsys):
    figures = run(folder, weights, capsys)
    assert [figures[name] for name in ("queries", "products", "catalogue", "distractors")] == [5, 4, 4, 1]
    assert {"ensemble", "a", "b", "histogram"} <= set(figures)
    colours = figures["histogram"]
    # Right by colour: both of a and that of b. The back of c is a's; d's is as far from every catalogue picture.
    assert colours["with_distractors"]["recall_at_1"] == pytest.approx(3 / 5)
    by_kind = colours["without_distractors"]["by_kind"]
    assert {kind: of["queries"] for kind, of in by_kind.items()} == {"back": 3, "close-up": 1, "numbered": 1}
    assert by_kind["close-up"]["recall_at_1"] == by_kind["numbered"]["recall_at_1"] == 1
    assert all(figures[name]["without_distractors"]["recall_at_5"] == 1 for name in ("ensemble", "a", "b"))  # of four
    for of_model in (figures["ensemble"], colours):
        assert of_model["with_distractors"]["recall_at_1"] <= of_model["without_distractors"]["recall_at_1"]


def test_a_recoloured_look_alike_takes_the_query(folder, weights, capsys):
    Image.fromarray(on_paper(GREEN)).save(folder / "a-grey" / "distractor-green.png")
    (folder / "b-green" / "query-b-green_001.png").unlink()
    Image.fromarray(np.concatenate([on_paper(GREEN), on_paper(RED)])).save(
        folder / "b-green" / "catalogue-b-green_main.png"
    )
    Image.fromarray(on_paper(GREEN)).save(folder / "b-green" / "query-b-green_back.png")
    items = [{"part": "train", "name": name} for name in ("a-red", "c-blue", "d-blue")] + [
        {"part": "test", "name": "b-green"}
    ]
    (folder.parent / "items.json").write_text(json.dumps(items))
    figures = run(folder, weights, capsys, "--items", str(folder.parent / "items.json"), "--part", "test")
    assert figures["queries"] == 1 and figures["catalogue"] == 4
    assert figures["histogram"]["without_distractors"]["recall_at_1"] == 1
    assert figures["histogram"]["with_distractors"]["recall_at_1"] == 0


@pytest.mark.parametrize(
    ("name", "style"), [("mh02-black", "mh02"), ("a-b-c", "a-b"), ("shoe", "shoe"), ("hat", "hat")]
)
def test_a_name_without_a_hyphen_is_a_style_of_its_own(name, style):
    assert style_of(name) == style


def test_styles_with_an_item_outside_of_the_parts(tmp_path):
    path = tmp_path / "items.json"
    names = [("train", "x01-red"), ("train", "juice-box-large"), ("validation", "y-blue"), ("test", "x02-red")]
    path.write_text(json.dumps([{"part": part, "name": name} for part, name in names]))
    assert styles_outside(path, ["test"]) == {"x01", "juice-box", "y"}
    assert styles_outside(path, ["test", "validation"]) == {"x01", "juice-box"}


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("query-mh02-black_back", "back"),
        ("query-mh02-black_alt1", "close-up"),
        ("query-wh08-white_alternate", "close-up"),
        ("query-train-Some-Juice_012", "numbered"),
        ("query-mp05-blue_outfit", "outfit"),
    ],
)
def test_the_kind_of_a_query_is_in_its_name(stem, kind):
    assert kind_of(stem) == kind


@pytest.mark.parametrize(
    ("image", "box"),
    [
        (on_paper(RED), (10, 20, 40, 60)),
        (on_paper((239, 255, 255)), (10, 20, 40, 60)),
        (on_paper((240, 240, 240)), (0, 0, 60, 80)),  # nothing but paper: all of it
        (on_paper(RED, (0, 0, 60, 80)), (0, 0, 60, 80)),
        (on_paper(RED, (10, 20, 12, 300), (400, 300)), (10, 20, 12, 300)),  # thin, but long
        (on_paper(RED, (10, 20, 11, 21), (400, 300)), (0, 0, 300, 400)),  # a speck
    ],
)
def test_the_box_is_what_is_not_paper(image, box):
    assert product_box(image).tolist() == [list(box)]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--items", "items.json"], "--items FILE only together with --part"),
        (["--items", "{items}", "--part", "tset"], "has no part 'tset'; it has test"),
        (["--items", "{folder}", "--part", "test"], "expected a list of objects with part and name"),
    ],
)
def test_mistakes_are_told_in_words(folder, weights, more, words):
    items = folder.parent / "items.json"
    items.write_text(json.dumps([{"part": "test", "name": "a-red"}]))
    with pytest.raises(UserError, match=words):
        main(["--folder", str(folder), *(word.format(items=items, folder=folder) for word in more)])


def test_folders_that_do_not_fit(folder, weights, tmp_path):
    with pytest.raises(UserError, match="expected --folder DIR"):
        main(["--weights", str(weights)])
    with pytest.raises(UserError, match="no picture; expected <product>/catalogue-"):
        main(["--folder", str(tmp_path / "gone")])
    items = tmp_path / "items.json"
    items.write_text(json.dumps([{"part": part, "name": f"{name}-x"} for name in "abcd" for part in ("train", "test")]))
    with pytest.raises(UserError, match="is left to ask"):
        main(["--folder", str(folder), "--items", str(items), "--part", "test"])
    (folder / "a-red" / "front.png").write_bytes(b"")
    with pytest.raises(UserError, match="front.png: expected a name that begins with catalogue-, query-, distractor-"):
        main(["--folder", str(folder)])
