"""What a work folder's run has done, does now and has left: `python -m shared.status --work W [--json]`, from another terminal.

Reads manifests, model.json, the lock and log.jsonl; writes nothing, waits for no one, and loads no network.
"""

import argparse
import datetime
import json
import logging
import time
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, StrictInt, StrictStr, ValidationError

from shared.cli import run_entry
from shared.errors import UserError, first_fault
from shared.journal import LOG, read_tail
from shared.lock import holder, is_held
from shared.parse import parse_json, parse_yaml
from shared.work import EARLIER, Step

log = logging.getLogger("status")

# In the order in which they are made; what else has a manifest stands behind them.
TRAINING_STEPS = ("frames", "crops")
INFERENCE_STEPS = (
    "media",
    "detections/photos",
    "detections/videos",
    "embeddings/photos",
    "embeddings/videos",
    "matches",
)
# of the steps that have a bar of their own: its title in the log
TITLES = {"frames": "labelled pictures", "crops": "training crops", "media": "media"}
OF_EVERY_LINE = ("level", "logger", "message", "event", "pid")
DEEPEST = 3  # folders below the work folder in which a step may be

Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Run(BaseModel):
    time: AwareDatetime
    state: StrictStr


class _Step(BaseModel):
    step: StrictStr
    state: StrictStr


class _Progress(BaseModel):
    time: AwareDatetime
    title: StrictStr
    unit: StrictStr
    done: Number
    total: Number
    skipped: StrictInt
    rate: Number | None
    eta_s: Number | None


EVENTS = {"run": _Run, "step": _Step, "progress": _Progress}  # of the log, that are read here


class _Facts(BaseModel):
    """What is told of a model.json."""

    metrics: dict[str, float] | None = None
    epoch: float | None = None
    fingerprint: StrictStr | None = None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Tell what a work folder's run has done.", allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path("work"), help="the work folder (default: work)")
    parser.add_argument("--weights", type=Path, help="the models' folder (default: <work>/weights)")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args(argv)
    if not options.work.is_dir():
        raise UserError(f"{options.work}: no such work folder. Name the one that train or infer was given with --work.")
    status = read_status(options.work, options.weights or options.work / "weights")
    print(json.dumps(status, indent=1, ensure_ascii=False) if options.json else as_table(status))


def read_status(work: Path, weights: Path) -> dict:
    """{work, run, models, steps, result, log}.

    run: {running, pid, host, command, since, title, unit, done, total, skipped, rate, eta_s, told_at, ...} of the process that
    holds the folder, with the last progress that it told, or {running: true} alone where the lock is damaged; where none does,
    {running: false} and how the last one ended.
    models, steps: a list of {name, state, ...}; state is done, running, interrupted (what was finished is kept and gone on from),
    left or damaged. A done step has rows, seconds, skipped (how many) and manifest, the file that lists them; what is damaged a reason.
    """
    lines = [line for line in read_tail(work) if _is_sound(line)]
    run, own = running_run(work, lines)
    names = model_names(work, weights)
    progress = {line["title"]: line for line in own if line.get("event") == "progress"}
    models = [model_status(weights / name, name, progress.get(name), lines) for name in names]
    begun = None  # the end of a long run's log does not have its beginning
    if not run["running"] or any(line.get("event") == "run" for line in own):
        states = {line["step"]: line["state"] for line in own if line.get("event") == "step"}
        begun = [Path(step) for step, state in states.items() if state == "begun"]  # in a container it has another path
    wanted = INFERENCE_STEPS if (work / "media").is_dir() else ()
    known = [*(step for step in TRAINING_STEPS if (work / step).is_dir()), *wanted]
    others = sorted(found_steps(work) - set(known))
    steps = [step_status(work, name, begun, progress) for name in [*known, *others]]
    result = work / "result.json"
    return {
        "work": str(work),
        "run": run,
        "models": models,
        "steps": steps,
        "result": str(result) if result.is_file() else None,
        "log": str(work / LOG) if (work / LOG).is_file() else None,
    }


def running_run(work: Path, lines: list[dict]) -> tuple[dict, list[dict]]:
    """The run that holds the folder with its last progress, or how the last one ended; and the lines of the log that are its own."""
    if is_held(work):
        about = holder(work)
        if about is None:
            return {"running": True}, []
        since = datetime.datetime.fromtimestamp(about["since"]).astimezone().isoformat(timespec="seconds")
        own = [line for line in lines if line.get("pid") == about["pid"]]
        begins = [k for k, line in enumerate(own) if line.get("event") == "run" and line.get("state") == "begun"]
        own = own[begins[-1] if begins else 0 :]  # a process of the same id may have been here before
        told = next((line for line in reversed(own) if line.get("event") == "progress"), None)
        return {"running": True, **about, "since": since, **_told(told)}, own
    last = next((line for line in reversed(lines) if line.get("event") == "run"), None)
    if last is None:
        return {"running": False}, []
    ended = "killed" if last.get("state") == "begun" else last.get("state")  # who is killed does not tell
    return {"running": False, "ended": ended, "at": last.get("time"), "reason": last.get("reason")}, []


def _is_sound(line: dict) -> bool:
    """Whether a line of the log, which anyone may have written, has what is read of its event."""
    event = line.get("event")
    try:
        if isinstance(event, str) and event in EVENTS:
            EVENTS[event].model_validate(line)
    except ValidationError:
        return False
    return True


def _told(progress: dict | None) -> dict:
    """What a progress line of the log tells, with its time as `told_at`."""
    told = {key: value for key, value in (progress or {}).items() if key not in OF_EVERY_LINE}
    return told | ({"told_at": told.pop("time")} if told else {})


def model_names(work: Path, weights: Path) -> list[str]:
    """The models of the config that the training was given, else those whose folders there are. A damaged config is told."""
    there = sorted(path.name for path in weights.iterdir() if path.is_dir() and path.name != EARLIER) if weights.is_dir() else []
    path = weights / "config.yaml"
    if not path.is_file():
        return there
    try:
        config = parse_yaml(path.read_text(encoding="utf-8"))
        names = ["detector", *(Path(model["name"]).name for model in config["embedders"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: not the config of a training (%s: %s); the models whose folders are there are told", path, type(error).__name__, error)
        return there
    return [*names, *(name for name in there if name not in names)]


def model_status(folder: Path, name: str, progress: dict | None, lines: list[dict]) -> dict:
    """progress: the last that the running training of this model told, if it is the one that runs."""
    path = folder / "model.json"
    try:
        description = _Facts.model_validate(parse_json(path.read_bytes())) if path.is_file() else None
    except (OSError, ValueError) as error:
        said = first_fault(error) if isinstance(error, ValidationError) else error
        return {"name": name, "state": "damaged", "reason": f"{path}: not a model's description ({said}). Train again or restore the file."}
    facts = {"metrics": description.metrics, "epoch": description.epoch} if description else {}
    checkpoints = sorted(path.stem for path in (folder / "resume").glob("*.pt"))
    if description and description.fingerprint:
        return {"name": name, "state": "done", **facts}
    if progress:
        told = {key: progress.get(key) for key in ("done", "total", "rate", "eta_s", "loss")}
        return {"name": name, "state": "running", **told, **facts}
    if checkpoints or description or folder.is_dir():
        last = next((line for line in reversed(lines) if line.get("title") == name), {})
        told = {key: last.get(key) for key in ("total", "loss") if last.get(key) is not None}
        step = int(checkpoints[-1]) if checkpoints and checkpoints[-1].isdecimal() else 0
        return {"name": name, "state": "interrupted", "done": step, **told, **facts}
    return {"name": name, "state": "left"}


def found_steps(work: Path) -> set[str]:
    """The folders that are steps, begun or finished; those of pictures are not looked into."""
    found, folders = set(), [work]
    for _ in range(DEEPEST):
        below = [path for folder in folders for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
        steps = [path for path in below if (path / "begun.json").is_file() or (path / "manifest.json").is_file()]
        found |= {str(path.relative_to(work)) for path in steps if not path.name.endswith(".before")}
        folders = [path for path in below if path not in steps and path.name != "resume"]
    return found


def step_status(work: Path, name: str, begun: list[Path] | None, progress: dict[str, dict]) -> dict:
    """begun: the folders that the run that there is works on, None: all that are not finished; progress: what it last told, by title."""
    folder = work / name
    parts = {"parts": sum(1 for _ in (folder / "parts").glob("*.skipped.json"))}
    if (folder / "manifest.json").is_file():
        try:
            manifest = Step.finished(folder, {}).manifest
        except UserError as error:
            return {"name": name, "state": "damaged", "reason": str(error)}
        return {
            "name": name,
            "state": "done",
            "rows": manifest["rows"],
            "seconds": manifest.get("seconds"),
            "skipped": len(manifest["skipped"]),
            "manifest": str(folder / "manifest.json"),
        }
    is_begun = (folder / "begun.json").is_file()
    if is_begun if begun is None else any(Path(name).parts == path.parts[-len(Path(name).parts) :] for path in begun):
        return {"name": name, "state": "running", **parts, **_told(progress.get(TITLES.get(name, "")))}
    if is_begun:
        return {"name": name, "state": "interrupted", **parts}
    return {"name": name, "state": "left", "parts": 0}


def as_table(status: dict) -> str:
    """The status in lines for a terminal."""
    run = status["run"]
    lines = [f"{status['work']}: {run_in_words(run)}"]
    for row in status["models"]:
        lines.append(f"  {'weights/' + row['name']:<24}{row['state']:<13}{model_in_words(row)}".rstrip())
    for row in status["steps"]:
        lines.append(f"  {row['name']:<24}{row['state']:<13}{step_in_words(row)}".rstrip())
    lines.append(f"  {'result.json':<24}{'done' if status['result'] else 'left'}")
    if status["log"]:
        lines.append(f"log: {status['log']}")
    return "\n".join(lines)


def run_in_words(run: dict) -> str:
    if not run["running"]:
        how = {None: "", "finished": "; the last run ended well", "killed": "; the last run was killed"}
        return "no run now" + how.get(run.get("ended"), f"; the last run ended early: {run.get('reason')}")
    if "pid" not in run:
        return "running; its .lock does not tell which process"
    words = f"running {entry_of(run['command'])}, process {run['pid']} on {run['host']} since {run['since'][11:19]}"
    return words if run.get("title") is None else f"{words}; {progress_in_words(run)}"


def entry_of(command: list[str]) -> str:
    """The module or file that a command runs, such as bbox_sub.train."""
    after = command[command.index("-m") + 1 :] if "-m" in command else command
    return next((word for word in after if word != "shared.start"), "")


def progress_in_words(run: dict) -> str:
    words = f"{run['title']}: {run['done']} of {run['total']} {run['unit']}"
    if run.get("rate"):
        words += f", {run['rate']:.3g} {run['unit']}/s, {_span(run['eta_s'])} left"
    if run.get("skipped"):
        words += f", {run['skipped']} skipped"
    if run.get("told_at"):
        age = time.time() - datetime.datetime.fromisoformat(run["told_at"]).timestamp()
        words += f" ({_span(max(0, age))} ago)"
    return words


def model_in_words(row: dict) -> str:
    if row["state"] == "damaged":
        return row["reason"]
    words = []
    if row.get("done") is not None:
        words.append(f"step {row['done']}" + (f" of {row['total']}" if row.get("total") else ""))
    if row.get("loss") is not None:
        words.append(f"loss {row['loss']}")
    if row.get("eta_s") is not None:
        words.append(f"{_span(row['eta_s'])} left")
    words += [f"{name} {value:.3f}" for name, value in (row.get("metrics") or {}).items()]
    return ", ".join(words)


def step_in_words(row: dict) -> str:
    if row["state"] == "damaged":
        return row["reason"]
    if row["state"] == "done":
        skipped = f", {row['skipped']} skipped: {row['manifest']}" if row["skipped"] else ""
        return f"{row['rows']} rows in {_span(row['seconds'] or 0)}{skipped}"
    if row.get("title"):
        return progress_in_words(row).partition(": ")[2]
    there = "are there" if row["state"] == "running" else "are kept"
    return f"{row['parts']} parts {there}" if row.get("parts") else ""


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


if __name__ == "__main__":
    run_entry(main)
