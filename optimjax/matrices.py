"""Which axes of a parameter make a matrix, and the lift of rules for matrices.

A rule for matrices takes a linear map from inputs to outputs. Which axes of an array are
which is its *role*, a text with one letter for each axis:

- `i`: inputs; several such axes are one, in their order.
- `o`: outputs, likewise.
- `b`: a batch: each index has a matrix of its own.
- `(3o)`, `(4+1+1o)`: outputs (or inputs, with `i`) of several matrices side by side, of
  equal widths or of widths in these proportions.

| parameter | shape | role |
| --- | --- | --- |
| dense kernel of Flax or Keras | `(inputs, outputs)` | `io` |
| dense weight of Equinox or PyTorch | `(outputs, inputs)` | `oi` |
| convolution of Flax or Keras | `(height, width, inputs, outputs)` | `iiio` |
| stacked layers (`scan`, `vmap`) | `(layers, inputs, outputs)` | `bio` |
| attention projection, all heads as one matrix | `(inputs, heads, width)` | `ioo` |
| attention projection, a matrix for each head | `(inputs, heads, width)` | `ibo` |
| fused query, key, value | `(inputs, 3 * outputs)` | `i(3o)` |
| fused, 8 heads of queries and 2 of keys, values | `(inputs, 12 * width)` | `i(4+1+1o)` |

An argument `axes` says it for all parameters:

- `None`: what has exactly two axes is a matrix, `io`. All else is none. So the biases of
  stacked layers, (layers, outputs), pass for one matrix, and their kernels for none: say
  `{"**/bias": None, "**/kernel": "bio"}`.
- one role, such as `"oi"`: that of everything with as many axes.
- a dict from patterns of paths to roles or None, for no matrix: `{"**/embedding": None,
  "**/qkv/kernel": "i(3o)"}`. The first pattern that matches counts, and what none matches
  is as with `None`.
- a function of path (a text, `"encoder/0/kernel"`) and leaf, to a role or None.

An array without elements is no matrix. `assignment` shows what has become of it.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes, _spread, selection
from ._checks import Refusal, checked
from .selection import Path
from .tree import leafwise

# What the axes of parameters are, in one of the ways above.
Axes: TypeAlias = str | Mapping[str, str | None] | Callable[..., Any] | None

_AXIS = re.compile(r"\(\s*([1-9]\d*(?:\+[1-9]\d*)*)\s*([io])\s*\)|([iob])|\s+")


class _Role(NamedTuple):
    """A role, read."""

    letters: str  # One for each axis.
    split: int | None  # The axis along which matrices stand side by side.
    widths: tuple[int, ...]  # In proportion.


@functools.lru_cache(maxsize=1024)
def _read(role: str) -> _Role:
    letters, split, end = "", None, 0
    widths: tuple[int, ...] = (1,)
    for axis in _AXIS.finditer(role):
        blocks, of_blocks, letter = axis.groups()
        if axis.start() != end or (blocks and split is not None):
            break
        end = axis.end()
        if blocks:
            widths = tuple(map(int, blocks.split("+")))
            widths = widths if "+" in blocks else (1,) * int(blocks)
            split = len(letters)
        letters += of_blocks or letter or ""
    else:
        if end == len(role) and {"i", "o"} <= set(letters):
            return _Role(letters, split, widths)
    raise Refusal(
        ValueError,
        f"got the role {role!r}. A role has a letter for each axis, 'i' (inputs), 'o' "
        "(outputs) or 'b' (batch), with an 'i' and an 'o' among them, such as 'io', 'bio' "
        "or, for three matrices side by side, 'i(3o)'.",
    )


def roles(axes: Axes, params: Any, *, known: bool = False) -> dict[Path, str | None]:
    """The role of each parameter, by its path; None for what is no matrix.

    Args:
        axes: See `optimjax.matrices`.
        params: A tree of arrays, or of their shapes.
        known: Whether the patterns were found to match before, so that one which now
            matches nothing (there is no gradient, say) is no mistake.

    Returns:
        A dict with the paths of `optimjax.selection.by_path`, in their order.

    Raises:
        ValueError: If a role cannot be read or does not fit its array, or if a pattern
            that has a role matches nothing.
        TypeError: If `axes` is none of what it may be.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"qkv": jnp.ones((4, 24)), "embed": jnp.ones((9, 4)), "b": jnp.ones(4)}
        >>> ox.matrices.roles({"embed": None, "qkv": "i(3o)"}, params)
        {('b',): None, ('embed',): None, ('qkv',): 'i(3o)'}
    """
    leaves = selection.by_path(params)
    if _spread.over() is not None:
        axes, known = _of_stacks, True
    if isinstance(axes, Mapping) and not known:
        for pattern, role in axes.items():
            # What has no role may have been given to another transformation.
            if role is not None:
                selection.first_match([pattern], params)
    # Modules may hold functions, too.
    arrays = {path: getattr(x, "size", 0) > 0 for path, x in leaves.items()}
    return {p: _role(axes, p, x) if arrays[p] else None for p, x in leaves.items()}


def _of_stacks(path: str, x: Any) -> str | None:
    del x
    return "bio" if path.startswith(f"{_spread.STACKS}/") else None


def _role(axes: Axes, path: Path, x: Any) -> str | None:
    ndim = x.ndim
    if isinstance(axes, str):
        return axes if len(_read(axes).letters) == ndim else None
    if axes is None:
        return "io" if ndim == 2 else None
    if isinstance(axes, Mapping):
        first = next((p for p in axes if selection.matches(p, path)), None)
        if first is None:
            return _role(None, path, x)
        role = axes[first]
    elif callable(axes):
        role = axes(selection.text(path), x)
    else:
        raise Refusal(TypeError, f"takes for `axes` {_KINDS}, but got {axes!r}.")
    if role is None:
        return None
    place = selection.text(path) or "(the whole tree)"
    if not isinstance(role, str):
        raise Refusal(TypeError, f"got {role!r} for the role of {place}, not a text.")
    letters, split, widths = _read(role)
    if len(letters) != ndim:
        raise Refusal(
            ValueError,
            f"got the role {role!r}, with {len(letters)} axes, for {place}, which has the "
            f"shape {x.shape}.",
        )
    if split is not None and x.shape[split] % sum(widths):
        raise Refusal(
            ValueError,
            f"got the role {role!r} for {place}: {sum(widths)} equal parts do not make up "
            f"its axis {split} of length {x.shape[split]}.",
        )
    return role


_KINDS = "a role such as 'io', a dict of patterns and roles, or a function of path and leaf"


def split(x: jax.Array, role: str) -> tuple[jax.Array, ...]:
    """The matrices of an array: one stack for each size that there is.

    Args:
        x: An array.
        role: Its role.

    Returns:
        Arrays of shape (batch, inputs, outputs): one, unless there are matrices of
        different widths side by side.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> [m.shape for m in ox.matrices.split(jnp.ones((2, 5, 12)), "bi(4+1+1o)")]
        [(2, 5, 8), (4, 5, 2)]
    """
    letters = _read(role).letters
    order = [axis for kind in "bio" for axis, k in enumerate(letters) if k == kind]
    stacks: dict[tuple[int, ...], list[jax.Array]] = {}
    for block in _blocks(x, role):
        matrix = block.transpose(order).reshape(_sizes(block, letters))
        stacks.setdefault(matrix.shape, []).append(matrix)
    return tuple(jnp.concatenate(s) if len(s) > 1 else s[0] for s in stacks.values())


def join(stacks: tuple[jax.Array, ...], role: str, like: jax.Array) -> jax.Array:
    """The array of which these are the matrices; undoes `split`.

    Args:
        stacks: What `split` gave, or others of the same shapes.
        role: The role of the array.
        like: An array of its shape, or the shape.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = jnp.arange(24.0).reshape(2, 12)
        >>> bool((ox.matrices.join(ox.matrices.split(x, "i(3o)"), "i(3o)", x) == x).all())
        True
    """
    letters, axis, _ = _read(role)
    order = [i for kind in "bio" for i, k in enumerate(letters) if k == kind]
    back = sorted(range(len(order)), key=order.__getitem__)
    rest = {stack.shape[1:]: stack for stack in stacks}
    blocks = []
    for block in jax.eval_shape(functools.partial(_blocks, role=role), like):
        batch, *size = _sizes(block, letters)
        stack = rest[tuple(size)]
        matrix, rest[tuple(size)] = stack[:batch], stack[batch:]
        blocks.append(matrix.reshape([block.shape[i] for i in order]).transpose(back))
    return jnp.concatenate(blocks, axis) if axis is not None else blocks[0]


def _blocks(x: jax.Array, role: str) -> list[jax.Array]:
    """The parts that stand side by side along an axis."""
    _, axis, widths = _read(role)
    if axis is None:
        return [x]
    unit, ends = x.shape[axis] // sum(widths), np.cumsum(widths)[:-1]
    return jnp.split(x, [int(unit * end) for end in ends], axis)


def _sizes(x: Any, letters: str) -> list[int]:
    """The numbers of matrices, inputs and outputs."""
    axes = list(zip(x.shape, letters, strict=True))
    return [math.prod(n for n, k in axes if k == kind) for kind in "bio"]


def shapes(x: Any, role: str) -> list[tuple[int, int, int]]:
    """The shapes of what `split` gives: (batch, inputs, outputs).

    Args:
        x: An array, or its shape.
        role: Its role.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.matrices.shapes(jnp.ones((3, 3, 16, 32)), "iiio")
        [(1, 144, 32)]
    """
    return [stack.shape for stack in jax.eval_shape(functools.partial(split, role=role), x)]


def slot_for(
    params: Any, axes: Axes, fresh: Callable[[tuple[int, int, int], Any], Any]
) -> Any:
    """A fresh slot of state: a tuple for each parameter, with an entry for each stack.

    Args:
        params: A tree of arrays.
        axes: See `optimjax.matrices`.
        fresh: `fresh(shape, dtype)`, the entry of a stack of this shape, (batch, inputs,
            outputs); `dtype` is that to store it in, float32 at least.

    Returns:
        A tree with the structure of `params`; an empty tuple where there is no matrix.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
        >>> slot = ox.matrices.slot_for(
        ...     params, None, lambda shape, dtype: jnp.zeros(shape[:-1], dtype))
        >>> slot["b"], slot["w"][0].shape
        ((), (1, 2))
    """
    found = roles(axes, params)

    def made(x: Any, role: str | None) -> Any:
        if x is None:
            return None
        dtype = _dtypes.with_real(_dtypes.dtype_of(x), _dtypes.real_dtype(x))
        return tuple(fresh(shape, dtype) for shape in shapes(x, role)) if role else ()

    leaves, treedef = jax.tree.flatten(selection.unboxed(params), is_leaf=_dtypes.is_none)
    return treedef.unflatten(map(made, leaves, found.values()))


def matrixwise(
    rule: Callable[..., Any],
    updates: Any,
    axes: Axes,
    *slots: Any,
    reads: tuple[Any, ...] = (),
    **scalars: Any,
) -> Any:
    """Applies a rule for stacks of matrices to every matrix: `leafwise`, for matrices.

    The rule is `rule(u, *slots, *reads, **scalars)`, with `u` and `reads` of shape (batch,
    inputs, outputs), and returns the new `u`, or `(u, *slots)` if there are slots. What is
    no matrix stays as it is, and so do its slots. Matrices of one role, shape and dtype are
    traced once.

    Args:
        rule: Arithmetic on arrays, and nothing else.
        updates: A tree of arrays.
        axes: See `optimjax.matrices`.
        *slots: As made by `slot_for`.
        reads: Trees of the same structure and shapes as `updates`.
        **scalars: As in `leafwise`.

    Returns:
        The new updates, or the tuple `(updates, *slots)` if there are slots.

    Raises:
        ValueError: As `leafwise` and `roles`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> def unit_columns(u):
        ...     return u / jnp.linalg.norm(u, axis=-2, keepdims=True)
        >>> updates = {"w": jnp.full((4, 2), 3.0), "b": jnp.ones(2)}
        >>> out = ox.matrices.matrixwise(unit_columns, updates, None)
        >>> print(out["w"][0], out["b"])
        [0.5 0.5] [1. 1.]
    """
    found = list(roles(axes, updates, known=True).values())
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    new = list(leaves)
    for role in dict.fromkeys(role for role in found if role is not None):
        mine = [x if r == role else None for x, r in zip(leaves, found, strict=True)]
        how = {"of_stacks": rule, "role": role, "over": _spread.over(), **scalars}
        out = leafwise(_on_matrices, treedef.unflatten(mine), *slots, reads=reads, **how)
        out, *rest = out if slots else (out,)
        slots = tuple(rest)
        done = treedef.flatten_up_to(out)
        new = [y if r == role else x for x, y, r in zip(new, done, found, strict=True)]
    updates = treedef.unflatten(new)
    return (updates, *slots) if slots else updates


def _on_matrices(
    u: jax.Array, *rest: Any, of_stacks: Any, role: str, over: Any, **scalars: Any
) -> Any:
    """A rule for stacks, as one for the whole array."""
    # Slots are tuples by stack; what is read is an array like `u`.
    columns = (split(x, role) if isinstance(x, jax.Array) else x for x in rest)
    made = [
        _spread.divided(of_stacks, over, *of, **scalars)
        for of in zip(split(u, role), *columns, strict=True)
    ]
    if not isinstance(made[0], tuple):
        return join(tuple(made), role, u)
    stacks, *slots = zip(*made, strict=True)
    return join(stacks, role, u), *slots


def some_matrix(axes: Axes, params: Any) -> dict[Path, str | None]:
    """The `roles` of params among which there must be a matrix, if there are any.

    Args:
        axes: See `optimjax.matrices`.
        params: A tree of arrays, or of their shapes.

    Raises:
        ValueError: If there is none; as `roles` besides.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.matrices.some_matrix("oi", {"w": jnp.ones((2, 3)), "b": jnp.ones(2)})
        {('b',): None, ('w',): 'oi'}
    """
    found = roles(axes, params)
    leaves = {p: x for p, x in selection.by_path(params).items() if x is not None}
    if leaves and not any(found.values()):
        shapes = ", ".join(
            f"{selection.text(p) or '(the whole tree)'} {getattr(x, 'shape', '')}"
            for p, x in list(leaves.items())[:20]
        )
        raise Refusal(
            ValueError,
            f"has no matrix among the parameters: {shapes}. Say by `axes` what the axes of "
            "a parameter are: `axes={'**/kernel': 'iiio'}`, for one.",
        )
    return found


def all_matrices(axes: Axes, params: Any) -> None:
    """Refuses params that are not all matrices; for rules that are for nothing else.

    Args:
        axes: See `optimjax.matrices`.
        params: A tree of arrays, or of their shapes.

    Raises:
        ValueError: If one has no role, by the paths of all such; as `roles` besides.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.matrices.all_matrices("oi", {"w": jnp.ones((2, 3))})
    """
    found, leaves = roles(axes, params), selection.by_path(params)
    others = [p for p in found if not found[p] and getattr(leaves[p], "size", 0) > 0]
    if others:
        raise Refusal(
            ValueError,
            f"is for matrices alone, and has no matrix at {selection.listed(others)}. Give "
            "such parameters to another transformation: `on_matrices(transform, others)`, "
            "with the same `axes`.",
        )


class Assignment(NamedTuple):
    """What is a matrix, as `assignment` found it; its `repr` is a table."""

    roles: dict[str, str | None]  # By path, as a text; None for what is no matrix.
    shapes: dict[str, tuple[int, ...]]  # Of the parameters, by path.
    matrices: dict[str, list[tuple[int, int, int]]]  # (batch, inputs, outputs) of each.

    def __repr__(self) -> str:
        rows = [("parameter", "shape", "role", "matrices")]
        for path, role in self.roles.items():
            stacks = " + ".join(f"{b} of {m} x {n}" for b, m, n in self.matrices[path])
            rows.append((path, str(self.shapes[path]), role or "-", stacks or "none"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


@checked
def assignment(params: Any, axes: Axes = None) -> Assignment:
    """Shows which parameters are matrices, how many, and of which sizes.

    Args:
        params: A tree of arrays, or of their shapes.
        axes: See `optimjax.matrices`.

    Returns:
        An `Assignment`, which prints as a table.

    Raises:
        ValueError: If a role cannot be read or does not fit its array, or if a pattern
            that has a role matches nothing.
        TypeError: If `axes` is none of what it may be.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"qkv": jnp.ones((4, 24)), "out": jnp.ones((8, 4)), "b": jnp.ones(4)}
        >>> ox.matrices.assignment(params, {"qkv": "i(3o)"})
        parameter  shape    role   matrices
        b          (4,)     -      none
        out        (8, 4)   io     1 of 8 x 4
        qkv        (4, 24)  i(3o)  3 of 4 x 8
    """
    leaves = {p: x for p, x in selection.by_path(params).items() if x is not None}
    names = {path: selection.text(path) or "(the whole tree)" for path in leaves}
    found = roles(axes, params)
    stacks = {p: shapes(x, role) if (role := found[p]) else [] for p, x in leaves.items()}
    return Assignment(
        {name: found[path] for path, name in names.items()},
        {name: leaves[path].shape for path, name in names.items()},
        {name: stacks[path] for path, name in names.items()},
    )
