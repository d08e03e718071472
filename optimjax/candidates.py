"""Who is tried in a sweep: ranges, and settings that are spread over them."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, _dtypes, base
from .base import GradientTransformation
from .combinators.chaining import chain
from .results import Setting
from .typing import Positive, Scalar

# Ranges.


class Range(NamedTuple):
    """An interval of a hyperparameter: see `log_uniform` and `uniform`."""

    low: float
    high: float
    log: bool

    def at(self, fraction: float) -> float:
        """The value at a fraction of the way from `low` to `high`.

        It has about three digits: what a table shows is then what ran.
        """
        if self.log:
            decades = math.log10(self.high / self.low)
            digits = 3 + max(0, -math.floor(math.log10(decades)))
            value = float(f"{self.low * 10 ** (fraction * decades):.{digits}g}")
        else:
            width = self.high - self.low
            value = round(self.low + fraction * width, 3 - math.ceil(math.log10(width)))
        return min(max(value, self.low), self.high)

    def __repr__(self) -> str:
        name = "log_uniform" if self.log else "uniform"
        return f"{name}({self.low:g}, {self.high:g})"


@_checks.checked
def log_uniform(low: Positive, high: Positive) -> Range:
    """A range for `sweep` in which every factor is as likely: for learning rates.

    Args:
        low: The lower end, above 0.
        high: The higher end, above `low`.

    Returns:
        A `Range`, whose values are rounded to three digits (more if it is narrow).

    Raises:
        ValueError: If an end is not positive and finite, or `low` is not below `high`.

    Example:
        >>> import optimjax as ox
        >>> rates = ox.log_uniform(1e-4, 1.0)
        >>> [rates.at(fraction) for fraction in (0.0, 0.5, 0.625)]
        [0.0001, 0.01, 0.0316]
    """
    return _range(low, high, log=True)


@_checks.checked
def uniform(low: Scalar, high: Scalar) -> Range:
    """A range for `sweep` in which every value is as likely.

    For a decay near one, it is the distance to one that counts; let that be the argument:
    `lambda learning_rate, distance: ox.adam(learning_rate, b2=1 - distance)`, with
    `log_uniform(1e-4, 1e-1)` for the distance.

    Args:
        low: The lower end.
        high: The higher end, above `low`.

    Returns:
        A `Range`, whose values are rounded to about a thousandth of its width.

    Raises:
        ValueError: If an end is not finite, or `low` is not below `high`.

    Example:
        >>> import optimjax as ox
        >>> ox.uniform(0.0, 0.9).at(0.5)
        0.45
    """
    return _range(low, high, log=False)


def _range(low: Any, high: Any, *, log: bool) -> Range:
    if not low < high:
        raise _checks.Refusal(
            ValueError, f"needs `low` below `high`, but got {low} and {high}."
        )
    return Range(low, high, log)


# Optimizers and their settings.


class Entry(NamedTuple):
    """One of the optimizers that `sweep` was given."""

    name: str
    factory: Any
    fixed: Setting
    choices: dict[str, list[Any]]
    ranges: dict[str, Range]
    arguments: tuple[str, ...]  # All of these, in the order in which they were given.


class Group(NamedTuple):
    """Candidates that differ in traced numbers alone: one `vmap`."""

    optimizer: str
    factory: Callable[..., GradientTransformation]
    fixed: Setting  # What all of them share, Python values.
    traced: tuple[str, ...]  # The arguments in which they differ.
    edged: tuple[str, ...]  # Those of them where the least and the greatest is an edge.
    settings: tuple[Setting, ...]  # One for each candidate: fixed and traced.

    def numbers(self, chosen: Sequence[int]) -> jax.Array:
        """What is traced of some of the settings, (candidates, arguments)."""
        rows = [[self.settings[i][a] for a in self.traced] for i in chosen]
        shape = (len(chosen), len(self.traced))
        return jnp.asarray(np.reshape(rows, shape), _dtypes.scalar_dtype())

    def made(self, row: jax.Array) -> GradientTransformation:
        """The optimizer of one row of `numbers`."""
        numbers = {argument: row[i] for i, argument in enumerate(self.traced)}
        # A chain hands to foreign transformations only the arguments that they take.
        return chain(self.factory(**self.fixed, **numbers))

    def check(self) -> None:
        """Refuses, before anything is compiled, what the factory refuses."""
        for setting in self.settings:
            made = self.factory(**setting)
            if not base.is_transformation(made):
                raise TypeError(
                    f"`sweep`: the factory of {self.optimizer!r} must return a "
                    f"transformation, but it gave {made!r}."
                )

    def at_edge(self, i: int) -> tuple[str, ...]:
        """The arguments whose value is the least or the greatest that was tried."""
        edges = []
        for argument in self.edged:
            tried = [setting[argument] for setting in self.settings]
            if min(tried) < max(tried) and tried[i] in (min(tried), max(tried)):
                edges.append(argument)
        return tuple(edges)


def entries_of(optimizers: Any) -> list[Entry]:
    """What `sweep(optimizers=...)` says, each checked by itself."""
    if not isinstance(optimizers, Mapping):
        raise TypeError(
            "`sweep(optimizers=...)` must be a dict from name to `(factory, arguments)`, "
            f"but got {optimizers!r}."
        )
    if not optimizers:
        raise ValueError("`sweep(optimizers=...)` names no optimizer.")
    return [_entry(str(name), given) for name, given in optimizers.items()]


def _entry(name: str, given: Any) -> Entry:
    where = f"`sweep`: the optimizer {name!r}"
    pair: tuple[Any, Any] = (given, {})
    if base.is_transformation(given):
        pair = (lambda: given, {})
    elif isinstance(given, tuple) and len(given) == 2:
        pair = given
    factory, arguments = pair
    if not callable(factory) or not isinstance(arguments, Mapping):
        raise TypeError(
            f"{where} must be a pair of a factory and its arguments, such as `(ox.adam, "
            f"{{'learning_rate': ox.log_uniform(1e-5, 1e-1)}})`, but got {given!r}."
        )
    entry = Entry(name, factory, {}, {}, {}, tuple(arguments))
    for argument, value in arguments.items():
        if isinstance(value, Range):
            entry.ranges[argument] = value
        elif type(value) in (list, range):  # A tuple may be one value, such as `betas`.
            entry.choices[argument] = list(value)
        elif isinstance(value, np.ndarray | jax.Array) and value.ndim == 1:
            entry.choices[argument] = value.tolist()
        else:
            entry.fixed[argument] = value
        if entry.choices.get(argument) == []:
            raise ValueError(f"{where} has nothing to choose from for `{argument}`.")
    _check_arguments(where, factory, list(arguments))
    return entry


def _check_arguments(where: str, factory: Any, arguments: list[str]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:
        return  # Some functions of C have none.
    known = signature.parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for argument in arguments:
            if argument not in known:
                raise TypeError(
                    f"{where} has no argument `{argument}`; it takes "
                    f"{', '.join(f'`{k}`' for k in known)}."
                    f"{_checks.suggestion(argument, known)}"
                )
    try:
        signature.bind(**dict.fromkeys(arguments))
    except TypeError as error:
        raise TypeError(f"{where}: {error}.") from None


def groups_of(
    entry: Entry, candidates: int, grid: bool, can_be_traced: Callable[..., bool]
) -> list[Group]:
    """The candidates of one optimizer, by what cannot be traced."""
    static = {a: v for a, v in entry.choices.items() if not all(map(_checks.is_number, v))}
    numbers = {a: v for a, v in entry.choices.items() if a not in static}
    first = {a: v[0] for a, v in entry.choices.items()}
    first |= {a: r.at(0.5) for a, r in entry.ranges.items()}
    for argument in [*entry.ranges, *numbers]:
        if can_be_traced(entry.factory, {**entry.fixed, **first}, argument):
            continue
        if argument in entry.ranges:
            raise TypeError(
                f"`sweep`: the argument `{argument}` of {entry.name!r} has to be a plain "
                "number: it cannot be traced. Give a list of values in place of a range."
            )
        static[argument] = numbers.pop(argument)
    combinations = list(itertools.product(*static.values()))
    each = math.ceil(candidates / len(combinations))
    least = math.prod(map(len, numbers.values())) * 2 ** len(entry.ranges)
    if grid and least > each:
        raise ValueError(
            f"`sweep(candidates=...)`: the smallest grid for {entry.name!r} has {least} "
            f"points, but there are {each}."
        )
    values = (_on_grid if grid else _spread)(entry.ranges, numbers, each)
    traced = (*entry.ranges, *numbers)
    edged = tuple(a for a in traced if a in entry.ranges or len(set(numbers[a])) > 2)
    groups = []
    for combination in combinations:
        fixed = entry.fixed | dict(zip(static, combination, strict=True))
        settings = tuple({a: {**v, **fixed}[a] for a in entry.arguments} for v in values)
        groups.append(Group(entry.name, entry.factory, fixed, traced, edged, settings))
    return groups


def _spread(
    ranges: dict[str, Range], choices: dict[str, list[Any]], count: int
) -> list[Setting]:
    """`count` settings, far from one another, each axis divided evenly.

    Along the first axis they are in order; along the others they are in the order of the
    multiples of powers of a number that has no good fractions (the generalized golden
    ratio), so that every part of one axis meets every part of the others. All
    combinations, where there are lists alone, and short ones.
    """
    product = list(itertools.product(*choices.values()))
    if not ranges and len(product) <= count:
        return [dict(zip(choices, values, strict=True)) for values in product]
    axes: dict[str, Any] = {**ranges, **choices}
    golden = 1.0
    for _ in range(64):  # To the root of x^d = x + 1.
        golden = (1 + golden) ** (1 / max(len(axes), 2))
    columns = []
    for k, axis in enumerate(axes.values()):
        multiples = np.arange(count) * golden**-k % 1 if k else np.arange(count)
        fractions = (np.argsort(np.argsort(multiples)) + 0.5) / count
        columns.append(
            [axis.at(x) for x in fractions.tolist()]
            if isinstance(axis, Range)
            else [axis[int(x * len(axis))] for x in fractions]
        )
    return _distinct(axes, zip(*columns, strict=True))


def _on_grid(
    ranges: dict[str, Range], choices: dict[str, list[Any]], count: int
) -> list[Setting]:
    """All combinations of evenly spaced values of each range, its ends included."""
    lists = math.prod(map(len, choices.values()))
    points = 2
    while ranges and lists * (points + 1) ** len(ranges) <= count:
        points += 1
    axes: dict[str, list[Any]] = {
        a: [r.at(i / (points - 1)) for i in range(points)] for a, r in ranges.items()
    }
    axes |= choices
    return _distinct(axes, itertools.product(*axes.values()))


def _distinct(arguments: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> list[Setting]:
    return [dict(zip(arguments, row, strict=True)) for row in dict.fromkeys(rows)]
