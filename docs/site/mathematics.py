"""Mathematics in Markdown: `$...$` in a line, `$$...$$` on display, as MathML.

It is made while the site is built, so that a reader's browser needs neither a script nor
the network. What cannot be converted is a warning.
"""

import itertools
import logging
import re
import xml.etree.ElementTree as ET

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

log = logging.getLogger("mkdocs.hooks.optimjax")
# What `latex2mathml` leaves as text, and what it understands instead.
SPELLED = {
    r"\arg": r"\operatorname{arg}",
    r"\langle": "⟨",
    r"\rangle": "⟩",
}
TEXT = re.compile(r"\\text\{([^{}]*\$[^{}]*)\}")
# What is upright in TeX: Greek capitals, and words, which are not products of letters.
CAPITAL = re.compile(r"<mi>(&#x003(?:9[1-9A-F]|A[0-9]);)</mi>")
WORD = re.compile(r'(?:<mi mathvariant="normal">[A-Za-z]</mi>){2,}')
BARS = ("&#x0007C;", "&#x02016;")
UNKNOWN = re.compile(r">\s*\\[A-Za-z]+\s*<")


def _without_dollars(text: re.Match[str]) -> str:
    r"""Ends a `\text{...}` where there is a formula in it, and begins another behind."""
    parts = text[1].split("$")
    return "".join(
        part if i % 2 else rf"\text{{{part}}}" for i, part in enumerate(parts) if part
    )


def mathml(tex: str, display: str = "inline") -> str:
    """A formula of LaTeX as MathML."""
    tex = " ".join(tex.split())
    spelled = TEXT.sub(_without_dollars, tex)
    for macro, other in SPELLED.items():
        spelled = re.sub(re.escape(macro) + r"(?![A-Za-z])", lambda _, o=other: o, spelled)
    made = convert(spelled, display=display)
    if left := UNKNOWN.search(made):
        raise ValueError(f"{left[0]!r} is left of the formula {tex}")
    made = CAPITAL.sub(r'<mi mathvariant="normal">\1</mi>', made)
    made = WORD.sub(lambda word: f"<mi>{re.sub('<.*?>', '', word[0])}</mi>", made)
    for entity in BARS:
        made = _paired(made, entity)
    return made.replace("<mi>&#x02308;</mi>", "<mo>⌈</mo>").replace(
        "<mi>&#x02309;</mi>", "<mo>⌉</mo>"
    )


def _paired(made: str, bar: str) -> str:
    """Makes bars the fences that they are, of the height of a letter: left, right, ..."""
    plain = re.compile(rf'<mo(?: stretchy="false")?>{bar}</mo>')
    if len(plain.findall(made)) % 2:
        return made
    sides = itertools.cycle(("prefix", "postfix"))
    return plain.sub(
        lambda _: f'<mo form="{next(sides)}" fence="true" stretchy="false">{bar}</mo>', made
    )


class Formula(InlineProcessor):
    """A formula between dollar signs."""

    def __init__(self, pattern: str, md: Markdown, display: str):
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(
        self, m: re.Match[str], data: str
    ) -> tuple[ET.Element | str | None, int | None, int | None]:
        try:
            made = mathml(m[1], self.display)
        except Exception as error:  # Of many kinds.
            log.warning("no formula: $%s$: %r", m[1], error)
            return None, None, None
        if self.display == "block":
            made = f'<span class="formula">{made}</span>'
        return self.md.htmlStash.store(made), m.start(0), m.end(0)


class Mathematics(Extension):
    """Formulas, before the backslashes in them are taken for escapes."""

    def extendMarkdown(self, md: Markdown) -> None:
        display, inline = r"\$\$(.+?)\$\$", r"(?<![\\$])\$(?!\s)([^$]+?)(?<!\s)\$(?![\d$])"
        md.inlinePatterns.register(Formula(display, md, "block"), "display-formula", 187)
        md.inlinePatterns.register(Formula(inline, md, "inline"), "formula", 186)
