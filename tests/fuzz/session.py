"""A round of fuzzing: hypothesis draws inputs for a parser, a worker tries them, and what fails is shrunk and kept."""

import base64
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.worker import Files, Verdict, Worker

CORPUS = Path(__file__).parent / "corpus"
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")  # a name that every file system and git take
PACKED = "packed.json"  # holds the files, where one has another name
AWAY = ".away"  # ends the name of an empty file that stands for one that is not there
ROUND = 200  # inputs that hypothesis draws before it begins anew: it remembers them all


@dataclass
class Tally:
    """What came of a parser's inputs. failures: signature -> (verdict, the smallest input that was seen to do it)."""

    tried: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, tuple[Verdict, Files]] = field(default_factory=dict)


class _Failed(Exception):
    pass


def fuzz(parser: Parser, worker: Worker, *, seconds: float, first_seed: int, inputs: int | None = None) -> Tally:
    """Tries inputs for so long, or so many. The same seed draws the same inputs."""
    inputs_of = parser.inputs()
    worker.ready(parser.name)
    tally, started, number = Tally(), time.monotonic(), first_seed
    while time.monotonic() - started < seconds and (inputs is None or tally.tried < inputs):
        _round(parser.name, inputs_of, worker, tally, number, min(ROUND, inputs or ROUND), started + seconds)
        number += 1
    tally.seconds = time.monotonic() - started
    return tally


def _round(
    name: str, inputs: SearchStrategy[Files], worker: Worker, tally: Tally, number: int, n_inputs: int, until: float
) -> None:
    wanted: list[str] = []  # the signature that hypothesis shrinks, once there is one

    @seed(number)
    @settings(
        max_examples=n_inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(inputs)
    def one(files: Files) -> None:
        if time.monotonic() > until:
            return
        begun = time.monotonic()
        verdict = worker.attempt(name, files)
        if verdict.kind == "hang":  # or the machine was busy with something else
            verdict = worker.attempt(name, files)
        tally.tried += 1
        tally.slowest = max(tally.slowest, time.monotonic() - begun)
        tally.refused += verdict.kind == "refused"
        if not verdict.failed:
            return
        known = verdict.signature in tally.failures
        if not known or size_of(files) < size_of(tally.failures[verdict.signature][1]):
            tally.failures[verdict.signature] = verdict, files
        if not known and not wanted and verdict.kind not in ("hang", "crash"):  # these take long to shrink
            wanted.append(verdict.signature)
        if verdict.signature in wanted:
            raise _Failed

    try:
        one()
    except _Failed:
        pass
    except BaseException as error:  # hypothesis says so where an input fails now and then only
        if not wanted or "Flaky" not in type(error).__name__:
            raise


def size_of(files: Files) -> int:
    return sum(len(content or b"") for content in files.values())


def keep(files: Files, verdict: Verdict, folder: Path) -> Path:
    """Writes an input into a folder of its own in `folder`, named after what it does."""
    place = folder / f"{verdict.kind}-{hashlib.sha256(verdict.signature.encode()).hexdigest()[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    if not all(PLAIN.fullmatch(name) for name in files):
        packed = {
            name: None if content is None else base64.b64encode(content).decode() for name, content in files.items()
        }
        (place / PACKED).write_text(json.dumps(packed, indent=1) + "\n", encoding="ascii")
        return place
    for name, content in files.items():
        path = place / (name if content is not None else name + AWAY)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or b"")
    return place


def kept(folder: Path) -> Files:
    """An input as `keep` wrote it."""
    if (folder / PACKED).is_file():
        packed = json.loads((folder / PACKED).read_text(encoding="ascii"))
        return {name: None if content is None else base64.b64decode(content) for name, content in packed.items()}
    files: Files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name.removesuffix(AWAY)] = None if name.endswith(AWAY) else path.read_bytes()
    return files


def corpus() -> list[tuple[str, Path]]:
    """(parser, folder) of every input that once failed."""
    return [(name, path) for name in PARSERS for path in sorted((CORPUS / name).glob("*")) if path.is_dir()]
