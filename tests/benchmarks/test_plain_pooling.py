"""The plain sides of the benchmarks pool by torchvision's operator, not by our look-up."""

import pytest
import torch

from bbox_sub.detector import build_detector
from benchmarks._plain_pooling import pooling_plainly


def test_the_plain_network_never_looks_up(tiny_config, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("looked up")

    torch.manual_seed(0)
    network = build_detector(tiny_config.detector, load_pretrained=False).eval()
    pictures = [torch.rand(3, 96, 96)]
    with torch.inference_mode():
        ours = network(pictures)[0]
        monkeypatch.setattr("bbox_sub.rcnn.pool_boxes", refuse)
        with pytest.raises(AssertionError, match="looked up"):
            network(pictures)
        plain = pooling_plainly(network)(pictures)[0]
    assert len(plain["boxes"]) and torch.allclose(plain["boxes"], ours["boxes"], atol=1e-3)
