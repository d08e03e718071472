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
from links import linked, with_lists
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


def _comment(attribute: griffe.Attribute) -> str | None:
    """What is said about a field or a type, behind it or above it."""
    file = attribute.filepath
    if attribute.docstring or attribute.name.startswith("_") or not attribute.lineno:
        return None
    assert isinstance(file, Path)
    lines = attribute.lines_collection[file]
    last = attribute.endlineno or attribute.lineno
    return comment_at(lines, attribute.lineno - 1, last - 1)


def _fields(cls: griffe.Class) -> None:
    """Makes the comments of the fields of a state a section of its docstring."""
    doc = cls.docstring
    if doc is None or "\nAttributes:\n" in doc.value:
        return
    said = {name: _comment(field) for name, field in cls.attributes.items()}
    if fields := [f"    {name}: {text}" for name, text in said.items() if text]:
        doc.value = "\n".join([doc.value, "", "Attributes:", *fields])


def _types(module: griffe.Module) -> None:
    """Makes the comments of the types of a module their docstrings."""
    for attribute in module.attributes.values():
        if text := _comment(attribute):
            attribute.docstring = griffe.Docstring(text, parent=attribute)


class Docstrings(griffe.Extension):
    """See the head of this file."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites all docstrings of a package, once it is read."""
        self._walk(pkg)

    def _walk(self, obj: Any) -> None:
        own = {obj.name}
        if obj.is_function:
            own |= {p.name.lstrip("*") for p in obj.parameters}
        if obj.is_class:
            _fields(obj)
        if obj.is_module:
            _types(obj)
        if obj.docstring:
            text = _sections(with_lists(obj.docstring.value))
            obj.docstring.value = linked(text, own, obj.module.path)
        for member in obj.members.values():
            if not member.is_alias:
                self._walk(member)
