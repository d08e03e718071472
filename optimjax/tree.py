"""The lift, and the few verbs over trees in which rules are written.

A rule is a function of one array. `leafwise` applies it to every leaf, and alone knows
about `None`, structure, dtypes, key paths in errors, and how the work is executed.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes, numerics
from ._checks import Refusal


def leafwise(
    rule: Callable[..., Any],
    updates: Any,
    *slots: Any,
    reads: tuple[Any, ...] = (),
    **scalars: Any,
) -> Any:
    """Applies a rule for one array to every leaf: `rule(u, *slots, *reads, **scalars)`.

    The rule sees one leaf of `updates` with the matching leaves of `slots` and `reads`,
    all in one real dtype (or the complex dtype over it), float32 at least, and returns
    the new `u`, or `(u, *slots)` if there are slots. Each slot is stored in the dtype it
    came in. Where `updates` has `None`, there is no gradient: `None` comes back, and the
    slots stay as they are.

    The rule is traced once for each distinct combination of shapes and dtypes, not once
    for each leaf.

    Args:
        rule: Arithmetic on arrays, and nothing else.
        updates: A tree of arrays.
        *slots: Trees of the same structure and shapes that the rule reads and renews;
            `None` for a slot that is not in use.
        reads: Trees of the same structure that the rule only reads. A 0-d leaf holds for
            the whole of the matching leaf.
        **scalars: What all leaves share. Arrays are cast to the dtype of the arithmetic;
            Python numbers stay what they are.

    Returns:
        The new updates, or the tuple `(updates, *slots)` if there are slots.

    Raises:
        ValueError: If a slot or a read does not match `updates`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> total = lambda u, s: (u, s + u)
        >>> u, s = ox.tree.leafwise(total, {"w": jnp.ones(2)}, {"w": jnp.ones(2)})
        >>> print(s["w"])
        [2. 2.]
    """
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    unused = [None] * len(leaves)
    columns = [
        unused if s is None else _dtypes.match(treedef, leaves, s, "the state")
        for s in slots
    ]
    others = [
        _dtypes.match(treedef, leaves, r, "what is read", scalars=True) for r in reads
    ]

    fixed = {k: v for k, v in scalars.items() if not isinstance(v, jax.Array)}
    shared = {k: v for k, v in scalars.items() if isinstance(v, jax.Array)}
    kernel = _jitted(rule, fixed)

    outs, news = [], [[] for _ in slots]
    for i, u in enumerate(leaves):
        slot = tuple(column[i] for column in columns)
        out = None
        if u is not None:
            out, slot = kernel(u, slot, tuple(other[i] for other in others), shared)
        outs.append(out)
        for new, s in zip(news, slot, strict=True):
            new.append(s)

    updates = treedef.unflatten(outs)
    if not slots:
        return updates
    states = (
        None if s is None else treedef.unflatten(new)
        for s, new in zip(slots, news, strict=True)
    )
    return updates, *states


def _jitted(rule: Callable[..., Any], fixed: dict[str, Any]) -> Callable[..., Any]:
    """The kernel of a rule, compiled; the same one for the same rule and numbers.

    A closure may hold what must not outlive this call (a traced array, say), so it gets a
    kernel of its own.
    """
    if any(map(_holds_more, (rule, *fixed.values()))):
        return _kernel_of(rule, tuple(fixed.items()))
    # `repr` tells 0.0 from -0.0, which are equal, and from 0 and False.
    return _cached_kernel_of(rule, tuple(fixed.items()), repr(fixed))


def _holds_more(x: Any) -> bool:
    """Whether `x` holds more than can be seen of it, unlike numbers and plain functions."""
    if type(x) is types.FunctionType:
        return any((x.__closure__, x.__defaults__, x.__kwdefaults__))
    return type(x) not in (float, int, bool, str, type(None))


def _kernel_of(rule: Callable[..., Any], fixed: tuple[Any, ...]) -> Callable[..., Any]:
    return jax.jit(functools.partial(_kernel, functools.partial(rule, **dict(fixed))))


@functools.lru_cache(maxsize=1024)
def _cached_kernel_of(
    rule: Callable[..., Any], fixed: tuple[Any, ...], shown: str
) -> Callable[..., Any]:
    del shown
    return _kernel_of(rule, fixed)


def _kernel(rule: Any, u: Any, slots: Any, reads: Any, scalars: Any) -> Any:
    """The rule on one leaf, between decoding and encoding."""
    real = _dtypes.real_dtype(*jax.tree.leaves((u, slots, reads)))

    def decode(x: Any) -> Any:
        dtype = _dtypes.dtype_of(x)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return x
        return _dtypes.cast(x, _dtypes.with_real(dtype, real))

    wide = jax.tree.map(decode, (u, slots, reads, scalars))
    # Everything is in one real dtype now, or the complex dtype over it: that a real array
    # meets a complex one is the only promotion there can be, and is meant.
    with jax.numpy_dtype_promotion("standard"):
        out = rule(wide[0], *wide[1], *wide[2], **wide[3])
    if slots and not (isinstance(out, tuple) and len(out) == 1 + len(slots)):
        got = f"{len(out)} values" if isinstance(out, tuple) else "one"
        raise Refusal(
            TypeError,
            f"has a rule that must return `(u, ...)` with {len(slots)} slots, but returned "
            f"{got}.",
        )
    new, *states = out if slots else (out,)
    return _encode(new, u), jax.tree.map(_encode, tuple(states), slots)


def _encode(x: Any, like: jax.Array) -> jax.Array:
    """What a rule returned, in the dtype of what it was given."""
    if jnp.shape(x) != like.shape:
        raise Refusal(
            ValueError,
            f"has a rule that returned shape {jnp.shape(x)} for an array of shape "
            f"{like.shape}.",
        )
    if jnp.iscomplexobj(x) and not jnp.iscomplexobj(like):
        raise Refusal(
            TypeError,
            f"cannot keep a complex array in a state of dtype {like.dtype}. Was the state "
            "made for real parameters?",
        )
    return _dtypes.cast(x, like.dtype)


def slot_like(
    params: Any, fill: Any = 0.0, *, dtype: Any = None, real: bool = False
) -> Any:
    """A fresh slot of state, one array for each parameter, filled with `fill`.

    Args:
        params: A tree of arrays, or of their shapes under `jax.eval_shape`.
        fill: The value to start from.
        dtype: The real dtype to store it in; `None` means that of the parameter, but
            float32 for parameters of lower precision: in bfloat16, for one, 0.999 rounds
            to 1, and a running mean stored there never forgets.
        real: Whether the slot is real also for complex parameters, as second moments are.

    Returns:
        A tree with the structure and shapes of `params`. No buffer is shared.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.tree.slot_like(jnp.zeros(2, jnp.bfloat16)).dtype.name
        'float32'
    """

    def fresh(p: Any) -> jax.Array:
        stored = _dtypes.real_dtype(p) if dtype is None else np.dtype(dtype)
        if not real:
            stored = _dtypes.with_real(_dtypes.dtype_of(p), stored)
        # Not `full_like(p, fill)`: a Python `fill` must not make the result weak.
        return _dtypes.cast(jnp.full_like(p, fill, dtype=stored), stored)

    return jax.tree.map(fresh, params)


def broadcast_prefix(prefix: Any, tree: Any, what: str) -> Any:
    """Spreads a tree of single values over the leaves of `tree` below each of them.

    Args:
        prefix: A tree that stops where `tree` goes on, or goes as far.
        tree: Any tree.
        what: What to call `prefix` in an error.

    Returns:
        A tree with the structure of `tree`.

    Raises:
        ValueError: If `prefix` is no prefix of `tree`.

    Example:
        >>> import optimjax as ox
        >>> ox.tree.broadcast_prefix({"a": True, "b": False}, {"a": [1, 2], "b": 3}, "m")
        {'a': [True, True], 'b': False}
    """
    try:
        return jax.tree.map(lambda x, sub: jax.tree.map(lambda _: x, sub), prefix, tree)
    except (ValueError, TypeError) as error:
        raise Refusal(
            ValueError, f"got a {what} that does not match the params: {error}"
        ) from None


def chosen_by(mask: Any, params: Any) -> Any:
    """For each parameter whether `mask` chooses it.

    Args:
        mask: A tree of booleans, a prefix of one, or a function from the params to either;
            `None` chooses all.
        params: A tree of arrays.

    Returns:
        A tree of booleans with the structure of `params`.

    Raises:
        ValueError: If the mask does not match the params.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params = {"w": jnp.ones((2, 2)), "b": [jnp.ones(2), jnp.ones(2)]}
        >>> ox.tree.chosen_by({"w": True, "b": False}, params)
        {'b': [False, False], 'w': True}
    """
    if mask is None:
        mask = True
    elif callable(mask) and jax.tree_util.all_leaves([mask]):
        mask = mask(params)  # A tree may be callable too, as Equinox modules are.
    return broadcast_prefix(mask, params, "mask")


def global_norm(tree: Any) -> jax.Array:
    """The 2-norm of all the numbers in `tree`, taken as one vector.

    Squares are summed in at least float32, within each leaf and then over the leaves by
    halves, so that thousands of leaves, and low-precision ones, lose nothing. At zero the
    norm is zero, with derivative zero.

    Args:
        tree: A tree of real or complex arrays; `None` leaves do not count.

    Returns:
        A real scalar, float32 or wider. Squares beyond the range of that dtype (numbers
        above 1.8e19 in float32) give infinity.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.global_norm({"w": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}))
        5.0
    """
    leaves = jax.tree.leaves(tree)
    real = _dtypes.real_dtype(*leaves)

    @jax.jit
    def square_sum(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        x = _dtypes.cast(x, _dtypes.with_real(x.dtype, real))
        return jnp.sum(numerics.abs_sq(x))

    if not leaves:
        return jnp.zeros((), real)
    return numerics.sqrt(jnp.sum(jnp.stack([square_sum(x) for x in leaves])))
