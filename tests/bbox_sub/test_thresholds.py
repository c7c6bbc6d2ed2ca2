"""The sweep of thresholds against a plain loop, and what is proposed, in words and as YAML."""

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bbox_sub.thresholds import (
    STEP,
    draw_sweep,
    proposal_as_yaml,
    propose_threshold,
    sweep_thresholds,
    threshold_in_words,
)

#  score 0.9 0.8 0.6 0.4: hit, false, hit, false; three labelled boxes
SCORES, HITS = np.float32([0.4, 0.9, 0.6, 0.8]), np.array([False, True, True, False])


@given(
    st.lists(st.tuples(st.integers(50, 1000), st.booleans()), max_size=30),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_sweep_is_that_of_a_plain_loop(boxes, n_missed, least):
    boxes = [(score / 1000, hit) for score, hit in boxes if score / 1000 >= least]
    n_boxes = sum(hit for _, hit in boxes) + n_missed
    table = sweep_thresholds(np.float32([s for s, _ in boxes]), np.array([h for _, h in boxes], bool), n_boxes, least)
    expected = []
    for step in range(round(1 / STEP) + 1):
        threshold = round(step * STEP, 3)
        if threshold < least:
            continue
        kept = [hit for score, hit in boxes if np.float32(score) >= np.float32(threshold)]
        precision = sum(kept) / len(kept) if kept else np.nan
        recall = sum(kept) / n_boxes if n_boxes else np.nan
        f1 = np.nan
        if n_boxes:  # the harmonic mean, 0 where nothing is right
            f1 = 2 * precision * recall / (precision + recall) if sum(kept) else 0.0
        expected.append((threshold, len(kept), precision, recall, f1))
    assert list(table) == ["score", "found", "precision", "recall", "f1"]
    np.testing.assert_allclose(table.to_numpy(float), np.array(expected, float), rtol=1e-12)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [(0.5, 0.05), (0.51, 0.405), (0.66, 0.405), (0.67, 0.805), (1.0, 0.805)],
)
def test_the_lowest_threshold_with_the_precision(precision, expected):
    assert propose_threshold(sweep_thresholds(SCORES, HITS, 3, 0.05), precision) == expected


def test_a_proposal_keeps_its_promise_in_words():
    table = sweep_thresholds(SCORES, HITS, 3, 0.05)
    words = threshold_in_words("frames", table, 0.6)
    assert words == "frames: video_score 0.405 gives precision 0.667, recall 0.667"


@pytest.mark.parametrize(
    ("hits", "n_boxes", "words"),
    [
        (
            [False, False, True, False],
            3,
            "photos: precision 0.9 cannot be reached; the highest is 0.333, with photo_score 0.405",
        ),
        ([False] * 4, 3, "photos: precision 0.9 cannot be reached: no labelled box was found at any threshold"),
        ([False] * 4, 0, "photos: precision 0.9 cannot be reached: no labelled box was found at any threshold"),
    ],
)
def test_a_precision_out_of_reach_is_said_in_words(hits, n_boxes, words):
    table = sweep_thresholds(SCORES, np.array(hits), n_boxes, 0.05)
    assert propose_threshold(table, 0.9) is None
    assert threshold_in_words("photos", table, 0.9).startswith(words)


def test_nothing_found_at_all():
    table = sweep_thresholds(np.zeros(0, np.float32), np.zeros(0, bool), 3, 0.05)
    assert propose_threshold(table, 0.9) is None and "cannot be reached" in threshold_in_words("photos", table, 0.9)


def test_the_yaml_can_be_pasted():
    text = proposal_as_yaml({"photos": 0.365, "frames": 0.9})
    assert yaml.safe_load(text) == {"detect": {"photo_score": 0.365, "video_score": 0.9}}
    assert yaml.safe_load(proposal_as_yaml({"photos": None, "frames": 0.9})) == {"detect": {"video_score": 0.9}}
    assert proposal_as_yaml({"photos": None}) == ""


def test_the_plot_has_the_three_curves_and_marks_both_thresholds():
    tables = {"photos": sweep_thresholds(SCORES, HITS, 3, 0.05), "frames": sweep_thresholds(SCORES, ~HITS, 3, 0.05)}
    figure = draw_sweep(tables, {"photos": 0.5, "frames": 0.7}, {"photos": 0.805, "frames": None}, 0.9)
    photos, frames = ([line.get_label() for line in axes.get_lines()] for axes in figure.axes)
    assert photos == ["precision", "recall", "F1", "wanted precision 0.9", "now 0.5", "proposed 0.805"]
    assert frames[-1] == "now 0.7" and [axes.get_title() for axes in figure.axes] == ["photos", "frames"]
