"""The comparison of choices: each differs from the config in what its name says, and a run of it judges what was not trained on."""

import json
import re

import pytest

from benchmarks.embedder_choices import choices, main, table
from metric_sub.descriptors import descriptor_weights
from shared.config import Config, dump_config, load_config
from shared.errors import UserError
from tests.conftest import PROJECT


def differences(tree, other, place=""):
    """The dotted keys in which two trees differ."""
    if isinstance(tree, dict) and isinstance(other, dict):
        keys = {*tree, *other}
        return {found for key in keys for found in differences(tree.get(key), other.get(key), f"{place}.{key}")}
    return set() if tree == other else {place.removeprefix(".")}


AUGMENT, LOSS = r"embed_train\.augment\.\w+", r"embed_train\.loss"
CHANGES = {  # what each choice may change
    "one aspect group": ["embedders"],
    "five aspect groups": ["embedders"],
    "one scale": [r"embed_train\.scales"],
    "three scales in turn": [r"embed_train\.scales"],
    "no augmentation but the boxes' jitter": [rf"{AUGMENT}\.(?!box_jitter)\w+"],
    "photos on their white paper": [rf"{AUGMENT}\.backdrop"],
    "exact boxes": [rf"{AUGMENT}\.box_jitter"],
    "no colour shift, no grey": [rf"{AUGMENT}\.(channel_shift|grey)"],
    "distractors' tracks as products": [r"embed_train\.distractor_tracks"],
    "no recoloured products": [r"embed_train\.recolour"],
    "half of the colourful products recoloured": [r"embed_train\.recolour"],
    "MixUp 0.5": [rf"{AUGMENT}\.(mixup|cutmix)"],
    "CutMix 0.5": [rf"{AUGMENT}\.(mixup|cutmix)"],
    "memory of 256 for ArcFace": ["embedders", rf"{LOSS}\.memory_for"],
    "multi-similarity added": [rf"{LOSS}\.pair"],
    "multi-similarity added, memory of 256": ["embedders", rf"{LOSS}\.(pair|memory_for)"],
    "sub-centres": [rf"{LOSS}\.classifier"],
    "margin 0.3": [rf"{LOSS}\.margin"],
    "mean pooling": [r"embed\.gem_(p|learned)"],
    "GeM, p = 3 frozen": [r"embed\.gem_(p|learned)"],
    "a quarter of the epochs as views": [r"embed_train\.phases"],
    "three cycles at the end, averaged": [r"embed_train\.(phases|snapshots)"],
    "three cycles at the end, concatenated": [r"embed_train\.(phases|snapshots)"],
    "replay of the hardest of 10": [r"embed_train\.replay_every"],
}


@pytest.mark.parametrize("config", ["cpu", "tiny", "wab"])
def test_every_choice_is_a_config_of_its_own(config):
    made = choices(load_config(PROJECT / "configs" / f"{config}.yaml"))
    base = made.pop("as configured")
    assert len(made) > 10 and len(base["embedders"]) == 1
    assert set(descriptor_weights(Config.model_validate(base).descriptors)) == set()
    changed = {name: differences(base, Config.model_validate(tree).model_dump()) for name, tree in made.items()}
    for name, keys in changed.items():
        assert keys and all(any(re.fullmatch(f"{key}(\\..*)?", found) for key in CHANGES[name]) for found in keys), (name, keys)
    for name, n_groups in (("one aspect group", 1), ("five aspect groups", 5)):  # one of them may be the config's own
        assert made.get(name, base)["embedders"] == [base["embedders"][0] | {"aspect_groups": n_groups}]


def test_phases_before_the_changed_one_stay():
    made = choices(load_config(PROJECT / "configs" / "wab.yaml"))
    phases = {name: tree["embed_train"]["phases"] for name, tree in made.items()}
    of = phases["as configured"]
    assert len(of) > 2 and len(made["as configured"]["embed_train"]["augment"]) > 1
    views, *after = phases["a quarter of the epochs as views"]
    assert views["task"] == "views" and views["share"] == 0.25
    assert after == [{**phase, "share": pytest.approx(0.75 * phase["share"])} for phase in of]
    *before, annealed, cycles = phases["three cycles at the end, averaged"]
    assert before == of[:-1] and cycles["cycles"] == 3
    assert annealed["share"] + cycles["share"] == pytest.approx(of[-1]["share"])


def test_a_choice_that_does_not_fit_the_config_is_left_out(caplog):
    """A pair loss leaves mixed crops out, and there is no classifier that could have a memory."""
    overrides = ["embed_train.loss.classifier=none", "embed_train.loss.pair=multi_similarity"]
    made = choices(load_config(PROJECT / "configs" / "cpu.yaml", overrides))
    assert "mean pooling" in made
    for name in ("MixUp 0.5", "CutMix 0.5", "memory of 256 for ArcFace"):
        assert name not in made and f"{name}: left out: " in caplog.text


def test_a_choice_is_trained_judged_and_reused(tiny_data, tiny_config, tmp_path, capsys):
    path, work = tmp_path / "config.yaml", tmp_path / "work"
    path.write_text(dump_config(tiny_config))
    arguments = ["--config", str(path), "--data", str(tiny_data), "--work", str(work), "--only", "mean pooling"]
    main(arguments)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0].strip("| ") for row in rows[2:]] == ["as configured", "mean pooling"]
    assert rows[0][1:] == ["validation recall@1", "mAP@R", "S1", "CPU time |"] and rows[2][-1] == "1.00 |"
    found, seed = json.loads((work / "choices.json").read_text()), tiny_config.embedders[0].seed
    evaluation = work / f"choice0_{seed}" / "validation" / "evaluation"
    judged = json.loads((evaluation / "embedders.json").read_text())
    assert found["as configured"][str(seed)]["parts"]["validation"] == judged["ensemble"]
    assert found["mean pooling"][str(seed)]["cpu_seconds"] > 0
    made = {file: file.stat().st_mtime_ns for file in work.rglob("weights.safetensors")}
    main(arguments)
    assert len(made) == 2 and made == {file: file.stat().st_mtime_ns for file in work.rglob("weights.safetensors")}
    main([*arguments, "--seeds", "2"])  # one more of each
    more = {file: file.stat().st_mtime_ns for file in work.rglob("weights.safetensors")}
    assert len(more) == 4 and made.items() <= more.items()
    found = json.loads((work / "choices.json").read_text())["mean pooling"]
    assert [of["config"]["embedders"][0]["seed"] for of in found.values()] == [seed, seed + 1]
    (tiny_data / "train" / "image" / "000000" / "0.jpg").write_bytes(
        (tiny_data / "train" / "image" / "000001" / "0.jpg").read_bytes()
    )
    main(arguments)  # other data: all anew
    assert all(file.stat().st_mtime_ns != time_ns for file, time_ns in made.items())


def test_the_table_has_means_and_the_differences_of_equal_seeds():
    def run(recall, map_at_r, s1, seconds):
        figures = {"retrieval": {"recall_at_1": recall, "mAP_at_R": map_at_r}, "matching": {"S1": s1}}
        return {"cpu_seconds": seconds, "parts": {"test": figures}}

    found = {
        "as configured": [run(0.5, 0.4, 0.2, 10), run(0.7, 0.6, 0.4, 30)],
        "other": [run(0.625, 0.4, 0.1, 30), run(0.675, 0.5, 0.6, 30)],
    }
    assert table(found, ["test"]).splitlines()[2:] == [
        "| as configured | 0.600 | 0.500 | 0.300 | 1.00 |",
        "| other | 0.650 (-0.025 to +0.125) | 0.450 (-0.100 to +0.000) | 0.350 (-0.100 to +0.200) | 1.50 |",
    ]
    first = {name: runs[:1] for name, runs in found.items()}
    assert table(first, ["test"]).splitlines()[3] == "| other | 0.625 | 0.400 | 0.100 | 3.00 |"


def test_a_choice_that_training_refuses_is_left_out(tiny_data, tiny_config, tmp_path, capsys, caplog):
    """Views come in pairs, and five crops do not."""
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--data", str(tiny_data), "--work", str(tmp_path / "work")]
    main([*arguments, "--only", "a quarter of the epochs as views", "embedders.0.batch_size=5"])
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["| as configured"]
    assert "a quarter of the epochs as views: left out: embedders.a.batch_size: expected a multiple of 2" in caplog.text
    with pytest.raises(UserError, match="--seeds: expected seeds below 4294967296, found 2 from 4294967295 on"):
        main([*arguments, "--seeds", "2", "embedders.0.seed=4294967295"])


def test_an_unknown_choice_is_refused(tiny_data, tmp_path):
    with pytest.raises(UserError, match="--only: expected some of as configured, .*found none such"):
        main(["--data", str(tiny_data), "--work", str(tmp_path), "--only", "none such"])
    with pytest.raises(UserError, match="--seeds: expected 1 or more, found 0"):
        main(["--data", str(tiny_data), "--work", str(tmp_path), "--seeds", "0"])
