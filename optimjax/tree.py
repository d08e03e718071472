"""The lift, and the verbs over trees in which rules are written.

A rule is a function of one array. `leafwise` applies it to every leaf, and alone knows
about `None`, structure, dtypes, key paths in errors, and how the work is executed.

Around it stand the verbs that whole trees have: arithmetic (`add`, `sub`, `mul`, `div`,
`scale`, `add_scale`, `where`, `clip`, `conj`, `real`, `imag`), reductions (`sum`, `vdot`,
`norm`, `global_norm`, `max`, `min`, `size`, `allclose`), trees like a given one
(`zeros_like`, `ones_like`, `full_like`, `batch_shape`, `random_like`, `split_key_like`),
and dtypes (`cast`, `cast_like`, `dtype`). They have the names and the arguments of
`optax.tree`, and these habits:

- `None` is no leaf: where the first tree has it, so has the result.
- Numbers are computed in float32 at least, and rounded once: leaf by leaf to the dtype that
  holds the leaves (a scalar that all leaves share does not widen them), in a reduction not
  at all.
- Reductions go by halves, so that thousands of leaves, and millions of elements, lose
  nothing.
- Trees that do not match are refused by the key path of the leaf. Leaves of different
  shapes do not match, except that in `add`, `sub`, `mul`, `div`, `add_scale` and `where` a
  0-d leaf of a later tree holds for the whole of the first tree's.
- All of them work under `jit`, `vmap` and `grad`, and under strict dtype promotion.
"""

import builtins
import functools
import math
import operator
import types
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _dtypes, numerics
from ._checks import Number, Refusal, named
from .base import GradientTransformation, check_slot

P = ParamSpec("P")
T = TypeVar("T")

# The lift.


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
        *slots: Trees that the rule reads and renews, with one array for each leaf, or one
            tree of arrays of any shapes; `None` for a slot that is not in use.
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
        unused if s is None else _dtypes.match(treedef, leaves, s, "the state", free=True)
        for s in slots
    ]
    others = [
        _dtypes.match(treedef, leaves, r, "what is read", scalars=True) for r in reads
    ]

    shared = {k: v for k, v in scalars.items() if isinstance(v, jax.Array | numerics.Split)}
    fixed = {k: v for k, v in scalars.items() if k not in shared}
    kernel = _jitted(rule, fixed)

    outs, news = [], [[] for _ in slots]
    for i, u in enumerate(leaves):
        slot = tuple(column[i] for column in columns)
        out = None
        if u is not None:
            try:
                out, slot = kernel(u, slot, tuple(other[i] for other in others), shared)
            except Refusal as refusal:
                place = _place(updates, i)
                raise Refusal(refusal.kind, f"{refusal} It is the leaf {place}.") from None
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
            f"{like.shape}. Have gradient and state the same shape?",
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


def slot_of(params: Any, *, dtype: Any = None) -> Any:
    """A fresh slot of state that starts from the parameters themselves.

    Args:
        params: A tree of arrays.
        dtype: As in `slot_like`.

    Returns:
        A tree with the structure, shapes and numbers of `params`. No buffer is shared.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.tree.slot_of(jnp.ones(2, jnp.bfloat16))
        Array([1., 1.], dtype=float32)
    """

    def copied(slot: jax.Array, p: Any) -> jax.Array:
        return slot + _dtypes.cast(p, slot.dtype)

    return jax.tree.map(copied, slot_like(params, dtype=dtype), params)


def remembering(
    state_type: type,
    rule: Callable[..., Any],
    slots: dict[str, Callable[[Any], Any] | None],
    *,
    reads: tuple[str, ...] = (),
    at: Callable[[Any], dict[str, Any]] = lambda count: {},
    **scalars: Any,
) -> GradientTransformation:
    """The plain pair of a rule that carries state from step to step; for factories.

    Args:
        state_type: The class of the state: a `NamedTuple` with a field for each slot, and
            perhaps `count`, the steps taken.
        rule: `rule(u, *slots, *reads, **scalars) -> (u, *slots)`, on one array.
        slots: For each slot, in the order of the rule, the function from the params to a
            fresh one; `None` for a slot that is not in use.
        reads: What the rule reads besides, in its order: `"params"`, `"gradient"`.
        at: `at(t)`, the scalars of step t = 1, 2, ..., computed once for all leaves; `t`
            is `None` if the state has no `count`.
        **scalars: The scalars that do not depend on the step.

    Returns:
        `GradientTransformation(init, update)`, to be returned from a factory that carries
        the decorator `transformation`.

    Example:
        >>> from typing import Any, NamedTuple
        >>> import jax.numpy as jnp, optimjax as ox
        >>> class TotalState(NamedTuple):
        ...     total: Any
        >>> def _add(u, total, *, decay):
        ...     total = decay * total + u
        ...     return total, total
        >>> @ox.transformation(state=TotalState)
        ... def total(decay):
        ...     return ox.tree.remembering(
        ...         TotalState, _add, {"total": ox.tree.slot_like}, decay=decay)
        >>> t = total(0.5)
        >>> updates, state = t.update(jnp.ones(2), t.init(jnp.zeros(2)))
        >>> print(t.update(updates, state)[0])
        [1.5 1.5]
    """
    counts = "count" in state_type._fields

    def init(params: Any) -> Any:
        fresh: dict[str, Any] = {"count": jnp.zeros((), jnp.int32)} if counts else {}
        for name, make in slots.items():
            fresh[name] = None if make is None else make(params)
        return state_type(**fresh)

    def step(updates: Any, state: Any, given: dict[str, Any]) -> Any:
        for name, make in slots.items():
            check_slot(name, getattr(state, name), make is not None, updates)
        renewed = {"count": numerics.increment(state.count)} if counts else {}
        out = leafwise(
            rule,
            updates,
            *(getattr(state, name) for name in slots),
            reads=tuple(given[name] for name in reads),
            **scalars,
            **at(renewed.get("count")),
        )
        updates, *new = out if slots else (out,)
        return updates, state._replace(**renewed, **dict(zip(slots, new, strict=True)))

    def update(
        updates: Any, state: Any, params: Any = None, *, gradient: Any, **extra: Any
    ) -> Any:
        del params, extra
        return step(updates, state, {"gradient": gradient})

    def update_with(
        updates: Any, state: Any, params: Any, *, gradient: Any, **extra: Any
    ) -> Any:
        del extra
        return step(updates, state, {"gradient": gradient, "params": params})

    return GradientTransformation(init, update_with if "params" in reads else update)


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
    except (ValueError, TypeError):
        parts = _dtypes.prefix_difference(prefix, tree, "the params")
        raise Refusal(
            ValueError, f"got a {what} that does not match the params: {parts}."
        ) from None


# What the verbs below have in common.


def _verb(function: Callable[P, T]) -> Callable[P, T]:
    """Lets what `function` refuses begin with its name."""

    @functools.wraps(function)
    def verb(*args: P.args, **kwargs: P.kwargs) -> T:
        with named(f"tree.{function.__name__}"):
            return function(*args, **kwargs)

    return verb


def _leaves(tree: Any, what: str = "tree") -> tuple[list[Any], Any]:
    """The leaves of `tree`, `None` among them, and its structure.

    Raises:
        Refusal: If a leaf is no array, by its key path.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_dtypes.is_none)
    for i, x in enumerate(leaves):
        if x is None or hasattr(x, "dtype") or isinstance(x, bool | int | float | complex):
            continue
        raise Refusal(
            TypeError,
            f"needs arrays, but the leaf {_place(tree, i)} of `{what}` is a "
            f"{type(x).__name__}. Filter such leaves out (replace them by None).",
        )
    return leaves, treedef


def _arrays(tree: Any) -> list[Any]:
    return [x for x in _leaves(tree)[0] if x is not None]


def _place(tree: Any, i: int) -> str:
    """The key path of the `i`-th leaf of `tree`, `None` leaves counted."""
    paths = jax.tree.leaves_with_path(tree, is_leaf=_dtypes.is_none)
    return _dtypes.name_of(paths[i][0])


def _columns(
    tree: Any, others: dict[str, Any], *, scalars: bool
) -> tuple[list[list[Any]], Any]:
    """The leaves of `tree`, those of the other trees that match them, and the structure."""
    leaves, treedef = _leaves(tree)
    columns = [leaves]
    for what, other in others.items():
        _leaves(other, what)
        # A Python number has a shape, too, where it may not stand for a whole leaf.
        shaped = other if scalars else jax.tree.map(_with_shape, other)
        columns.append(
            _dtypes.match(
                treedef, leaves, shaped, f"`{what}`", scalars=scalars, ours="arrays"
            )
        )
    return columns, treedef


def _with_shape(x: Any) -> Any:
    return x if hasattr(x, "shape") else np.asarray(x)


def _map(f: Callable[..., Any], tree: Any, **others: Any) -> Any:
    """`f` of every leaf, with those of the other trees that match it."""
    columns, treedef = _columns(tree, others, scalars=True)
    return treedef.unflatten(
        None if x is None else f(x, *ys) for x, *ys in zip(*columns, strict=True)
    )


def _widened(x: Any, dtype: Any) -> jax.Array:
    """`x` as `dtype` computes: in float32 at least, but real where it is real."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return _dtypes.cast(x, dtype)
    real = _dtypes.promote(jnp.finfo(dtype).dtype, np.float32)
    return _dtypes.cast(x, _dtypes.with_real(_dtypes.dtype_of(x), real))


@functools.partial(jax.jit, static_argnums=0)
def _pointwise(f: Callable[..., Any], leaves: Any, scalars: Any = ()) -> jax.Array:
    """`f` of matching leaves and of scalars, in the dtype that holds the leaves."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*leaves, *map(_weakly, scalars))
        out = f(*(_widened(x, dtype) for x in (*leaves, *scalars)))
    # Integers may have become floats: by a division, say.
    return _dtypes.cast(out, dtype if jnp.issubdtype(dtype, jnp.inexact) else out.dtype)


def _weakly(scalar: Any) -> Any:
    """A number of the kind of `scalar` that widens no array of that kind."""
    dtype = _dtypes.dtype_of(scalar)
    kinds = {jnp.complexfloating: 0j, jnp.floating: 0.0, jnp.integer: 0}
    return next((z for k, z in kinds.items() if jnp.issubdtype(dtype, k)), False)


def _scalar(x: Any, argument: str) -> Any:
    if jnp.shape(x) != ():
        raise Refusal(
            ValueError,
            f"takes a number as `{argument}`, but got an array of shape {jnp.shape(x)}.",
        )
    return x


# Arithmetic, leaf by leaf.


@_verb
def add(tree_x: Any, tree_y: Any, *other_trees: Any) -> Any:
    r"""Adds trees: $x + y + \dots$, rounded once.

    Args:
        tree_x: A tree of arrays.
        tree_y: A tree that matches it.
        *other_trees: More of them.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds its terms.

    Raises:
        ValueError: If a tree does not match `tree_x`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = {"w": jnp.array([1.0, 2.0]), "b": None}
        >>> print(ox.tree.add(x, x, x)["w"])
        [3. 6.]
    """
    others = {f"other_trees[{i}]": tree for i, tree in enumerate(other_trees)}
    return _map(lambda *xs: _pointwise(_added, xs), tree_x, tree_y=tree_y, **others)


def _added(*xs: jax.Array) -> jax.Array:
    return functools.reduce(operator.add, xs)


@_verb
def sub(tree_x: Any, tree_y: Any) -> Any:
    """Subtracts a tree from another: $x - y$.

    Args:
        tree_x: A tree of arrays.
        tree_y: A tree that matches it.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds both.

    Raises:
        ValueError: If `tree_y` does not match `tree_x`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.sub([jnp.array([1.0, 2.0])], [jnp.array([3.0, 1.0])])[0])
        [-2.  1.]
    """
    return _map(lambda *xs: _pointwise(operator.sub, xs), tree_x, tree_y=tree_y)


@_verb
def mul(tree_x: Any, tree_y: Any) -> Any:
    """Multiplies trees, element by element: $x y$.

    Args:
        tree_x: A tree of arrays.
        tree_y: A tree that matches it: a number for each leaf will do.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds both.

    Raises:
        ValueError: If `tree_y` does not match `tree_x`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = {"w": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
        >>> print(ox.tree.mul(x, {"w": 10.0, "b": 1.0})["w"])
        [10. 20.]
    """
    return _map(lambda *xs: _pointwise(operator.mul, xs), tree_x, tree_y=tree_y)


@_verb
def div(tree_x: Any, tree_y: Any) -> Any:
    """Divides a tree by another, element by element: $x / y$.

    Division by zero gives infinity, or NaN for 0 / 0, as it does on arrays. For a quotient
    that is zero there, with finite derivatives, see `numerics.divide`.

    Args:
        tree_x: A tree of arrays.
        tree_y: A tree that matches it: a number for each leaf will do.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds both;
        quotients of integers are float32.

    Raises:
        ValueError: If `tree_y` does not match `tree_x`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.div([jnp.array([1.0, 2.0])], [jnp.array([4.0, 1.0])])[0])
        [0.25 2.  ]
    """
    return _map(lambda *xs: _pointwise(_divided, xs), tree_x, tree_y=tree_y)


def _divided(x: jax.Array, y: jax.Array) -> jax.Array:
    return x / y if jnp.iscomplexobj(y) else numerics.over(x, y)


@_verb
def scale(scalar: Any, tree: Any) -> Any:
    """Multiplies a tree by a number: $a x$.

    Args:
        scalar: $a$, real or complex. May be traced. It does not widen the leaves: an array
            of dtype float32 leaves a bfloat16 tree as it is (Optax makes it float32).
        tree: A tree of arrays.

    Returns:
        A tree like `tree`, but complex if `scalar` is, and floating where a leaf of
        integers meets a `scalar` that is none.

    Raises:
        ValueError: If `scalar` is an array with axes.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.scale(2.0, {"w": jnp.array([1.0, 2.0])})["w"])
        [2. 4.]
    """
    a = _scalar(scalar, "scalar")
    return _map(lambda x: _pointwise(operator.mul, (x,), (a,)), tree)


@_verb
def add_scale(tree_x: Any, scalar: Any, tree_y: Any) -> Any:
    """Adds a multiple of a tree: $x + a y$, rounded once.

    Args:
        tree_x: A tree of arrays.
        scalar: $a$, real or complex. May be traced. It does not widen the leaves.
        tree_y: A tree that matches `tree_x`.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds both.

    Raises:
        ValueError: If `tree_y` does not match `tree_x`, by key path, or if `scalar` is an
            array with axes.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> params, grads = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([10.0, 20.0])}
        >>> print(ox.tree.add_scale(params, -0.1, grads)["w"])
        [0. 0.]
    """
    a = _scalar(scalar, "scalar")
    return _map(lambda *xs: _pointwise(_added_scaled, xs, (a,)), tree_x, tree_y=tree_y)


def _added_scaled(x: jax.Array, y: jax.Array, a: jax.Array) -> jax.Array:
    return x + a * y


@_verb
def where(condition: Any, tree_x: Any, tree_y: Any) -> Any:
    """Takes the numbers of one tree where a condition holds, and of another elsewhere.

    Args:
        condition: A boolean for all leaves, a tree of them (a prefix of `tree_x` will do),
            or arrays that broadcast to the leaves. May be traced.
        tree_x: A tree of arrays: what is taken where `condition` is true.
        tree_y: A tree that matches it: what is taken where `condition` is false.

    Returns:
        A tree with the structure of `tree_x`, each leaf in the dtype that holds both.

    Raises:
        ValueError: If `tree_y` or `condition` does not match `tree_x`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> old, new = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([jnp.nan, 3.0])}
        >>> print(ox.tree.where(jnp.array(False), new, old)["w"])
        [1. 2.]
    """
    spread = broadcast_prefix(condition, tree_x, "condition")
    (leaves, others), treedef = _columns(tree_x, {"tree_y": tree_y}, scalars=True)
    conditions = treedef.flatten_up_to(spread)

    def chosen(i: int) -> Any:
        if leaves[i] is None:
            return None
        shape = jnp.shape(leaves[i])
        try:
            held = jnp.broadcast_to(conditions[i], shape)
        except ValueError:
            raise Refusal(
                ValueError,
                f"got a condition of shape {jnp.shape(conditions[i])} for the leaf "
                f"{_place(tree_x, i)} of shape {shape}.",
            ) from None
        with jax.numpy_dtype_promotion("standard"):
            return jnp.where(held, leaves[i], others[i])

    return treedef.unflatten(map(chosen, range(len(leaves))))


@_verb
def clip(tree: Any, min_value: Any = None, max_value: Any = None) -> Any:
    r"""Holds every number of a tree to an interval: $\min(\max(x, l), h)$. NaN stays NaN.

    Args:
        tree: A tree of real arrays.
        min_value: $l$; `None` for no lower bound. May be traced.
        max_value: $h$, which wins where $h < l$; `None` for no upper bound. May be traced.

    Returns:
        A tree like `tree`, but floating where a leaf of integers meets a fractional bound.

    Raises:
        ValueError: If a bound is an array with axes.
        TypeError: If a leaf is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.clip([jnp.array([-1.0, 0.5, 2.0])], 0.0, 1.0)[0])
        [0.  0.5 1. ]
    """
    low = None if min_value is None else _scalar(min_value, "min_value")
    high = None if max_value is None else _scalar(max_value, "max_value")
    leaves, _ = _leaves(tree)
    for i, x in enumerate(leaves):
        if x is not None and jnp.iscomplexobj(x):
            raise Refusal(
                TypeError,
                f"cannot take complex arrays, but the leaf {_place(tree, i)} has dtype "
                f"{_dtypes.dtype_of(x)}.",
            )

    def clipped(x: Any) -> jax.Array:
        x = x if low is None else _pointwise(jnp.maximum, (x,), (low,))
        x = x if high is None else _pointwise(jnp.minimum, (x,), (high,))
        return jnp.asarray(x)

    return _map(clipped, tree)


@_verb
def conj(tree: Any) -> Any:
    r"""Conjugates every number of a tree: $\bar x$. Real leaves stay what they are.

    The gradient that `jax.grad` gives for complex parameters is the conjugate of the
    direction of steepest ascent.

    Args:
        tree: A tree of arrays.

    Returns:
        A tree like `tree`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.conj([jnp.array([1 + 2j])])[0])
        [1.-2.j]
    """
    return _map(jnp.conj, tree)


@_verb
def real(tree: Any) -> Any:
    """Takes the real part of every number of a tree.

    Args:
        tree: A tree of arrays.

    Returns:
        A tree of real arrays with the structure of `tree`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.real([jnp.array([1 + 2j])])[0])
        [1.]
    """
    return _map(jnp.real, tree)


@_verb
def imag(tree: Any) -> Any:
    """Takes the imaginary part of every number of a tree: zero for real leaves.

    Args:
        tree: A tree of arrays.

    Returns:
        A tree of real arrays with the structure of `tree`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.imag([jnp.array([1 + 2j])])[0])
        [2.]
    """
    return _map(jnp.imag, tree)


# Reductions.


def _accumulator(*leaves: Any) -> np.dtype:
    """The dtype in which to sum over `leaves`: of 32 bits at least."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*leaves) if leaves else np.dtype(np.float32)
        if jnp.issubdtype(dtype, jnp.inexact):
            real = _dtypes.promote(jnp.finfo(dtype).dtype, np.float32)
            return _dtypes.with_real(dtype, real)
        unsigned = jnp.issubdtype(dtype, jnp.unsignedinteger)
        return jnp.promote_types(dtype, np.uint32 if unsigned else np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _reduced(f: Callable[..., Any], dtype: Any, *xs: Any) -> jax.Array:
    """`f` of one leaf, or of matching ones, as `dtype` computes."""
    with jax.numpy_dtype_promotion("standard"):
        return f(*(_widened(x, dtype) for x in xs))


def _joined(
    join: Callable[[jax.Array], jax.Array],
    f: Callable[..., Any],
    dtype: Any,
    *columns: list[Any],
) -> jax.Array:
    """`join` of what `f` gives for the leaves; zero where there are none."""
    parts = [_reduced(f, dtype, *xs) for xs in zip(*columns, strict=True)]
    if not parts:
        return jnp.zeros((), dtype)
    with jax.numpy_dtype_promotion("standard"):
        return join(jnp.stack(parts))


@_verb
def sum(tree: Any) -> jax.Array:
    """The sum of all the numbers in a tree.

    It goes by halves, so that there is nothing to choose: Optax's `associative_reduction`
    is always on.

    Args:
        tree: A tree of arrays.

    Returns:
        A scalar in the dtype that holds all leaves, of 32 bits at least: 0.0 for a tree
        without leaves.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.sum({"w": jnp.array([1.0, 2.0]), "b": jnp.array(4.0)}))
        7.0
    """
    leaves = _arrays(tree)
    return _joined(jnp.sum, jnp.sum, _accumulator(*leaves), leaves)


@_verb
def vdot(tree_x: Any, tree_y: Any) -> jax.Array:
    r"""The inner product of two trees: $\sum_i \bar x_i y_i$.

    Args:
        tree_x: A tree of arrays; it is conjugated if it is complex.
        tree_y: A tree of the same structure and shapes.

    Returns:
        A scalar in the dtype that holds all leaves, of 32 bits at least: 0.0 for trees
        without leaves. Of a complex tree with itself it is complex, too: see
        `norm(..., squared=True)`.

    Raises:
        ValueError: If `tree_y` does not match `tree_x`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(4.0)}
        >>> y = {"w": jnp.array([3.0, -1.0]), "b": jnp.array(0.5)}
        >>> print(ox.tree.vdot(x, y))
        3.0
    """
    (xs, ys), _ = _columns(tree_x, {"tree_y": tree_y}, scalars=False)
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None]
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    return _joined(jnp.sum, _product_sum, _accumulator(*xs, *ys), xs, ys)


def _product_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    # Not `jnp.vdot`: accelerators may multiply in fewer bits there.
    return jnp.sum(jnp.conj(x) * y)


@_verb
def norm(
    tree: Any, ord: float | Literal["inf", "infinity"] | None = None, squared: bool = False
) -> jax.Array:
    r"""The norm of all the numbers in a tree, taken as one vector.

    $$ \lVert x \rVert_p = \Big(\sum_i |x_i|^p\Big)^{1/p}, \qquad
       \lVert x \rVert_\infty = \max_i |x_i|. $$

    At zero the norm is zero, with derivative zero, whatever $p$.

    Args:
        tree: A tree of real or complex arrays.
        ord: $p \ge 1$, a Python number, `jnp.inf` or "inf"; `None` means 2. Unless it is 1
            or 2, numbers are first divided by the largest, so that their powers stay in
            range, at the price of a second pass over the data.
        squared: Whether to return the square. Of the 2-norm it is the sum of squares, and
            no root is taken.

    Returns:
        A real scalar, float32 or wider: 0.0 for a tree without leaves. In the 2-norm,
        squares beyond the range of that dtype (numbers above 1.8e19 in float32) give
        infinity.

    Raises:
        ValueError: If `ord` lies below 1, where it makes no norm.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)}
        >>> print(*[ox.tree.norm(tree, p) for p in (1, 2, 3, "inf")])
        7.0 5.0 4.498 4.0
    """
    p = _order(ord)
    leaves = _arrays(tree)
    real = _dtypes.real_dtype(_accumulator(*leaves))
    if p == 2:
        total = _joined(jnp.sum, _square_sum, real, leaves)
        return total if squared else numerics.sqrt(total)
    if p == 1:
        size = _joined(jnp.sum, _modulus_sum, real, leaves)
    else:
        size = _joined(jnp.max, _largest_modulus, real, _filled(leaves))
        if p != math.inf:
            size = _power_norm(leaves, p, real, size)
    return jnp.square(size) if squared else size


def _order(ord: Any) -> float:
    if ord is None:
        return 2.0
    if isinstance(ord, str) and ord in ("inf", "infinity"):
        return math.inf
    if isinstance(ord, jax.core.Tracer):
        raise TypeError("`tree.norm(ord=...)` must be a Python number, not a traced one.")
    return Number("[1, inf]")(ord, "`tree.norm(ord=...)`")


def _square_sum(x: jax.Array) -> jax.Array:
    return jnp.sum(numerics.abs_sq(x))


def _modulus_sum(x: jax.Array) -> jax.Array:
    return jnp.sum(numerics.modulus(x))


def _largest_modulus(x: jax.Array) -> jax.Array:
    return jnp.max(numerics.modulus(x))


def _filled(leaves: list[Any]) -> list[Any]:
    """Those of `leaves` that have elements."""
    return [x for x in leaves if math.prod(jnp.shape(x))]


def _power_norm(leaves: list[Any], p: float, real: Any, largest: jax.Array) -> jax.Array:
    """The p-norm, by the powers of what is left when `largest` is divided out."""
    # The result does not depend on the unit, so neither does its derivative.
    unit = jax.lax.stop_gradient(jnp.where(jnp.isinf(largest), 1, largest))
    zero = unit == 0
    divisor = jnp.where(zero, 1, unit)
    exponent = int(p) if p in (3, 4, 6, 8) else p  # These are products.

    total = _joined(
        jnp.sum,
        _power_sums(exponent),
        real,
        leaves,
        [divisor] * len(leaves),
    )
    return unit * jnp.power(jnp.where(zero, 1, total), 1 / p)


@functools.lru_cache(maxsize=64)
def _power_sums(exponent: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda x, unit: jnp.sum((numerics.modulus(x) / unit) ** exponent)


def global_norm(tree: Any) -> jax.Array:
    """The 2-norm of all the numbers in `tree`, taken as one vector: `norm(tree)`.

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
    return norm(tree)


@_verb
def max(tree: Any) -> jax.Array:
    """The largest of all the numbers in a tree; NaN if there is one.

    Args:
        tree: A tree of arrays. Leaves without elements do not count. Complex numbers stand
            in NumPy's order: by their real parts, then by the imaginary ones.

    Returns:
        A scalar in the dtype that holds all leaves: minus infinity for a tree without
        elements.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.max({"w": jnp.array([1.0, -5.0]), "b": jnp.array(4.0)}))
        4.0
    """
    return _extreme(jnp.max, tree, -math.inf)


@_verb
def min(tree: Any) -> jax.Array:
    """The smallest of all the numbers in a tree; NaN if there is one.

    Args:
        tree: A tree of arrays. Leaves without elements do not count. Complex numbers stand
            in NumPy's order: by their real parts, then by the imaginary ones.

    Returns:
        A scalar in the dtype that holds all leaves: infinity for a tree without elements.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.min({"w": jnp.array([1.0, -5.0]), "b": jnp.array(4.0)}))
        -5.0
    """
    return _extreme(jnp.min, tree, math.inf)


def _extreme(f: Callable[..., jax.Array], tree: Any, of_nothing: float) -> jax.Array:
    leaves = _filled(_arrays(tree))
    if not leaves:
        return jnp.float32(of_nothing)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*leaves)
    return _dtypes.cast(_joined(f, f, dtype, leaves), dtype)


def size(tree: Any) -> int:
    """How many numbers there are in a tree.

    Args:
        tree: A tree of arrays, or of their shapes under `jax.eval_shape`.

    Returns:
        A Python integer; a complex number counts once.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.tree.size({"w": jnp.ones((2, 3)), "b": jnp.array(4.0), "frozen": None})
        7
    """
    return builtins.sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(tree))


@_verb
def allclose(
    a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False
) -> jax.Array:
    r"""Whether two trees agree to a tolerance: $|a - b| \le t_a + t_r |b|$ everywhere.

    Args:
        a: A tree of arrays.
        b: A tree of the same structure and shapes; it may have other dtypes.
        rtol: $t_r$, relative to `b`.
        atol: $t_a$.
        equal_nan: Whether NaN agrees with NaN.

    Returns:
        A boolean scalar, true for trees without leaves.

    Raises:
        ValueError: If `b` does not match `a`, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> a, b = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 2.1])}
        >>> print(ox.tree.allclose(a, b), ox.tree.allclose(a, b, rtol=0.1))
        False True
    """
    (xs, ys), _ = _columns(a, {"b": b}, scalars=False)
    close = functools.partial(jnp.allclose, rtol=rtol, atol=atol, equal_nan=equal_nan)
    parts = []
    for x, y in zip(xs, ys, strict=True):
        if x is not None:
            dtype = _accumulator(x, y)
            with jax.numpy_dtype_promotion("standard"):
                parts.append(close(_widened(x, dtype), _widened(y, dtype)))
    return jnp.all(jnp.stack(parts)) if parts else jnp.array(True)


# Trees like a given one.


@_verb
def full_like(tree: Any, fill_value: Any, dtype: Any = None) -> Any:
    """A tree of the same structure and shapes, filled with one number.

    Args:
        tree: A tree of arrays, or of their shapes under `jax.eval_shape`.
        fill_value: The number.
        dtype: The dtype of every leaf; `None` means that of the leaf of `tree`. For a slot
            of state, which has to be wide enough, see `slot_like`.

    Returns:
        A tree with the structure and shapes of `tree`. No buffer is shared.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.full_like({"w": jnp.ones(2)}, 7.0)["w"])
        [7. 7.]
    """

    def filled(x: Any) -> jax.Array:
        full = jnp.full_like(x, fill_value, dtype=dtype)
        return _dtypes.cast(full, full.dtype)  # A Python number for a leaf is weak.

    return _map(filled, tree)


def zeros_like(tree: Any, dtype: Any = None) -> Any:
    """A tree of zeros of the same structure and shapes.

    Args:
        tree: A tree of arrays, or of their shapes under `jax.eval_shape`.
        dtype: The dtype of every leaf; `None` means that of the leaf of `tree`.

    Returns:
        A tree with the structure and shapes of `tree`. No buffer is shared.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.zeros_like({"w": jnp.ones(2)})["w"])
        [0. 0.]
    """
    return full_like(tree, 0, dtype)


def ones_like(tree: Any, dtype: Any = None) -> Any:
    """A tree of ones of the same structure and shapes.

    Args:
        tree: A tree of arrays, or of their shapes under `jax.eval_shape`.
        dtype: The dtype of every leaf; `None` means that of the leaf of `tree`.

    Returns:
        A tree with the structure and shapes of `tree`. No buffer is shared.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.tree.ones_like({"w": jnp.zeros(2)})["w"])
        [1. 1.]
    """
    return full_like(tree, 1, dtype)


@_verb
def batch_shape(tree: Any, shape: tuple[int, ...] = ()) -> Any:
    """Puts axes in front of every leaf, and repeats it along them.

    Args:
        tree: A tree of arrays.
        shape: The lengths of the new axes.

    Returns:
        A tree with the structure of `tree`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.tree.batch_shape({"w": jnp.ones(2)}, (3,))["w"].shape
        (3, 2)
    """
    return _map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), tree)


def split_key_like(rng_key: jax.Array, target_tree: Any) -> Any:
    """Splits a random key into one for each leaf.

    Args:
        rng_key: A key of `jax.random.key`.
        target_tree: A tree of anything; `None` gets no key.

    Returns:
        A tree of keys with the structure of `target_tree`: those that `jax.random.split`
        gives, in the order of the leaves.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> keys = ox.tree.split_key_like(jax.random.key(0), {"w": 1.0, "b": 2.0})
        >>> sorted(keys)
        ['b', 'w']
    """
    treedef = jax.tree.structure(target_tree)
    keys = jax.random.split(rng_key, treedef.num_leaves)
    return treedef.unflatten(keys[i] for i in range(treedef.num_leaves))


@_verb
def random_like(
    rng_key: jax.Array,
    target_tree: Any,
    sampler: Callable[[jax.Array, tuple[int, ...], Any], jax.Array] = jax.random.normal,
    dtype: Any = None,
) -> Any:
    """A tree of random numbers of the same structure and shapes.

    Args:
        rng_key: A key of `jax.random.key`, which `split_key_like` splits.
        target_tree: A tree of arrays, or of their shapes under `jax.eval_shape`.
        sampler: `sampler(key, shape, dtype)`, such as those of `jax.random`.
        dtype: The dtype to draw; `None` means that of the leaf. Draws of low precision are
            coarse: to round fine ones, draw float32 and then `cast_like`.

    Returns:
        A tree with the structure and shapes of `target_tree`.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> noise = ox.tree.random_like(jax.random.key(0), {"w": jnp.zeros(10_000)})
        >>> print(f"{jnp.std(noise['w']):.1f}")
        1.0
    """
    leaves, treedef = _leaves(target_tree)
    keys = treedef.flatten_up_to(split_key_like(rng_key, target_tree))

    def drawn(x: Any, key: Any) -> Any:
        if x is None:
            return None
        return sampler(key, jnp.shape(x), jnp.result_type(x) if dtype is None else dtype)

    return treedef.unflatten(map(drawn, leaves, keys))


# Dtypes.


@_verb
def cast(tree: Any, dtype: Any) -> Any:
    """Converts every leaf to one dtype.

    Args:
        tree: A tree of arrays.
        dtype: Any dtype; `None` leaves everything as it is. Integers are converted, too,
            and floats made integers are cut off towards zero.

    Returns:
        A tree with the structure of `tree`.

    Raises:
        TypeError: If a complex leaf were to lose its imaginary part, by key path: take
            `real` first if that is meant.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> ox.tree.cast({"w": jnp.ones(2)}, "bfloat16")["w"].dtype.name
        'bfloat16'
    """
    if dtype is None:
        return tree
    leaves, treedef = _leaves(tree)
    return _converted(tree, leaves, treedef, [jnp.dtype(dtype)] * len(leaves))


@_verb
def cast_like(tree: Any, other_tree: Any) -> Any:
    """Converts every leaf to the dtype of the matching leaf of another tree.

    Args:
        tree: A tree of arrays.
        other_tree: A tree of the same structure; its shapes may be others. Where it has a
            Python number, which has no dtype of its own, the leaf stays what it is.

    Returns:
        A tree with the structure of `tree`.

    Raises:
        ValueError: If `other_tree` has another structure, by key path.
        TypeError: If a complex leaf were to lose its imaginary part, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> grads, params = {"w": jnp.ones(2)}, {"w": jnp.ones(2, jnp.bfloat16)}
        >>> ox.tree.cast_like(grads, params)["w"].dtype.name
        'bfloat16'
    """
    leaves, treedef = _leaves(tree)
    _leaves(other_tree, "other_tree")
    shapeless = jax.tree.map(lambda y: getattr(y, "dtype", y), other_tree)
    dtypes = _dtypes.match(
        treedef, leaves, shapeless, "`other_tree`", scalars=True, ours="arrays"
    )
    return _converted(tree, leaves, treedef, dtypes)


def _converted(tree: Any, leaves: list[Any], treedef: Any, dtypes: list[Any]) -> Any:
    def converted(i: int) -> Any:
        x, dtype = leaves[i], dtypes[i]
        if x is None or not isinstance(dtype, np.dtype):
            return x
        if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise Refusal(
                TypeError,
                f"would lose an imaginary part: the leaf {_place(tree, i)} has dtype "
                f"{_dtypes.dtype_of(x)}, which {dtype} does not hold. Take its real part "
                "first, if that is meant.",
            )
        return _dtypes.cast(x, dtype)

    return treedef.unflatten(map(converted, range(len(leaves))))


@_verb
def dtype(
    tree: Any, mixed_dtype_handler: Literal["promote", "highest", "lowest"] | None = None
) -> np.dtype:
    """The dtype that the leaves of a tree have in common.

    Args:
        tree: A tree of arrays.
        mixed_dtype_handler: What to do if they have none: `None` refuses, "promote" gives
            the dtype that holds them all, as JAX promotes; "highest" and "lowest" give the
            one among them that holds all others, or that all others hold.

    Returns:
        A dtype: JAX's floating one for a tree without leaves.

    Raises:
        ValueError: If there is no such dtype, by the key paths of two leaves.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
        >>> ox.tree.dtype(tree, "lowest").name
        'bfloat16'
    """
    handlers = (None, "promote", "highest", "lowest")
    if mixed_dtype_handler not in handlers:
        raise ValueError(
            f"`tree.dtype(mixed_dtype_handler=...)` must be one of "
            f"{', '.join(map(repr, handlers))}, but got {mixed_dtype_handler!r}."
        )
    found = _dtypes.dtype_of(0.0)
    place = None
    for i, x in enumerate(_leaves(tree)[0]):
        if x is None:
            continue
        new = jnp.result_type(x)
        if place is None:
            found, place = new, i
            continue
        with jax.numpy_dtype_promotion("standard"):
            both = jnp.promote_types(found, new)
        if mixed_dtype_handler == "promote":
            found = both
        elif new == found:
            continue
        elif mixed_dtype_handler is None or both not in (found, new):
            way_out = (
                "Say which is meant: 'promote', 'highest' or 'lowest'."
                if mixed_dtype_handler is None
                else "Neither holds the other."
            )
            raise Refusal(
                ValueError,
                f"got {found} at the leaf {_place(tree, place)} and {new} at the leaf "
                f"{_place(tree, i)}. {way_out}",
            )
        elif (both == new) == (mixed_dtype_handler == "highest"):
            found, place = new, i
    return found
