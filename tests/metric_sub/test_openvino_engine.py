"""The compiled embedders against the same networks in torch."""

import functools
import heapq
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.crops import CropRule
from metric_sub.embed import CropEmbedder, embed_crops
from metric_sub.embedder import load_embedders
from metric_sub.openvino_engine import Front, front_model, shares
from shared.runtime import PLAIN, Runtime, cpu_has_bf16, openvino_core
from tests.drawn_networks import write_embedder

F32 = Runtime("openvino", "f32", "cpu", "")
BF16 = Runtime("openvino", "bf16", "cpu", "")
RULE = CropRule(48, 0.0, (0.5, 1.0, 2.0), "bilinear")
GROUPS = np.array([1, 0, 2, 1, 1, 0])


def crops():
    rng = np.random.default_rng(0)
    return [
        np.repeat(np.repeat(rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8), 4, 0), 4, 1)
        for h, w in map(RULE.size_of, GROUPS)
    ]


@pytest.fixture
def save(tiny_config, tmp_path):
    """save(backbone, n) writes an embedder of n networks and gives its folder."""
    return functools.partial(write_embedder, tmp_path / "embedder", tiny_config)


def embed(folder, runtime, *, flip=False, k=0):
    return embed_crops(load_embedders(folder, runtime=runtime, flip=flip)[k], crops(), GROUPS, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_in_float32_the_vectors_of_torch(save, flip):
    folder = save()
    found, expected = (embed(folder, runtime, flip=flip) for runtime in (F32, PLAIN))
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)
    assert np.abs(found @ found.T - 1)[~np.eye(len(found), dtype=bool)].max() > 0.05  # the crops are not all alike


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16")
def test_in_bf16_the_cosine_stays_near_1(save):
    folder = save()
    assert (embed(folder, BF16) * embed(folder, PLAIN)).sum(axis=1).min() > 0.995


@torch.inference_mode()
def test_tensorflows_padding_goes_into_the_convolutions(save):
    [plain] = load_embedders(save("tf_efficientnet_b0"), runtime=PLAIN, flip=False)
    types = [node.get_type_name() for node in front_model(plain.net).get_ops()]
    assert "Pad" not in types and "GroupConvolution" in types


@pytest.mark.parametrize("backbone", ["tf_efficientnet_b0", "resnetblur18"])  # the second pads by mirrored pixels
def test_padding_before_convolutions_at_even_and_odd_sizes(save, backbone):
    folder = save(backbone)
    [plain], [ours] = (load_embedders(folder, runtime=runtime, flip=False) for runtime in (PLAIN, F32))
    rng = np.random.default_rng(1)
    for height, width in ((64, 64), (48, 80), (33, 47), (50, 31)):  # 48 and 80 become odd on the way down
        crop = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = plain.net(torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 255).numpy()
        assert (ours.net(crop) * expected).sum() > 0.9999


@pytest.mark.parametrize(
    "runtime", [F32, pytest.param(BF16, marks=pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16"))]
)
def test_a_crop_has_the_same_bits_in_any_company(save, runtime, two_threads):
    [embedder] = load_embedders(save(), runtime=runtime, flip=True)
    assert embedder.net._workers.n == 2  # so that company is at work at the same time
    together = embed_crops(embedder, crops() * 3, np.tile(GROUPS, 3), 16)
    for k, (crop, group) in enumerate(zip(crops(), GROUPS, strict=True)):
        alone = embed_crops(embedder, [crop], np.array([group]), 1)[0]
        assert all(np.array_equal(alone, together[k + len(GROUPS) * turn]) for turn in range(3))


@given(st.integers(0, 500), st.integers(1, 16), st.integers(1, 16))
def test_whoever_takes_the_next_share_when_done_with_one_ends_as_early_as_can_be(n_crops, n_workers, at_once):
    busy_until = [0] * n_workers
    taken = []
    for share in shares(n_crops, n_workers, at_once):
        taken += range(n_crops)[share]
        assert 1 <= share.stop - share.start <= at_once
        heapq.heapreplace(busy_until, busy_until[0] + share.stop - share.start)
    assert taken == list(range(n_crops))
    assert max(busy_until) == math.ceil(n_crops / n_workers)


class PadsTwice(torch.nn.Module):
    """Up to a multiple of 4, and then 3 more by the convolution: as some backbones' first layers do."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 7, stride=4, padding=3)

    def forward(self, images):
        height, width = images.shape[-2:]
        return self.convolution(torch.nn.functional.pad(images, (0, -width % 4, 0, -height % 4)))


@torch.inference_mode()
def test_a_convolution_that_pads_itself_keeps_its_padding(save):
    [plain] = load_embedders(save(), runtime=PLAIN, flip=False)
    plain.net.backbone = PadsTwice()
    front = openvino_core().compile_model(front_model(plain.net), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in ((64, 64), (33, 47)):
        crop = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
        expected = Front(plain.net)(torch.from_numpy(crop)).numpy()
        assert np.abs(front(crop)[0] - expected).max() < 1e-4


def test_snapshots_are_compiled_each(save):
    folder = save(n=2)
    for k in range(2):
        assert np.abs(embed(folder, F32, k=k) - embed(folder, PLAIN, k=k)).max() < 1e-4
    kept = sorted(path.name.split(".")[0] for path in (folder / "compiled").iterdir())
    assert kept == ["network0", "network1"]
    assert np.array_equal(embed(folder, F32), embed(folder, F32))  # read from there


def test_no_crops_and_the_dimension(save):
    [embedder] = load_embedders(save(), runtime=F32, flip=True)
    joined = CropEmbedder([[embedder], [embedder]], 4)
    assert embed_crops(embedder, [], np.zeros(0, np.int64), 4).shape == (0, embedder.dimension)
    assert joined.take().shape == (0, 2 * embedder.dimension) == (0, joined.dimension)
