"""The entry of `run.sh evaluate --stage match`: figures against plain loops, what it leaves, reuses and refuses.

The embedders have random weights: what is tested is that they are judged rightly, not that they are good.
"""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import metric_sub.vectors
from metric_sub.embed import CropEmbedder
from metric_sub.embedder import build_embedder, load_embedders, save_embedder
from metric_sub.evaluate import FIGURES, Crops
from metric_sub.judge import main
from metric_sub.whitening import map_shapes, save_whitening
from shared.config import Whitening, dump_config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.media import read_frames, read_photo
from shared.runtime import PLAIN
from tests.limits import LIMITS
from tests.metric_sub.test_evaluate import loops


@pytest.fixture
def options(tiny_data, tiny_config, tmp_path, monkeypatch):
    """The arguments of the entry, the folder that it fills, and a list that grows by the models it loads."""
    torch.manual_seed(0)
    weights, loaded = tmp_path / "weights", []
    for model in tiny_config.embedders:
        net = build_embedder(model, tiny_config.embed, load_pretrained=False)
        save_embedder(weights / model.name, [net], model, tiny_config.embed, {}, 0)
    (weights / "config.yaml").write_text(dump_config(tiny_config))

    def load(folder, **chosen):
        loaded.append(folder.name)
        return load_embedders(folder, **chosen)

    monkeypatch.setattr(metric_sub.vectors, "load_embedders", load)
    arguments = ["--data", str(tiny_data), "--weights", str(weights), "--work", str(tmp_path / "work")]
    return arguments, tmp_path / "work" / "evaluation", loaded


def figures_in(folder):
    return json.loads((folder / "embedders.json").read_text())


def crops_of(data, weights, config, names):
    """{kind: Crops}: the video crops of products and all photo crops, straight from the files."""
    dataset = read_dataset(data, LIMITS)
    embedder = CropEmbedder([load_embedders(weights / name, runtime=PLAIN, flip=config.embed.flip) for name in names], 7)
    products = {"photo": [], "video": []}
    vectors = {}
    for kind in products:
        for medium in dataset.media[dataset.media.kind == kind].itertuples():
            labels = dataset.labels[dataset.labels.media_id == medium.media_id]
            pictures = (
                [(0, read_photo(medium.path, 10**6))]
                if kind == "photo"
                else read_frames(medium.path, [0, 8, 16], 10**6)
            )
            for index, image_rgb in pictures:
                of_frame = labels[labels.frame_index == index]
                embedder.add(image_rgb, of_frame[["x1", "y1", "x2", "y2"]].to_numpy())
                products[kind] += of_frame.instance_id.tolist()
        vectors[kind] = embedder.take()
    return {kind: Crops(vectors[kind], np.array(ids)) for kind, ids in products.items()}


def nearest_distances(crops):
    """(N, 2): each query's distance to the nearest photo crop of its own product, and to that of any other."""
    distances = np.linalg.norm(crops["video"].vectors[:, None].astype(np.float64) - crops["photo"].vectors, axis=2)
    same = crops["video"].products[:, None] == crops["photo"].products
    return np.stack([np.where(mask, distances, np.inf).min(axis=1) for mask in (same, ~same)], axis=1)


def test_figures_of_each_model_and_of_the_ensemble(options, tiny_data, tiny_config, tmp_path, capsys):
    arguments, folder, _ = options
    main(arguments)
    printed, figures = capsys.readouterr(), figures_in(folder)
    assert printed.out == "" and "recall@10" in printed.err and "histogram" in printed.err
    # Three videos of three frames; four items of two photos, whose second shows a distractor too. No video shows 000003.
    assert (figures["queries"], figures["gallery"], figures["look_alikes"], figures["without_photo"]) == (9, 12, 6, 0)
    assert figures["frames"] == [0, 8, 16] and figures["parts"] == ["train", "validation"]
    assert set(figures["weights"]) == {"a", "b"}
    for name, of_name in (("a", figures["models"]["a"]), ("b", figures["models"]["b"]), ("ab", figures["ensemble"])):
        crops = crops_of(tiny_data, tmp_path / "weights", tiny_config, list(name))
        shown = np.isin(crops["photo"].products, crops["video"].products)
        for part, gallery in (("retrieval", shown | True), ("without_look_alikes", shown)):
            expected = loops(crops["video"], crops["photo"].of(gallery))
            assert [of_name[part][key] for key in FIGURES] == pytest.approx(expected)
        assert {kind: of["queries"] for kind, of in of_name["retrieval"]["by_kind"].items()} == {"even": 6, "odd": 3}
        assert of_name["matching"]["N_GT"] == 3 and set(of_name["matching"]["by_kind"]) == {"even", "odd"}
        assert of_name["matching"]["max_distance"] == tiny_config.match.max_distance


def test_the_figures_name_the_whitening_that_they_are_of(options, tmp_path):
    arguments, folder, _ = options
    settings, learnt = Whitening(shrinkage=1, values=9), tmp_path / "weights" / "whitening"
    rng = np.random.default_rng(0)
    save_whitening(learnt, {name: rng.normal(size=shape).astype(np.float32) for name, shape in map_shapes(settings).items()}, settings, {})
    main([*arguments, "descriptors={gradient_histogram: 0, colour_histogram: 0, fine_colour_histogram: 1, whitening: {shrinkage: 1, values: 9}}"])
    sha256 = hashlib.sha256((learnt / "weights.safetensors").read_bytes()).hexdigest()
    assert figures_in(folder)["weights"]["whitening"] == sha256


def test_descriptors_are_judged_beside_the_models_and_joined_by_their_weights(options, tmp_path):
    arguments, folder, _ = options
    main([*arguments, "descriptors={gradient_histogram: 0, colour_histogram: 0, fine_colour_histogram: 0, whitening: null}"])
    without = figures_in(folder)
    main([*arguments, "descriptors={gradient_histogram: 1e-6, colour_histogram: 1000, fine_colour_histogram: 0, whitening: null}"])
    figures = figures_in(folder)
    assert list(without["models"]) == ["a", "b"]
    assert list(figures["models"]) == ["a", "b", "gradient_histogram", "colour_histogram"]
    assert {name: figures["models"][name] for name in "ab"} == without["models"]
    assert figures["ensemble"]["retrieval"] == figures["models"]["colour_histogram"]["retrieval"]  # which outweighs all


def test_the_histogram_tells_the_drawn_colours_apart(options):
    arguments, folder, _ = options
    main([*arguments, "match.max_distance=0.01"])
    figures = figures_in(folder)
    colours = figures["histogram"]
    assert colours["retrieval"]["recall_at_1"] == 1 and colours["matching"]["S1"] == 1  # it has a cut-off of its own
    assert colours["matching"]["max_distance"] == 2
    assert figures["ensemble"]["matching"]["N_P"] == 0 and figures["ensemble"]["matching"]["max_distance"] == 0.01


def test_the_cut_off_is_the_best_of_all_distances(options, tiny_data, tiny_config, tmp_path):
    arguments, folder, _ = options
    main(arguments)
    cut_off = figures_in(folder)["cut_off"]
    distances = nearest_distances(crops_of(tiny_data, tmp_path / "weights", tiny_config, ["a", "b"]))
    tried = np.unique(distances)
    best = max(((distances[:, 0] <= d).mean() + (distances[:, 1] > d).mean()) / 2 for d in tried)
    assert cut_off["balanced_accuracy"] == pytest.approx(best)
    kept, dropped = (
        (distances[:, 0] <= cut_off["max_distance"]).mean(),
        (distances[:, 1] > cut_off["max_distance"]).mean(),
    )
    assert (kept + dropped) / 2 == pytest.approx(best)
    assert (cut_off["now"], cut_off["same"], cut_off["different"]) == (tiny_config.match.max_distance, 9, 9)
    main([*arguments, f"match.max_distance={cut_off['max_distance']!r}"])
    taken = figures_in(folder)["ensemble"]["matching"]
    assert cut_off["matching"] == {name: taken[name] for name in ("S1", "S2", "S3", "final")}
    for name in ("distances", "confusions"):
        assert np.array(Image.open(folder / f"{name}.png")).std() > 0


def test_vectors_are_kept_until_something_changes(options, tiny_data):
    arguments, folder, loaded = options
    main(arguments)
    first = figures_in(folder)
    main([*arguments, "match.keep_quantile=1.0"])
    assert loaded == ["a", "b"] and figures_in(folder)["ensemble"]["retrieval"] == first["ensemble"]["retrieval"]
    main([*arguments, "embed.flip=false"])
    assert loaded == ["a", "b"] * 2
    photo = tiny_data / "train" / "image" / "000000" / "0.jpg"
    Image.new("RGB", (64, 96)).save(photo)
    main([*arguments, "embed.flip=false"])
    assert loaded == ["a", "b"] * 3
    main([*arguments, "embed.flip=false", "--fresh"])
    assert loaded == ["a", "b"] * 4


def test_parts_by_name(options):
    arguments, folder, _ = options
    main([*arguments, "--part", "validation"])
    figures = figures_in(folder)
    assert (figures["parts"], figures["queries"], figures["gallery"], figures["look_alikes"]) == (
        ["validation"],
        3,
        6,
        4,
    )


def test_one_product_alone_gives_no_cut_off(options, tiny_data, capsys):
    arguments, folder, _ = options
    for name in ("000002/1", "000003/0", "000003/1"):  # what is left: a photo of 000002 and its video
        (tiny_data / "validation" / "image" / f"{name}.jpg").unlink()
        (tiny_data / "validation" / "image_annotation" / f"{name}.json").unlink()
    (tiny_data / "validation" / "image" / "000003").rmdir()
    main([*arguments, "--part", "validation"])
    figures = figures_in(folder)
    assert figures["cut_off"]["max_distance"] is None and "no cut-off is proposed" in capsys.readouterr().err
    assert figures["ensemble"]["retrieval"]["recall_at_1"] == 1


def test_kinds_only_where_they_are_known(options, tiny_data):
    arguments, folder, _ = options
    (tiny_data / "items.json").unlink()
    main(arguments)
    assert "by_kind" not in figures_in(folder)["ensemble"]["retrieval"]


def test_a_video_that_cannot_be_read_is_on_record(options, tiny_data):
    arguments, folder, _ = options
    (tiny_data / "train" / "video" / "000001.mp4").write_bytes(b"no video")
    main(arguments)
    assert figures_in(folder)["queries"] == 6
    skipped = json.loads((folder / "vectors" / "manifest.json").read_text())["skipped"]
    assert [row["media_id"] for row in skipped] == ["train/video/000001.mp4"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--part", "test"], "--part: .* has no part 'test'; it has train, validation"),
        (["frames={start: 1, stop: 1, step: 1}"], "found 8 in photos and 0 in videos"),
        (["embed.dimension=8"], "trained with dimension 16"),
        (["embedders.0.name=c"], "c: no trained model here"),
        (["match.max_distanc=1"], "did you mean 'max_distance'"),
    ],
)
def test_mistakes_are_told_in_words(options, more, words):
    arguments, folder, loaded = options
    with pytest.raises(UserError, match=words):
        main([*arguments, *more])
    assert not loaded and not (folder / "embedders.json").exists()


def test_annotations_that_do_not_fit_are_refused(options, tiny_data):
    arguments, _, _ = options
    path = tiny_data / "train" / "video_annotation" / "000000.json"
    path.write_text(path.read_text().replace("20000001", "999"))
    with pytest.raises(UserError, match="3 things in the data set do not fit"):
        main(arguments)


def test_a_coco_file_has_no_products(options, tiny_data):
    arguments, _, _ = options
    root = tiny_data / "train" / "image" / "000000"
    coco = {
        "images": [{"id": 3, "file_name": "0.jpg"}],
        "categories": [{"id": 1, "name": "top"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [10, 8, 38, 52]}],
    }
    (root / "coco.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match="no labelled product to judge the embedders by"):
        main([*arguments[2:], "--data", str(root / "coco.json")])
