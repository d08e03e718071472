"""A step of an optimizer as one compiled program."""

from typing import Any

import jax

from . import _checks, _dtypes, base
from .base import GradientTransformation, OptState, Params, Updates


class CompiledStep:
    """What `compiled_step` gives: call it, or look at the program by `lower`."""

    def __init__(self, tx: GradientTransformation):
        self.tx = tx
        # The order matters: donated buffers are given to results of their size first come,
        # first served. In another, a result falls on what is yet to be read, and is copied.
        self._jitted = jax.jit(self._step, donate_argnums=(0, 1), static_argnums=4)

    def __repr__(self) -> str:
        return f"compiled_step({self.tx!r})"

    def __call__(
        self, grads: Updates, state: OptState, params: Params, **extra: Any
    ) -> tuple[Params, OptState]:
        try:
            return self._jitted(*self._arguments(grads, state, params, extra))
        except TypeError:
            # Perhaps a leaf is no array, which `jit` would not name.
            with _checks.named("compiled_step"):
                _dtypes.check_inexact(grads, "the gradients")
                _dtypes.check_inexact(params, "the params")
            raise

    def lower(
        self, grads: Updates, state: OptState, params: Params, **extra: Any
    ) -> jax.stages.Lowered:
        """The program for such arguments, or for their shapes, before it is compiled."""
        return self._jitted.lower(*self._arguments(grads, state, params, extra))

    @staticmethod
    def _arguments(grads: Any, state: Any, params: Any, extra: dict[str, Any]) -> Any:
        arrays = {name: x for name, x in extra.items() if not callable(x)}
        functions = tuple((name, f) for name, f in extra.items() if callable(f))
        return params, state, grads, arrays, functions

    def _step(
        self, params: Any, state: Any, grads: Any, arrays: Any, functions: Any
    ) -> tuple[Params, OptState]:
        extra = {**arrays, **dict(functions)}
        updates, state = self.tx.update(grads, state, params, **extra)
        return base.apply_updates(params, updates), state


def compiled_step(tx: GradientTransformation) -> CompiledStep:
    """Update and apply as one compiled program, in the memory of what it replaces.

    `step(grads, state, params)` is `tx.update` and `apply_updates` under one `jax.jit`,
    with the buffers of `state` and `params` donated: the new ones are written over the old
    ones, which cannot be used any more. For training loops that have their gradients from
    elsewhere; where loss and gradient are computed in the same program, it is better to
    compile that as a whole, and to donate there: put `params` and `state` first among the
    arguments *and* the results, in one order, or XLA copies some of them.

    Args:
        tx: A transformation, of this library or of another.

    Returns:
        A function `step(grads, state, params, **extra) -> (params, state)`. `extra` goes to
        `tx.update`; functions among it (`value_fn`) are compiled in, so give the same
        function at every step. Its method `lower`, with the same arguments, gives the
        program.

    Raises:
        TypeError: If `tx` is no transformation; in the step, if a leaf of the gradients
            or the params is no array, by its key path.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> tx = ox.adam(0.1)
        >>> step, params = ox.compiled_step(tx), jnp.array([1.0, -1.0])
        >>> state = tx.init(params)
        >>> for _ in range(100):
        ...     params, state = step(2 * params, state, params)
        >>> print(bool(abs(params).max() < 0.1))
        True
    """
    base.check_stages("compiled_step", [tx], "`tx`")
    return CompiledStep(tx)
