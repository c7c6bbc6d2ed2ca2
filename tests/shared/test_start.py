"""An entry started by shared.start: as `python -m` would, and silent where Ctrl-C comes while it imports."""

import os
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
