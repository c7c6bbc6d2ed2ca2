"""Every line of the configs acts: each key of the YAML is read by code outside of the config itself, and the test shows where.

The source is read, not run: names are followed from annotations (`config: Config`), assignments, loops and attributes to the
config's sections, so that `settings.batch_size` counts for the section that `settings` is, and for no other that has such a key.
"""

import ast
from collections import defaultdict
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml

import shared.config
from shared.config import Section

ROOT = Path(__file__).resolve().parents[1]
CONFIG_SOURCE = ROOT / "shared" / "config.py"
SOURCES = [
    path
    for package in ("shared", "bbox_sub", "metric_sub")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != CONFIG_SOURCE
]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SECTIONS = {
    name: each for name, each in vars(shared.config).items() if isinstance(each, type) and issubclass(each, Section)
}


def plain(annotation: Any) -> Any:
    """A Section class, [what a list holds], {str: what a mapping holds}, or None: what an annotation of a config key comes to."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return [plain(get_args(annotation)[0])]
    if get_origin(annotation) is dict:
        return {str: plain(get_args(annotation)[1])}
    if get_origin(annotation) is UnionType:  # a section or null
        return next(filter(None, map(plain, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def written(annotation: ast.expr | None) -> Any:
    """The same for an annotation in source: Config, list[Embedder], Config | None."""
    if isinstance(annotation, ast.Name):
        return SECTIONS.get(annotation.id)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("list", "Iterator"):
        return [written(annotation.slice)]
    if isinstance(annotation, ast.BinOp):
        return written(annotation.left)
    return None


class Reader(ast.NodeVisitor):
    """Walks one module and notes in `uses` where keys of sections are read: {(section, key): [file:line]}."""

    def __init__(self, name: str, gives: dict[str, Any], uses: dict[tuple[type, str], list[str]]):
        self._name, self._gives, self._uses = name, gives, uses
        self._kinds: dict[str, Any] = {}  # of names, `self.x` included

    def kind(self, node: ast.expr) -> Any:
        """The section that an expression is, [section] for a list of them, {str: section} for a mapping to them, (kinds) for a
        tuple, None for all else."""
        match node:
            case ast.Name():
                return self._kinds.get(node.id)
            case ast.Attribute():
                base = self.kind(node.value)
                if isinstance(base, type) and node.attr in base.model_fields:
                    return plain(base.model_fields[node.attr].annotation)
                return self._kinds.get(ast.unparse(node))
            case ast.Subscript():
                base = self.kind(node.value)
                if isinstance(base, dict):
                    return base[str]
                return base[0] if isinstance(base, list) and not isinstance(node.slice, ast.Slice) else base
            case ast.ListComp():
                outside = dict(self._kinds)
                for generator in node.generators:
                    self._bind_each(generator)
                kind, self._kinds = [self.kind(node.elt)], outside
                return kind
            case ast.Tuple():
                return tuple(self.kind(each) for each in node.elts)
            case ast.Lambda():
                return self.kind(node.body)
            case ast.Call(func=ast.Name(id="enumerate"), args=[first, *_]):
                return [(None, *(self.kind(first) or [None]))]
            case ast.Call(func=ast.Name(id="from_main"), args=[make]):
                return self.kind(make)
            case ast.Call(func=ast.Name(id=name)):
                return self._gives.get(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="model_validate")):
                return SECTIONS.get(name)
            case ast.Call(func=ast.Attribute(value=base, attr="model_copy")):
                return self.kind(base)
            case ast.Call(func=ast.Attribute(value=base, attr="values" | "items" as attribute)):
                if isinstance(kind := self.kind(base), dict):
                    return [kind[str] if attribute == "values" else (None, kind[str])]
            case ast.Call(func=ast.Attribute(attr=name)):  # a method, by what its name promises
                return self._gives.get(name)
        return None

    def bind(self, target: ast.expr, kind: Any) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for k, each in enumerate(target.elts):
                self.bind(each, kind[k] if isinstance(kind, tuple) and k < len(kind) else None)
        elif isinstance(target, ast.Name | ast.Attribute):
            self._kinds[ast.unparse(target)] = kind

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outside = dict(self._kinds)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            self._kinds[argument.arg] = written(argument.annotation)
        self.generic_visit(node)
        within = {name: kind for name, kind in self._kinds.items() if name.startswith("self.")}
        self._kinds = outside | within

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, self.kind(node.value))

    def visit_For(self, node: ast.For) -> None:
        self._bind_each(node)
        self.generic_visit(node)

    def _bind_each(self, node: ast.For | ast.comprehension) -> None:
        kind = self.kind(node.iter)
        self.bind(node.target, kind[0] if isinstance(kind, list) else None)

    def _visit_comprehension(self, node: Any) -> None:
        outside = dict(self._kinds)
        for generator in node.generators:
            self._bind_each(generator)
        self.generic_visit(node)
        self._kinds = outside

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def visit_Call(self, node: ast.Call) -> None:
        """f(**config.match.model_dump()) gives every key of the section to a parameter of that name."""
        self.generic_visit(node)
        for keyword in node.keywords:
            match keyword:
                case ast.keyword(
                    arg=None, value=ast.Call(func=ast.Attribute(value=section, attr="model_dump"), args=[])
                ):
                    if isinstance(kind := self.kind(section), type):
                        for key in kind.model_fields:
                            self._uses[kind, key].append(f"{self._name}:{node.lineno}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        base = self.kind(node.value)
        if isinstance(base, type) and isinstance(node.ctx, ast.Load):
            keys = [node.attr] if node.attr in base.model_fields else PROPERTIES.get((base, node.attr), [])
            for section, key in [(base, key) if isinstance(key, str) else key for key in keys]:
                self._uses[section, key].append(f"{self._name}:{node.lineno}")


def uses_in(sources: dict[str, str]) -> dict[tuple[type, str], list[str]]:
    """Where each key of each section is read in the sources (name: text)."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    modules = [*trees.values(), ast.parse(CONFIG_SOURCE.read_text(encoding="utf-8"))]
    functions = [node for tree in modules for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    gives = {node.name: kind for node in functions if (kind := written(node.returns))}
    uses = defaultdict(list)
    for name, tree in trees.items():
        Reader(name, gives, uses).visit(tree)
    return uses


def _properties() -> dict[tuple[type, str], list[tuple[type, str]]]:
    """The keys that a property or method of a section reads: whoever asks for it reads them."""
    found = {}
    for node in ast.parse(CONFIG_SOURCE.read_text(encoding="utf-8")).body:
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and [*map(ast.unparse, part.decorator_list)] in ([], ["property"]):
                part.args.args[0].annotation = ast.Name(node.name)
                reads = defaultdict(list)
                Reader("", {}, reads).visit(part)
                found[SECTIONS[node.name], part.name] = list(reads)
    return found


PROPERTIES: dict[tuple[type, str], list[tuple[type, str]]] = {}
PROPERTIES |= _properties()


@pytest.fixture(scope="module")
def sources():
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SOURCES}


def keys_of(tree: Any, section: Any, place: str = "") -> dict[str, tuple[type, str]]:
    """Every key of a config's plain tree with the section and the name that it has there; list items share their keys, what
    is in a mapping has its name before them."""
    if isinstance(section, list):
        return {key: use for each in tree for key, use in keys_of(each, section[0], place).items()}
    if isinstance(section, dict):
        return {key: use for name in tree for key, use in keys_of(tree[name], section[str], f"{place}{name}.").items()}
    if section is None or tree is None:  # a value, or a mapping of the user's own; a section that is null
        return {}
    found = {}
    for key, value in tree.items():
        found[f"{place}{key}"] = (section, key)
        found |= keys_of(value, plain(section.model_fields[key].annotation), f"{place}{key}.")
    return found


def keys_of_file(path: Path) -> dict[str, tuple[type, str]]:
    return keys_of(yaml.safe_load(path.read_text(encoding="utf-8")), shared.config.Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_of_a_config_acts_somewhere(path, sources):
    uses, keys = uses_in(sources), keys_of_file(path)
    for key, use in keys.items():
        print(f"{key:40} {', '.join(uses[use])}")  # pytest -rP shows it
    assert [key for key, use in keys.items() if not uses[use]] == []


def test_every_key_that_the_config_knows_is_in_the_full_recipe():
    known = {(section, key) for section in SECTIONS.values() for key in section.model_fields}
    recipe = yaml.safe_load((ROOT / "configs" / "wab.yaml").read_text(encoding="utf-8"))
    recipe["match"]["calibration"] = {"intercept": 0, "slope": 0}  # null there: `calibrate` fits it
    assert set(keys_of(recipe, shared.config.Config).values()) == known


def test_a_section_that_may_be_null_acts_where_it_is_there(sources):
    uses = uses_in(sources)
    assert uses[shared.config.Calibration, "intercept"] and uses[shared.config.Calibration, "slope"]


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        ("metric_sub/infer.py", {"match.keep_quantile"}),
        ("metric_sub/augment.py", {"embed_train.augment.hard.jpeg", "embed_train.augment.hard.cutout"}),
        (
            "bbox_sub/train.py",
            {"detector_train.clip_gradient", "detector_train.phases.start", "detector_train.warmup_iterations"},
        ),
        ("bbox_sub/targets.py", {"detector_train.flip", "detector_train.phases.short_sides"}),
    ],
)
def test_keys_lose_their_place_with_the_code_that_reads_them(sources, file, lost):
    left = uses_in({name: text for name, text in sources.items() if name != file})
    keys = keys_of_file(ROOT / "configs" / "wab.yaml")
    assert {key for key in lost if left[keys[key]]} == set()


def test_each_single_read_of_a_key_counts(sources):
    """With the one word taken out of the code, the key has no place any more."""
    source = {**sources}
    source["bbox_sub/train.py"] = source["bbox_sub/train.py"].replace("settings.clip_gradient", "5.0")
    uses = uses_in(source)
    unused = [key for key, use in keys_of_file(ROOT / "configs" / "wab.yaml").items() if not uses[use]]
    assert unused == ["detector_train.clip_gradient"]


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("def f(config: Config):\n    return config.match.min_share", {"Config.match", "Match.min_share"}),
        ("def f(config):\n    return config.match.min_share", set()),  # of what, nobody knows
        ("def f(config: Config):\n    config.match.min_share = 3", {"Config.match"}),  # written, not read
        ("def f(a: Embed, b: Embedder):\n    return a.batch_size", {"Embed.batch_size"}),
        ("def f(c: Config):\n    s = c.detect\n    s = other()\n    return s.batch_size", {"Config.detect"}),
        ("def f(c: Config):\n    s, n = c.detect, 3\n    s.max_side", {"Config.detect", "Detect.max_side"}),
        ("def f(c: Config):\n    for m in c.embedders: m.seed", {"Config.embedders", "Embedder.seed"}),
        ("def f(c: Config):\n    [m.seed for k, m in enumerate(c.embedders)]", {"Config.embedders", "Embedder.seed"}),
        ("def f(c: Config):\n    c.embedders[0].seed", {"Config.embedders", "Embedder.seed"}),
        ("def f(c: list[Embedder] | None):\n    (lambda: c[0].seed)()", {"Embedder.seed"}),
        (
            "class A:\n  def __init__(self, c: Embed):\n    self._c = c\n  def f(self):\n    self._c.flip",
            {"Embed.flip"},
        ),
        ("def make() -> Match: ...\ndef f():\n    make().min_share", {"Match.min_share"}),
        ("def f():\n    Detector.model_validate({}).nms_iou", {"Detector.nms_iou"}),
        ("def f(frames: FrameList):\n    frames.indices", {"FrameList.start", "FrameList.stop", "FrameList.step"}),
        ("def f(c: Config):\n    p = [e for e in c.embedders]\n    p[0].seed", {"Config.embedders", "Embedder.seed"}),
        (
            "def f(c: FrameList):\n    g(**c.model_dump())",
            {"FrameList.start", "FrameList.stop", "FrameList.step"},
        ),
        ("def f(c: Config):\n    c.match.model_dump()", {"Config.match"}),  # saved, not acted on
        ("def f(e: EmbedTrain):\n    e.augment['x'].jpeg", {"EmbedTrain.augment", "Augment.jpeg"}),
        ("def f(e: EmbedTrain):\n    max(a.jpeg for a in e.augment.values())", {"EmbedTrain.augment", "Augment.jpeg"}),
        ("def f(e: EmbedTrain):\n    for n, a in e.augment.items(): a.jpeg", {"EmbedTrain.augment", "Augment.jpeg"}),
        ("def f(e: EmbedTrain):\n    e.augment.keys()", {"EmbedTrain.augment"}),
        ("class B:\n  def of(self) -> EmbedPhase: ...\ndef f(b):\n    p = b.of()\n    p.task", {"EmbedPhase.task"}),
    ],
)
def test_reads_are_found_by_what_a_name_is(code, read):
    assert {f"{section.__name__}.{key}" for (section, key), places in uses_in({"x.py": code}).items() if places} == read
