"""The Dockerfiles, compose.yaml and the docker runner, checked without Docker: containers/check.sh builds and runs them for real."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT

STAGES = {"bbox_sub": "detect", "metric_sub": "match"}
SERVICES = [
    f"{verb}-{stage}{kind}" for verb in ("train", "infer") for stage in STAGES.values() for kind in ("", "-cuda")
]


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """[(INSTRUCTION, the rest)] of a Dockerfile, comments left out and continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def steps(package: str) -> list[list[tuple[str, str]]]:
    """The instructions before the first FROM, and those of each FROM."""
    parts = [[]]
    for instruction in instructions((PROJECT / package / "Dockerfile").read_text(encoding="utf-8")):
        if instruction[0] == "FROM":
            parts.append([])
        parts[-1].append(instruction)
    return parts


def rest_of(step: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in step if instruction == name]


def test_continued_lines_and_comments_are_read():
    text = "# a\nARG A=1\nRUN b && \\\n    # why\n    c\nCOPY d e\n"
    assert instructions(text) == [("ARG", "A=1"), ("RUN", "b && c"), ("COPY", "d e")]


@pytest.mark.parametrize("package", STAGES)
def test_the_base_is_pinned_and_the_compilers_stay_behind(package):
    head, install, final = steps(package)
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-[a-z]+", *rest_of(head, "ARG"))
    assert rest_of(install, "FROM") == ["${BASE} AS install"] and rest_of(final, "FROM") == ["${BASE}"]
    assert not rest_of(final, "RUN") and not rest_of(final, "ADD") + rest_of(install, "ADD")
    assert [rest for rest in rest_of(final, "COPY") if "--from" in rest] == ["--from=install /opt/venv /opt/venv"]


@pytest.mark.parametrize("package", STAGES)
def test_the_final_image_is_not_root_and_tells_what_it_is(package):
    final = steps(package)[-1]
    [user] = rest_of(final, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    [labels] = rest_of(final, "LABEL")
    names = {word.partition("=")[0].removeprefix("org.opencontainers.image.") for word in shlex.split(labels)}
    assert names == {"title", "description", "licenses", "revision", "base.name"}
    environment = dict(word.partition("=")[::2] for rest in rest_of(final, "ENV") for word in shlex.split(rest))
    assert environment["VID2SHOP_COMMIT"] == "${VID2SHOP_COMMIT}"
    writable = ["HOME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"]
    assert all(environment[name].split("/")[1] == "tmp" for name in writable)
    [command] = rest_of(final, "CMD")
    assert json.loads(command) == ["python", "-m", f"{package}.infer", "--help"]


@pytest.mark.parametrize("package", STAGES)
def test_the_images_set_threads_and_pages_as_run_sh_does(package):
    door = (PROJECT / "run.sh").read_text(encoding="utf-8")
    by_default = dict(re.findall(r'^export (\w+)="\$\{\1:?-(.+?)\}"', door, re.MULTILINE))
    assert by_default == {"OMP_WAIT_POLICY": "passive", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    words = {word for rest in rest_of(steps(package)[-1], "ENV") for word in shlex.split(rest)}
    assert {f"{name}={value}" for name, value in by_default.items()} <= words


@pytest.mark.parametrize("package", STAGES)
def test_packages_are_installed_by_hash_and_from_this_stages_lock(package):
    install = steps(package)[1]
    runs = " ".join(rest_of(install, "RUN"))
    calls = re.findall(r"(?<![-\w])install (?!--yes)[^;&]*", runs.replace('install --no-cache-dir "$@"', ""))
    assert calls
    for call in calls:  # detectron2 itself is the one thing without a hash: its commit is one
        assert "--require-hashes" in call or re.search(
            r"--no-deps .*git\+https://github\.com/facebookresearch/detectron2@\$DETECTRON2_COMMIT", call
        ), call
    assert {Path(name).parent.name for rest in rest_of(install, "COPY") for name in rest.split()[:-1]} <= {
        package,
        "containers",
    }
    assert "apt-get install --yes --no-install-recommends" in runs and "rm -r /var/lib/apt/lists" in runs
    commits = re.findall(r"DETECTRON2_COMMIT=([0-9a-f]{40})", (PROJECT / package / "Dockerfile").read_text())
    if package == "bbox_sub":
        assert commits[0] in (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
    else:
        assert not commits


@pytest.mark.parametrize("package", STAGES)
def test_what_is_copied_is_enough_to_run_the_stage_and_has_nothing_of_the_other(package, tmp_path):
    app = tmp_path / "app"
    shown = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    assert "*" in shown
    for step in steps(package)[1:]:
        for rest in rest_of(step, "COPY"):
            *sources, target = rest.split()
            if sources[0].startswith("--from"):
                continue
            for source in sources:
                assert f"!{source.split('/')[0]}" in shown, f".dockerignore hides {source}"
                assert (PROJECT / source).exists()
                if target.startswith("/app/"):
                    copied = app / target.removeprefix("/app/")
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if (PROJECT / source).is_dir() else shutil.copy)(PROJECT / source, copied)
    assert {path.name for path in app.iterdir()} == {package, "shared", "configs", "pyproject.toml"}
    environment = {"PYTHONPATH": str(app), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    names = {path.stem for path in (app / package).glob("*.py")} - {"detectron2_engine"}  # imported where detectron2 is
    modules = [*(f"{package}.{name}" for name in sorted(names)), "shared.processes", "shared.check"]
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    ended = subprocess.run(
        [sys.executable, "-c", code, *modules], env=environment, cwd="/", capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert all(Path(line).is_relative_to(app) for line in ended.stdout.split("\n") if line)
    command = [sys.executable, "-m", "shared.start", f"{package}.infer", "--help"]
    ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert ended.returncode == 0 and "--weights" in ended.stdout, ended.stderr


def filled_in(text: str, environment: dict[str, str]) -> str:
    """Compose's ${NAME:-default}, whose default may hold others; "" where neither is there."""
    innermost = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")
    while innermost.search(text):
        text = innermost.sub(lambda found: environment.get(found[1]) or found[2] or "", text)
    return text


def services(environment: dict[str, str]) -> dict[str, dict]:
    text = (PROJECT / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(filled_in(text, environment))["services"]


def mounts_of(service: dict) -> dict[str, tuple[str, bool]]:
    """{target: (source, read-only?)}"""
    return {mount["target"]: (mount["source"], mount.get("read_only", False)) for mount in service["volumes"]}


def test_every_service_is_locked_down():
    made = services({})
    assert list(made) and set(made) == set(SERVICES)
    for name, service in made.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"] == ["/tmp"], name
        assert service["user"] == "10001:10001" and service["init"] is True and service["pull_policy"] == "build", name
        assert not {"privileged", "cap_add", "ipc", "pid", "ports", "devices"} & set(service), name
        assert all(mount["type"] == "bind" for mount in service["volumes"]), name
        writable = {target for target, (_, read_only) in mounts_of(service).items() if not read_only}
        assert writable == ({"/work"} if name.startswith("infer") else {"/work", "/weights"}), name
        assert (service.get("network_mode") == "none") == name.startswith("infer"), name


def test_docker_makes_no_folder_on_the_host():
    """It would make it as root."""
    for name, service in services({}).items():
        assert all(mount["bind"] == {"create_host_path": False} for mount in service["volumes"]), name


@pytest.mark.parametrize("package", STAGES)
def test_pretrained_is_in_every_checkout_and_its_weights_are_in_none_and_in_no_image(package):
    mounts = mounts_of(services({})[f"train-{STAGES[package]}"])
    assert mounts[f"/app/{package}/pretrained"] == (f"./{package}/pretrained", True)
    assert (PROJECT / package / "pretrained" / ".gitkeep").is_file()
    assert "**/pretrained" in (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    paths = [f"{package}/pretrained/{name}" for name in (".gitkeep", "weights.pth")]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=PROJECT, capture_output=True, text=True)
    if ignored.returncode == 128:
        pytest.skip("this is no git checkout")
    assert ignored.stdout.split() == paths[1:]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_its_stage_from_its_image_after_the_stage_before(name):
    made = services({})
    service = made[name]
    verb, stage, *cuda = name.split("-")
    package = {stage: package for package, stage in STAGES.items()}[stage]
    variant = "cuda" if cuda else "cpu"
    assert service["profiles"] == ["-".join([verb, *cuda])]
    assert service["image"] == f"vid2shop-{package}:{variant}"
    build = service["build"]
    assert build["dockerfile"] == f"{package}/Dockerfile" and build["args"]["VARIANT"] == variant
    known = {rest.partition("=")[0] for step in steps(package) for rest in rest_of(step, "ARG")}
    assert set(build["args"]) <= known
    assert bool(service.get("deploy")) == bool(cuda)
    entry = service["entrypoint"]
    assert f"{package}.{verb}" in entry and (entry[3:5] == ["shared.processes", "1"]) == (verb == "train")
    targets = mounts_of(service)
    for option in ("config", "data", "work", "weights"):
        assert entry[entry.index(f"--{option}") + 1] in targets
    before = service.get("depends_on", {})
    assert set(before) == ({"-".join([verb, "detect", *cuda])} if stage == "match" else set())
    assert all(made[other]["profiles"] == service["profiles"] for other in before)


def test_paths_follow_from_each_other_unless_they_are_named():
    sources = {target: source for target, (source, _) in mounts_of(services({})["infer-match"]).items()}
    assert sources == {
        "/data": "./data",
        "/work": "./work",
        "/weights": "./work/weights",
        "/config.yaml": "./work/weights/config.yaml",
    }
    named = services({"VID2SHOP_WORK": "/w", "VID2SHOP_CONFIG": "/c.yaml"})
    assert mounts_of(named["infer-detect"])["/weights"] == ("/w/weights", True)
    assert mounts_of(named["train-match"])["/config.yaml"] == ("/c.yaml", True)
    assert mounts_of(services({"VID2SHOP_WEIGHTS": "/v"})["infer-detect"])["/config.yaml"] == ("/v/config.yaml", True)


class Docker:
    """A stand-in for docker on the PATH, which notes its arguments and environment."""

    def __init__(self, folder: Path, runtimes: str):
        self.notes = folder / "calls"
        command = folder / "bin" / "docker"
        command.parent.mkdir()
        command.write_text(
            f"#!{sys.executable}\nimport json, os, sys\nopen({str(self.notes)!r}, 'a').write("
            "json.dumps([sys.argv[1:], dict(os.environ)]) + chr(10))\n"
            f"if sys.argv[1] == 'info': print(' Runtimes: {runtimes}')\n"
        )
        command.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "RUNNER": "docker"}

    def calls(self, verb: str) -> list[tuple[list[str], dict[str, str]]]:
        """What `docker compose VERB` was called with, behind the verb, and its environment."""
        found = [json.loads(line) for line in self.notes.read_text().splitlines()]
        prefix = ["compose", "--file", str(PROJECT / "compose.yaml"), verb]
        return [(arguments[4:], environment) for arguments, environment in found if arguments[:4] == prefix]


def run(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", PROJECT / "run.sh", *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.fixture
def folders(tmp_path):
    for name in ("my data", "work", "trained weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "trained weights" / "config.yaml").write_text("")
    (tmp_path / "work" / "result.json").write_text("{}")
    return tmp_path / "my data", tmp_path / "work", tmp_path / "trained weights"


@pytest.mark.parametrize(("runtimes", "kind"), [("io.containerd.runc.v2 runc", ""), ("nvidia runc", "-cuda")])
def test_the_docker_runner_mounts_paths_and_passes_the_rest(folders, runtimes, kind, tmp_path):
    data, work, weights = folders
    docker = Docker(tmp_path, runtimes)
    options = ["--data", data, "--weights", weights, f"--work={work}", "--fresh", "match.max_distance=1"]
    ended = run("infer", *options, environment=docker.environment)
    assert ended.returncode == 0 and ended.stdout == "{}", ended.stderr
    built, ran = docker.calls("build"), docker.calls("run")
    assert [arguments[-1] for arguments, _ in built] == [f"infer-detect{kind}", f"infer-match{kind}"]
    for (arguments, environment), stage in zip(ran, STAGES.values(), strict=True):
        *options, service = arguments[: arguments.index("--data")]
        assert service == f"infer-{stage}{kind}" and {"--rm", "--no-deps"} <= set(options)
        assert arguments[arguments.index("--data") :] == ["--data", "/data", "--fresh", "match.max_distance=1"]
        made = services(environment)[service]
        assert mounts_of(made) == {
            "/data": (str(data), True),
            "/work": (str(work), False),
            "/weights": (str(weights), True),
            "/config.yaml": (f"{weights}/config.yaml", True),
        }
        assert made["user"] == f"{os.getuid()}:{os.getgid()}"
        assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", made["build"]["args"]["VID2SHOP_COMMIT"])


def test_the_docker_runner_takes_a_coco_file_and_one_stage(folders, tmp_path):
    data, work, weights = folders
    docker = Docker(tmp_path, "runc")
    (data / "my coco.json").write_text("{}")
    options = ["--data", data / "my coco.json", "--weights", weights, "--work", work, "--stage", "detect"]
    assert run("infer", *options, environment=docker.environment).returncode == 0
    [(arguments, environment)] = docker.calls("run")
    assert arguments[-3:] == ["infer-detect", "--data", "/data/my coco.json"]
    assert mounts_of(services(environment)["infer-detect"])["/data"] == (str(data), True)


def test_the_docker_runner_trains_in_as_many_processes_as_are_wanted(folders, tmp_path):
    data, work, _ = folders
    docker = Docker(tmp_path, "runc")
    environment = {**docker.environment, "PROCESSES": "2"}
    ended = run(
        "train",
        "--data",
        data,
        "--work",
        work,
        "--stage=match",
        "--config",
        PROJECT / "configs" / "tiny.yaml",
        environment=environment,
    )
    assert ended.returncode == 0 and ended.stdout == "", ended.stderr
    [(arguments, environment)] = docker.calls("run")
    made = services(environment)[arguments[arguments.index("--data") - 1]]
    assert made["entrypoint"][:6] == ["python", "-m", "shared.start", "shared.processes", "2", "metric_sub.train"]
    mounts = mounts_of(made)
    assert mounts["/config.yaml"] == (str(PROJECT / "configs" / "tiny.yaml"), True)
    assert mounts["/weights"] == (f"{work}/weights", False) and (work / "weights").is_dir()


def test_one_process_becomes_the_module(tmp_path):
    (tmp_path / "shown.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    command = [sys.executable, "-m", "shared.processes", "1", "shown", "--work", "a b"]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": f"{PROJECT}:{tmp_path}"}, capture_output=True, text=True
    )
    assert ended.stdout == "__main__ ['--work', 'a b']\n", ended.stderr
