"""The names of the library: catalogued, documented; and the layers beneath them."""

import ast
import inspect
import pathlib
import re

import catalogue
import pytest

import optimjax as ox
from optimjax import (
    compressors,
    matrices,
    numerics,
    porting,
    projections,
    selection,
    states,
    testing,
    tree,
)

PACKAGE = pathlib.Path(ox.__file__).parent
README = (PACKAGE.parent / "README.md").read_text()
# Each may import from those before it; one row is one layer.
LAYERS = [
    {"_branches", "_checks", "_reports", "_spread"},
    {"_dtypes", "_workers"},
    {"numerics"},
    {"base", "_linalg"},
    {"typing", "tree"},
    {"selection"},
    {"matrices"},
    {"states"},
    {
        "surfaces",
        "schedules",
        "projections",
        "gradients",
        "curvature",
        "compressors",
        "sharding",
    },
    {"transforms"},
    {"combinators"},
    {"optimizers", "minimizing", "compiling", "describing", "plotting"},
    {"_pytorch"},
    {"porting"},
    {"testing", "strategies", "_pictures"},
    {"results"},
    {"candidates"},
    {"sweeping"},
    {"__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
PUBLIC = {
    name: value
    for name, value in vars(ox).items()
    if not name.startswith("_") and not inspect.ismodule(value)
}
FUNCTIONS = {
    f"{space.__name__.removeprefix('optimjax').lstrip('.') or 'ox'}.{name}": value
    for space in (
        ox,
        tree,
        selection,
        matrices,
        states,
        projections,
        compressors,
        numerics,
        porting,
        testing,
    )
    for name, value in vars(space).items()
    if inspect.isfunction(value)
    and not name.startswith("_")
    and value.__module__.startswith(space.__name__)
    and name not in testing.LAWS
}
FACTORIES = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isfunction(value)
    and inspect.signature(value).return_annotation is ox.GradientTransformation
}
SCHEDULES = [n for n in PUBLIC if re.search("_(schedule|decay)$", n) and n not in FACTORIES]


def layer(module):
    return module.parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down(file):
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        folder = file.parts[: len(file.parts) - node.level]
        there = [*folder, *(node.module or "").split(".")]
        there = [part for part in there if part]
        for target in [there[0]] if there else [alias.name for alias in node.names]:
            if target == layer(file) and len(file.parts) > 1:
                continue  # Within one folder.
            assert RANK[target] < RANK[layer(file)], f"{file} imports {target}"


def test_no_file_is_named_for_not_having_decided():
    names = {part.removesuffix(".py") for file in FILES for part in file.parts}
    assert not names & {"utils", "common", "contrib", "_src", "experimental", "misc"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_their_parameters_are_documented(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    assert doc, f"{name} has no docstring"
    if name.startswith("numerics."):  # Arithmetic: one sentence says it all.
        return
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    missing = [p for p in parameters if not re.search(rf"^\s+\**{p}:", doc, re.MULTILINE)]
    assert not missing, f"{name} does not document {missing}"
    assert "Example:" in doc, f"{name} shows no example"


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_say_what_they_return_and_what_they_raise(name):
    doc = inspect.getdoc(FACTORIES[name])
    assert doc is not None
    assert "Returns:" in doc
    if inspect.signature(FACTORIES[name]).parameters:
        assert "Raises:" in doc


@pytest.mark.parametrize("name", [n for n in PUBLIC if n.endswith("State")])
def test_state_fields_have_a_comment(name):
    state = PUBLIC[name]
    source = inspect.getsource(state)
    for field in state._fields:
        assert re.search(
            rf"^    {field}: .*#|^    # .*\n    {field}:", source, re.MULTILINE
        )


def test_every_factory_is_in_the_catalogue():
    assert len(FACTORIES) > 25
    assert set(FACTORIES.values()) <= {case.make for case in catalogue.CASES}


def test_every_rule_has_an_oracle_or_a_test_file_that_says_why_not():
    without = {case.make for case in catalogue.CASES if case.oracle is None}
    # Random: see transforms/test_adding.py, transforms/test_hessian.py. And one that
    # searches: see test_minimizing.py.
    assert without == catalogue.NOISY | catalogue.ESTIMATING | {ox.lbfgs}


@pytest.mark.parametrize("name", [*FACTORIES, *SCHEDULES])
def test_every_transformation_and_schedule_is_in_the_readme(name):
    assert f"`{name}`" in README


def test_optimizers_hold_no_arithmetic():
    source = ast.parse((PACKAGE / "optimizers.py").read_text())
    arithmetic = [
        node
        for node in ast.walk(source)
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr)
    ]
    assert not arithmetic  # `|` joins types.


def test_the_wheel_holds_the_package_alone():
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {".".join(("optimjax", *file.parts[:-1])) for file in FILES}
    assert listed == found
    names = {re.split(r"[<>=]", d)[0] for d in project["project"]["dependencies"]}
    assert names == {"jax", "jaxlib", "chex", "numpy"}
