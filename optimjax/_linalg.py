"""What rules for matrices have in common, for stacks of them: (batch, rows, columns)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import _spread, numerics

# On GPUs and TPUs, the default would round what goes into a product to 10 or 8 digits.
product = functools.partial(jnp.matmul, precision="highest")


def adjoint(x: jax.Array) -> jax.Array:
    """The conjugate transpose."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def in_units(x: jax.Array, axis: Any = (-2, -1)) -> tuple[jax.Array, jax.Array]:
    """`x` over its largest modulus, and that, or one: no square vanishes or overflows.

    To derivatives the unit is a constant: for what does not depend on it, or multiplies by
    it again.
    """
    moduli = jnp.abs(jax.lax.stop_gradient(x))
    largest = jnp.max(moduli, axis=axis, keepdims=True, initial=0)
    unit = jnp.where(largest == 0, 1, largest)
    return numerics.over(x, unit), unit


def same_way(new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` columns with the sign, or phase, that brings them closest to the `old` ones."""
    overlap = jnp.sum(jnp.conj(new) * old, axis=-2, keepdims=True)
    size = jnp.abs(overlap)
    return new * jnp.where(size > 0, numerics.divide(overlap, size), 1)


# Entries of the matrices that are decomposed at once where that is faster than by turns:
# what is needed on the way is some copies of so much.
_AT_ONCE = 2**24


def each(
    rule: Callable[..., jax.Array], *trees: Any, unknown: jax.Array, **scalars: Any
) -> Any:
    """`rule(*stacks, **scalars)` for the stacks of `trees`, matrix by matrix, by sizes.

    All of a size are laid together, so that what takes long to compile, a decomposition,
    is compiled once for each size, not for each leaf. On a CPU one matrix follows the
    other; elsewhere as many are worked on at once as there is memory for. `unknown` is a
    boolean that no compiler can foresee.
    """
    devices = _spread.over()
    if devices is not None:  # There, those of a size are together.
        by_turns = functools.partial(_by_turns, rule)
        return jax.tree.map(
            lambda *x: _spread.divided(by_turns, devices, *x, **scalars), *trees
        )
    columns = [jax.tree.leaves(tree) for tree in trees]
    alike: dict[Any, list[int]] = {}
    for place, stacks in enumerate(zip(*columns, strict=True)):
        kind = tuple((x.shape[1:], x.dtype) for x in stacks)
        alike.setdefault(kind, []).append(place)
    out = list(columns[0])
    for places in alike.values():
        joined = [jax.lax.concatenate([c[i] for i in places], 0) for c in columns]
        done = _by_turns(rule, *joined, **scalars)
        parts = _cut(done, [columns[0][i].shape[0] for i in places], unknown)
        for i, part in zip(places, parts, strict=True):
            out[i] = part
    return jax.tree.unflatten(jax.tree.structure(trees[0]), out)


def _by_turns(
    rule: Callable[..., jax.Array], *stacks: jax.Array, **scalars: Any
) -> jax.Array:
    if stacks[0].shape[0] == 1:
        return rule(*stacks, **scalars)

    def one(matrices: Any) -> jax.Array:
        return rule(*(x[None] for x in matrices), **scalars)[0]

    def at_once(number: int | None) -> Callable[..., jax.Array]:
        return lambda *stacks: jax.lax.map(one, stacks, batch_size=number)

    largest = max(math.prod(x.shape[1:]) for x in stacks)
    return jax.lax.platform_dependent(
        *stacks, cpu=at_once(None), default=at_once(max(1, _AT_ONCE // max(1, largest)))
    )


def _cut(x: jax.Array, lengths: list[int], unknown: jax.Array) -> list[jax.Array]:
    """The parts of `x` along axis 0.

    Cut at known places, each part is a program of its own to compile. So the places come
    out of two branches, between which no compiler sees that there is no difference: the
    same program then cuts all parts of a length.
    """
    if len(lengths) == 1:
        return [x]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]

    def known() -> tuple[jax.Array, ...]:
        return tuple(jnp.full((), start, jnp.int32) for start in starts)

    places = jax.lax.cond(unknown, known, known)
    return [
        jax.lax.dynamic_slice_in_dim(x, start, length)
        for start, length in zip(places, lengths, strict=True)
    ]
