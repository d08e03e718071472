"""The docstrings of the library, as its reference needs them (an extension of griffe).

`Example:` becomes a section of doctests, the entries of `References:` a list, a comment
behind a field its docstring, and the name of something public a link to it.
"""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from links import linked
from reference import comment_at

# A new entry of a bibliography: initials and a name, where a sentence has ended.
ENTRY = re.compile(r"(?<=[.)]\n)(?=(?:[A-Z]\. ?(?:-[A-Z]\. ?)?)+[A-Z])")


def _sections(text: str) -> str:
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    head, found, below = text.partition("\nReferences:\n")
    if not found:
        return text
    lines = [line[4:] if line.startswith("    ") else line for line in below.split("\n")]
    entries = ENTRY.split("\n".join(lines).strip() + "\n")
    listed = "".join(
        "- " + entry.strip().replace("\n", "\n  ") + "\n" for entry in entries if entry
    )
    return f"{head}\n**References**\n\n{listed}"


def _comments(holder: griffe.Class | griffe.Module) -> None:
    """Gives each field of a state, or type of a module, the comment that stands there."""
    for attribute in holder.attributes.values():
        if attribute.docstring or attribute.is_private or attribute.lineno is None:
            continue
        first, last = attribute.lineno - 1, (attribute.endlineno or attribute.lineno) - 1
        if comment := comment_at(
            attribute.lines_collection[attribute.filepath], first, last
        ):
            attribute.docstring = griffe.Docstring(comment, parent=attribute)


class Docstrings(griffe.Extension):
    """See the head of this file."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites all docstrings of a package, once it is read."""
        self._walk(pkg)

    def _walk(self, obj: Any) -> None:
        own = {obj.name}
        if obj.is_function:
            own |= {p.name.lstrip("*") for p in obj.parameters}
        if obj.is_class or obj.is_module:
            _comments(obj)
        if obj.docstring:
            text = _sections(obj.docstring.value)
            obj.docstring.value = linked(text, own)
        for member in obj.members.values():
            if not member.is_alias:
                self._walk(member)
