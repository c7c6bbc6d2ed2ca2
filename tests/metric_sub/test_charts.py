"""The report's charts: bins and points by hand-worked tables."""

import re

import numpy as np
import pytest

from metric_sub.charts import count_bins, distance_chart, precision_recall, precision_recall_chart, probability_chart
from shared.config import Calibration

DISTANCE = np.float32([0.2, 0.4, 0.5, 0.9, 1.2])
RIGHT = np.array([True, False, True, True, False])


def test_bins_hold_every_match_once():
    counts = count_bins(DISTANCE, RIGHT, np.array([0.0, 0.45, 0.8, 1.25]))
    assert counts["right"].tolist() == [1, 1, 1]
    assert counts["wrong"].tolist() == [1, 0, 1]
    assert {kind: of.tolist() for kind, of in count_bins(DISTANCE, None, np.array([0, 0.5, 1.3])).items()} == {
        "match": [2, 3]  # an edge belongs to the bin that it begins
    }


def test_distance_chart_stacks_and_marks_the_cut_off():
    chart = distance_chart(np.float32([0.5, 0.5, 0.5, 1.0]), np.array([True, True, False, False]), 0.9)
    under, over, beyond = chart.bars
    assert (under.kind, over.kind, beyond.kind) == ("right", "wrong", "wrong")
    assert under.y == pytest.approx(over.y + over.height) and under.height == pytest.approx(2 * over.height, abs=0.2)
    assert under.x == over.x < chart.cut[0] < beyond.x + beyond.width
    assert under.words.startswith("2 right, 0.") and chart.cut[1] == "cut-off 0.9"
    assert chart.legend == [("right", "right item, 2"), ("wrong", "wrong item, 2")]
    assert distance_chart(np.float32([0.5]), None, 0.5).legend == [("match", "matches, 1")]


def test_precision_and_recall_at_every_distance():
    points, now = precision_recall(DISTANCE, RIGHT, 4, 0.9)
    assert points == [(1 / 4, 1), (1 / 4, 1 / 2), (2 / 4, 2 / 3), (3 / 4, 3 / 4), (3 / 4, 3 / 5)]
    assert now == (3 / 4, 3 / 4)  # a match at exactly the cut-off counts
    assert precision_recall(DISTANCE, RIGHT, 4, 0.1)[1] is None
    assert precision_recall(DISTANCE, RIGHT, 4, 2.0)[1] == (3 / 4, 3 / 5)


def test_precision_recall_chart_has_a_point_per_distance_and_a_dot():
    chart = precision_recall_chart(DISTANCE, RIGHT, 4, 0.9)
    assert len(re.findall("[ML]", chart.line)) == 5
    # 40 to 350 for recall 0 to 1, 168 to 12 for precision 0 to 1
    assert chart.dots == [(272.5, 51.0, "cut-off 0.9: precision 0.75, recall 0.75")]
    assert chart.x_ticks[0] == (40, "0") and chart.x_ticks[-1] == (350, "1") and chart.y_ticks[-1] == (12, "1")
    assert precision_recall_chart(DISTANCE, RIGHT, 4, 0.1).dots == []


def test_probability_chart_falls_with_the_distance():
    chart = probability_chart(DISTANCE, RIGHT, Calibration(intercept=5.0, slope=-8.0), 1.2)
    places = [tuple(map(float, point.split())) for point in chart.line[1:].split("L")]
    assert (places[0][0], places[-1][0]) == (40, 350)
    assert (np.diff([y for _, y in places]) >= 0).all()  # downwards
    assert places[0][1] == pytest.approx(168 - 156 / (1 + np.exp(-5 + 8 * 0.2)), abs=0.1)
    assert len(chart.dots) == 5
    assert probability_chart(DISTANCE, None, Calibration(intercept=5.0, slope=-8.0), 1.2).dots == []
