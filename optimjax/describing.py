"""What a transformation is made of, and what it keeps: a table, before anything is made."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from . import _checks, _dtypes, base, selection
from .base import GradientTransformation, Params

WIDTH = 44  # Of the column of hyperparameters.


class Slot(NamedTuple):
    """One thing that a stage remembers, over all of its leaves."""

    name: str  # The field of its state; of several in a row, by `/`.
    dtypes: tuple[str, ...]  # Of its arrays, each once.
    numbers: int  # In all of its arrays.
    bytes: int


class Stage(NamedTuple):
    """One transformation, and what it does not leave to those inside of it."""

    depth: int  # 0 for the outermost.
    name: str  # Of the factory.
    hyperparameters: dict[str, str]  # In effect: numbers, and options that are not usual.
    touches: tuple[str, ...]  # The paths of the params that it is given.
    reshaped: bool  # Whether it is given arrays that are none of the params.
    slots: tuple[Slot, ...]


class Description(NamedTuple):
    """What `describe` returns; its text is a table."""

    stages: tuple[Stage, ...]  # Those that hold others before those that they hold.
    params: Slot  # The parameters themselves.
    paths: tuple[str, ...]  # Of the params.

    @property
    def state_bytes(self) -> int:
        """The bytes of the whole state, each array once, however many devices have it."""
        return sum(slot.bytes for stage in self.stages for slot in stage.slots)

    @property
    def bytes_per_param(self) -> float:
        """The bytes of the state for each number among the params."""
        return self.state_bytes / max(self.params.numbers, 1)

    def __str__(self) -> str:
        rows = [
            ("stage", "hyperparameters", "leaves", "state", "dtype", "bytes"),
            *(line for stage in self.stages for line in _lines(stage, self.paths)),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rule = tuple("-" * width for width in widths)
        rows.insert(1, rule)
        table = [
            "  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])])
            for row in rows
        ]
        grads = self.params.bytes
        total = self.state_bytes + self.params.bytes + grads
        ends = [
            f"state      {_amount(self.state_bytes)}: {self.bytes_per_param:.4g} bytes a "
            "parameter",
            f"params     {_amount(self.params.bytes)}: {self.params.numbers:,} numbers in "
            f"{_count(len(self.paths), 'leaf', 'leaves')}, {', '.join(self.params.dtypes)}",
            f"together   {_amount(total)}, with gradients like the params",
        ]
        return "\n".join(line.rstrip() for line in [*table, "", *ends])

    __repr__ = __str__


def describe(tx: GradientTransformation, params: Params) -> Description:
    """Says what a transformation is made of, and how much it keeps for these params.

    A table with a line or more for each stage: the hyperparameters in effect (every number,
    and the options that are not the usual ones), the leaves that it is given, and each slot
    of its state with its dtypes and bytes; then totals, and bytes per parameter. Nothing is
    allocated: `params` may be shapes, and a model that fits on no machine can be asked
    about.

    What a combinator makes of the state of another (`zero1` pads it, `pack_small_leaves`
    joins it) is listed with the combinator. What keeps a part of the leaves only by a mask
    that is asked at every step is said to touch these. The state of a transformation that
    another library made is listed with what holds it, and by itself where it is alone.

    Args:
        tx: A transformation; of another library, too.
        params: A tree of arrays, or of `jax.ShapeDtypeStruct`s.

    Returns:
        A `Description`; its text is the table. `state_bytes` are the bytes of all arrays of
        the state, `bytes_per_param` those for each number of the params, and `stages` is
        the table as data.

    Raises:
        TypeError: If `tx` is no transformation, or a leaf of the params no array; what the
            `init` of `tx` refuses, it refuses here.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jax.ShapeDtypeStruct((50_000, 8000), jnp.bfloat16)}
        >>> print(ox.describe(ox.chain(ox.clip(1.0), ox.ema(0.9)), params))
        stage   hyperparameters  leaves  state  dtype     bytes
        ------  ---------------  ------  -----  -------  ------
        chain                    all 1
          clip  max_delta=1.0    all 1
          ema   decay=0.9        all 1   count  int32       4 B
                                         ema    float32  1.6 GB
        <BLANKLINE>
        state      1.6 GB: 4 bytes a parameter
        params     800 MB: 400,000,000 numbers in 1 leaf, bfloat16
        together   3.2 GB, with gradients like the params
    """
    base.check_stages("describe", [tx], "its argument `tx`")
    for path, x in jax.tree.leaves_with_path(params):
        if not hasattr(x, "dtype") and not isinstance(x, float | complex):
            raise TypeError(
                "`describe` takes arrays, or their shapes as `jax.ShapeDtypeStruct(shape, "
                f"dtype)`, but the leaf {_dtypes.name_of(path)} of the params is {x!r}."
            )
    given = {p: x for p, x in selection.by_path(params).items() if x is not None}
    stages: list[Stage] = []

    def init(params: Params) -> Any:
        with base.starts() as seen:
            state = tx.init(params)
        if not (seen and seen[0].depth == 0):  # Of another library: one row for all of it.
            seen = [base.Start(0, tx.update, params, state), *seen]
        stages.extend(_stages(seen, state, set(given)))
        return state

    jax.eval_shape(init, params)
    paths = tuple(map(selection.text, given))
    return Description(tuple(stages), _slot("params", list(given.values())), paths)


def _stages(
    seen: Sequence[base.Start], state: Any, given: set[selection.Path]
) -> Iterator[Stage]:
    """The calls of `init` as rows, each with those leaves of the state that it made."""
    # The innermost call that returned an array made it, and the field that it is in there
    # is its name. What a combinator makes anew of the arrays of another is its own.
    maker: dict[int, tuple[int, str]] = {}
    for i, start in reversed(list(enumerate(seen))):
        for field, leaf in _fields(start.state, ()):
            maker.setdefault(id(leaf), (i, selection.text(_before_any(given, field))))
    made: dict[int, dict[str, list[Any]]] = {i: {} for i in range(len(seen))}
    for leaf in jax.tree.leaves(state):
        i, field = maker[id(leaf)]
        made[i].setdefault(field, []).append(leaf)
    shown: list[tuple[int, Any]] = []
    hidden: list[int] = []  # The depths of the calls around that have no row.
    asked = 0  # Up to where the calls are within one that is asked once more.
    for i, start in enumerate(seen):
        hidden = [depth for depth in hidden if depth < start.depth]
        name = base.stage_name(GradientTransformation(start.update, start.update))
        within = range(i, _end(seen, i))
        # Asked once more, for what its state would be: there are arrays, and nobody has
        # kept them. What keeps nothing may well stand in two places.
        again = (start.depth, start.update) in shown and bool(jax.tree.leaves(start.state))
        again &= not any(made[j] for j in within)
        shown.append((start.depth, start.update))
        if i < asked:
            continue
        asked = within.stop if again else asked
        # That; or the body of an alias; or nothing.
        body = name == "chain" and i > 0 and start.state is seen[i - 1].state
        if again or body or (name == "identity" and i > 0):
            hidden.append(start.depth)
            continue
        touched = [p for p, x in selection.by_path(start.params).items() if x is not None]
        arguments, reshaped = _arguments(start.update), not given.issuperset(touched)
        # A mask of a rule is its own; one of an alias is for one of its stages.
        if arguments.get("mask") is not None and len(within) == 1 and not reshaped:
            mask = selection.chosen_by(arguments["mask"], start.params)
            chosen = selection.by_path(mask)
            touched = [path for path in touched if chosen[path]]
        yield Stage(
            start.depth - len(hidden),
            name,
            dict(_in_effect(start.update, arguments)),
            tuple(map(selection.text, touched)),
            reshaped,
            tuple(_slot(name, leaves) for name, leaves in made[i].items()),
        )


def _end(seen: Sequence[base.Start], i: int) -> int:
    """Where the calls that call `i` made end in the list."""
    inside = (j for j in range(i + 1, len(seen)) if seen[j].depth <= seen[i].depth)
    return next(inside, len(seen))


def _is_record(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_fields")


def _fields(node: Any, path: selection.Path) -> Iterator[tuple[selection.Path, Any]]:
    """The leaves of a state, each with the names of the fields that it is in."""
    if _is_record(node):
        for field, value in node._asdict().items():
            yield from _fields(value, (*path, field))
    elif any(map(_is_record, jax.tree.leaves(node, is_leaf=_is_record))):
        inside = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda x: x is not node
        )[0]
        for keys, value in inside:
            yield from _fields(value, path + selection.path_of(keys))
    else:
        for leaf in jax.tree.leaves(node):
            yield path, leaf


def _before_any(given: set[selection.Path], path: selection.Path) -> selection.Path:
    """What comes before the path of a parameter, in the path of what is kept for it."""
    spans = [(i, j) for i in range(1, len(path)) for j in range(i + 1, len(path) + 1)]
    return path[: next((i for i, j in spans if path[i:j] in given), len(path))]


def _arguments(update: Any) -> dict[str, Any]:
    """What the factory was called with, its defaults included."""
    made_by = getattr(update, "made_by", None)
    return {} if made_by is None else made_by().arguments


def _in_effect(update: Any, arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not arguments:
        return
    parameters = update.made_by().signature.parameters
    for name, value in arguments.items():
        default = parameters[name].default
        usual = value is default or (isinstance(value, str | bool) and value == default)
        if value is None or (usual and not _checks.is_number(value)):
            continue
        if isinstance(value, jax.core.Tracer):
            continue  # It is in the state, and the one who put it there says what it is.
        stages = jax.tree.leaves(value, is_leaf=base.is_transformation)
        if any(map(base.is_transformation, stages)):
            continue  # They have rows of their own.
        if isinstance(value, tuple | dict) and not value:
            continue
        yield name, _checks.shown(value)


def _slot(name: str, leaves: Sequence[Any]) -> Slot:
    dtypes = tuple(dict.fromkeys(str(_dtypes.dtype_of(x)) for x in leaves))
    numbers = [math.prod(jnp.shape(x)) for x in leaves]
    sizes = [n * _item_bytes(x) for n, x in zip(numbers, leaves, strict=True)]
    return Slot(name, dtypes, sum(numbers), sum(sizes))


def _item_bytes(x: Any) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), x.dtype))
        return data.size * data.dtype.itemsize
    return _dtypes.dtype_of(x).itemsize


def _lines(stage: Stage, paths: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The lines of the table for a stage: one for each slot, more for long arguments."""
    said = _filled([f"{name}={value}" for name, value in stage.hyperparameters.items()])
    for i in range(max(len(said), len(stage.slots), 1)):
        first = i == 0
        slot = stage.slots[i] if i < len(stage.slots) else Slot("", (), 0, 0)
        yield (
            "  " * stage.depth + stage.name if first else "",
            said[i] if i < len(said) else "",
            _leaves(stage, paths) if first else "",
            slot.name,
            ", ".join(slot.dtypes),
            _amount(slot.bytes) if slot.dtypes else "",
        )


def _filled(items: list[str]) -> list[str]:
    """The items in lines, none of them broken but where it is longer than a line."""
    lines = [""]
    for i, item in enumerate(items):
        text = item + ("," if i < len(items) - 1 else "")
        if lines[-1] and len(lines[-1]) + 1 + len(text) <= WIDTH:
            lines[-1] += " " + text
        else:
            broken = textwrap.wrap(
                text, WIDTH, subsequent_indent="  ", break_long_words=False
            )
            lines += broken
    return lines[1:] or [""]


def _leaves(stage: Stage, paths: tuple[str, ...]) -> str:
    if stage.reshaped:
        return _count(len(stage.touches), "array", "arrays")
    if set(stage.touches) == set(paths):
        return f"all {len(paths)}"
    names = ", ".join(stage.touches)
    some = f"{len(stage.touches)} of {len(paths)}"
    return f"{some}: {names}" if 0 < len(names) <= 20 else some


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _amount(size: float) -> str:
    """Bytes, to three digits: 12 B, 3.46 kB, 1.2 GB (10**9 bytes)."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
