"""`bash run.sh bench [NAME]`: runs one benchmark, or lists them with the first line of what they say of themselves."""

import ast
import importlib
import sys
from pathlib import Path

from shared.cli import run_entry
from shared.errors import UserError


def main() -> None:
    modules = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.py")) if not path.stem.startswith("_")}
    if len(sys.argv) < 2:
        for name, path in modules.items():
            print(f"{name:20} {ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))).splitlines()[0]}")
        return
    name = sys.argv[1]
    if name not in modules:
        raise UserError(f"bench: expected one of {', '.join(modules)}, found {name!r}.")
    sys.argv[0] = f"bash run.sh bench {name}"  # what argparse calls the program
    importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    run_entry(main)
