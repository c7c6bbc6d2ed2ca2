"""Makes a virtual environment with the locked requirements of one stage and those of the tests, and nothing else.

`.venv/bin/python -m tests.stage_environment bbox_sub FOLDER`. It holds what `pip install --require-hashes
-r bbox_sub/requirements.txt -r tests/requirements.txt` puts into a new environment, but as hard links to the files of the
environment that runs this: made in seconds, without a download, and of no size. pip itself and the packages' commands are left out.
"""

import os
import re
import shutil
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from shared.cli import run_entry
from shared.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def locked_versions(path: Path) -> dict[str, str]:
    """{package: version} of a file that lock.sh wrote. Raises UserError for a line that pins nothing or has no hash."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    versions = {}
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        pinned = re.match(r"([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==([^\s;]+)\s.*--hash=sha256:[0-9a-f]{64}", line)
        if pinned is None:
            raise UserError(f"{path}: expected name==version and hashes, found '{line[:80]}'. Run lock.sh again.")
        versions[pinned[1]] = pinned[2]
    return versions


def make_environment(package: str, folder: Path) -> None:
    """Makes `folder` anew. Raises UserError where this environment lacks a locked package or has another version of it."""
    wanted = locked_versions(ROOT / package / "requirements.txt") | locked_versions(ROOT / "tests" / "requirements.txt")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    source = Path(sysconfig.get_path("purelib"))
    target = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    for name, version in wanted.items():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            raise UserError(f"{sys.prefix}: {name} {version} is not installed. Run bash run.sh setup.") from None
        if found.version != version:
            raise UserError(f"{sys.prefix}: expected {name} {version}, found {found.version}. Run bash run.sh setup.")
        files = {Path(found.locate_file(file)) for file in found.files if not {"..", "__pycache__"} & {*file.parts}}
        compiled = {Path(cache_from_source(path)) for path in files if path.suffix == ".py"}
        for path in files | {path for path in compiled if path.is_file()}:  # else every start would compile them
            if source in path.parents:
                linked = target / path.relative_to(source)
                linked.parent.mkdir(parents=True, exist_ok=True)
                linked.unlink(missing_ok=True)  # some packages of NVIDIA's ship the same file
                os.link(path, linked)


if __name__ == "__main__":
    run_entry(lambda: make_environment(sys.argv[1], Path(sys.argv[2])))
