"""An entry started by shared.start: as `python -m` would, and silent where Ctrl-C comes while it imports."""

import os
import re
import signal
import subprocess
import sys

from tests.conftest import PROJECT

SLOW = """
import sys, time
print("imports", flush=True)
time.sleep(60)
"""
SHOWN = "import sys\nprint(__name__, __spec__.name, sys.argv, sys.modules['__main__'].__file__)\n"


def start(module, *arguments, folder, **options):
    command = [sys.executable, "-m", "shared.start", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{folder}"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_the_module_runs_as_main(tmp_path):
    (tmp_path / "shown.py").write_text(SHOWN)
    out, error = start("shown", "--work", "a b", folder=tmp_path).communicate()
    file = str(tmp_path / "shown.py")
    assert out == f"__main__ shown {[file, '--work', 'a b']} {file}\n", error


def test_ctrl_c_while_it_imports_ends_it_by_the_signal_and_says_nothing(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    process = start("slow", folder=tmp_path)
    assert process.stdout.readline() == "imports\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGINT


def test_ctrl_c_that_is_ignored_stays_so(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.replace("60", "1"))
    ignore = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.execv(sys.executable, sys.orig_argv[:1] + sys.argv[1:])"
    command = [sys.executable, "-c", ignore, "-m", "shared.start", "slow"]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{tmp_path}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "imports\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_every_entry_of_run_sh_takes_ctrl_c_over():
    """One that does not would be ended by it without a word, and leave its temporary files."""
    door = (PROJECT / "run.sh").read_text(encoding="utf-8")
    names = set(re.findall(r"\brun ([a-z_.]+)", door))  # of some words of its help there is no file
    names |= {f"{package}.{verb}" for package in ("bbox_sub", "metric_sub") for verb in ("train", "infer", "judge", "quantize")}
    paths = [PROJECT / f"{name.replace('.', '/')}{end}" for name in sorted(names) for end in (".py", "/__main__.py")]
    entries = [path for path in paths if path.exists()]
    assert len(entries) > 20
    for path in entries:
        assert "\n    run_entry(" in path.read_text(encoding="utf-8"), path
