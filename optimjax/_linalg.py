"""What rules for matrices have in common, for stacks of them: (batch, rows, columns)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from . import numerics

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
