"""Values that a stage makes known while a step is traced, for whoever is listening.

Nobody listens but `measure`; without it, `report` does nothing and costs nothing.
"""

import contextlib
import threading
from collections.abc import Container, Iterator
from typing import Any


class _Listening(threading.local):
    """What is heard in this thread: a dict by name, or `None` if nobody listens."""

    heard: dict[str, Any] | None = None
    prefix: str = ""


_listening = _Listening()


def report(name: str, value: Any) -> None:
    """Makes `value` known; a second one of a name is `name_2`."""
    heard = _listening.heard
    if heard is None:
        return
    heard[unused(_listening.prefix + name, heard)] = value


def unused(name: str, taken: Container[str]) -> str:
    """`name`, or the first of `name_2`, `name_3`, ... that is not taken."""
    candidate, n = name, 1
    while candidate in taken:
        n += 1
        candidate = f"{name}_{n}"
    return candidate


def wanted() -> bool:
    """Whether anybody listens."""
    return _listening.heard is not None


@contextlib.contextmanager
def listening(heard: dict[str, Any] | None) -> Iterator[None]:
    """Hears what is reported inside into `heard`; `None` lets it pass unheard."""
    before = _listening.heard, _listening.prefix
    _listening.heard, _listening.prefix = heard, ""
    try:
        yield
    finally:
        _listening.heard, _listening.prefix = before


@contextlib.contextmanager
def within(name: str) -> Iterator[None]:
    """Puts `name/` before the names of what is reported inside."""
    before = _listening.prefix
    _listening.prefix = f"{before}{name}/"
    try:
        yield
    finally:
        _listening.prefix = before
