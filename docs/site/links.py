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


def linked(text: str, but: Collection[str] = ()) -> str:
    """The text with links, except of names in `but`, in code, and in headings."""

    def link(found: re.Match[str]) -> str:
        name = found[1].lstrip("@")
        if name in but or name not in targets():
            return found[0]
        return f"[`{found[1]}`][{targets()[name]}]"

    lines, fence = text.split("\n"), None
    for i, line in enumerate(lines):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and fence in (None, mark[1]):
            fence = None if fence else mark[1]
        elif not fence and not re.match(r"#+ |\s*(>>>|\.\.\.) ", line):
            lines[i] = NAME.sub(link, line)
    return "\n".join(lines)
