"""The entry of `run.sh quantize --stage detect`: what it leaves, what inference makes of it, what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch

import bbox_sub.quantize
from bbox_sub.detect import detect_boxes
from bbox_sub.detector import build_detector, load_detector
from bbox_sub.infer import main as infer
from bbox_sub.quantize import main
from shared.config import dump_config
from shared.errors import UserError
from shared.runtime import Runtime
from shared.weights import save_weights

pytest.importorskip("nncf")

FLOAT, INT8 = (Runtime("openvino", precision, "cpu", "") for precision in ("f32", "int8"))


@pytest.fixture
def options(tiny_data, tiny_config, tmp_path):
    """The arguments of the entry, and the folder of a detector with random weights and biases."""
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    net = build_detector(tiny_config.detector, load_pretrained=False)
    for layer in net.modules():  # trained networks have biases; without any OpenVINO may run an INT8 network wrongly
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.normal_(layer.bias, std=0.05)
    net([torch.rand(3, 96, 64) for _ in range(4)], [{"boxes": torch.tensor([[8.0, 8, 40, 60]]), "labels": torch.tensor([1])}] * 4)
    save_weights(weights / "detector", net, {"kind": "detector", "architecture": tiny_config.detector.model_dump()})
    (weights / "config.yaml").write_text(dump_config(tiny_config))
    arguments = ["--data", str(tiny_data), "--weights", str(weights), "--work", str(tmp_path / "work")]
    return [*arguments, "quantize.calibration_pictures=6", "quantize.float_layers=[0]"], weights / "detector"


def manifest(folder):
    return json.loads((folder / "int8" / "manifest.json").read_text())


def losing(monkeypatch, *maps):
    """Lets the judged detectors have these mAPs, in their order."""
    left = iter(maps)
    monkeypatch.setattr(bbox_sub.quantize, "judge", lambda *_: {"mAP": next(left), "AP50": 0.5, "AR": 0.5})


def test_int8_weights_are_made_told_reused_and_taken(options, caplog, tmp_path):
    arguments, folder = options
    main(arguments)
    told = manifest(folder)
    assert told["rows"] == 6 and told["float_layers"] == []
    assert told["depends"]["weights"] == json.loads((folder / "model.json").read_text())["sha256"]
    assert set(told["depends"]["versions"]) == {"nncf", "openvino"}
    assert set(told["files"]) == {"front.xml", "front.bin", "box_head.xml", "box_head.bin"}
    cost = told["cost"]
    assert cost["loss"] == cost["float"]["mAP"] - cost["int8"]["mAP"] and cost["pictures"] > 0
    # the same features, roughly: an image's proposals by both
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 96, 64), dtype=np.uint8))
    fronts = []
    for runtime in (FLOAT, INT8):
        detector, _ = load_detector(folder, runtime=runtime, least_score=0.0)
        fronts.append(detector.pooled_proposals([picture])[0])
        assert detect_boxes(detector, [picture.permute(1, 2, 0).numpy()], short_side=64, max_side=96, batch_size=1)
    assert 0 < (fronts[0].mean(0) - fronts[1].mean(0)).norm() < 0.3 * fronts[0].mean(0).norm()
    caplog.set_level("INFO")
    main(arguments)
    assert "reused" in caplog.text
    (folder / "int8" / "front.bin").unlink()
    shutil.rmtree(folder / "compiled")
    main(arguments)
    load_detector(folder, runtime=INT8, least_score=0.0)
    # and the whole stage with it; another calibration has other fingerprints
    run = arguments[:6] + ["runtime={engine: openvino, precision: int8, device: auto}"]
    infer(run)
    before = json.loads((tmp_path / "work" / "detections" / "photos" / "manifest.json").read_text())["fingerprint"]
    main([*arguments, "quantize.calibration_pictures=4"])
    infer(run)
    assert before != json.loads((tmp_path / "work" / "detections" / "photos" / "manifest.json").read_text())["fingerprint"]


def test_however_often_it_is_compiled_int8_gives_the_same_on_two_threads(options):
    """OpenVINO 2026.4 makes two streams' INT8 models side by side, most of them wrong and not always the same ones."""
    arguments, folder = options
    main(arguments)
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 96, 64), dtype=np.uint8))

    def pooled(threads):
        shutil.rmtree(folder / "compiled", ignore_errors=True)
        torch.set_num_threads(threads)
        return load_detector(folder, runtime=INT8, least_score=0.0)[0].pooled_proposals([picture] * 3)[0]

    before = torch.get_num_threads()
    try:
        alone = pooled(1)
        for _ in range(6):
            np.testing.assert_allclose(pooled(2).mean(0), alone.mean(0), atol=0.02 * alone.abs().max())
    finally:
        torch.set_num_threads(before)


def test_past_the_limit_nothing_is_left(options, monkeypatch):
    arguments, folder = options
    losing(monkeypatch, 0.8, 0.7)
    with pytest.raises(UserError, match=r"detector, mAP: INT8 costs more than the limit of 0.05: 0.1000 with 0 layers"):
        main([*arguments, "quantize.max_map_loss=0.05"])
    assert not (folder / "int8").exists()
    with pytest.raises(UserError, match="wants INT8 weights, and there are none"):
        load_detector(folder, runtime=INT8, least_score=0.5)


def test_an_interrupted_run_leaves_nothing_to_take_and_is_begun_anew(options, monkeypatch):
    arguments, folder = options
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bbox_sub.quantize.Step, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        main([*arguments, "quantize.max_map_loss=null"])
    with pytest.raises(UserError, match="wants INT8 weights, and there are none"):
        load_detector(folder, runtime=INT8, least_score=0.5)
    main([*arguments, "quantize.max_map_loss=null"])
    load_detector(folder, runtime=INT8, least_score=0.5)


def test_without_labels_it_is_refused_or_made_unmeasured(options, tiny_data):
    arguments, folder = options
    for path in tiny_data.glob("*/*_annotation/**/*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no labelled box in .*quantize.max_map_loss to null"):
        main(arguments)
    main([*arguments, "quantize.max_map_loss=null"])
    assert manifest(folder)["cost"] is None and manifest(folder)["rows"] == 6


def test_pictures_that_cannot_be_read_are_left_out(options, tiny_data, caplog):
    arguments, folder = options
    for path in tiny_data.glob("train/image/*/*"):
        path.write_bytes(b"no picture")
    main([*arguments, "quantize.max_map_loss=null"])
    assert "left out" in caplog.text and manifest(folder)["files"]
    for path in tiny_data.glob("train/video/*"):
        path.write_bytes(b"no video")
    with pytest.raises(UserError, match="none of the calibration pictures can be read"):
        main([*arguments, "quantize.max_map_loss=null"])
