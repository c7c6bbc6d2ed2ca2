"""Tries inputs in a process of its own, so that a reader that crashes, hangs or takes too much memory is caught at it."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

Files = dict[str, bytes | None]  # by path in the input's folder; None: the parser's own file of that name is away

MEMORY = 3 << 30  # bytes that an input may take besides what the libraries have when they are loaded
PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "bbox_sub", "metric_sub")


@dataclass(frozen=True)
class Verdict:
    """kind: 'ok', 'refused' (a clean error), 'error', 'vague' (a clean error that names no file), 'escape' (a file where none
    may be), 'memory', 'hang', 'crash'. place: of the error, the project's innermost line. text: what was said."""

    kind: str
    place: str = ""
    text: str = ""

    @property
    def failed(self) -> bool:
        return self.kind not in ("ok", "refused")

    @property
    def signature(self) -> str:
        return f"{self.kind} {self.place}"


class Worker:
    """A child process that reads what it is given; a new one after each that died."""

    def __init__(self, seconds: float, also: tuple[str, ...] = ()):
        """`also`: modules that the process imports first; they may add parsers."""
        self._seconds, self._also = seconds, also
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def attempt(self, parser: str, files: Files) -> Verdict:
        """What the parser makes of the files, within the time limit."""
        self.ready(parser)
        try:
            self._pipe.send((parser, files))
            if not self._pipe.poll(self._seconds):
                self._end()
                return Verdict("hang", text=f"no answer in {self._seconds:g} s")
            return self._pipe.recv()
        except (EOFError, ConnectionError, BrokenPipeError):
            self._process.join()
            code = self._process.exitcode
            self._end()
            name = signal.Signals(-code).name if code and code < 0 else str(code)
            return Verdict("crash", name, f"the process ended with {name}")

    def ready(self, parser: str) -> None:
        """Starts the process where it does not run, and has the parser's modules loaded, outside of any time limit."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # a forked one would have the threads' locks of this process
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._also))
            self._process.start()
            other.close()
        self._pipe.send((parser, None))
        self._pipe.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def _serve(pipe: Connection, also: tuple[str, ...]) -> None:
    from tests.fuzz.parsers import PARSERS

    for module in also:
        importlib.import_module(module)

    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    with tempfile.TemporaryDirectory(prefix="fuzz") as scratch:
        while True:
            try:
                name, files = pipe.recv()
            except EOFError:
                return
            parser = PARSERS[name]
            if files is None:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                parser.prepare()
                _limit_memory()
                pipe.send(None)
            else:
                pipe.send(try_files(parser, files, Path(scratch)))


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def try_files(parser, files: Files, scratch: Path) -> Verdict:
    """What the parser makes of the files, in this process. Everything that it writes must be in the input's folder."""
    folder = scratch / "outer" / "input"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in (parser.own_files() | files).items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    with contextlib.chdir(folder):
        verdict = _judged(parser, folder)
    strange = {path.name for path in (*scratch.iterdir(), *folder.parent.iterdir())} - {"outer", "input"}
    if strange:
        for name in strange:
            (scratch / name).unlink(missing_ok=True)
        return Verdict("escape", text=f"wrote {sorted(strange)} outside of its folder")
    return verdict


def _judged(parser, folder: Path) -> Verdict:
    try:
        parser.read(folder)
        return Verdict("ok")
    except parser.clean as error:
        if _out_of_memory(error):
            return Verdict("memory", _place(error), _words(error))
        said = str(error)
        kind = "refused" if said.strip() and any(name in said for name in parser.names(folder)) else "vague"
        return Verdict(kind, "" if kind == "refused" else _place(error), said)
    except MemoryError as error:
        return Verdict("memory", _place(error), _words(error))
    except BaseException as error:  # whatever it is, it is a finding
        kind = "memory" if _out_of_memory(error) else "error"
        return Verdict(kind, f"{type(error).__name__} at {_place(error)}", _words(error))


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "not enough memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """The project's innermost line in the error's traceback."""
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(PROJECT)
        and Path(frame.filename).relative_to(PROJECT).parts[0] in PACKAGES
    ]
    return f"{Path(lines[-1].filename).relative_to(PROJECT)}:{lines[-1].name}" if lines else "?"


def _words(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3000:]
