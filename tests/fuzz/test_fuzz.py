"""A short run of the fuzzer on every reader, and what once failed, tried again."""

import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from shared.errors import UserError
from tests.fuzz.__main__ import chosen_parsers
from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.session import CORPUS, corpus, fuzz, keep, kept
from tests.fuzz.worker import Verdict, Worker, try_files

INPUTS = 5  # for each reader: the long run is `bash run.sh fuzz`
SECONDS = 120.0  # that an input may take: a busy machine is no failure


@pytest.fixture(scope="module")
def worker():
    with Worker(SECONDS) as worker:
        yield worker


@pytest.mark.parametrize("name", PARSERS)
def test_a_few_inputs_give_a_result_or_a_clean_error(name, worker):
    tally = fuzz(PARSERS[name], worker, seconds=SECONDS, first_seed=0, inputs=INPUTS)
    assert tally.tried >= INPUTS
    assert {signature: verdict.text for signature, (verdict, _) in tally.failures.items()} == {}


@pytest.mark.parametrize("name", PARSERS)
def test_the_files_that_are_changed_are_whole_before(name, worker):
    """Without it a reader that refuses everything would pass."""
    verdict = worker.attempt(name, PARSERS[name].whole())
    assert verdict.kind == "ok", verdict.text


@pytest.mark.parametrize(
    ("name", "folder"), corpus(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_what_once_failed_gives_a_result_or_a_clean_error(name, folder, worker):
    verdict = worker.attempt(name, kept(folder))
    assert not verdict.failed, verdict.text


def test_the_corpus_is_small_and_of_parsers_that_there_are():
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= PARSERS.keys()
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 1_000_000


# ---------------------------------------------------------------- the fuzzer itself


def careless(read, **more) -> Parser:
    return Parser("careless", lambda: st.binary(max_size=40).map(lambda data: {"a": data}), read, **more)


def reader_of(kind):
    """A reader that misbehaves at the first byte 7."""

    def read(folder):
        if (folder / "a").read_bytes()[:1] != b"\7":
            return
        if kind == "error":
            raise KeyError("seven")
        if kind == "vague":
            raise UserError("something does not fit")
        if kind == "refused":
            raise UserError(f"{folder}/a: a 7")
        if kind == "escape":
            (folder.parent / "ran").touch()
        if kind == "memory":
            raise UserError(f"{folder}/a: too large") from MemoryError()

    return read


@pytest.mark.parametrize("kind", ["error", "vague", "refused", "escape", "memory"])
def test_every_misdeed_is_seen(kind, tmp_path):
    parser = careless(reader_of(kind))
    assert try_files(parser, {"a": b"\7"}, tmp_path).kind == kind
    assert try_files(parser, {"a": b"\6"}, tmp_path).kind == "ok"


class Here:
    """A worker without a process."""

    def __init__(self, parser, scratch):
        self._parser, self._scratch = parser, scratch

    def ready(self, name):
        pass

    def attempt(self, name, files):
        return try_files(self._parser, files, self._scratch)


def test_a_failing_input_is_found_and_shrunk(tmp_path):
    parser = careless(lambda folder: 1 / (b"\7" not in (folder / "a").read_bytes()))
    tally = fuzz(parser, Here(parser, tmp_path), seconds=60, first_seed=1, inputs=400)
    ((verdict, files),) = tally.failures.values()
    assert verdict.kind == "error" and "ZeroDivisionError" in verdict.signature
    assert files == {"a": b"\7"}


def test_the_same_seed_draws_the_same_inputs(tmp_path):
    seen = []
    for _ in range(2):
        drawn = []
        parser = careless(lambda folder, drawn=drawn: drawn.append((folder / "a").read_bytes()))
        fuzz(parser, Here(parser, tmp_path), seconds=60, first_seed=5, inputs=20)
        seen.append(drawn)
    assert seen[0] == seen[1] and len(seen[0]) >= 20


def test_a_process_that_dies_hangs_or_grows_is_seen_and_replaced(monkeypatch, tmp_path):
    (tmp_path / "misbehaving.py").write_text(
        "import os, time\nfrom tests.fuzz import parsers\nfrom hypothesis import strategies as st\n"
        "misdeeds = {b'crash': os.abort, b'hang': lambda: time.sleep(60), b'memory': lambda: bytearray(1 << 33), b'ok': bool}\n"
        "def read(folder):\n    misdeeds[(folder / 'a').read_bytes()]()\n"
        "parsers.PARSERS['misbehaving'] = parsers.Parser('misbehaving', st.nothing, read)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Worker(5.0, also=("misbehaving",)) as worker:
        started = time.monotonic()
        for kind in ("memory", "ok", "crash", "ok", "hang", "ok"):
            assert worker.attempt("misbehaving", {"a": kind.encode()}).kind == kind
        assert time.monotonic() - started < 240


def test_an_input_is_kept_as_it_was(tmp_path):
    for number, odd in enumerate(({}, {"image/\udcff\n/ .jpg": b"\xff", "-x": None})):
        files = {"a.json": b"{}", "deep/b": b"", "gone/c.parquet": None} | odd
        assert kept(keep(files, Verdict("error", str(number)), tmp_path)) == files


def test_unknown_parsers_and_videos_without_a_place_are_refused(tmp_path):
    with pytest.raises(UserError, match="no parser 'x'.*photo_labels"):
        chosen_parsers(["x"], None, CORPUS)
    with pytest.raises(UserError, match="--out"):
        chosen_parsers(["videos"], tmp_path, CORPUS)
    with pytest.raises(UserError, match="no file there"):
        chosen_parsers(["videos"], tmp_path, tmp_path)
