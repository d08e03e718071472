"""Multiplying by a number: fixed, scheduled, or the learning rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import (
    GradientTransformation,
    Updates,
    counting,
    memoryless,
    transformation,
)
from ..tree import leafwise
from ..typing import NonNegativeOrSchedule, Scalar, Schedule


def _times(u: jax.Array, *, factor: Any) -> jax.Array:
    return numerics.times(factor, u)


@transformation(packable=True)
def scale(step_size: Scalar) -> GradientTransformation:
    r"""Multiplies updates by a constant: $u = c\,g$.

    Args:
        step_size: $c$, any finite number. May be traced.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If `step_size` is not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale(-0.5)
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [-0.5  1. ]
    """
    return memoryless(lambda updates: leafwise(_times, updates, factor=step_size))


class ScaleByScheduleState(NamedTuple):
    """State of `scale_by_schedule`."""

    count: jax.Array  # t, (), int32: the steps taken.


@transformation(state=ScaleByScheduleState, packable=True)
def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    r"""Multiplies updates by a function of the step: $u_t = f(t)\,g_t$, $t = 0, 1, \dots$

    Args:
        step_size_fn: $f$, a function of a traced int32 that counts from 0. Note that the
            sign is its own: to descend, see `scale_by_learning_rate`.

    Returns:
        A `GradientTransformation` with a `ScaleByScheduleState`.

    Raises:
        TypeError: If `step_size_fn` is not a function.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_schedule(ox.inverse_time_decay(1.0, 1, decay_rate=1.0))
        >>> state = t.init(jnp.zeros(1))
        >>> for _ in range(2):
        ...     updates, state = t.update(jnp.array([4.0]), state)
        ...     print(updates)
        [4.]
        [2.]
    """
    if not callable(step_size_fn):
        raise TypeError(
            "`scale_by_schedule(step_size_fn=...)` must be a function of the step, but "
            f"got {step_size_fn!r}. For a number, use `scale`."
        )

    def multiply(updates: Updates, count: jax.Array) -> Updates:
        return leafwise(_times, updates, factor=numerics.at_step(step_size_fn, count))

    return counting(ScaleByScheduleState, multiply)


class ScaleByLearningRateState(NamedTuple):
    """State of `scale_by_learning_rate`."""

    count: jax.Array  # t, (), int32: the steps taken.


@transformation(state=ScaleByLearningRateState, packable=True)
def scale_by_learning_rate(
    learning_rate: NonNegativeOrSchedule, *, flip_sign: bool = True
) -> GradientTransformation:
    r"""Turns a direction into a step downhill: $u_t = -\eta_t\,g_t$.

    The count is kept also for a constant rate, so that a state fits both.

    Args:
        learning_rate: $\eta \ge 0$: a number, a traced scalar, or a schedule, called with
            $t = 0, 1, \dots$: the first step uses $\eta_0$. A schedule is a pure function:
            it is compiled, and what it reads from outside is read once.
        flip_sign: Whether to descend; `False` gives $+\eta_t\,g_t$.

    Returns:
        A `GradientTransformation` with a `ScaleByLearningRateState`.

    Raises:
        ValueError: If `learning_rate` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_learning_rate(0.5)
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [-0.5  1. ]
    """

    def descend(updates: Updates, count: jax.Array) -> Updates:
        rate = numerics.rate_at(learning_rate, count)
        return leafwise(_times, updates, factor=-rate if flip_sign else rate)

    return counting(ScaleByLearningRateState, descend)


@transformation(packable=True)
def set_to_zero() -> GradientTransformation:
    """Replaces all updates by zeros, NaN included.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.set_to_zero()
        >>> updates, _ = t.update(jnp.array([3.0, jnp.nan]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [0. 0.]
    """
    return memoryless(lambda updates: leafwise(jnp.zeros_like, updates))
