"""Rates that follow the value of the loss, which `update` is given as `value=...`."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import numerics
from .._checks import Refusal
from ..base import (
    EmptyState,
    GradientTransformation,
    OptState,
    Params,
    Updates,
    transformation,
)
from ..tree import global_norm, leafwise
from ..typing import (
    Count,
    Fraction,
    NonNegative,
    Number,
    Positive,
    PositiveCount,
    Scalar,
)


def loss_of(value: Any) -> jax.Array:
    """The loss, which is a number; for rules that are given one."""
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array) or (
        jnp.shape(value) != ()
    ):
        raise Refusal(TypeError, f"needs a number for its `value`, but got {value!r}.")
    return numerics.as_scalar(value)


def _times(u: jax.Array, *, factor: Any) -> jax.Array:
    return u * factor


@transformation(packable=True)
def scale_by_polyak(
    f_min: Scalar = 0.0,
    max_learning_rate: Positive = 1.0,
    eps: NonNegative = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    r"""Makes the step as long as it takes to reach the minimum along a straight line.

    $$ u = g\, \min\Bigl( \frac{f - f^*}{\lVert g \rVert^2 + \epsilon},\ \gamma \Bigr), $$

    and $u = 0$ where the denominator is. `update` needs the loss: `value=f`.

    Args:
        f_min: $f^*$, the smallest value of the loss.
        max_learning_rate: $\gamma > 0$.
        eps: $\epsilon \ge 0$.
        variant: `"sps+"` takes $\max(f - f^*, 0)$, for an $f^*$ that may be wrong.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: In `update`, if `value` is missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_polyak()
        >>> params = jnp.array([3.0, -4.0])  # of the loss |p|^2 / 2
        >>> updates, _ = t.update(params, t.init(params), params, value=12.5)
        >>> print(updates)
        [ 1.5 -2. ]

    References:
        N. Loizou et al., [Stochastic Polyak step-size for
        SGD](https://arxiv.org/abs/2002.10542), 2021.
        G. Garrigos et al., [Function value learning: adaptive learning rates based on the
        Polyak stepsize](https://arxiv.org/abs/2307.14528), 2023, for `"sps+"`.
    """

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(
        updates: Updates,
        state: EmptyState,
        params: Params | None = None,
        *,
        value: Any,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        gap = loss_of(value) - f_min
        if variant == "sps+":
            gap = jnp.maximum(gap, 0)
        norm = numerics.as_scalar(global_norm(updates))
        square = norm * norm
        # Where that may underflow or overflow, divided twice, at the cost of a rounding.
        step = jnp.where(
            (eps > 0) | (square > 1e-30) & (square < 1e30),
            numerics.divide(gap, square + eps),
            numerics.divide(numerics.divide(gap, norm), norm),
        )
        factor = jnp.where(norm == 0, 0, jnp.minimum(step, max_learning_rate))
        return leafwise(_times, updates, factor=factor), state

    return GradientTransformation(init, update)


class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`. All are scalars; the floats are float32 or wider."""

    scale: jax.Array  # What updates are multiplied by.
    best_value: jax.Array  # The smallest mean value so far.
    plateau_count: jax.Array  # int32: how many mean values in a row were no better.
    cooldown_count: jax.Array  # int32: how many mean values are yet to be passed over.
    count: jax.Array  # int32: how many values the mean has.
    avg_value: jax.Array  # The mean of the values since the last decision.


@transformation(state=ReduceOnPlateauState, packable=True)
def reduce_on_plateau(
    factor: Annotated[float, Number("(0, 1)")] = 0.1,
    patience: PositiveCount = 10,
    rtol: Fraction = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: Count = 0,
    accumulation_size: PositiveCount = 1,
    min_scale: NonNegative = 0.0,
    *,
    min_change: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Multiplies updates by a number that falls whenever the loss stops falling.

    `update` needs the loss, `value=f`. The mean of `accumulation_size` values is *better*
    if it is less than $b - r\,|b| - a$, where $b$ is the best so far. After `patience`
    means in a row that are no better, the multiplier is taken times `factor`, at that very
    step, and the next `cooldown` means are not counted.

    Args:
        factor: What the multiplier is taken times, in $(0, 1)$.
        patience: How many means may be no better: PyTorch's `patience` plus 1, that of
            Keras as it is.
        rtol: $r$, in $[0, 1]$; relative to the size of the best value, so that it is right
            for negative ones, too. With a `value` of `-metric`, what should grow is
            watched.
        atol: $a \ge 0$; `min_delta` in Keras (with `rtol=0.0`).
        cooldown: How many means to pass over after a reduction.
        accumulation_size: How many values make one mean; the steps of an epoch, say.
        min_scale: A floor $\ge 0$ under the multiplier.
        min_change: A multiplier that would fall by no more than this stays; PyTorch's `eps`
            divided by the learning rate, 1e-8 there.

    Returns:
        A `GradientTransformation` with a `ReduceOnPlateauState`. It stands anywhere behind
        the stages that divide by the size of gradients, such as at the end. A value that is
        not finite is never better.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: In `update`, if `value` is missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.reduce_on_plateau(0.5, patience=2)
        >>> state = t.init(jnp.zeros(1))
        >>> for loss in (-1.0, -2.0, -2.0, -2.0):
        ...     updates, state = t.update(jnp.array([1.0]), state, value=loss)
        ...     print(updates)
        [1.]
        [1.]
        [1.]
        [0.5]
    """

    def init(params: Params) -> ReduceOnPlateauState:
        del params

        def zero() -> jax.Array:
            return jnp.zeros((), jnp.int32)

        return ReduceOnPlateauState(
            scale=numerics.as_scalar(1.0),
            best_value=numerics.as_scalar(jnp.inf),
            plateau_count=zero(),
            cooldown_count=zero(),
            count=zero(),
            avg_value=numerics.as_scalar(0.0),
        )

    def update(
        updates: Updates,
        state: ReduceOnPlateauState,
        params: Params | None = None,
        *,
        value: Any,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = state.count + 1
        value = loss_of(value)
        mean = state.avg_value + (value - state.avg_value) / numerics.as_scalar(count)
        decided = _decided(state, mean)
        waiting = state._replace(count=count, avg_value=mean)
        state = jax.tree.map(
            lambda d, w: jnp.where(count == accumulation_size, d, w), decided, waiting
        )
        return leafwise(_times, updates, factor=state.scale), state

    def _decided(state: ReduceOnPlateauState, mean: jax.Array) -> ReduceOnPlateauState:
        best = state.best_value
        # Anything finite is better than nothing.
        margin = jnp.where(jnp.isfinite(best), rtol * jnp.abs(best) + atol, 0)
        better = jnp.isfinite(mean) & (mean < best - margin)
        cooling = state.cooldown_count > 0
        plateau = jnp.where(better | cooling, 0, state.plateau_count + 1)
        reduces = plateau >= patience
        lower = jnp.maximum(state.scale * factor, min_scale)
        lower = jnp.where(state.scale - lower > min_change, lower, state.scale)
        return ReduceOnPlateauState(
            scale=jnp.where(reduces, lower, state.scale),
            best_value=jnp.where(better, mean, best),
            plateau_count=jnp.where(reduces, 0, plateau),
            cooldown_count=jnp.where(
                reduces, cooldown, jnp.maximum(state.cooldown_count - 1, 0)
            ),
            count=jnp.zeros_like(state.count),
            avg_value=jnp.zeros_like(state.avg_value),
        )

    return GradientTransformation(init, update)
