"""The rules of the house about imports, read from the source of the three packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("bbox_sub", "metric_sub")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("shared", *STAGES)
    for path in sorted((ROOT / package).rglob("*.py"))
}

TRAINING_MODULES = {
    "train",
    "training",
    "processes",
    "shares",
    "targets",
    "batches",
    "augment",
    "losses",
    "plan",
    "replay",
    "snapshots",
    "training_crops",
    "preview",
    "quantize",
    "int8",
}
TRAINING_LIBRARIES = (
    "accelerate",
    "pytorch_metric_learning",
    "torch.optim",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "torchvision.transforms",
    "albumentations",
    "pycocotools",
    "nncf",
)


def imported_names(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every dotted name that a module's import statements bring in, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def used_names(source: str) -> set[str]:
    """Dotted names that the code spells out, such as torch.optim.SGD."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def names_of(module: str) -> set[str]:
    return imported_names(MODULES[module].read_text(encoding="utf-8"), module, MODULES[module].name == "__init__.py")


def reached_from(module: str) -> set[str]:
    """The project's modules that importing `module` runs, itself and the packages around them included."""
    reached, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in reached:
            reached.add(name)
            parts = name.split(".")
            waiting += [".".join(parts[:n]) for n in range(1, len(parts))]
            waiting += names_of(name)
    return reached


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_import_statements_of_every_form_are_seen():
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from .g import h\n    from ..i import j\n"
    assert imported_names(source, "p.q.r") == {"a.b", "c", "c.d", "p.q", "p.q.e", "p.q.g", "p.q.g.h", "p.i", "p.i.j"}
    assert "torch.optim.SGD" in used_names("x = torch.optim.SGD(groups)")


def test_there_is_something_to_walk():
    assert {"shared.config", "bbox_sub.infer", "metric_sub.infer"} <= set(MODULES)
    assert "shared.boxes" in reached_from("bbox_sub.infer")  # by way of bbox_sub.detect


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, "shared")])
def test_shared_imports_no_stage(module):
    assert not {name for name in names_of(module) for stage in STAGES if within(name, stage)}


@pytest.mark.parametrize(("stage", "other"), [STAGES, STAGES[::-1]])
def test_stages_never_import_each_other(stage, other):
    found = {
        module: {name for name in names_of(module) if within(name, other)}
        for module in MODULES
        if within(module, stage)
    }
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize("entry", ["bbox_sub.infer", "metric_sub.infer"])
def test_inference_reaches_no_training_module(entry):
    assert not {module for module in reached_from(entry) if module.split(".")[-1] in TRAINING_MODULES}


@pytest.mark.parametrize("entry", ["bbox_sub.infer", "metric_sub.infer"])
def test_inference_uses_no_training_library(entry):
    found = {}
    for module in reached_from(entry):
        names = names_of(module) | used_names(MODULES[module].read_text(encoding="utf-8"))
        if guilty := {name for name in names for library in TRAINING_LIBRARIES if within(name, library)}:
            found[module] = guilty
    assert not found
