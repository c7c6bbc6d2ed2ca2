"""What the source must not do, whatever comes in: run code of a file, unpack where it likes, or build a shell's command."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for package in ("shared", "bbox_sub", "metric_sub", "sample", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
]

NEVER = {  # a call by this name runs what it is given, or unpickles it, or unpacks it anywhere
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "_pickle.load",
        "_pickle.loads",
        "_pickle.Unpickler",
        "cPickle.load",
        "dill.load",
    ),
    *(
        "marshal.load",
        "marshal.loads",
        "shelve.open",
        "joblib.load",
        "pandas.read_pickle",
        "torch.hub.load",
        "torch.jit.load",
    ),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("shutil.unpack_archive", "tempfile.mktemp"),
}
NEVER_METHODS = {"extractall", "extract", "read_pickle"}  # of any object but a table's text column
NEVER_NAMES = {"Loader", "FullLoader", "UnsafeLoader"}  # of yaml


def imported(tree: ast.Module) -> dict[str, str]:
    """What each name of a module stands for: np -> numpy, load -> torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(node: ast.Call, names: dict[str, str]) -> str:
    """The whole dotted name of what is called: torch.load for load(...) after `from torch import load`."""
    first, dot, rest = ast.unparse(node.func).partition(".")
    return names.get(first, first) + dot + rest


def faults_of(source: str) -> list[str]:
    """What a module's source does that it must not, with its lines."""
    tree = ast.parse(source)
    names, faults = imported(tree), []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in NEVER_NAMES
            and names.get(ast.unparse(node.value)) == "yaml"
        ):
            faults.append(f"{node.lineno}: yaml.{node.attr}")
        if not isinstance(node, ast.Call):
            continue
        name, keywords = called(node, names), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wrong = (
            name in NEVER
            or (isinstance(node.func, ast.Attribute) and node.func.attr in NEVER_METHODS)
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or (name in ("numpy.load", "numpy.lib.npyio.NpzFile") and keywords.get("allow_pickle") != "False")
            or keywords.get("shell", "False") != "False"
            or keywords.get("allow_pickle", "False") != "False"
            or keywords.get("trust_remote_code", "False") != "False"
            or (name.startswith(("jinja2.Environment", "jinja2.Template")) and keywords.get("autoescape") != "True")
        )
        if wrong:
            faults.append(f"{node.lineno}: {ast.unparse(node)[:100]}")
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_source_runs_nothing_that_comes_in(path):
    assert faults_of(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads as read\nread(data)",
        "import pickle\npickle.Unpickler(file).load()",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load\nload(path, map_location='cpu')",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nclass Ours(yaml.Loader): pass",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(f'ls {name}')",
        "import subprocess\nsubprocess.run(f'ls {name}', shell=True)",
        "import subprocess as s\ns.check_output(words, shell=wanted)",
        "import tarfile\ntarfile.open(path).extractall(folder)",
        "import zipfile\nzipfile.ZipFile(path).extract(name)",
        "import shutil\nshutil.unpack_archive(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "import jinja2\njinja2.Environment(loader=x)",
        "import jinja2\njinja2.Environment(loader=x, autoescape=False)",
    ],
)
def test_each_forbidden_form_is_seen(source):
    assert faults_of(source)


def test_what_is_allowed_is_not_forbidden():
    source = (
        "import torch, yaml, subprocess, re\nimport numpy as np\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\n"
        "np.load(p, allow_pickle=False)\nsubprocess.run(['ls', name])\nre.compile(p)\nmodel.eval()\nyaml.SafeLoader(t)"
    )
    assert faults_of(source) == []


def test_openvinos_core_is_made_in_one_place():
    """See shared.runtime.openvino_core: a second one can have the process killed at the next signal."""
    makers = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imported(tree)
        calls = [called(node, names) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        makers += [path.name for name in calls if name.startswith("openvino") and name.endswith("Core")]
    assert makers == ["runtime.py"]


def test_the_stages_read_media_in_another_process():
    """What was not read before may crash, hang or bloat the decoder: shared.reader. Training reads what was (shared.frames)."""
    readers = {"shared.media.read_frames", "shared.media.read_photo", "shared.media.probe_video"}
    users = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if readers & set(imported(ast.parse(path.read_text(encoding="utf-8"))).values())
    }
    assert {path for path in users if not path.startswith("benchmarks/")} == {"shared/decoder.py", "shared/frames.py"}


def test_the_unpickler_of_checkpoints_finds_nothing_but_what_it_allows():
    tree = ast.parse((ROOT / "bbox_sub" / "checkpoint.py").read_text(encoding="utf-8"))
    uses = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    ]
    # Python's own, with a find_class of ours, and the code of what it refuses
    assert set(uses) == {"pickle._Unpickler", "pickle.UnpicklingError", "pickle.BYTEARRAY8"}
