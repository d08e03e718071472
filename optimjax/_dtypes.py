"""The dtype rule.

Arithmetic is done in at least float32, and in the widest of what takes part; state is
stored in the dtypes that `init` gave it; updates come back in the dtype that holds both
the gradient leaf and, when params are given, the parameter leaf.

Between those two ends nothing is rounded: `widen` opens a call of `update`, `narrow`
closes it, and everything in between, however deeply combined, sees wide arrays.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import Refusal


def is_none(x: Any) -> bool:
    """Whether `x` is a leaf that takes no part: no gradient, or no parameter."""
    return x is None


def dtype_of(x: Any) -> np.dtype:
    """The dtype that `x` has, or would have as an array."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        dtype = jnp.result_type(x)
    elif not isinstance(x, np.ndarray | np.generic):
        return dtype
    return jax.dtypes.canonicalize_dtype(dtype)


def promote(a: Any, b: Any) -> np.dtype:
    """The smallest inexact dtype that holds both: float32 for bfloat16 and float16.

    As `jnp.promote_types`, which refuses to answer under strict promotion: here the
    promotion is on purpose.
    """
    if a == b:
        return np.dtype(a)
    x, y = (jnp.finfo(d).dtype for d in (a, b))  # The real part of a complex one.
    if x.itemsize == y.itemsize:
        real = x if x == y else np.dtype(np.float32)
    else:
        real = max(x, y, key=lambda d: d.itemsize)
    return with_real(b if jnp.issubdtype(b, jnp.complexfloating) else a, real)


def real_dtype(*arrays: Any) -> np.dtype:
    """The real dtype in which to compute with `arrays`: float32 at least."""
    real = np.dtype(np.float32)
    for x in arrays:
        dtype = dtype_of(x)
        if jnp.issubdtype(dtype, jnp.inexact):
            real = promote(real, jnp.finfo(dtype).dtype)
    return real


def scalar_dtype() -> np.dtype:
    """The widest real dtype there is: float64 if the user enabled it, else float32."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def with_real(dtype: Any, real: Any) -> np.dtype:
    """`real`, or the complex dtype over it where `dtype` is complex."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128 if real == np.float64 else np.complex64)
    return np.dtype(real)


def cast(x: Any, dtype: Any) -> jax.Array:
    """`x` in `dtype`, strongly typed; without any operation where it is so already."""
    if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type:
        return x
    return jax.lax.convert_element_type(x, dtype)


def check_inexact(tree: Any, what: str, *, real: bool = False) -> None:
    """Refuses leaves that are not floating or complex arrays, by their key paths."""
    if all(_takes_part(leaf, real) for leaf in jax.tree.leaves(tree)):
        return
    for path, leaf in jax.tree.leaves_with_path(tree):
        if _takes_part(leaf, real):
            continue
        place = f"the leaf {name_of(path)} of {what}"
        try:
            dtype = dtype_of(leaf)
            is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        except TypeError:  # A text, a function, a tensor of another library.
            raise Refusal(
                TypeError,
                f"needs arrays, but {place} is a {type(leaf).__name__}. Filter such "
                "leaves out (replace them by None), or convert them.",
            ) from None
        if is_complex:
            raise Refusal(
                TypeError, f"cannot take complex arrays, but {place} has dtype {dtype}."
            )
        raise Refusal(
            TypeError,
            f"needs floating or complex arrays, but {place} has dtype {dtype}. Keep "
            "such leaves out of the optimizer (replace them by None).",
        )


def check_arrays(tree: Any, what: str) -> None:
    """Refuses leaves that are neither arrays nor numbers, by their key paths."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        try:
            dtype_of(leaf)
        except TypeError:
            raise Refusal(
                TypeError,
                f"needs arrays, but the leaf {name_of(path)} of {what} is {leaf!r}.",
            ) from None


def check_real(value: Any, what: str) -> None:
    """Refuses what a function gave, if it is not one real number."""
    one = jax.tree_util.all_leaves([value]) and getattr(value, "shape", ()) == ()
    if one and _takes_part(value, real=True):
        return

    def shown(x: Any) -> str:
        return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)

    got = jax.tree.map(shown, value)
    raise Refusal(TypeError, f"needs {what} that is one real number, but it is {got}.")


def widen(updates: Any, params: Any) -> tuple[Any, Any]:
    """The updates in their compute dtypes, and the dtypes in which to return them.

    Raises:
        Refusal: If the updates are not inexact arrays, or do not match the params.
    """
    check_inexact(updates, "the updates")
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    if params is None:
        others = [None] * len(leaves)
    else:
        others = match(treedef, leaves, params, "the params")
    wide, dtypes = [], []
    for u, p in zip(leaves, others, strict=True):
        if u is None:
            wide.append(None)
            dtypes.append(None)
            continue
        dtype = dtype_of(u)
        if p is not None and jnp.issubdtype(dtype_of(p), jnp.inexact):
            if jnp.issubdtype(dtype, jnp.complexfloating) and not jnp.iscomplexobj(p):
                place = name_of(_paths(updates)[len(wide)])
                raise Refusal(
                    TypeError,
                    f"got complex updates at the leaf {place}, where the params are real.",
                )
            dtype = promote(dtype, dtype_of(p))
        dtypes.append(dtype)
        # Arithmetic wants what holds both, and float32 at least.
        wide.append(cast(u, with_real(dtype, promote(jnp.finfo(dtype).dtype, np.float32))))
    return treedef.unflatten(wide), dtypes


def wide(x: Any) -> jax.Array:
    """`x` in the dtype in which to compute with it: float32 at least."""
    return cast(x, with_real(dtype_of(x), real_dtype(x)))


def narrow(updates: Any, dtypes: list[Any]) -> Any:
    """Rounds `updates` to the `dtypes` that `widen` promised."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
    if len(leaves) != len(dtypes):  # A foreign transformation changed the structure.
        return updates
    return treedef.unflatten(
        x if x is None or d is None else cast(x, d)
        for x, d in zip(leaves, dtypes, strict=True)
    )


def match(
    treedef: Any,
    leaves: list[Any],
    other: Any,
    what: str,
    *,
    scalars: bool = False,
    free: bool = False,
    stretched: bool = False,
    ours: str = "updates",
) -> list[Any]:
    """The subtrees of `other`, one for each leaf of the updates.

    Raises:
        Refusal: If `other` lacks a leaf, has one too many, or has one of another
            shape. With `scalars`, a 0-d array may stand for a whole leaf; if `free`, so
            may an array with more or fewer axes, and a tree of arrays; if `stretched`, one
            with axes of length 1. In the message, the `leaves` are `ours`, and `other` is
            `what`.
    """
    try:
        subtrees = treedef.flatten_up_to(other)
    except (ValueError, TypeError, KeyError):
        updates = treedef.unflatten(leaves)
        raise Refusal(ValueError, _difference(updates, other, ours, what)) from None
    for i, (u, x) in enumerate(zip(leaves, subtrees, strict=True)):
        if u is None:
            continue
        if x is None or not (free or hasattr(x, "shape") or jax.tree_util.all_leaves([x])):
            place = name_of(_paths(treedef.unflatten(leaves))[i])
            there = "nothing (None)" if x is None else f"{jax.tree.structure(x)}"
            raise Refusal(
                ValueError,
                f"got an array for the leaf {place}, where there is {there} in {what}.",
            )
        if not hasattr(x, "shape"):
            continue
        if free and x.ndim != jnp.ndim(u):
            continue
        pairs = zip(x.shape, jnp.shape(u), strict=False)
        if stretched and x.ndim == jnp.ndim(u) and all(m in (1, n) for m, n in pairs):
            continue
        if x.shape != jnp.shape(u) and not (scalars and x.shape == ()):
            place = name_of(_paths(treedef.unflatten(leaves))[i])
            raise Refusal(
                ValueError,
                f"got {ours} of shape {jnp.shape(u)} at the leaf {place}, where the shape "
                f"in {what} is {x.shape}.",
            )
    return subtrees


def _difference(updates: Any, other: Any, ours: str, what: str) -> str:
    here = {name_of(p): None for p in _paths(updates)}
    there = {name_of(p): None for p in _paths(other)}
    missing = [p for p in there if p not in here]
    added = [p for p in here if p not in there]
    parts = []
    if missing:
        parts.append(f"the {ours} lack {_listed(missing)}")
    if added:
        parts.append(f"the {ours} have {_listed(added)}, missing in {what}")
    if not parts:
        parts.append(
            f"the {ours} are a {jax.tree.structure(updates)}, {what} a "
            f"{jax.tree.structure(other)}"
        )
    return f"got {ours} whose structure is not that of {what}: {'; '.join(parts)}."


def prefix_difference(prefix: Any, tree: Any, what: str) -> str:
    """Where `prefix`, which is none of `tree`, parts from it; `what` is the tree."""
    ends, leaves = _paths(prefix), _paths(tree)
    bare = [p for p in leaves if not any(p[: len(end)] == end for end in ends)]
    void = [end for end in ends if not any(p[: len(end)] == end for p in leaves)]
    parts = []
    if bare:
        parts.append(f"it lacks {_listed([name_of(p) for p in bare])}")
    if void:
        parts.append(f"it has {_listed([name_of(p) for p in void])}, missing in {what}")
    if not parts:
        parts.append(f"it is a {jax.tree.structure(prefix)}, not a prefix of {what}")
    return "; ".join(parts)


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ("leaf " if len(names) == 1 else "leaves ") + ", ".join(names[:most]) + more


def name_of(path: Any) -> str:
    """A key path as people write it; the whole tree, where it is a single leaf."""
    return jax.tree_util.keystr(path) or "(the whole tree)"


def _paths(tree: Any) -> list[Any]:
    return [p for p, _ in jax.tree.leaves_with_path(tree, is_leaf=is_none)]


def _takes_part(leaf: Any, real: bool) -> bool:
    try:
        return jnp.issubdtype(dtype_of(leaf), jnp.floating if real else jnp.inexact)
    except TypeError:
        return False
