"""`bench search`: its plain sides against brute force, and a small run whose sides agree."""

import importlib
import json
from argparse import Namespace

import numpy as np

from benchmarks.search import PLAINLY, by_numpy, main, prepare, unit

importlib.import_module("faiss.contrib.torch_utils")  # as pytorch-metric-learning does: it replaces faiss.knn


def test_numpys_side_by_brute_force(monkeypatch):
    monkeypatch.setattr("benchmarks.search.NUMPY_BLOCK", 4)
    rng = np.random.default_rng(0)
    query, gallery = (unit(rng.normal(size=(n, 8))) for n in (9, 30))
    every = np.linalg.norm(query[:, None].astype(np.float64) - gallery, axis=2)
    distances, indices = by_numpy(query, gallery)
    assert (indices[:, 0] == every.argmin(axis=1)).all() and np.allclose(distances[:, 0], every.min(axis=1), atol=1e-3)


def test_searches_take_vectors_of_a_file_whatever_was_imported(tmp_path):
    options = Namespace(queries=20, vectors=60, dimension=8, folder=tmp_path)
    found = [prepare(name, options)()[1] for name in (*PLAINLY, "ours")]
    assert all((each == found[0]).all() for each in found)


def test_all_sides_find_the_same_and_the_figures_are_written(tmp_path, capsys):
    sizes = ["--queries", "200", "--vectors", "800", "--dimension", "16", "--rounds", "1"]
    main([*sizes, "--exact", "--json", str(tmp_path / "search.json")])
    reports = json.loads((tmp_path / "search.json").read_text())
    assert list(reports) == ["search", "search and vote"] and "x numpy" in capsys.readouterr().out
    alone, voted = (reports[name]["sides"] for name in reports)
    assert {side["recall@1"] for side in alone.values()} == {1.0}
    assert alone["ours"]["peak_bytes"] < alone["numpy"]["peak_bytes"] + 500e6
    assert len({(side["matches"], side["equal"]) for side in voted.values()}) == 1 and voted["ours"]["matches"] > 5
