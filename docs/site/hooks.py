"""Hooks of MkDocs: what the pages take from the rest of the repository, and checks.

A line of a page that is one of these comments becomes what it asks for:

    <!-- include: README.md -->                    the text before the first heading
    <!-- include: README.md > Quick start -->      a section, without its heading
    <!-- expression: adam -->                      what an optimizer returns, as code
    <!-- reference: table Optimizers -->           the names of a table of the README
    <!-- reference: modules tree states -->        the public names of modules
    <!-- gallery -->                               the examples, with their pictures
    <!-- recipes -->                               the functions of `examples/recipes.py`

So nothing is written down twice. Names of the library in the pages are links to the
reference, which has every public name once: what is missing, or there twice, is a warning,
and `mkdocs build --strict` fails.
"""

import ast
import html
import logging
import posixpath
import re
import sys
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import links
import mathematics
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import ROOT

log = logging.getLogger("mkdocs.hooks.optimjax")
EXAMPLES = ROOT / "examples"
DIRECTIVE = re.compile(
    r"^<!-- (include|expression|reference|gallery|recipes)(?:: (.*?))? -->$", re.M
)
# Where names are not ours: tables of what other libraries call something.
UNLINKED = {"coming_from.md", "differences.md"}

CACHED = (
    reference.source_of,
    reference.tree_of,
    reference.public_names,
    reference.public_modules,
    links.targets,
)

found: Counter[str] = Counter()


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the extension for formulas, and fills the patterns of the navigation."""
    extensions: list[Any] = config.markdown_extensions
    extensions.append(mathematics.Mathematics())
    docs = Path(config.docs_dir)
    pages = sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))

    def filled(items: list[Any]) -> list[Any]:
        whole = []
        for item in items:
            if isinstance(item, dict):
                whole.append({title: filled(part) for title, part in item.items()})
            elif "*" in item:
                hits = [
                    p for p in pages if PurePath(p).match(item) and repr(p) not in named
                ]
                whole += [p for p in hits if p.count("/") == item.count("/")]
            else:
                whole.append(item)
        return whole

    named = str(config.nav)
    config.nav = filled(config.nav or [])
    for cached in CACHED:  # `mkdocs serve` comes here again.
        cached.cache_clear()
    found.clear()
    for path in reference.undocumented():
        log.warning("the public name %s has no docstring", path)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures of the examples."""
    for picture in sorted(EXAMPLES.glob("*.png")):
        path = f"examples/{picture.name}"
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    requests = []
    for file in files.documentation_pages():
        for kind, rest in DIRECTIVE.findall(file.content_string):
            if kind == "reference":
                requests.append(rest)
    if twice := [r for r, n in Counter(requests).items() if n > 1]:
        log.warning("the reference asks twice for: %s", twice)
    config.extra["sections"] = reference.placed(requests)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Does what the comments ask for, and makes names of the library links."""
    del files
    source = page.file.src_uri
    if source not in UNLINKED:
        markdown = links.linked(markdown)

    def done(directive: re.Match[str]) -> str:
        kind, rest = directive[1], directive[2] or ""
        try:
            if kind == "include":
                text = _included(rest, source)
                return text if source in UNLINKED else links.linked(text)
            if kind == "expression":
                return "\n\n".join(_expression(name) for name in rest.split())
            if kind == "reference":
                return _reference(config.extra["sections"][rest])
            return _recipes() if kind == "recipes" else _gallery(source)
        except (LookupError, OSError) as error:
            log.warning("%s: %s: %s", source, directive[0], error)
            return ""

    return DIRECTIVE.sub(done, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Counts the names, and looks for formulas that were not understood."""
    del config, files
    found.update(re.findall(r'\bid="(optimjax\.[\w.]+)"', html))
    text = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    if left := re.search(r"[^\n]{0,30}\$[^\n]{0,30}", text):
        log.warning("%s: a dollar sign is left: %r", page.file.src_uri, left[0])
    return html


def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Every public name is in the reference, once."""
    del env, config, files
    for path in reference.public_names():
        if found[path] != 1:
            log.warning("the reference has %s %d times, not once", path, found[path])


def on_post_build(config: MkDocsConfig) -> None:
    """No page asks the network for anything."""
    asks = re.compile(
        r'<(?:script|link|img)\b[^>]*(?:src|href)=["\']?((?:https?:)?//[^"\' >]+)'
    )
    for page in Path(config.site_dir).rglob("*.html"):
        for address in asks.findall(page.read_text()):
            if not address.startswith(config.site_url or "\0"):
                log.warning("%s asks for %s", page.name, address)


def _included(rest: str, source: str) -> str:
    file, *headings = (part.strip() for part in rest.split(" > "))
    text = (ROOT / file).read_text()
    if headings:
        text = reference.section_of(text, *headings)
    else:
        text = re.split(r"^#+ .*\n", text, maxsplit=2, flags=re.MULTILINE)[1]
    return _moved(text, posixpath.dirname(file), source)


def _moved(text: str, folder: str, source: str) -> str:
    """The text of a file in a folder of the repository, with links as of the page."""

    def move(link: re.Match[str]) -> str:
        target, mark, anchor = link[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
        if script := re.fullmatch(r"examples/(\w+)\.py", path):
            path, mark, anchor = "gallery.md", "#", script[1]
        path = posixpath.relpath(path, posixpath.dirname(source) or ".")
        return f"]({path}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", move, text)


def _expression(name: str) -> str:
    """The body of a factory, behind its docstring, as code."""
    path = reference.public_names()[f"optimjax.{name}"]
    source, tree = reference.source_of(path.module), reference.tree_of(path.module)
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = source.splitlines()[node.body[1].lineno - 1 : node.end_lineno]
    code = "\n".join(line.removeprefix("    ") for line in lines)
    if len(node.body) == 2:
        code = code.removeprefix("return ")
    return f'```python title="{name}"\n{code}\n```'


def _reference(sections: list[reference.Section]) -> str:
    parts = []
    for section in sections:
        anchor = f" {{ #{section.anchor} }}" if section.anchor else ""
        title = f"`{section.title}`" if section.anchor else section.title
        parts.append(f"## {title}{anchor}")
        if section.text:
            text = links.linked(links.with_lists(section.text), home=section.anchor or "")
            # The headings of a module's docstring, if it has any, stand below its own.
            parts.append(re.sub(r"^(#+ )", r"##\1", text, flags=re.MULTILINE))
        for path in section.names:
            shown = path.removeprefix("optimjax.")
            level = 4 if reference.public_names()[path].is_state else 3
            parts.append(
                f"::: {path}\n    options:\n      heading: {shown}\n"
                f"      toc_label: {shown}\n      heading_level: {level}"
            )
    return "\n\n".join(parts)


def _recipes() -> str:
    """The functions that are marked as recipes, each under its name."""
    code = (EXAMPLES / "recipes.py").read_text()
    lines, parts = code.splitlines(), []
    for node in ast.parse(code).body:
        marks = getattr(node, "decorator_list", [])
        if isinstance(node, ast.FunctionDef) and "recipe" in map(ast.unparse, marks):
            body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            title = node.name.replace("_", " ").capitalize()
            parts.append(f"## {title}\n\n```python\n{body}\n```")
    if not parts:
        raise LookupError("there are no recipes")
    return "\n\n".join(parts)


def _gallery(source: str) -> str:
    up = posixpath.relpath("examples", posixpath.dirname(source) or ".")
    parts = []
    for script in sorted(EXAMPLES.glob("*.py")):
        code = script.read_text()
        doc = ast.get_docstring(ast.parse(code))
        if not doc:
            raise LookupError(f"{script.name} does not say what it is")
        summary, _, more = doc.partition("\n\n")
        summary = re.sub(r":?\s*`python .*?`\.?$", ".", " ".join(summary.split()))
        parts.append(f"## {script.stem}\n\n{links.linked(summary)}")
        for picture in sorted(p.name for p in EXAMPLES.glob("*.png") if p.name in code):
            parts.append(f"![{html.escape(summary)}]({up}/{picture})")
        parts += [links.linked(more)] if more else []
        indented = "\n".join(f"    {line}".rstrip() for line in code.splitlines())
        parts.append(
            f'??? example "examples/{script.name}"\n\n    ```python\n{indented}\n    ```'
        )
    return "\n\n".join(parts)
