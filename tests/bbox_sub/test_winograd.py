"""Winograd's convolutions in OpenVINO against torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import bbox_sub.detector
import bbox_sub.openvino_engine
from bbox_sub.detect import detect_boxes
from bbox_sub.detector import load_detector
from bbox_sub.openvino_engine import DIVISOR, MODELS, CompiledDetector, detector_models
from bbox_sub.quantize import sources_of
from bbox_sub.winograd import with_winograd
from shared.runtime import PLAIN, Request, Runtime, compiled, cpu_has_bf16, from_torch
from tests.drawn_networks import write_detector

F32 = Runtime("openvino", "f32", "cpu", "")
BF16 = Runtime("openvino", "bf16", "cpu", "")
DIVIDES = 4  # the width of what goes into the small networks below


class Padded(nn.Module):
    """A network behind what pads a map's width to a multiple of DIVIDES; what it gives has its channels last."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps):
        found = self.layers(F.pad(maps, (0, -maps.shape[-1] % DIVIDES, 0, 0)))
        return found.permute(0, 2, 3, 1) if isinstance(found, torch.Tensor) else found


class Block(nn.Module):
    """As a VoVNet's: convolutions, all of whose maps go into one more, the channels weighed by their mean."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.concat, self.weigh = nn.Conv2d(3 * channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, maps):
        all_maps = [maps]
        for conv in self.convs:
            all_maps.append(conv(all_maps[-1]).relu())
        found = self.concat(torch.cat(all_maps, 1)).relu()
        return maps + found * F.hardsigmoid(self.weigh(found.mean((2, 3), keepdim=True)))


class Pyramid(nn.Module):
    """Two blocks, the second at half the size, added to the first one's map; gives both, channels last."""

    def __init__(self, channels):
        super().__init__()
        self.fine, self.coarse = Block(channels), Block(channels)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps):
        fine = self.fine(maps)
        coarse = self.coarse(self.pool(fine))
        fine = self.out(fine + F.interpolate(coarse, fine.shape[-2:]))
        return fine.permute(0, 2, 3, 1), coarse.permute(0, 2, 3, 1)


def kernels_in(model):
    """How many convolutions of the model have a kernel of which size."""
    sizes = [
        tuple(node.input_value(1).get_shape())[2:] for node in model.get_ops() if node.get_type_name() == "Convolution"
    ]
    return {size: sizes.count(size) for size in sizes}


def run(network, maps, runtime=F32, least_channels=1):
    model = with_winograd(from_torch(network, maps), DIVIDES, least_channels)
    return model, Request(compiled(lambda: model, runtime, None).model)(maps)


def near(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(2, 5), st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**31 - 1))
@torch.inference_mode()
def test_a_convolution_gives_what_torchs_gives(inputs, outputs, height, width, seed):
    torch.manual_seed(seed)
    network, maps = Padded(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()), torch.randn(2, inputs, height, width)
    model, [found] = run(network, maps)
    assert kernels_in(model) == {(3, 1): 4}
    near(found, network(maps), 1e-5)


@pytest.mark.parametrize(
    ("width", "runtime", "tolerance"),
    [
        (24, F32, 1e-5),
        (9, F32, 1e-5),
        pytest.param(
            24, BF16, 0.02, marks=pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16")
        ),
    ],
)
@torch.inference_mode()
def test_maps_stay_split_through_blocks_pools_and_sums(width, runtime, tolerance):
    torch.manual_seed(0)
    network, maps = Padded(Pyramid(16)), torch.randn(1, 16, 11, width)
    model, found = run(network, maps, runtime)
    assert kernels_in(model) == {(3, 1): 5 * 4, (1, 1): 2 * (2 + 1)}  # of split maps two each, and one for the mean
    for of_level, expected in zip(found, network(maps), strict=True):
        near(of_level, expected, tolerance)


@torch.inference_mode()
def test_of_a_width_that_may_be_odd_nothing_is_split():
    torch.manual_seed(0)
    halves = [nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1, 2)]  # 12 columns, 6, 3
    network, maps = Padded(*halves, nn.Conv2d(4, 4, 3, padding=1)), torch.randn(1, 4, 9, 10)
    model, [found] = run(network, maps)
    assert kernels_in(model) == {(3, 3): 2, (1, 1): 1}
    near(found, network(maps), 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, 2),
        nn.MaxPool2d(3, 1, 1),
        nn.AvgPool2d(2),
        nn.Sigmoid(),
        nn.GroupNorm(2, 4),
    ],
)
@torch.inference_mode()
def test_whatever_comes_next_gets_the_whole_map(layer):
    torch.manual_seed(0)
    network, maps = Padded(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), layer), torch.randn(1, 4, 8, 12)
    model, [found] = run(network, maps)
    assert kernels_in(model)[3, 1] == 4
    near(found, network(maps), 1e-5)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 2), nn.MaxPool2d(3, 2), nn.ZeroPad2d((0, 1, 0, 0))])
@torch.inference_mode()
def test_behind_what_may_leave_an_odd_width_nothing_is_split(layer):
    torch.manual_seed(0)
    network, maps = Padded(layer, nn.Conv2d(4, 4, 3, padding=1)), torch.randn(1, 4, 8, 12)
    model, [found] = run(network, maps)
    assert (3, 1) not in kernels_in(model)
    near(found, network(maps), 1e-5)


def test_what_a_norm_reads_and_what_has_few_channels_is_left():
    maps = torch.randn(1, 4, 8, 12)
    model, _ = run(Padded(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8)), maps)
    assert kernels_in(model) == {(3, 3): 1}
    model, _ = run(Padded(nn.Conv2d(4, 8, 3, padding=1)), maps, least_channels=5)
    assert kernels_in(model) == {(3, 3): 1}


# n: in the blocks at strides 4, 8 and 16, one, one and one of three convolutions or one, one and two of five; of p2 to p4 what the
# pyramid gives, and what the proposals' head sees in it. means: of each block one, of a split map two.
@pytest.mark.parametrize(
    ("backbone", "norm", "n", "means"),
    [
        ("ese_vovnet19b", "batch", 3 + 3 + 3 + 3 + 3, 2 * 3 + 1),
        ("ese_vovnet19b", "frozen", 3 + 3 + 3 + 3 + 3, 2 * 3 + 1),
        ("ese_vovnet19b", "group", 0, 4),
        ("eca_vovnet39b", "batch", 5 + 5 + 2 * 5 + 3 + 3, 2 * 4 + 2),
    ],
)
@torch.inference_mode()
def test_a_detectors_maps_are_torchs(backbone, norm, n, means, tmp_path):
    """Of a VoVNet with enough channels; the pictures' sides are no multiples of 32."""
    write_detector(tmp_path / "detector", backbone=backbone, pyramid_channels=128, norm=norm)
    network, _ = load_detector(tmp_path / "detector", runtime=PLAIN, least_score=0.1)
    model = detector_models(network, "f32")["front"]()
    assert kernels_in(model).get((3, 1), 0) == 4 * n
    assert sum(node.get_type_name() == "ReduceMean" for node in model.get_ops()) == means
    picture = torch.randint(0, 256, (1, 3, 70, 100), dtype=torch.uint8)
    request = Request(compiled(lambda: model, F32, None).model)
    images, _ = network.transform([picture[0].float() / 255])
    assert images.tensors.shape[-1] % DIVISOR == 0
    levels = list(network.backbone(images.tensors).values())
    logits, deltas = network.rpn.head(levels)
    for found, expected in zip(request(picture), [*levels[:4], *logits, *deltas], strict=True):
        near(found.permute(0, 3, 1, 2), expected, 1e-4)
    sources = sources_of(
        network, CompiledDetector(network, detector_models(network, "f32"), F32, dict.fromkeys(MODELS)), [picture[0]]
    )
    assert (3, 1) not in kernels_in(sources["front"].model)


@pytest.mark.parametrize(("runtime", "amx", "plain"), [(BF16, True, True), (BF16, False, False), (F32, True, False)])
def test_where_the_cpu_multiplies_in_tiles_convolutions_in_bf16_are_plain(runtime, amx, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(bbox_sub.openvino_engine, "cpu_has_amx", lambda: amx)
    monkeypatch.setattr(bbox_sub.detector, "CompiledDetector", lambda network, makes, *_: makes)
    write_detector(tmp_path / "detector", backbone="ese_vovnet19b", pyramid_channels=128)
    makes, _ = load_detector(tmp_path / "detector", runtime=runtime, least_score=0.1)
    assert ((3, 1) not in kernels_in(makes["front"]())) == plain


def test_a_detectors_boxes_are_torchs(tmp_path):
    write_detector(tmp_path / "detector", backbone="ese_vovnet19b", pyramid_channels=128)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1) for h, w in ((96, 64), (64, 100))
    ]
    expected, found = (
        detect_boxes(
            load_detector(tmp_path / "detector", runtime=runtime, least_score=0.1)[0],
            pictures,
            short_side=96,
            max_side=200,
            batch_size=2,
        )
        for runtime in (PLAIN, F32)
    )
    for (boxes, scores, labels), (true_boxes, true_scores, true_labels) in zip(found, expected, strict=True):
        assert len(boxes) > 5 and labels.tolist() == true_labels.tolist()
        assert np.abs(boxes - true_boxes).max() <= 0.01 and np.abs(scores - true_scores).max() <= 1e-4
