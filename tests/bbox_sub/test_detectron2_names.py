"""Names and weights between detectron2 and us: a table by hand, an independent VoVNet, and there and back."""

import pickle

import numpy as np
import pytest
import torch

from bbox_sub.body import build_body
from bbox_sub.detector import build_detector, load_detector
from bbox_sub.detectron2_names import BODY, from_detectron2, to_detectron2
from bbox_sub.export_weights import export_weights
from bbox_sub.export_weights import main as export_main
from bbox_sub.import_weights import import_weights
from bbox_sub.import_weights import main as import_main
from shared.config import Config, Detector, dump_config
from shared.errors import UserError
from shared.runtime import PLAIN
from shared.weights import read_description, save_weights
from tests.bbox_sub.vovnet import SHAPES, VoVNet

NAMES = {  # detectron2's -> ours, by hand
    "backbone.bottom_up.stem.stem_2/conv.weight": "backbone.body.stem.1.conv.weight",
    "backbone.bottom_up.stem.stem_3/norm.running_var": "backbone.body.stem.2.bn.running_var",
    "backbone.bottom_up.stage2.OSA2_1.layers.0.OSA2_1_0/conv.weight": "backbone.body.stages.0.blocks.0.conv_mid.0.conv.weight",
    "backbone.bottom_up.stage2.OSA2_1.concat.OSA2_1_concat/norm.bias": "backbone.body.stages.0.blocks.0.conv_concat.bn.bias",
    "backbone.bottom_up.stage2.OSA2_1.ese.fc.weight": "backbone.body.stages.0.blocks.0.attn.fc.weight",
    "backbone.bottom_up.stage3.OSA3_2.layers.4.OSA3_2_4/conv.weight": "backbone.body.stages.1.blocks.1.conv_mid.4.conv.weight",
    "backbone.bottom_up.stage4.OSA4_9.layers.3.OSA4_9_3/norm.weight": "backbone.body.stages.2.blocks.8.conv_mid.3.bn.weight",
    "backbone.bottom_up.stage5.OSA5_10.concat.OSA5_10_concat/conv.weight": "backbone.body.stages.3.blocks.9.conv_concat.conv.weight",
    "backbone.bottom_up.stage5.OSA5_3.ese.fc.bias": "backbone.body.stages.3.blocks.2.attn.fc.bias",
    "backbone.fpn_lateral2.weight": "backbone.pyramid.inner_blocks.0.0.weight",
    "backbone.fpn_output5.bias": "backbone.pyramid.layer_blocks.3.0.bias",
    "proposal_generator.rpn_head.conv.bias": "rpn.head.conv.0.0.bias",
    "proposal_generator.rpn_head.objectness_logits.weight": "rpn.head.cls_logits.weight",
    "proposal_generator.rpn_head.anchor_deltas.bias": "rpn.head.bbox_pred.bias",
    "roi_heads.box_head.fc1.weight": "roi_heads.box_head.fc6.weight",
    "roi_heads.box_head.fc2.bias": "roi_heads.box_head.fc7.bias",
}


@pytest.fixture
def config(tiny_config):
    return changed(tiny_config, backbone="ese_vovnet19b_slim", categories=["a", "b"])


def changed(config, **keys):
    return Config.model_validate({**config.model_dump(), "detector": {**config.detector.model_dump(), **keys}})


def theirs(config, seed=0):
    """A detectron2 checkpoint's weights of the config's network, drawn: an independent VoVNet's, and the rest by its names."""
    torch.manual_seed(seed)
    state = {
        f"backbone.bottom_up.{name}": value for name, value in VoVNet(config.detector.backbone).state_dict().items()
    }
    body = set(state)
    state |= {
        k: v
        for k, v in to_detectron2(build_detector(config.detector, load_pretrained=False).state_dict()).items()
        if k not in body
    }
    return {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in state.items()}


def test_names_by_hand():
    state = {name: torch.full((1,), float(k)) for k, name in enumerate(NAMES)}
    found = {name: value.item() for name, value in from_detectron2(state).items()}
    assert found == {name: float(k) for k, name in enumerate(NAMES.values())}


@pytest.mark.parametrize("prefix", ["", "bottom_up.", "backbone.bottom_up."])
def test_a_body_is_known_under_its_prefixes(prefix):
    found = from_detectron2(
        {
            prefix + "stage5.OSA5_3.ese.fc.bias": torch.zeros(1),
            prefix + "stem.stem_1/norm.num_batches_tracked": torch.zeros(1),
        }
    )
    assert set(found) == {"backbone.body.stages.3.blocks.2.attn.fc.bias"}


def test_the_predictors_rows_by_hand():
    """Two classes: theirs are class 0, class 1, background; ours background, class 1, class 2."""
    place = "roi_heads.box_predictor."
    found = from_detectron2(
        {place + "cls_score.bias": torch.tensor([10.0, 11, 12]), place + "bbox_pred.bias": torch.arange(8.0)}
    )
    assert found[place + "cls_score.bias"].tolist() == [12, 10, 11]
    assert found[place + "bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(8)]


def test_the_first_convolution_gives_the_same_on_our_input():
    rgb = torch.randint(0, 256, (1, 3, 9, 9)).float()
    weight = torch.randn(4, 3, 3, 3)
    mean_bgr = torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)  # detectron2's PIXEL_MEAN
    mean_rgb, std_rgb = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    for std_bgr in (torch.ones(3), torch.tensor([57.375, 57.12, 58.395])):
        theirs = torch.nn.functional.conv2d((rgb.flip(1) - mean_bgr) / std_bgr.view(1, 3, 1, 1), weight)
        state = {"stem.stem_1/conv.weight": weight, "pixel_mean": mean_bgr[0], "pixel_std": std_bgr.view(3, 1, 1)}
        ours = from_detectron2(state)[BODY + "stem.0.conv.weight"]
        torch.testing.assert_close(
            torch.nn.functional.conv2d((rgb / 255 - mean_rgb) / std_rgb, ours), theirs, rtol=1e-4, atol=1e-2
        )


def test_another_mean_is_refused():
    with pytest.raises(UserError, match="pixel_mean.*ImageNet"):
        from_detectron2({"stem.stem_1/conv.weight": torch.zeros(4, 3, 3, 3), "pixel_mean": torch.zeros(3)})


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_body_computes_what_an_independent_vovnet_computes(config, name):
    torch.manual_seed(0)
    reference = VoVNet(name).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.9, 1.1)
    state = from_detectron2(reference.state_dict())
    body = build_body(changed(config, backbone=name).detector, load_pretrained=False).eval()
    body.load_state_dict({k.removeprefix(BODY): v for k, v in state.items()}, strict=False)
    rgb = torch.randint(0, 256, (1, 3, 64, 96)).float()
    mean_bgr = torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.inference_mode():
        expected = reference(rgb.flip(1) - mean_bgr)
        found = body.stem((rgb / 255 - mean) / std)
        for stage, level in zip(body.stages, expected.values(), strict=True):
            found = stage(found)
            torch.testing.assert_close(found, level, rtol=1e-3, atol=1e-3 * level.abs().max().item())


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_whole_detector_comes_in_and_goes_out_as_it_was(config, tmp_path, suffix):
    state = theirs(config)
    file = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save({"model": state, "iteration": 9}, file)
    else:
        with open(file, "wb") as stream:
            pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "a"}, stream)
    filled, drawn, left = import_weights(file, config, tmp_path / "detector")
    assert (len(filled), drawn, left) == (len([k for k in state if "num_batches" not in k]), [], [])
    loaded, _ = load_detector(tmp_path / "detector", runtime=PLAIN, least_score=0.5)
    assert loaded.roi_heads.score_thresh == 0.5
    export_weights(tmp_path / "detector", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert set(back) == {name for name in state if "num_batches" not in name}
    for name, value in back.items():
        torch.testing.assert_close(value, state[name], rtol=1e-6, atol=0)


def test_a_body_alone_fills_the_body_and_draws_the_rest(config, tmp_path, caplog):
    state = {
        name.removeprefix("backbone.bottom_up."): value for name, value in theirs(config).items() if "bottom_up" in name
    }
    torch.save({**state, "classifier.weight": torch.zeros(1000, 512)}, tmp_path / "body.pth")
    filled, drawn, left = import_weights(tmp_path / "body.pth", config, tmp_path / "detector")
    assert all(name.startswith(BODY) for name in filled) and left == [BODY + "classifier.weight"]
    assert {name.split(".")[0] for name in drawn} == {"backbone", "rpn", "roi_heads"}
    with caplog.at_level("WARNING"):
        load_detector(tmp_path / "detector", runtime=PLAIN, least_score=0.5)
    assert "not finished" in caplog.text


def test_a_class_head_of_another_size_is_drawn_and_named(config, tmp_path):
    torch.save({"model": theirs(changed(config, categories=["a", "b", "c"]))}, tmp_path / "theirs.pth")
    filled, drawn, left = import_weights(tmp_path / "theirs.pth", config, tmp_path / "detector")
    heads = [
        f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("bbox_pred", "cls_score") for kind in ("bias", "weight")
    ]
    assert drawn == left == heads and not set(filled) & set(heads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("backbone.bottom_up.stage3.OSA3_1.ese.fc.bias"),
            r"1 missing \['backbone.body.stages.1.blocks.0.attn.fc.bias'\]",
        ),
        (lambda s: s.pop("proposal_generator.rpn_head.conv.bias"), r"1 missing \['rpn.head.conv.0.0.bias'\]"),
        (
            lambda s: s.update({"roi_heads.mask_head.deconv.weight": torch.zeros(3, 2)}),
            r"1 left over \['.*mask_head.deconv.weight \(3, 2\)'\]",
        ),
        (
            lambda s: s.update({"backbone.fpn_lateral2.weight": torch.zeros(7, 2, 1, 1)}),
            r"inner_blocks.0.0.weight \(7, 2, 1, 1\) \(config: ",
        ),
    ],
)
def test_what_does_not_fit_is_named(config, tmp_path, change, message):
    state = theirs(config)
    change(state)
    torch.save({"model": state}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=f"theirs.pth: not the weights of ese_vovnet19b_slim.*{message}"):
        import_weights(tmp_path / "theirs.pth", config, tmp_path / "detector")
    assert not (tmp_path / "detector").exists()


class Hostile:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"a": Hostile()}}, "builtins.print"),
        ({"model": {"a": np.array([Hostile()], dtype=object)}}, "builtins.print"),
        ({"model": {"a": "text"}}, "'a'.*expected an array"),
        ({"model": []}, "mapping of names"),
        ([1], "mapping of names"),
    ],
)
def test_a_pickle_runs_nothing_and_holds_arrays(config, tmp_path, capsys, tree, message):
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError, match=f"theirs.pkl.*{message}"):
        import_weights(tmp_path / "theirs.pkl", config, tmp_path / "detector")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"model": {"a": np.ones(3)}})[:-9]])
def test_a_broken_pickle_is_refused(config, tmp_path, content):
    (tmp_path / "theirs.pkl").write_bytes(content)
    with pytest.raises(UserError, match="theirs.pkl: not a plain pickle"):
        import_weights(tmp_path / "theirs.pkl", config, tmp_path / "detector")


def test_the_entries_write_the_folder_and_the_file_and_overwrite_nothing(config, tmp_path, caplog):
    torch.save({"model": theirs(config)}, tmp_path / "theirs.pth")
    out = tmp_path / "weights" / "detector"
    overrides = ["detector.categories=[a, b]", "detector.backbone=ese_vovnet19b_slim"]
    keys = ("pyramid_channels", "box_head_features")
    overrides += [f"detector.{key}={getattr(config.detector, key)}" for key in keys]
    with caplog.at_level("INFO"):
        import_main([str(tmp_path / "theirs.pth"), "--config", "configs/tiny.yaml", "--out", str(out), *overrides])
    assert "left over: nothing" in caplog.text and "backbone.body (" in caplog.text
    assert read_description(out)["imported"]["file"] == "theirs.pth" and (out.parent / "config.yaml").exists()
    export_main(["--weights", str(out.parent), "--out", str(tmp_path / "back.pth")])
    with pytest.raises(UserError, match="a model is there already"):
        import_main([str(tmp_path / "theirs.pth"), "--out", str(out)])
    with pytest.raises(UserError, match="is there already"):
        export_main(["--weights", str(out.parent), "--out", str(tmp_path / "back.pth")])


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"norm": "group"}, "norm"),
        ({"ese_in_every_block": False, "backbone": "ese_vovnet39b"}, "ese_in_every_block"),
        ({"backbone": "ese_vovnet19b_slim_dw"}, "backbone"),
        ({"backbone": "vovnet39a", "ese_in_every_block": False}, "backbone"),
    ],
)
def test_what_detectron2_has_not_is_not_exported(config, tmp_path, keys, named):
    detector = Detector.model_validate({**config.detector.model_dump(), **keys})
    save_weights(tmp_path, build_detector(detector, load_pretrained=False), {"architecture": detector.model_dump()})
    with pytest.raises(UserError, match=f"detectron2's VoVNets have {named}"):
        export_weights(tmp_path, tmp_path / "back.pth")


def test_groups_are_not_imported_since_detectron2_has_other_ones(config, tmp_path):
    torch.save({"model": theirs(config)}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="detector.norm: expected batch or frozen.*found group"):
        import_weights(tmp_path / "theirs.pth", changed(config, norm="group"), tmp_path / "detector")


def test_a_file_of_timms_is_not_taken_for_detectron2s(config, tmp_path):
    torch.save(build_body(config.detector, load_pretrained=False).state_dict(), tmp_path / "timm.pth")
    with pytest.raises(UserError, match="timm.pth: expected the names of a detectron2 VoVNet.*detector.pretrained"):
        import_weights(tmp_path / "timm.pth", config, tmp_path / "detector")


def test_half_a_class_head_is_refused(config, tmp_path):
    state = theirs(config)
    del state["roi_heads.box_predictor.bbox_pred.weight"]
    torch.save({"model": state}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"1 missing \['roi_heads.box_predictor.bbox_pred.weight'\]"):
        import_weights(tmp_path / "theirs.pth", config, tmp_path / "detector")


def test_a_first_convolution_of_another_shape_is_named(config, tmp_path):
    state = theirs(config)
    state["backbone.bottom_up.stem.stem_1/conv.weight"] = torch.zeros(64, 1, 3, 3)
    torch.save({"model": state}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"stem.0.conv.weight \(64, 1, 3, 3\) \(config: \(64, 3, 3, 3\)\)"):
        import_weights(tmp_path / "theirs.pth", config, tmp_path / "detector")


def test_a_config_beside_other_models_stays(config, tmp_path):
    torch.save({"model": theirs(config)}, tmp_path / "theirs.pth")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.yaml").write_text("mine")
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    import_main([str(tmp_path / "theirs.pth"), "--config", str(path), "--out", str(tmp_path / "weights" / "detector")])
    assert (tmp_path / "weights" / "config.yaml").read_text() == "mine"
