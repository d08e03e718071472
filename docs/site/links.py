"""Names of the library in a text, made links to where they are documented."""

import functools
import re
from collections.abc import Collection

import reference

NAME = re.compile(r"(?<![\[`\w])`(@?[\w.]+)`(?![`\]\w])")


@functools.cache
def targets() -> dict[str, str]:
    """What may be written for something public, and where that stands."""
    found = {}
    for path in [*reference.public_names(), *reference.public_modules()]:
        short = path.removeprefix("optimjax.")
        found |= {path: path, f"ox.{short}": path}
        if "." in short or path in reference.public_names():
            found[short] = path
    return found


def linked(text: str, but: Collection[str] = (), home: str = "") -> str:
    """The text with links, except of names in `but`, in code, and in headings.

    What is in the module `home` goes before what is elsewhere; so it does in a table whose
    head names a module, as `ox.tree.` does.
    """
    within = home

    def link(found: re.Match[str]) -> str:
        name = found[1].lstrip("@")
        near = f"{within}.{name}"
        target = near if near in reference.public_names() else targets().get(name)
        if name in but or target is None:
            return found[0]
        return f"[`{found[1]}`][{target}]"

    lines, fence = text.split("\n"), None
    for i, line in enumerate(lines):
        mark = re.match(r"\s*(```+|~~~+)", line)
        head = re.match(r"\| `ox\.(\w+)\.` \|", line)
        within = f"optimjax.{head[1]}" if head else within if line[:1] == "|" else home
        if mark and fence in (None, mark[1]):
            fence = None if fence else mark[1]
        elif not fence and not re.match(r"#+ |\s*(>>>|\.\.\.) ", line):
            lines[i] = NAME.sub(link, line)
    return "\n".join(lines)


def with_lists(text: str) -> str:
    """The text with what belongs to an item of a list set in by four, as Markdown asks.

    In docstrings it stands below the text of the item, two columns in.
    """
    lines, item = text.split("\n"), None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if re.match(r"\s*- ", line) and not (item is not None and indent > item):
            item = indent
        elif item is not None and indent >= item + 2:
            lines[i] = "  " + line
        else:
            item = None
    return "\n".join(lines)
