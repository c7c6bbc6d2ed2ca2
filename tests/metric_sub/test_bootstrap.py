"""Bootstrap intervals against a plain bootstrap over rows, scipy's own, and cases known beforehand."""

import numpy as np
import pytest
from scipy import stats

from metric_sub.bootstrap import Bootstrap, f1_values, outcomes

WEIGHTS = (0.2, 0.6, 0.2)
FIGURES = ("S1", "S2", "S3", "final")


def row(level=0, declared=True, expected=True):
    held = {name: level > k for k, name in enumerate(("S1", "S2", "S3"))}
    return {"item_id": "a" if declared else None, "expected": "a" if expected else None, **held}


def some_rows(n, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        declared, expected = rng.random() < 0.7, rng.random() < 0.85
        rows.append(row(int(rng.integers(4)) if declared and expected else 0, declared, expected))
    return rows


def plain_f1(rows):
    """The score's formula, row by row."""
    n_labelled = sum(each["expected"] is not None for each in rows)
    n_declared = sum(each["item_id"] is not None for each in rows)
    if not n_labelled:
        return [np.nan] * 4
    f1 = [2 * sum(each[name] for each in rows) / (n_labelled + n_declared) for name in FIGURES[:3]]
    return [*f1, sum(weight * value for weight, value in zip(WEIGHTS, f1, strict=True))]


def test_figures_of_counts_are_those_of_rows():
    rows = some_rows(50, 0)
    assert f1_values(np.bincount(outcomes(rows), minlength=16), WEIGHTS) == pytest.approx(plain_f1(rows))
    none = [row(0, True, False), row(0, False, False)]
    assert np.isnan(f1_values(np.bincount(outcomes(none), minlength=16), WEIGHTS)).all()


def test_intervals_agree_with_a_bootstrap_over_rows():
    rows, rng = some_rows(80, 1), np.random.default_rng(7)
    drawn = np.array([plain_f1([rows[k] for k in rng.integers(80, size=80)]) for _ in range(3000)])
    found = Bootstrap(20_000, 0.9, 0).intervals(rows, WEIGHTS)
    for k, name in enumerate(FIGURES):
        assert found[name] == pytest.approx(np.quantile(drawn[:, k], [0.05, 0.95]), abs=0.01)


def test_intervals_agree_with_scipy_where_the_score_is_a_mean():
    """Every video declared and expected: F1 is the share of right ones."""
    right = np.arange(60) % 3 > 0
    rows = [row(3 if each else 0) for each in right]
    theirs = stats.bootstrap((right,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(0))
    interval = [theirs.confidence_interval.low, theirs.confidence_interval.high]
    assert Bootstrap(9999, 0.95, 0).intervals(rows, WEIGHTS)["S1"] == pytest.approx(interval, abs=0.017)  # one video


def test_the_interval_of_a_difference_is_of_pairs():
    a, b = some_rows(70, 2), some_rows(70, 3)
    for one, other in zip(a, b, strict=True):
        other["expected"] = one["expected"]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(3000):
        of = rng.integers(70, size=70)
        drawn.append(np.subtract(plain_f1([b[k] for k in of]), plain_f1([a[k] for k in of])))
    found = Bootstrap(20_000, 0.9, 0).differences(a, b, WEIGHTS)
    for k, name in enumerate(FIGURES):
        assert found[name] == pytest.approx(np.quantile(np.array(drawn)[:, k], [0.05, 0.95]), abs=0.01)


def test_known_beforehand():
    bootstrap = Bootstrap(200, 0.95, 0)
    assert bootstrap.intervals([row(3)] * 9, WEIGHTS)["final"] == pytest.approx([1, 1])
    assert bootstrap.intervals([row(0)] * 9, WEIGHTS)["S1"] == [0, 0]
    rows = some_rows(30, 4)
    assert set(map(tuple, bootstrap.differences(rows, rows, WEIGHTS).values())) == {(0, 0)}
    for nothing in ([], [row(0, True, False)] * 3):
        assert bootstrap.intervals(nothing, WEIGHTS) == dict.fromkeys(FIGURES)
        assert bootstrap.differences(nothing, nothing, WEIGHTS) == dict.fromkeys(FIGURES)


def test_resamples_without_anything_to_find_are_left_out():
    """One right video of two, the other without an item: a resample has none of the first at times."""
    assert Bootstrap(500, 0.95, 0).intervals([row(3), row(0, False, False)], WEIGHTS)["S1"] == [1, 1]


def test_a_seed_pins_the_interval_and_confidence_widens_it():
    rows = some_rows(40, 6)
    first = Bootstrap(500, 0.9, 3).intervals(rows, WEIGHTS)
    assert first == Bootstrap(500, 0.9, 3).intervals(rows[::-1], WEIGHTS)
    assert first != Bootstrap(500, 0.9, 4).intervals(rows, WEIGHTS)
    wide = Bootstrap(500, 0.99, 3).intervals(rows, WEIGHTS)
    assert all(wide[name][0] <= first[name][0] and first[name][1] <= wide[name][1] for name in FIGURES)


def test_forty_thousand_videos():
    rows = some_rows(40, 8) * 1000
    low, high = Bootstrap(1000, 0.95, 0).intervals(rows, WEIGHTS)["S1"]
    assert low < plain_f1(rows)[0] < high and high - low < 0.02
