"""The pages of `docs/`: sessions run as they are written, and names are as they are said.

That the site can be built, without a warning, is asked by `.ci/run`.
"""

import doctest
import importlib.util
import inspect
import pathlib
import re
import sys

import jax
import pytest

import optimjax as ox

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "```pycon" in path.read_text()]


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load("reference")
links = load("links")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_sessions_give_what_they_say(page):
    sessions = re.findall(r"^```pycon\n(.*?)^```$", page.read_text(), re.M | re.S)
    test = doctest.DocTestParser().get_doctest("".join(sessions), {}, page.name, None, None)
    assert test.examples
    said = []
    with jax.numpy_dtype_promotion("standard"):
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_reference_knows_every_public_name():
    """It reads the source; this asks the library itself."""
    mine = {n for n, v in vars(ox).items() if n[0] != "_" and not inspect.ismodule(v)}
    top = {p.split(".")[1] for p in reference.public_names() if p.count(".") == 1}
    assert top == mine
    for path in reference.public_names():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    for module in map(importlib.import_module, reference.public_modules()):
        for name, value in vars(module).items():
            home = getattr(value, "__module__", None)
            if name[0] != "_" and callable(value) and home == module.__name__:
                paths = {f"optimjax.{name}", f"{module.__name__}.{name}"}
                assert paths & set(reference.public_names()), paths


def test_public_names_have_docstrings():
    assert reference.undocumented() == []


def test_every_public_name_has_its_place_in_the_reference():
    requests = [
        request
        for page in DOCS.rglob("*.md")
        for request in re.findall(r"^<!-- reference: (.*) -->$", page.read_text(), re.M)
    ]
    placed = {
        request: [name for section in sections for name in section.names]
        for request, sections in reference.placed(sorted(requests)).items()
    }
    public = reference.public_names()
    assert sorted(name for names in placed.values() for name in names) == sorted(public)
    optimizers = {p for p, n in public.items() if n.module == "optimjax.optimizers"}
    assert optimizers <= set(placed["table Optimizers"])


def test_links_go_to_the_module_that_a_text_is_about():
    assert links.linked("`clip`", home="optimjax.tree") == "[`clip`][optimjax.tree.clip]"
    table = "| `ox.tree.` | |\n| `clip` | |\n\n`clip`"
    assert re.findall(r"optimjax[.\w]+", links.linked(table)) == [
        "optimjax.tree.clip",
        "optimjax.clip",
    ]


def test_links_leave_code_headings_and_arguments_alone():
    text = "`adam` and `momentum`, `ox.adam`\n# `adam`\n>>> `adam`\n```\n`adam`\n```"
    first, *rest = links.linked(text, {"momentum"}).split("\n")
    target = "[optimjax.adam]"
    assert first == f"[`adam`]{target} and `momentum`, [`ox.adam`]{target}"
    assert rest == text.split("\n")[1:]
