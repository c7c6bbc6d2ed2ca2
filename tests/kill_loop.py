"""Kills train and infer at random moments, again and again, and compares what they end with to an undisturbed run.

`bash run.sh kills --rounds 200`. A round runs train and infer on a small drawn set until a moment drawn over somewhat more than the
undisturbed duration, and then sends SIGKILL, SIGTERM or SIGINT to the process or to its whole group. The next round goes on in
the same work folder. Whenever a run comes to its end, every file of the work folder must be the undisturbed run's, byte for byte,
but for the log, TensorBoard's events, compiled models, and the seconds and `made_with` of manifests and model.json; then the
folder is removed and a new run begins.

The undisturbed run is made by run.sh. Those that are killed are forks of a process that has imported both stages, which start at
once (tests/forks.py); `--door 10` sends every tenth round through run.sh. Prints a summary as JSON and exits 1 where something
differed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from shared.cli import run_entry
from shared.config import dump_config, load_config
from shared.files import write_json
from tests.conftest import PROJECT, SMALLER
from tests.drawing import draw_dataset
from tests.forks import AT_ONCE, BY_STAGES, start_stage

SIGNALS = {signal.SIGKILL: 3, signal.SIGTERM: 1, signal.SIGINT: 1}  # and how often each comes, in shares
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130}
LONGER = 1.1  # than the undisturbed run is what a moment is drawn from: the machine may be slower meanwhile
PATIENCE_S = 120  # for a run that was asked to end
NOT_COMPARED = {"log.jsonl", "log.1.jsonl", ".lock"}
NOT_LOOKED_INTO = {"tensorboard", "compiled"}  # the latter: what OpenVINO makes of the weights

MORE = [
    "detector_train.phases=[{iterations: 6, short_sides: [64], learning_rate: 0.001, batch_size: 2, start: last},"
    "{iterations: 3, short_sides: [64], learning_rate: 0.001, batch_size: 2, start: best}]",
    "detector_train.workers=1",
    "detector_train.checkpoint_every=2",
    "embedders.0.epochs=2",
    "embed_train.workers=1",
    "embed_train.checkpoint_every=1",
    "detect.photo_score=0.0",
    "detect.video_score=0.0",
    "match.max_distance=2.0",
    "search={index: 'IVF2,Flat', parameters: {nprobe: 2}, candidates: 64, train_rows: 1000, recall_queries: 10}",
]


def draw(folder: Path, overrides: list[str] = ()) -> None:
    """Data and config of the runs."""
    draw_dataset(folder / "data")
    config = load_config(PROJECT / "configs" / "tiny.yaml", [*SMALLER, *MORE, *overrides])
    (folder / "config.yaml").write_text(dump_config(config))


def arguments(folder: Path) -> list[str]:
    return ["--config", str(folder / "config.yaml"), "--data", str(folder / "data"), "--work", str(folder / "work")]


def contents(work: Path) -> dict[str, str]:
    """A hash of every file in the work folder but for what may differ, by its path."""
    found = {}
    for path in sorted(work.rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED and not NOT_LOOKED_INTO & {*path.parts}:
            data = path.read_bytes()
            if path.name in ("manifest.json", "model.json"):
                data = json.dumps({**json.loads(data), "seconds": 0, "made_with": {}}).encode()
            found[str(path.relative_to(work))] = hashlib.sha256(data).hexdigest()
    return found


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """What of the files is not as expected, in words; '' where all is."""
    said = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    said += [f"not expected: {name}" for name in sorted(found.keys() - expected.keys())]
    said += [f"other bytes: {name}" for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    return "; ".join(said)


@dataclass
class Loop:
    """One loop of kills in a folder, and what came of it. through_door: of `rounds`, every so many go through run.sh; 0: none."""

    folder: Path
    seed: int
    through_door: int = 0
    overrides: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # of the last undisturbed run of forks: other work on the machine comes and goes
    kills: Counter = field(default_factory=Counter)
    finished: int = 0
    failures: list[str] = field(default_factory=list)
    _groups: set[int] = field(default_factory=set)

    def __post_init__(self):
        self._chance = random.Random(self.seed)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> Path:
        return self.folder / "stderr.log"

    def begin(self, by_door: bool = True) -> None:
        """Draws the data and makes the undisturbed run, by forks; and one by run.sh before it, if asked to, which must not differ."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draw(self.folder, self.overrides)
        if by_door:
            for verb in ("train", "infer"):
                subprocess.run(self._door(verb), check=True, stdout=subprocess.DEVNULL, stderr=open(self.log, "ab"))
            self.expected = contents(self.work)
            self.wipe()
        begun = time.monotonic()
        self._run(None)
        self.seconds = time.monotonic() - begun
        self.expected = self.expected or contents(self.work)
        self.compare()

    def round(self, number: int) -> None:
        """One run, to its end or to its kill, whichever comes first."""
        begun, whole = time.monotonic(), not self.work.exists()
        run = self._run_door if self.through_door and number % self.through_door == 0 else self._run
        ended = run(begun + self._chance.uniform(0, LONGER * self.seconds))
        if whole and run == self._run:
            taken = time.monotonic() - begun
            self.seconds = taken if ended else max(self.seconds, taken)
        if ended:
            self.compare()

    def compare(self) -> None:
        """Looks at what a run that came to its end left, and wipes it."""
        self.finished += 1
        if said := difference(contents(self.work), self.expected):
            self.failures.append(f"after {self.kills.total()} kills: {said}")
            kept = self.folder / f"differs-{len(self.failures)}"
            shutil.copytree(self.work, kept)
        self.wipe()

    def wipe(self) -> None:
        shutil.rmtree(self.work)
        self.log.unlink(missing_ok=True)

    def left_running(self) -> list[str]:
        """The processes that the groups of killed runs still have after a while, in words."""
        for _ in range(100):
            left = processes_of(self._groups)
            if not left:
                break
            time.sleep(0.2)
        return left

    def _run(self, moment: float | None) -> bool:
        """Both stages of train and infer; True where they came to their end, False where they were killed on the way."""
        for name in self._chance.choice([AT_ONCE, BY_STAGES]):  # what the one left, the other goes on from
            self.log.unlink(missing_ok=True)
            process = start_stage(name, arguments(self.folder), self.log)
            try:
                process.join(None if moment is None else max(0.0, moment - time.monotonic()))
            except KeyboardInterrupt:
                process.kill()
                raise
            if process.exitcode is None:
                self._kill(process.pid, name, lambda process=process: (process.join(PATIENCE_S), process.exitcode)[1])
                return False
            if process.exitcode:
                self._fail(f"{name}: exit {process.exitcode}")
                return False
        return True

    def _run_door(self, moment: float) -> bool:
        for verb in ("train", "infer"):
            with open(self.log, "wb") as log:
                process = subprocess.Popen(self._door(verb), stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
            try:
                code = process.wait(max(0.0, moment - time.monotonic()))
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            except subprocess.TimeoutExpired:
                self._kill(process.pid, f"run.sh {verb}", lambda process=process: process.wait(PATIENCE_S))
                return False
            if code:
                self._fail(f"run.sh {verb}: exit {code}")
                return False
        return True

    def _door(self, verb: str) -> list[str]:
        return ["bash", str(PROJECT / "run.sh"), verb, *arguments(self.folder)]

    def _kill(self, pid: int, name: str, wait) -> None:
        sent = self._chance.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        to_group = self._chance.random() < 0.5
        self._groups.add(pid)
        with contextlib.suppress(ProcessLookupError):  # it may have come to its end, or have no group of its own yet
            (os.killpg if to_group else os.kill)(pid, sent)
        code = wait()
        if code is None:
            self._fail(f"{name}: still there {PATIENCE_S} s after {sent.name}")
            os.kill(pid, signal.SIGKILL)
            wait()
        self.kills[f"{name}, {sent.name}"] += 1
        # one that ends of itself in that moment, one whose handler does not stand yet or not any more, or whose data worker went first
        worker_first = sent == signal.SIGTERM and to_group and "prepares the batches was killed" in self._tail()
        unborn = sent == signal.SIGINT and code == 1 and not self._tail()  # still the fork server's, which then says nothing
        if code not in (0, -sent, 128 + sent, ENDS.get(sent)) and not worker_first and not unborn:
            self._fail(f"{name}: exit {code} after {sent.name}")
        lines = ["", *self._tail().splitlines()]
        traces = [k for k, line in enumerate(lines) if line.startswith("Traceback")]
        if any("Exception ignored in: " not in lines[k - 1] for k in traces):  # in a finalizer; it is raised again
            self._fail(f"{name}: a traceback after {sent.name}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    def _fail(self, what: str) -> None:
        self.failures.append(f"{what}\n{self._tail()}")


def processes_of(groups: set[int]) -> list[str]:
    """Number, state, what it waits in, and command of every process of these groups that is not dead (a zombie is)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            state, parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) in groups and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                waits = (folder / "wchan").read_text()
                found.append(f"{folder.name} of group {group}, parent {parent}, state {state} in {waits}: {command}")
    return sorted(found)


def run_loop(
    folder: Path, rounds: int, seed: int, through_door: int = 0, overrides: list[str] = (), by_door: bool = True
) -> dict:
    """The summary of a loop of so many kills (and of the rounds that came to their end before theirs)."""
    loop = Loop(folder, seed, through_door, list(overrides))
    loop.begin(by_door)
    print(f"an undisturbed run takes {loop.seconds:.1f} s and leaves {len(loop.expected)} files", file=sys.stderr)
    number = 0
    while loop.kills.total() < rounds and not loop.failures:
        number += 1
        loop.round(number)
        if number % 10 == 0:
            done = f"{loop.kills.total()} of {rounds} kills, {loop.finished} runs came to their end and were equal"
            print(f"{time.strftime('%H:%M:%S')} {done}, {len(loop.failures)} failures", file=sys.stderr)
    if loop.work.exists() and not loop.failures and loop._run(None):  # the last one, too, has an end
        loop.compare()
    if left := loop.left_running():
        loop.failures.append(f"processes still running: {left}")
    return {
        "kills": loop.kills.total(),
        "by_stage_and_signal": dict(sorted(loop.kills.items())),
        "runs_compared": loop.finished,
        "files_compared": len(loop.expected),
        "seconds_undisturbed": round(loop.seconds, 2),
        "seed": seed,
        "failures": loop.failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=200, help="kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--door", type=int, default=0, help="every so many rounds one by run.sh (default: 0, none)")
    parser.add_argument("--folder", type=Path, help="where data and work folder go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the summary here as well")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            summary = run_loop(folder, options.rounds, options.seed, options.door, options.overrides)
        except KeyboardInterrupt:
            sys.exit("interrupted; the next loop begins anew")
    if options.json:
        write_json(options.json, summary)
    print(json.dumps(summary, indent=1))
    sys.exit(bool(summary["failures"]))


if __name__ == "__main__":
    run_entry(main)
