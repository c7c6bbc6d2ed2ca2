"""The comparison of choices: each differs from the config in what its name says, and a run of it judges what was not trained on."""

import json

import pytest

from benchmarks.embedder_choices import choices, main
from shared.config import Config, dump_config, load_config
from shared.errors import UserError
from tests.conftest import PROJECT


def differences(tree, other, place=""):
    """The dotted keys in which two trees differ."""
    if isinstance(tree, dict) and isinstance(other, dict):
        keys = {*tree, *other}
        return {found for key in keys for found in differences(tree.get(key), other.get(key), f"{place}.{key}")}
    return set() if tree == other else {place.removeprefix(".")}


@pytest.mark.parametrize("config", ["cpu", "tiny", "wab"])
def test_every_choice_is_a_config_of_its_own(config):
    made = choices(load_config(PROJECT / "configs" / f"{config}.yaml"))
    base = made.pop("as configured")
    assert len(made) > 10 and len(base["embedders"]) == 1
    changed = {name: differences(base, Config.model_validate(tree).model_dump()) for name, tree in made.items()}
    assert all(changed.values())
    for name, n_groups in (("one aspect group", 1), ("five aspect groups", 5)):  # one of them may be the config's own
        assert made.get(name, base)["embedders"] == [base["embedders"][0] | {"aspect_groups": n_groups}]
    assert changed["mean pooling"] <= {"embed.gem_p", "embed.gem_learned"}
    assert changed["replay of the hardest of 10"] == {"embed_train.replay_every"}


def test_a_choice_is_trained_judged_and_reused(tiny_data, tiny_config, tmp_path, capsys):
    path, work = tmp_path / "config.yaml", tmp_path / "work"
    path.write_text(dump_config(tiny_config))
    arguments = ["--config", str(path), "--data", str(tiny_data), "--work", str(work), "--only", "mean pooling"]
    main(arguments)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0].strip("| ") for row in rows[2:]] == ["as configured", "mean pooling"]
    assert rows[0][1:] == ["validation recall@1", "mAP@R", "S1", "CPU time |"] and rows[2][-1] == "1.00 |"
    found = json.loads((work / "choices.json").read_text())
    judged = json.loads((work / "choice0" / "validation" / "evaluation" / "embedders.json").read_text())
    assert (
        found["as configured"]["parts"]["validation"] == judged["ensemble"] and found["mean pooling"]["cpu_seconds"] > 0
    )
    made = {file: file.stat().st_mtime_ns for file in work.rglob("weights.safetensors")}
    main(arguments)
    assert len(made) == 2 and made == {file: file.stat().st_mtime_ns for file in work.rglob("weights.safetensors")}
    (tiny_data / "train" / "image" / "000000" / "0.jpg").write_bytes(
        (tiny_data / "train" / "image" / "000001" / "0.jpg").read_bytes()
    )
    main(arguments)  # other data: all anew
    assert all(file.stat().st_mtime_ns != time_ns for file, time_ns in made.items())


def test_an_unknown_choice_is_refused(tiny_data, tmp_path):
    with pytest.raises(UserError, match="--only: expected some of as configured, .*found none such"):
        main(["--data", str(tiny_data), "--work", str(tmp_path), "--only", "none such"])
