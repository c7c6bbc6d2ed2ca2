"""Networks with drawn weights that tell pictures apart, as trained ones do: their batch norms have seen pictures."""

from pathlib import Path

import torch
from torch import nn

from bbox_sub.detector import build_detector
from metric_sub.embedder import build_embedder, save_embedder
from shared.config import Config, load_config
from shared.weights import save_weights
from tests.conftest import PROJECT


def write_detector(folder, **changes):
    """A detector's folder, with weights that give boxes of many scores, sizes and classes."""
    overrides = ["backbone=ese_vovnet19b_slim_dw", "pyramid_channels=16", "box_head_features=32"]
    section = load_config(PROJECT / "configs" / "tiny.yaml", [f"detector.{each}" for each in overrides]).detector
    section = section.model_copy(update={"categories": ["a", "b", "c"], "detections": 30} | changes)
    torch.manual_seed(0)
    model = build_detector(section, load_pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    predictor, head = model.roi_heads.box_predictor, model.rpn.head
    layers = ((predictor.cls_score, 0.3), (predictor.bbox_pred, 0.3), (head.cls_logits, 0.1), (head.bbox_pred, 0.02))
    with torch.inference_mode():
        model.train().backbone(torch.randn(4, 3, 96, 96))
        for layer, std in layers:
            layer.weight.normal_(std=std)
    save_weights(folder, model, {"architecture": section.model_dump(), "fingerprint": "drawn"})
    return folder


def write_embedder(folder: Path, config: Config, backbone: str = "resnet10t", n: int = 1) -> Path:
    """The folder of an embedder of n networks whose vectors of different crops differ."""
    model = config.embedders[0].model_copy(update={"backbone": backbone})
    torch.manual_seed(0)
    networks = [build_embedder(model, config.embed, load_pretrained=False) for _ in range(n)]
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.momentum = 1.0
        with torch.inference_mode():
            network.train()(torch.rand(32, 3, 12, 12).repeat_interleave(4, 2).repeat_interleave(4, 3))
    save_embedder(folder, networks, model, config.embed, {}, 0)
    return folder
