"""The embedder's network: pooling by its formula, unit vectors, and a model's folder."""

import numpy as np
import pytest
import torch
from torch import nn

from metric_sub.embedder import GeM, build_embedder, load_embedders, save_embedder
from shared.config import Embed, Embedder
from shared.errors import UserError
from shared.runtime import PLAIN
from shared.weights import read_description


@pytest.fixture
def model(tiny_config):
    return tiny_config.embedders[0]


@pytest.fixture
def shape(tiny_config):
    return tiny_config.embed


def changed(section, **keys):
    return type(section).model_validate({**section.model_dump(), **keys})


def build(model, shape, seed=0):
    torch.manual_seed(seed)
    return build_embedder(model, shape, load_pretrained=False)


def features(seed=0):
    return torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 0.01


def test_p_1_is_the_mean():
    assert torch.allclose(GeM(1.0, False)(features()), features().mean(dim=(2, 3)), atol=1e-6)


def test_a_large_p_comes_near_to_the_maximum_from_below():
    top = features().amax(dim=(2, 3))
    pooled = GeM(80.0, False)(features())
    assert (pooled <= top + 1e-5).all() and torch.allclose(pooled, top, rtol=0.035)  # at least top * 12 ** (-1 / 80)


@pytest.mark.parametrize("p", [0.5, 2.0, 3.0, 6.5])
def test_gem_by_its_formula(p):
    expected = (features().double().numpy() ** p).mean(axis=(2, 3)) ** (1 / p)
    assert np.allclose(GeM(p, False)(features()).numpy(), expected, rtol=1e-5)


def test_gem_rises_with_p():
    pooled = torch.stack([GeM(p, False)(features()) for p in (1.0, 2.0, 3.0, 5.0)])  # power means
    assert (pooled.diff(dim=0) > 0).all()


def test_values_under_zero_count_as_next_to_nothing():
    assert torch.allclose(GeM(3.0, False)(torch.full((1, 1, 2, 2), -5.0)), torch.tensor([[1e-6]]))


def test_p_learns_only_where_it_should():
    for learned in (True, False):
        pool, inputs = GeM(3.0, learned), features().requires_grad_()
        pool(inputs).sum().backward()
        assert (pool.p.grad is not None) is learned and torch.isfinite(inputs.grad).all()
        assert "p" in pool.state_dict()


def test_gem_is_as_exact_under_mixed_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = GeM(3.0, False)(features())
    assert pooled.dtype == torch.float32 and torch.equal(pooled, GeM(3.0, False)(features()))


def crops(n=3, height=64, width=48):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_unit_vectors_for_crops_of_any_size(model, shape):
    net = build(model, shape).eval()
    for height, width in ((64, 48), (32, 96), (33, 65)):
        with torch.inference_mode():
            vectors = net(crops(3, height, width))
        assert vectors.shape == (3, shape.dimension) and vectors.dtype == torch.float32
        assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_crop_is_embedded_alike_alone_and_in_a_batch(model, shape):
    net = build(model, shape).eval()
    with torch.inference_mode():
        assert torch.allclose(net(crops())[1:2], net(crops()[1:2]), atol=1e-5)


def test_the_parts_are_those_of_the_recipe(model, shape):
    net = build(model, shape).eval()
    pictures = crops()
    with torch.inference_mode():
        mean, std = (torch.tensor(net.backbone.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
        pooled = (
            net.backbone((pictures - mean) / std).clamp(min=1e-6).pow(shape.gem_p).mean(dim=(2, 3)).pow(1 / shape.gem_p)
        )
        linear = pooled @ net.project.weight.T  # without bias
        normed = (linear - net.norm.running_mean) / (
            net.norm.running_var + net.norm.eps
        ).sqrt() * net.norm.weight + net.norm.bias
        expected = normed / normed.norm(dim=1, keepdim=True)
        assert torch.allclose(net(pictures), expected, atol=1e-5)


def test_all_that_should_learn_does(model, shape):
    net = build(model, changed(shape, gem_learned=True)).train()
    (net(crops()) * torch.rand(3, shape.dimension)).sum().backward()
    assert [
        name for name, weight in net.named_parameters() if weight.grad is None or not torch.isfinite(weight.grad).all()
    ] == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet10x", "resnet10t"),
        ("effnet-b5", "efficientnet_b5"),
        ("tf_efficientnet_b55.ns_jft_in1k", "tf_efficientnet_b5"),
        ("", "none"),
    ],
)
def test_an_unknown_backbone_is_refused_with_near_names(model, shape, name, near):
    with pytest.raises(UserError, match=f"embedders: {model.name}: timm has no backbone") as caught:
        build(changed(model, backbone=name), shape)
    assert near in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "ghostnet_050", "resnet10t"])
def test_other_convolutional_backbones_do(model, shape, name):
    net = build(changed(model, backbone=name), shape).eval()
    with torch.inference_mode():
        assert net(crops(2)).shape == (2, shape.dimension)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "efficientvit_b0"]
)
def test_a_backbone_without_a_map_is_refused(model, shape, name):
    with pytest.raises(UserError, match=f"backbone '{name}': expected a convolutional network"):
        build(changed(model, backbone=name), shape)


def test_a_backbone_whose_own_mean_is_0_comes_back(model, shape, tmp_path):
    model = changed(model, backbone="mobilevitv2_050")
    net = build(model, changed(shape, mean=None, std=None))
    save_embedder(tmp_path, [net], model, changed(shape, mean=None, std=None), {}, 1)
    assert read_description(tmp_path)["mean"] == [0, 0, 0]
    [loaded] = load_embedders(tmp_path, runtime=PLAIN, flip=False)
    with torch.inference_mode():
        assert torch.equal(loaded.net(crops()), net.eval()(crops()))


def test_an_unknown_tag_is_refused(model, shape):
    with pytest.raises(UserError, match=r"embedders: a: backbone 'resnet10t\.none'.*tag"):
        build(changed(model, backbone="resnet10t.none"), shape)


def test_pretrained_files_fill_the_backbone_alone(model, shape, tmp_path):
    source = build(model, shape, seed=1)
    torch.save({**source.backbone.state_dict(), "fc.weight": torch.ones(2, 2)}, tmp_path / "pretrained.pt")
    net = build_embedder(changed(model, pretrained=str(tmp_path / "pretrained.pt")), shape, load_pretrained=True)
    assert all(
        torch.equal(value, net.backbone.state_dict()[name]) for name, value in source.backbone.state_dict().items()
    )
    assert not torch.equal(net.project.weight, source.project.weight)
    with pytest.raises(UserError, match=f"embedders.{model.name}.pretrained"):
        build_embedder(
            changed(model, backbone="resnet18", pretrained=str(tmp_path / "pretrained.pt")), shape, load_pretrained=True
        )


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_b3_gn"]
)
@torch.inference_mode()
def test_residual_blocks_drawn_anew_begin_as_the_identity(model, shape, name):
    net = build_embedder(changed(model, backbone=name, pretrained=False), shape, load_pretrained=True).eval()
    blocks, same = [block for block in net.backbone.modules() if getattr(block, "has_skip", False)], []
    for block in blocks:
        block.register_forward_hook(lambda _, given, found: same.append(torch.equal(given[0], found)))
    net(crops(2))
    assert len(same) == len(blocks) > 4 and all(same)


def test_residual_blocks_that_scale_their_sums_stay_as_timm_draws_them(model, shape):
    """A layer scale of 1e-5 makes them nearly the identity already; a norm's scale of 0 behind it would learn nothing."""
    scaled = changed(model, backbone="mobilenetv4_hybrid_medium", pretrained=False)
    net = build_embedder(scaled, shape, load_pretrained=True)
    norms = [part for part in net.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) > 50 and all((norm.weight == 1).all() for norm in norms)


def test_a_deep_network_drawn_anew_has_gradients_in_bf16(model, shape):
    """As they are in float32. Drawn as timm draws it, with the seed 0, their cosine is 0.5."""
    deep = changed(model, backbone="tf_efficientnet_b5", pretrained=False)
    torch.manual_seed(0)
    net = build_embedder(deep, shape, load_pretrained=True).train()
    net.norm.eval()  # over few pictures its batch statistics would make much of any rounding
    pictures, towards = (
        torch.rand(8, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3),
        torch.randn(8, shape.dimension),
    )
    gradients = []
    for in_bf16 in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            (net(pictures) * towards).sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in net.backbone.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_an_embedder_comes_back_from_its_folder_as_it_was(model, shape, tmp_path):
    # a trained model needs no pretrained file any more
    model = changed(model, pretrained="nowhere.pt", aspect_groups=3)
    shape = changed(shape, flip=True, crop_margin=0.1)
    net = build(model, shape, seed=5).train()
    net(crops(4))  # moves running statistics
    save_embedder(tmp_path, [net], model, shape, {"recall_at_1": 0.5}, 3)
    [loaded] = load_embedders(tmp_path, runtime=PLAIN, flip=False)
    assert not loaded.net.training and loaded.flip is False  # what inference chose, not what it was trained with
    assert (loaded.crop_rule.size, loaded.crop_rule.margin, len(loaded.crop_rule.ratios)) == (model.input_size, 0.1, 3)
    with torch.inference_mode():
        assert torch.equal(loaded.net(crops()), net.eval()(crops()))


def test_the_description_tells_all_that_is_needed(model, shape, tmp_path):
    net = build(model, shape)
    save_embedder(tmp_path, [net], model, shape, {"recall_at_1": 0.5}, 3)
    described = read_description(tmp_path)
    assert Embedder.model_validate(described["architecture"]["model"]) == model
    assert Embed.model_validate(described["architecture"]["shape"]) == shape
    assert described["mean"] == pytest.approx(net.backbone.pretrained_cfg["mean"]) and described[
        "std"
    ] == pytest.approx(net.backbone.pretrained_cfg["std"])
    assert described["metrics"] == {"recall_at_1": 0.5} and described["epoch"] == 3


def test_a_folder_without_an_embedder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trained model"):
        load_embedders(tmp_path, runtime=PLAIN, flip=False)
