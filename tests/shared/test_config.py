"""The config: every key required, unknown ones refused by name, overrides, and a text that reads back to the same."""

from pathlib import Path

import pytest
import yaml

from shared.config import dump_config, load_config, save_config
from shared.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
FULL = next(path for path in CONFIGS if path.name == "wab.yaml")


def changed(tmp_path, change):
    """wab.yaml with `change(tree)` done to it."""
    tree = yaml.safe_load(FULL.read_text(encoding="utf-8"))
    change(tree)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return path


def message_of(path, overrides=()):
    with pytest.raises(UserError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert "{" not in message and "Value error" not in message  # no section is poured out
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_loads(path):
    config, plain = load_config(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config.match.keep_quantile == plain["match"]["keep_quantile"]
    assert [model.name for model in config.embedders] == [model["name"] for model in plain["embedders"]]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dumped_config_reads_back_equal(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy) == config


def test_a_dumped_config_keeps_small_numbers_and_other_scripts(tmp_path):
    config = load_config(
        FULL, ["detector_train.weight_decay=0.00001", "data.label_aliases={短袖Top: 短袖上衣, 'no': 'on'}"]
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert "短袖上衣" in copy.read_text(encoding="utf-8")
    assert load_config(copy) == config
    assert load_config(copy).data.label_aliases["no"] == "on"


def test_a_config_kept_beside_an_output_reads_back_equal(tmp_path):
    config = load_config(FULL, ["seed=7"])
    save_config(tmp_path / "deep" / "work", config)
    assert [path.name for path in (tmp_path / "deep" / "work").iterdir()] == ["config.yaml"]
    assert load_config(tmp_path / "deep" / "work" / "config.yaml") == config


def test_frames_include_the_stop():
    assert load_config(FULL, ["frames={start: 80, stop: 380, step: 20}"]).frames.indices == [*range(80, 381, 20)]
    assert load_config(FULL, ["frames={start: 5, stop: 12, step: 4}"]).frames.indices == [5, 9]
    assert load_config(FULL, ["frames={start: 9, stop: 9, step: 4}"]).frames.indices == [9]


@pytest.mark.parametrize(
    ("change", "key", "near"),
    [
        (lambda tree: tree.update(detekt={}), "detekt", "detect"),
        (lambda tree: tree["match"].update(keep_quantil=0.3), "match.keep_quantil", "keep_quantile"),
        (lambda tree: tree["embedders"][1].update(epoch=3), "embedders.1.epoch", "epochs"),
        (
            lambda tree: tree["detector_train"]["phases"][0].update(iteration=3),
            "detector_train.phases.0.iteration",
            "iterations",
        ),
        (
            lambda tree: tree["embed_train"]["augment"]["hard"].update(affin=0.5),
            "embed_train.augment.hard.affin",
            "affine",
        ),
        (lambda tree: tree["embed_train"]["phases"][0].update(cycle=2), "embed_train.phases.0.cycle", "cycles"),
        (lambda tree: tree["embed_train"]["loss"].update(centres=2), "embed_train.loss.centres", "centers"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path, change, key, near):
    path = changed(tmp_path, change)
    message = message_of(path)
    assert str(path) in message and f"unknown key {key!r}" in message and f"did you mean {near!r}?" in message


def test_an_unknown_key_that_is_near_to_none_is_told_what_there_is(tmp_path):
    assert "expected one of keep_quantile, min_share, max_distance" in message_of(
        changed(tmp_path, lambda tree: tree["match"].update(zzz=1))
    )


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda tree: tree.pop("seed"), "seed"),
        (lambda tree: tree.pop("score"), "score"),
        (lambda tree: tree["match"].pop("min_share"), "match.min_share"),
        (lambda tree: tree["embedders"][0].pop("memory"), "embedders.0.memory"),
        (lambda tree: tree["embed_train"]["augment"]["hard"].pop("jpeg"), "embed_train.augment.hard.jpeg"),
    ],
)
def test_a_missing_key_is_named(tmp_path, change, key):
    assert f"missing key {key!r}" in message_of(changed(tmp_path, change))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    def change(tree):
        del tree["seed"]
        tree["match"]["keep_quantil"] = 0.3
        tree["score"]["weights"] = [1, 2]

    message = message_of(changed(tmp_path, change))
    assert "'seed'" in message and "keep_quantil'" in message and "score.weights" in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=one", "seed"),
        ("seed=-1", "seed"),
        ("embedders.0.seed=4294967296", "embedders.0.seed"),
        ("embed.mean=[0.5, -0.1, 0.5]", "embed.mean.1"),
        ("embed.std=[0.2, 0, 0.2]", "embed.std.1"),
        ("threads=-1", "threads"),
        ("match=3", "match"),
        ("match.keep_quantile=1.5", "match.keep_quantile"),
        ("match.keep_quantile=.nan", "match.keep_quantile"),
        ("match.max_distance=0", "match.max_distance"),
        ("score.weights=[0.5, 0.5]", "score.weights"),
        ("score.rules=each", "score.rules"),
        ("detector.categories=[]", "detector.categories"),
        ("detector.anchor_sizes=[8, 16]", "anchor_sizes"),
        ("embedders=[]", "embedders"),
        ("embedders.0.name=Up/per", "embedders.0.name"),
        ("embedders.0.batch_size=2.5", "embedders.0.batch_size"),
        ("embed.aspect_limit=0.5", "embed.aspect_limit"),
        ("embed_train.scales=[]", "embed_train.scales"),
        ("embed_train.scales.0=-1", "embed_train.scales.0"),
        ("data.label_aliases=[]", "data.label_aliases"),
        ("frames.step=0", "frames.step"),
        ("frames={start: 9, stop: 3, step: 1}", "frames: expected a stop of 9 (start) or more, found 3"),
        ("frames={start: 0, stop: 9999999999999, step: 20}", "frames: expected 1000000 frames at most, found 500000000000;"),
        ("embed_train.frames={start: 0, stop: 1000000, step: 1}", "embed_train.frames: expected 1000000 frames at most"),
        ("detector_train.phases.0.start=best", "phases.0.start: 'best' has no phase before it"),
        ("detector_train.phases.1.start=", "detector_train.phases.1.start"),
        ("detector_train.phases.2.batch_size=0", "detector_train.phases.2.batch_size"),
        ("detector_train.keep_checkpoints=0", "detector_train.keep_checkpoints"),
        ("embed_train.phases.0.share=0.9", "phases: expected shares that add up to 1, found [0.9, 0.5, 0.2, 0.2]"),
        ("embed_train.phases.0.share=0", "embed_train.phases.0.share"),
        ("embed_train.phases.0.augment=heavy", "phases.0.augment: expected one of hard, light, found 'heavy'"),
        ("embed_train.phases.0.task=pairs", "embed_train.phases.0.task"),
        ("embed_train.phases.0.cycles=0", "embed_train.phases.0.cycles"),
        ("embed_train.phases=[]", "embed_train.phases"),
        ("embed_train.augment.hard.mixup=1.1", "embed_train.augment.hard.mixup"),
        ("embed_train.augment.hard=0.5", "embed_train.augment.hard"),
        ("embed_train.loss.classifier=none", "expected a classifier, or a pair loss"),
        ("embed_train.snapshots=first", "embed_train.snapshots"),
        ("embed.mean=[0.5, 0.5]", "embed.mean"),
        ("embed.interpolation=nearest", "embed.interpolation"),
        ("embedders.0.input_size=0", "embedders.0.input_size"),
        ("embedders.0.aspect_groups=0", "embedders.0.aspect_groups"),
        ("match.max_distance=.inf", "match.max_distance"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_key(override, key):
    assert key in message_of(FULL, [override])


def test_a_batch_is_mixed_in_one_way_at_most():
    overrides = ["embed_train.augment.hard.mixup=0.7", "embed_train.augment.hard.cutmix=0.4"]
    message = message_of(FULL, overrides)
    assert "embed_train.augment.hard" in message and "expected mixup + cutmix of 1 or less, found 0.7 + 0.4" in message
    mixed = load_config(FULL, [overrides[0], "embed_train.augment.hard.cutmix=0.3"]).embed_train.augment["hard"]
    assert mixed.mixup + mixed.cutmix == 1


def test_a_box_cannot_vote_for_more_than_was_ranked_anew():
    overrides = ["match.rerank=reciprocal", "match.neighbours=9", "match.reciprocal.candidates=8"]
    assert "expected 9 (match.neighbours) or more, found 8" in message_of(FULL, overrides)
    assert load_config(FULL, overrides[1:]).match.rerank == "none"


def test_further_pairs_need_true_distances():
    overrides = ["match.pairs=products", "match.rerank=expansion"]
    assert "pairs: products needs rerank: none" in message_of(FULL, overrides)
    assert load_config(FULL, overrides[:1]).match.pairs == "products"


def test_views_are_not_mixed():
    views = "embed_train.phases.0.task=views"
    assert load_config(FULL, [views]).embed_train.phases[0].task == "views"
    for key in ("mixup", "cutmix"):
        message = message_of(FULL, [views, f"embed_train.augment.hard.{key}=0.2"])
        assert "phases.0.augment: views of a crop cannot be mixed" in message and "'hard'" in message


def test_phases_take_augmentations_by_name(tmp_path):
    def change(tree):
        train = tree["embed_train"]
        train["snapshots"] = "last"
        train["phases"] = [
            train["phases"][0] | {"share": share, "augment": name}
            for share, name in ((0.1, "light"), (0.7, "hard"), (0.2, "light"))
        ]

    config = load_config(changed(tmp_path, change))
    names = [phase.augment for phase in config.embed_train.phases]
    assert names == ["light", "hard", "light"] and config.embed_train.augment["light"].grey == 0
    message = message_of(changed(tmp_path, change), ["embed_train.phases.1.augment=lite"])
    assert "phases.1.augment: expected one of hard, light, found 'lite'" in message
    assert "did you mean 'light'?" in message_of(changed(tmp_path, change), ["embed_train.augment.ligth.grey=0"])


def test_an_unknown_key_in_a_named_augmentation_is_told_the_nearest(tmp_path):
    def change(tree):
        tree["embed_train"]["augment"]["scale"] = tree["embed_train"]["augment"]["hard"] | {"gray": 0.1}

    message = message_of(changed(tmp_path, change))  # the name of an augmentation may be that of a key elsewhere
    assert "unknown key 'embed_train.augment.scale.gray'; did you mean 'grey'?" in message


def test_a_model_has_its_own_way_to_train():
    own = "{recolour: 0.5, scales: [1.0], loss: {margin: 0.1, pair: circle}}"
    config = load_config(FULL, [f"embedders.1.train={own}"])
    common = config.embed_train.model_dump()
    expected = common | {"recolour": 0.5, "scales": [1.0]}
    expected["loss"] = common["loss"] | {"margin": 0.1, "pair": "circle"}  # a section keeps its other keys
    assert config.train_of(config.embedders[1]).model_dump() == expected
    for number in (0, 2, 3):
        assert config.train_of(config.embedders[number]) == config.embed_train
    assert config.embed_train.model_dump() == common == load_config(FULL).embed_train.model_dump()


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("{recolor: 0.5}", "unknown key 'recolor'; did you mean 'recolour'?"),
        ("{recolour: 2}", "recolour: "),
        ("{loss: {margn: 0}}", "unknown key 'loss.margn'; did you mean 'margin'?"),
        ("{loss: 3}", "loss: "),
        ("{snapshots: last, phases: []}", "phases: "),
        ("{loss: {classifier: none}}", "expected a classifier, or a pair loss"),
        ("{parts: [a]}", "parts is common to all models; set embed_train.parts"),
        ("{augment: {hard: {grey: 1}}}", "augment is common to all models"),
        ("{frames: {start: 0}}", "frames is common to all models"),
    ],
)
def test_a_models_own_way_to_train_is_checked(own, expected):
    message = message_of(FULL, [f"embedders.1.train={own}"])
    assert "embedders.b5-b.train: " in message and expected in message


def test_a_models_memory_needs_a_loss_in_its_own_way_to_train():
    own = "embedders.3.train={loss: {memory_for: pair}}"
    assert "to see the memory of b7, found 'pair'" in message_of(FULL, [own])
    load_config(FULL, [own, "embedders.3.memory=0"])


def test_reciprocal_neighbours_are_searched_exactly():
    reciprocal, index = "match.rerank=reciprocal", "search.index=HNSW32"
    load_config(FULL, [reciprocal])
    load_config(FULL, [index])
    assert "search.index: expected exact" in message_of(FULL, [reciprocal, index])


def test_models_must_have_names_of_their_own():
    name = load_config(FULL).embedders[0].name
    assert "names must differ" in message_of(FULL, [f"embedders.1.name={name}"])
    for name in ("colour_histogram", "earlier"):
        assert "names must differ" in message_of(FULL, [f"embedders.1.name={name}"])
    message = message_of(FULL, ["embedders.1.name=detector"])
    assert message.startswith(
        f"{FULL}: embedders: names must differ"
    )  # a check of the whole config has no key before it


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.memory_for=pair"], "memory_for: expected classifier,"),
        (["loss.memory_for=both"], "memory_for: expected classifier,"),
        (["loss.memory_for=both", "loss.pair=circle", "loss.pair_weight=0"], "memory_for: expected classifier,"),
        (["loss.classifier=none", "loss.pair=circle"], "memory_for: expected pair,"),
        (["loss.classifier=none"], "expected a classifier, or a pair loss"),
        (["loss.classifier=none", "loss.pair=circle", "augment.hard.mixup=0.5"], "augment.hard: expected mixup"),
    ],
)
def test_what_the_losses_lack_is_refused(overrides, expected):
    assert expected in message_of(FULL, [f"embed_train.{override}" for override in overrides])


def test_memory_may_serve_every_loss_that_is_there():
    load_config(FULL, ["embed_train.loss.pair=circle", "embed_train.loss.memory_for=both"])
    without = [f"embedders.{number}.memory=0" for number in range(4)]
    load_config(FULL, [*without, "embed_train.loss.memory_for=pair"])


def test_overrides_change_values_of_every_kind():
    config = load_config(
        FULL,
        [
            "match.keep_quantile=0.5",
            "embedders.1.epochs=7",
            "embed.flip=false",
            "detector.categories=[top, skirt]",
            "detector_train.phases.0.learning_rate=1e-3",
            "embedders.0.pretrained=weights/a=b.pt",
            "seed=5",
            "seed=6",
        ],
    )
    assert (config.match.keep_quantile, config.embedders[1].epochs, config.embed.flip) == (0.5, 7, False)
    assert config.detector.categories == ["top", "skirt"]
    assert config.detector_train.phases[0].learning_rate == 0.001
    assert config.embedders[0].pretrained == "weights/a=b.pt"
    assert config.seed == 6  # the later one counts
    assert config.embedders[0].epochs == load_config(FULL).embedders[0].epochs


def test_a_bare_no_is_a_precision(tmp_path):
    config = load_config(FULL, ["detector_train.precision=no", "embed_train.precision='no'"])
    assert config.detector_train.precision == config.embed_train.precision == "no"
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy) == config
    assert "detector_train.precision" in message_of(FULL, ["detector_train.precision=true"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("match.keep_quantile", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("match..keep_quantile=3", "expected section.key=value"),
        ("match.keep_quantil=0.3", "did you mean 'keep_quantile'?"),
        ("macht.keep_quantile=0.3", "did you mean 'match'?"),
        ("embedders.4.epochs=1", "'embedders.4'"),
        ("embedders.-1.epochs=1", "'embedders.-1'"),
        ("embedders.first.epochs=1", "'embedders.first'"),
        ("seed.more=1", "'seed.more'"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(override, expected):
    message = message_of(FULL, [override])
    assert repr(override) in message and expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- a\n- b", "expected a mapping of sections, found list"),
        (b"", "found NoneType"),
        (b"a: \xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, expected):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    message = message_of(path)
    assert str(path) in message and expected in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "nowhere.yaml: the config cannot be read" in message_of(tmp_path / "nowhere.yaml")
    assert "cannot be read" in message_of(tmp_path)


def test_sections_may_share_yaml_anchors(tmp_path):
    path = tmp_path / "anchored.yaml"
    text = FULL.read_text(encoding="utf-8").replace("match:\n  keep_quantile: 0.28", "match:\n  <<: *near")
    path.write_text("anchors: {match: &near {keep_quantile: 0.125}}\n" + text, encoding="utf-8")
    assert load_config(path).match.keep_quantile == 0.125


def test_a_config_cannot_be_changed():
    config = load_config(FULL)
    with pytest.raises(ValueError):
        config.seed = 3
