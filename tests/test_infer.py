"""Both stages in one process: the files of the two stages one after the other, and those of plain loops over the same functions."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bbox_sub.infer
import infer
import metric_sub.infer
from bbox_sub.detect import detect_boxes
from bbox_sub.detections import Detections
from bbox_sub.detector import INFERENCE_KEYS, detector_runtime, load_detector
from metric_sub.embed import CropEmbedder
from metric_sub.embedder import load_embedders
from metric_sub.embeddings import Embeddings
from shared.catalogue import COLUMNS as MEDIA
from shared.catalogue import catalogue_media
from shared.config import load_config
from shared.errors import UserError
from shared.media import MediaError, read_frames, read_photo
from shared.reader import Reader
from shared.runtime import PLAIN, choose_runtime
from shared.tables import BOX
from shared.units import Picture, UnitEnd, read_units

FILES = ("table.parquet", "units.parquet", "vectors.npy", "votes.parquet")


def arguments(data, weights, work, *more):
    return ["--data", str(data), "--weights", str(weights), "--work", str(work), *more]


def contents(work):
    files = [path for path in work.rglob("*") if path.name in FILES and path.parent.name != "media"]
    return {str(path.relative_to(work)): path.read_bytes() for path in [*files, work / "result.json"]}


def fingerprints(work):
    return {str(path.relative_to(work)): json.loads(path.read_text())["fingerprint"] for path in work.rglob("manifest.json")}


@pytest.fixture
def calm(plain_data, untrained, tmp_path):
    """The work folder of an undisturbed run of both stages in one process."""
    infer.main(arguments(plain_data, untrained, tmp_path / "calm"))
    return tmp_path / "calm"


def test_one_process_writes_what_the_two_stages_write(plain_data, untrained, tmp_path, calm):
    for stage in (bbox_sub.infer, metric_sub.infer):
        stage.main(arguments(plain_data, untrained, tmp_path / "two"))
    assert len(contents(calm)) > 8 and contents(calm) == contents(tmp_path / "two")


def test_descriptors_lengthen_the_vectors_and_another_weight_makes_them_anew(plain_data, untrained, tmp_path, calm):
    one, two = (f"descriptors={{gradient_histogram: 1, colour_histogram: {weight}, fine_colour_histogram: 0, whitening: null}}" for weight in (0, 0.5))
    work, vectors, detections = tmp_path / "work", [], []
    for override in (one, two):
        infer.main(arguments(plain_data, untrained, work, override))
        vectors.append(np.load(work / "embeddings" / "videos" / "vectors.npy"))
        detections.append((work / "detections" / "videos" / "manifest.json").stat().st_mtime_ns)
    plain = np.load(calm / "embeddings" / "videos" / "vectors.npy")
    assert [each.shape[1] - plain.shape[1] for each in vectors] == [576, 1152] and detections[0] == detections[1]
    assert np.allclose(np.linalg.norm(vectors[1], axis=1), 1, atol=1e-5)
    models = plain.shape[1]
    assert np.allclose(vectors[1][:, :models] * 3.5**0.5, plain * 2**0.5, atol=1e-5)  # two models of 1, and 1.5


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_flow_finds_what_plain_loops_find(plain_data, untrained, tmp_path, engine):
    """With torch a unit at a time, whose pictures and crops share batches; with OpenVINO every picture by itself."""
    override = f"runtime={{engine: {engine}, precision: f32, device: cpu}}"
    work = tmp_path / "work"
    infer.main(arguments(plain_data, untrained, work, override))
    config = load_config(untrained / "config.yaml", [override])
    chosen = {key: getattr(config.detector, key) for key in INFERENCE_KEYS}
    runtime = detector_runtime(config)
    detector, _ = load_detector(untrained / "detector", runtime=runtime, least_score=0.0, **chosen)
    models = [
        load_embedders(untrained / model.name, runtime=choose_runtime(config.runtime), flip=config.embed.flip)
        for model in config.embedders
    ]
    embedder = CropEmbedder(models, config.embed.batch_size)
    media = pd.read_parquet(work / "media" / "table.parquet")
    for kind, side in (("photos", config.detect.photo_short_side), ("videos", config.detect.video_short_side)):
        boxes, scores, vectors = [], [], []
        for _, unit in media[media.kind == kind[:-1]].groupby("item_id", sort=False):
            if kind == "photos":
                images = [read_photo(path, config.data.max_pixels) for path in unit.path]
            else:
                [path] = unit.path
                images = [image for _, image in read_frames(path, config.frames.indices, config.data.max_pixels)]
            for together in [images] if engine == "torch" else [[image] for image in images]:
                found = detect_boxes(
                    detector,
                    together,
                    short_side=side,
                    max_side=config.detect.max_side,
                    batch_size=config.detect.batch_size,
                )
                boxes += [each[0] for each in found]
                scores += [each[1] for each in found]
                cuts = [embedder.cut(image, each[0]) for image, each in zip(together, found, strict=True)]
                vectors.append(embedder.embed([cut for cut in cuts if len(cut)]))
        table = pd.read_parquet(work / "embeddings" / kind / "table.parquet")
        assert len(table) and np.array_equal(table[BOX].to_numpy(), np.concatenate(boxes))
        assert np.array_equal(table.score.to_numpy(), np.concatenate(scores))
        assert np.array_equal(np.load(work / "embeddings" / kind / "vectors.npy"), np.concatenate(vectors))


@pytest.mark.parametrize("stops_at", [1, 4])
def test_interrupted_at_any_file_it_goes_on_to_the_same_bytes(plain_data, untrained, tmp_path, calm, monkeypatch, stops_at):
    read = []
    for name in ("ask_photo", "frames"):
        ask = getattr(Reader, name)

        def stopped(self, path, *more, ask=ask):
            read.append(path)
            if len(read) == stops_at + 1:
                raise KeyboardInterrupt
            return ask(self, path, *more)

        monkeypatch.setattr(Reader, name, stopped)
    monkeypatch.setattr("shared.units.UNITS_PER_PART", {"photos": 1, "videos": 1})
    for module in ("bbox_sub.detections", "metric_sub.embeddings"):
        monkeypatch.setattr(f"{module}.UNITS_PER_PART", {"photos": 1, "videos": 1})
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        infer.main(arguments(plain_data, untrained, work))
    for stage in (bbox_sub.infer, metric_sub.infer):
        stage.main(arguments(plain_data, untrained, work))
    assert contents(work) == contents(calm)


def test_detections_that_stand_are_embedded_from_the_frames_that_have_boxes(
    plain_data, untrained, tmp_path, calm
):
    work = tmp_path / "work"
    bbox_sub.infer.main(arguments(plain_data, untrained, work))
    manifest = (work / "detections" / "videos" / "manifest.json").stat().st_mtime_ns
    infer.main(arguments(plain_data, untrained, work))
    assert contents(work) == contents(calm)
    assert (work / "detections" / "videos" / "manifest.json").stat().st_mtime_ns == manifest


def test_a_file_that_goes_after_stage_1_is_told(plain_data, untrained, tmp_path):
    work = tmp_path / "work"
    bbox_sub.infer.main(arguments(plain_data, untrained, work))
    (plain_data / "video" / "käse-7.mkv").unlink()
    with pytest.raises(UserError, match="käse-7.mkv: could be read by stage 1 and now cannot"):
        metric_sub.infer.main(arguments(plain_data, untrained, work))


def test_a_broken_video_is_skipped_on_record_and_the_others_stay(plain_data, untrained, tmp_path, calm):
    whole = (plain_data / "video" / "-dash.mp4").read_bytes()
    (plain_data / "video" / "a short.mp4").write_bytes(whole)
    work = tmp_path / "work"
    infer.main(arguments(plain_data, untrained, work, "frames={start: 30, stop: 40, step: 5}"))  # all end before
    skipped = json.loads((work / "detections" / "videos" / "manifest.json").read_text())["skipped"]
    assert len(skipped) == 4 and "shorter than the first wanted frame (30)" in skipped[0]["reason"]
    assert json.loads((work / "result.json").read_text()) == {}


def fail_at(monkeypatch, lost):
    """Has the reader fail at files of these names for a reason that may pass; the list is of those that it is asked for."""
    asked = []

    def fails(answer):
        yield from itertools.islice(answer, 1)  # of a video the first picture still comes
        raise MediaError("took too long", again=True)

    for name in ("ask_photo", "frames"):
        ask = getattr(Reader, name)

        def failing(self, path, *more, ask=ask):
            asked.append(Path(path).name)
            answer = ask(self, path, *more)
            return fails(answer) if asked[-1] in lost else answer

        monkeypatch.setattr(Reader, name, failing)
    return asked


@pytest.mark.parametrize("stages", [[infer], [bbox_sub.infer, metric_sub.infer]], ids=["at once", "by stages"])
def test_what_was_lost_for_a_reason_that_may_pass_is_tried_again(
    plain_data, untrained, tmp_path, calm, monkeypatch, stages
):
    work, lost = tmp_path / "work", ["käse-7.mkv", "1.webp"]

    def run():
        for stage in stages:
            stage.main(arguments(plain_data, untrained, work))

    with monkeypatch.context() as patched:
        asked = fail_at(patched, lost)
        run()
        skipped = json.loads((work / "skipped.json").read_text())
        assert [(entry["step"], Path(entry["media_id"]).name, entry["reason"]) for entry in skipped] == [
            ("detections/photos", "1.webp", "took too long"),
            ("detections/videos", "käse-7.mkv", "took too long"),
        ]
        assert all(entry.keys() == {"step", "media_id", "reason"} for entry in skipped)
        found = contents(work)
        assert found != contents(calm)
        matches = (work / "matches" / "manifest.json").read_bytes()
        asked.clear()
        run()  # and it fails again
        assert set(lost) <= set(asked) and "-dash.mp4" not in asked
        assert contents(work) == found and (work / "matches" / "manifest.json").read_bytes() == matches
    asked = fail_at(monkeypatch, [])
    run()
    assert set(lost) <= set(asked) and "-dash.mp4" not in asked
    assert contents(work) == contents(calm) and fingerprints(work) == fingerprints(calm)
    assert json.loads((work / "skipped.json").read_text()) == []
    asked.clear()
    run()
    assert asked == []


def test_what_was_lost_before_an_interruption_is_tried_again_by_either_stage(
    plain_data, untrained, tmp_path, calm, monkeypatch
):
    """What the interrupted run embedded of a unit that it lost does not stand for what another run detects in it."""
    monkeypatch.setattr("shared.units.UNITS_PER_PART", {"photos": 1, "videos": 1})
    for module in ("bbox_sub.detections", "metric_sub.embeddings"):
        monkeypatch.setattr(f"{module}.UNITS_PER_PART", {"photos": 1, "videos": 1})
    work = tmp_path / "work"
    with monkeypatch.context() as patched:
        fail_at(patched, ["-dash.mp4"])
        patched.setattr("bbox_sub.detections.Detections.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            infer.main(arguments(plain_data, untrained, work))
        patched.undo()
        asked = fail_at(patched, [])
        bbox_sub.infer.main(arguments(plain_data, untrained, work))
        assert asked == ["-dash.mp4"]
    metric_sub.infer.main(arguments(plain_data, untrained, work))
    assert contents(work) == contents(calm) and fingerprints(work) == fingerprints(calm)


def killed(*_):
    raise KeyboardInterrupt


def test_still_frames_reuse_boxes_and_moving_ones_do_not(plain_data, untrained, tmp_path, caplog):
    caplog.set_level("INFO", "detect")

    def boxes(name, below):
        infer.main(arguments(plain_data, untrained, tmp_path / name, f"detect.reuse_below={below}"))
        table = pd.read_parquet(tmp_path / name / "detections" / "videos" / "table.parquet")
        return table, [rows[BOX].to_numpy() for _, rows in table.groupby(["media_id", "frame_index"])]

    table, every = boxes("every", 0)
    _, none_still = boxes("none", 0.001)
    assert all(np.array_equal(one, other) for one, other in zip(every, none_still, strict=True))
    assert caplog.text.count("0 of 9 frames barely differed") == 1
    still, reused = boxes("all", 256)
    assert "6 of 9 frames barely differed from the last detected one and took its boxes (detect.reuse_below 256)" in caplog.text
    assert set(zip(still.media_id, still.frame_index, strict=True)) >= set(zip(table.media_id, table.frame_index, strict=True))
    for _, rows in still.groupby("media_id"):
        frames = [of_frame[BOX].to_numpy() for _, of_frame in rows.groupby("frame_index")]
        assert len(frames) == 3 and all(np.array_equal(frame, frames[0]) for frame in frames)


def test_a_frame_of_another_size_does_not_reuse_boxes(plain_data, untrained, tmp_path):
    """Boxes are in a frame's own pixels, and a video's size may change."""
    config = load_config(untrained / "config.yaml", ["detect.reuse_below=256"])
    media = catalogue_media(plain_data, tmp_path / "work", config.data, fresh=False, strict=False).table("table", MEDIA)
    detections = Detections(config, PLAIN, untrained, tmp_path / "work", media, fresh=False, strict=False)
    unit = next(unit for unit in detections.units if unit.kind == "videos")
    sizes = [(96, 64), (96, 64), (48, 32), (48, 32), (96, 64)]
    pictures = [Picture(unit, (), 20 * k, np.full((*size, 3), 90, np.uint8)) for k, size in enumerate(sizes)]
    assert [bool(each.resized) for each in detections.prepare(pictures)] == [True, False, True, False, True]


@pytest.mark.parametrize(("run", "model"), [(infer, "detector"), (bbox_sub.infer, "detector"), (infer, "a")])
def test_int8_without_int8_weights_is_refused_before_the_media_are_looked_through(
    run, model, plain_data, untrained, tmp_path, monkeypatch
):
    if model != "detector":
        monkeypatch.setattr("bbox_sub.detections.runtime_settings", lambda *_: {})
    with pytest.raises(UserError, match=f"{model}: runtime.precision int8 wants INT8 weights, and there are none"):
        run.main(arguments(plain_data, untrained, tmp_path / "work", "runtime={engine: openvino, precision: int8, device: auto}"))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("runs", [[infer], [bbox_sub.infer, metric_sub.infer]], ids=["both stages", "one after the other"])
def test_no_more_is_read_ahead_than_there_is_room_for(runs, plain_data, untrained, tmp_path, monkeypatch):
    """Reading is faster than any network: without a bound a large data set would lie in memory before it is through."""
    [photo, *_] = (plain_data / "image" / "shoe A").iterdir()
    for number in range(10):
        for name in range(4):
            (plain_data / "image" / f"more {number}").mkdir(exist_ok=True)
            shutil.copyfile(photo, plain_data / "image" / f"more {number}" / f"{name}{photo.suffix}")
    monkeypatch.setattr("shared.flow.ROOM", 1)
    monkeypatch.setattr("metric_sub.embeddings.WINDOW_BYTES", 1)
    n_read, n_ended, ahead = 0, 0, []

    def read(*arguments):
        nonlocal n_read
        for event in read_units(*arguments):
            n_read += isinstance(event, UnitEnd)
            ahead.append(n_read - n_ended)
            yield event

    def put(self, end, put):
        nonlocal n_ended
        n_ended += 1
        put(self, end)

    for run in runs:
        n_read = n_ended = 0
        stages = {infer: Embeddings, bbox_sub.infer: Detections, metric_sub.infer: Embeddings}
        monkeypatch.setattr("metric_sub.embeddings.read_units" if run is metric_sub.infer else f"{run.__name__}.read_units", read)
        with monkeypatch.context() as patched:
            stage = stages[run]
            patched.setattr(stage, "put", lambda self, end, before=stage.put: put(self, end, before))
            run.main(arguments(plain_data, untrained, tmp_path / "work", "detect.batch_size=1", "embed.batch_size=1"))
    assert n_read == n_ended == 15 and max(ahead) <= 6
