"""What the reference has to hold, and where: read from the source, without importing it.

The public names are those that `optimjax/__init__.py` exports and those of the modules that
it exports, or that the README names. Where each of them stands is said by the README's
tables (optimizers, combinators) or by the module that defines it.
"""

import ast
import fnmatch
import functools
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "optimjax"
README = ROOT / "README.md"


class Name(NamedTuple):
    """A public name."""

    path: str  # As it is documented: optimjax.adam, optimjax.tree.add.
    module: str  # Where it is defined: optimjax.optimizers.
    doc: str | None  # Its docstring.
    is_state: bool = False  # Whether it is the state of a transformation.
    of: str | None = None  # If so, the factory that its docstring names.


def _file(module: str) -> pathlib.Path:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def source_of(module: str) -> str:
    """The source of a module, by its name."""
    return _file(module).read_text()


@functools.cache
def tree_of(module: str) -> ast.Module:
    """Its syntax."""
    return ast.parse(source_of(module))


def module_doc(module: str) -> str:
    """The docstring of a module."""
    return ast.get_docstring(tree_of(module)) or ""


def modules() -> list[str]:
    """All modules of the package without an underscore, those of the two folders too."""
    files = [p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py")]
    names = sorted(".".join(("optimjax", *p.parts)) for p in files)
    return [n for n in names if "._" not in n]


def _imports(module: str) -> dict[str, str]:
    """The names that a module exports by `import x as x`: from which module each is."""
    found = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            package = module.split(".")
            if _file(module).name != "__init__.py":
                package = package[:-1]
            package = package[: len(package) - node.level + 1]
            there = ".".join([*package, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                if alias.asname == alias.name:
                    found[alias.name] = there
    return found


def _definitions(module: str) -> dict[str, ast.stmt]:
    """What a module defines at its top: functions, classes, and types with a name."""
    found: dict[str, ast.stmt] = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return {
        name: node for name, node in found.items() if len(name) > 1
    }  # No type variables.


def _doc(node: ast.stmt, module: str) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return ast.get_docstring(node)
    lines = source_of(module).splitlines()
    return comment_at(lines, node.lineno - 1, (node.end_lineno or node.lineno) - 1)


def comment_at(lines: list[str], first: int, last: int) -> str | None:
    """The comment behind what stands in these lines (the last included), or above it."""
    for at in dict.fromkeys((last, first)):
        if "  # " in lines[at]:
            return lines[at].rpartition("  # ")[2]
    said = []
    for line in reversed(lines[:first]):
        if not line.strip().startswith("# "):
            break
        said.insert(0, line.strip()[2:])
    return " ".join(said) or None


def _name(path: str, module: str, name: str) -> Name:
    node = _definitions(module).get(name)
    if node is None:
        if "." in path and name in (onwards := _imports(module)):
            return _name(path, onwards[name], name)
        raise LookupError(f"{path}: there is no {name} in {module}")
    doc = _doc(node, module)
    is_state = isinstance(node, ast.ClassDef) and name.endswith("State")
    of = re.match(r"State of `(\w+)`", doc or "") if is_state else None
    return Name(path, module, doc, is_state, of[1] if of else None)


@functools.cache
def public_modules() -> tuple[str, ...]:
    """The modules whose names are public: `optimjax.tree`, `optimjax.testing`, ..."""
    exported = [f"{there}.{name}" for name, there in _imports("optimjax").items()]
    named = re.findall(r"\boptimjax\.\w+", README.read_text())
    known = set(modules())
    return tuple(sorted({m for m in [*exported, *named] if m in known}))


@functools.cache
def public_names() -> dict[str, Name]:
    """All public names, by the path under which they are documented."""
    names = {}
    for name, there in _imports("optimjax").items():
        if f"{there}.{name}" not in modules():
            path = f"optimjax.{name}"
            names[path] = _name(path, there, name)
    exported = {(n.module, n.path.split(".")[-1]) for n in names.values()}
    for module in public_modules():
        for name in [*_definitions(module), *_imports(module)]:
            path = f"{module}.{name}"
            if not name.startswith("_") and (module, name) not in exported:
                names[path] = _name(path, module, name)
    return names


def undocumented() -> list[str]:
    """Public names without a docstring of their own, or a line in that of their module."""
    lacking = []
    for path, name in public_names().items():
        module, _, last = path.rpartition(".")
        listed = module in public_modules() and re.search(
            rf"\b{last}\b", module_doc(module)
        )
        if not name.doc and not listed:
            lacking.append(path)
    return lacking


class Section(NamedTuple):
    """A part of a page of the reference."""

    title: str
    anchor: str | None
    text: str
    names: tuple[str, ...]


def section_of(readme: str, *headings: str) -> str:
    """The text below the last of these headings, each within the one before."""
    text = readme
    for heading in headings:
        lines = text.splitlines(keepends=True)
        fenced, start, level = False, None, 0
        for i, line in enumerate(lines):
            fenced ^= line.startswith("```")
            mark = re.match(r"(#+) (.*)", line)
            if fenced or not mark:
                continue
            if start is not None and len(mark[1]) <= level:
                text = "".join(lines[start:i])
                break
            if start is None and mark[2].strip() == heading:
                start, level = i + 1, len(mark[1])
        else:
            if start is None:
                raise LookupError(f"there is no heading {heading!r}")
            text = "".join(lines[start:])
    return text.strip() + "\n"


def table_of(title: str) -> list[tuple[str, str]]:
    """The rows (label, text) of the README's table below **title**."""
    text = section_of(README.read_text(), "What there is")
    below = text.partition(f"**{title}**")[2].split("\n")
    rows = []
    for line in below[1:]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in line.strip("| ").split(" | ", 1)))
        elif rows:
            break
    if len(rows) < 2:
        raise LookupError(f"the README has no table of {title}")
    return [row for row in rows if len(row) == 2 and not set(row[0]) <= set("- |")]


def _table_sections(title: str) -> list[Section]:
    homes = ("optimjax.optimizers", "optimjax.transforms", "optimjax.combinators")
    sections = []
    for label, text in table_of(title):
        names = [f"optimjax.{n}" for n in re.findall(r"`(\w+)[`(]", text)]
        names = [n for n in names if n in public_names()]
        names = [n for n in names if public_names()[n].module.startswith(homes)]
        if names:
            sections.append(Section(label[0].upper() + label[1:], None, "", tuple(names)))
    return sections


def _module_section(module: str) -> Section:
    """All public names of a module, whether exported or in it, in its order."""
    order = [*_definitions(module), *_imports(module)]
    at = {}
    for path, name in public_names().items():
        home, _, last = path.rpartition(".")
        if home == module or (home == "optimjax" and name.module == module):
            at[path] = order.index(last)
    names = tuple(sorted(at, key=at.__getitem__))
    return Section(module.removeprefix("optimjax."), module, module_doc(module), names)


def sections(request: str) -> list[Section]:
    """What a request of a page stands for: `table TITLE`, or `modules PATTERN ...`.

    A pattern is of names of modules below `optimjax`; what tables have is left out.
    """
    kind, _, rest = request.partition(" ")
    if kind == "table":
        return _table_sections(rest)
    if kind != "modules":
        raise LookupError(f"there is no request {kind!r}")
    found = []
    for pattern in rest.split():
        hits = fnmatch.filter(modules(), f"optimjax.{pattern}")
        found += [_module_section(m) for m in hits]
    return [s for s in found if s.names]


def placed(requests: Iterable[str]) -> dict[str, list[Section]]:
    """The sections of each request, where every name stands in one of them only.

    Tables come before modules, in the order of the README, and what stands first has it;
    `modules *` has what is left, such as a module that no page names yet. A state stands
    behind the factory that it is the state of.
    """
    readme = README.read_text()

    def turn(request: str) -> tuple[bool, bool, int]:
        kind, _, title = request.partition(" ")
        return title == "*", kind != "table", readme.find(f"**{title}**")

    taken: set[str] = set()
    result: dict[str, list[Section]] = {}
    states = {
        f"optimjax.{n.of}": n.path
        for n in public_names().values()
        if n.is_state and f"optimjax.{n.of}" in public_names()
    }
    behind = set(states.values())
    for request in sorted(requests, key=turn):
        mine = []
        for section in sections(request):
            names = []
            for name in section.names:
                if name not in taken and name not in behind:
                    names += [name, *([states[name]] if name in states else [])]
                    taken.update(names)
            if names:
                mine.append(section._replace(names=tuple(names)))
        result[request] = mine
    return result
