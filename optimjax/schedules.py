"""Schedules: functions from the step to a value, for rates that change.

Step 0 is the first step. A schedule takes a Python integer, a traced int32, or an array
of steps, and returns float32 (float64 if the user enabled it). What it is called with is
compared and subtracted as integers, so that it stays exact past 2^24 steps.

Any function of the step is a schedule; those made here know the expression that made
them, which is their `repr`.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks
from .numerics import as_scalar
from .typing import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    Number,
    Positive,
    PositiveCount,
    Scalar,
    ScalarOrSchedule,
    Schedule,
)

P = ParamSpec("P")


class _Schedule:
    """A function of the step that shows the expression that made it."""

    def __init__(self, function: Schedule, name: str, expression: str):
        self.function = function
        self.expression = expression
        self.__name__ = self.__qualname__ = name

    def __call__(self, count: Any) -> jax.Array:
        count = jnp.asarray(count)
        if jnp.issubdtype(count.dtype, jnp.integer) and count.dtype.itemsize < 8:
            count = count.astype(jnp.int32)  # Small and unsigned ones would wrap around.
        return as_scalar(self.function(count))

    def __repr__(self) -> str:
        return self.expression


def _schedule(factory: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """Checks the arguments of a factory by name, and names its schedules."""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        call = _checks.bound(factory, args, kwargs)
        function = factory(*call.args, **call.kwargs)
        return _Schedule(function, factory.__name__, call.expression)

    setattr(make, "__signature__", _checks.legible(inspect.signature(factory)))  # noqa: B010
    return make


def _since(count: jax.Array, begin: int, steps: int) -> jax.Array:
    """The fraction of `steps` that is over, from 0 to 1."""
    return as_scalar(jnp.clip(count, begin, begin + steps) - begin) / steps


def _left(count: jax.Array, begin: int, steps: int) -> jax.Array:
    """The fraction of `steps` that is left, from 1 to 0; exact near the end."""
    over = jnp.clip(count, begin, begin + steps)
    return as_scalar(begin + steps - over) / max(steps, 1)


def _between(low: Any, high: Any, fraction: Any) -> Any:
    """From `low` to `high` as the fraction goes from 0 to 1; exact at both ends."""
    return low * (1 - fraction) + high * fraction


def _plain(value: Any, where: str, why: str) -> float:
    """A number that is known when the schedule is made."""
    if not isinstance(value, float):
        raise TypeError(f"`{where}` must be a plain number, since {why}; it is traced.")
    return value


@_schedule
def constant_schedule(value: Scalar) -> Schedule:
    """The same `value` at every step.

    Args:
        value: Any finite number. May be traced.

    Raises:
        ValueError: If it is not finite.

    Example:
        >>> import optimjax as ox
        >>> print(ox.constant_schedule(0.1)(1000))
        0.1
    """
    return lambda count: jnp.broadcast_to(as_scalar(value), count.shape)


@_schedule
def polynomial_schedule(
    init_value: Scalar,
    end_value: Scalar,
    power: NonNegative,
    transition_steps: Count,
    transition_begin: Count = 0,
    *,
    cycle: bool = False,
) -> Schedule:
    r"""Moves from one value to another along a power of the time that is left.

    $$ f(t) = (I - E)\,\Bigl(1 - \frac{t - B}{T}\Bigr)^{p} + E, $$

    with $t$ held to $[B, B + T]$; or, with `cycle`, with $T$ replaced by the first
    multiple of it that is not yet over, so that the value jumps back after each $T$
    steps, each time less far. TensorFlow's and Keras' `PolynomialDecay` and PyTorch's
    `PolynomialLR` (there $E = 0$).

    Args:
        init_value: $I$, up to step $B$.
        end_value: $E$, from step $B + T$.
        power: $p \ge 0$.
        transition_steps: $T$; with 0, $I$ stays (as in Optax).
        transition_begin: $B$.
        cycle: Whether to begin anew at the end, as in Keras, rather than to stay.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.polynomial_schedule(1.0, 0.0, power=2, transition_steps=4)
        >>> [float(f(t)) for t in (0, 2, 4, 9)]
        [1.0, 0.25, 0.0, 0.0]
        >>> f = ox.polynomial_schedule(1.0, 0.0, 1, 4, cycle=True)
        >>> [float(f(t)) for t in (0, 2, 4, 5, 6, 8)]
        [1.0, 0.5, 0.0, 0.375, 0.25, 0.0]
    """

    def value(count: jax.Array) -> Any:
        left = _left(count, transition_begin, transition_steps)
        if transition_steps == 0:
            left = jnp.ones_like(left)
        elif cycle:
            t = jnp.maximum(count, transition_begin) - transition_begin
            rest = as_scalar(-t % transition_steps)
            left = jnp.where(t == 0, 1, rest / jnp.maximum(as_scalar(t) + rest, 1))
        return (init_value - end_value) * left**power + end_value

    return value


@_schedule
def linear_schedule(
    init_value: Scalar,
    end_value: Scalar,
    transition_steps: Count,
    transition_begin: Count = 0,
) -> Schedule:
    r"""Moves from one value to another in a straight line.

    $f(t) = I + \frac{t - B}{T} (E - I)$ with $t$ held to $[B, B + T]$:
    `polynomial_schedule` with power 1. PyTorch's `LinearLR`.

    Args:
        init_value: $I$, up to step $B$.
        end_value: $E$, from step $B + T$.
        transition_steps: $T$; with 0, $I$ stays (as in Optax).
        transition_begin: $B$.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.linear_schedule(0.0, 1.0, transition_steps=4)
        >>> [float(f(t)) for t in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    return polynomial_schedule(
        init_value, end_value, 1.0, transition_steps, transition_begin
    )


@_schedule
def exponential_decay(
    init_value: Scalar,
    transition_steps: Count,
    decay_rate: Positive,
    transition_begin: Count = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    r"""Multiplies by a rate every so many steps, smoothly or in stairs.

    $f(t) = I\, r^{(t - B) / T}$ from step $B$ on, $I$ before; with `staircase` the exponent
    is rounded down, and the value falls every $T$ steps. Keras' `ExponentialDecay`;
    PyTorch's `ExponentialLR` is $T = 1$, its `StepLR` is `staircase`, TensorFlow 1's
    `natural_exp_decay` is $r = e^{-k}$.

    Args:
        init_value: $I$.
        transition_steps: $T$; with 0, $I$ stays (as in Optax).
        decay_rate: $r > 0$.
        transition_begin: $B$.
        staircase: Whether to fall in stairs.
        end_value: Where to stop: a lower bound if $r < 1$, else an upper bound.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.exponential_decay(1.0, transition_steps=10, decay_rate=0.25)
        >>> [float(f(t)) for t in (0, 5, 10)]
        [1.0, 0.5, 0.25]
        >>> f = ox.exponential_decay(1.0, 10, 0.25, staircase=True)
        >>> [float(f(t)) for t in (0, 5, 10)]
        [1.0, 1.0, 0.25]
    """

    def value(count: jax.Array) -> Any:
        if transition_steps == 0:
            return jnp.broadcast_to(as_scalar(init_value), count.shape)
        t = jnp.maximum(count, transition_begin) - transition_begin
        if staircase:
            exponent = as_scalar(t // transition_steps)
        else:
            exponent = as_scalar(t) / transition_steps
        decayed = init_value * _power(decay_rate, exponent)
        if end_value is not None:
            falling = decay_rate < 1
            decayed = jnp.where(
                falling,
                jnp.maximum(decayed, end_value),
                jnp.minimum(decayed, end_value),
            )
        return decayed

    return value


def _power(base: Any, exponent: jax.Array) -> jax.Array:
    """`base ** exponent`; by a logarithm in double precision where `base` is a number."""
    if isinstance(base, float):
        return jnp.exp(exponent * math.log(base))
    return jnp.power(base, exponent)


@_schedule
def inverse_time_decay(
    init_value: Scalar,
    transition_steps: PositiveCount,
    decay_rate: NonNegative,
    *,
    power: NonNegative = 1.0,
    staircase: bool = False,
) -> Schedule:
    r"""Divides by a number that grows with time: $f(t) = I / (1 + r\,t / T)^p$.

    With `staircase`, $t / T$ is rounded down. Keras' and TensorFlow's
    `InverseTimeDecay`; with $T = 1$, the `decay` of Keras 2 and the `lr_decay` of
    PyTorch's Adagrad. PyTorch's ASGD has $T = 1$, $r = \lambda I$ and $p = 3/4$.

    Args:
        init_value: $I$.
        transition_steps: $T$.
        decay_rate: $r \ge 0$.
        power: $p \ge 0$.
        staircase: Whether to fall in stairs.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.inverse_time_decay(1.0, transition_steps=10, decay_rate=1.0)
        >>> [float(f(t)) for t in (0, 10, 30)]
        [1.0, 0.5, 0.25]
    """

    def value(count: jax.Array) -> Any:
        if staircase:
            periods = as_scalar(count // transition_steps)
        else:
            periods = as_scalar(count) / transition_steps
        return init_value / (1 + decay_rate * periods) ** power

    return value


@_schedule
def every(k: PositiveCount, *, start: Count = 0) -> Schedule:
    """One at every `k`-th step, `start`, `start + k`, and so on; zero at the others.

    Also a condition, for `conditionally_transform`.

    Args:
        k: How many steps it is from one to the next, at least 1.
        start: The first, from 0.

    Returns:
        A schedule.

    Raises:
        ValueError: If `k` is less than 1, or `start` less than 0.

    Example:
        >>> import optimjax as ox
        >>> print([int(ox.every(3, start=2)(t)) for t in range(7)])
        [0, 0, 1, 0, 0, 1, 0]
    """
    return lambda count: (count >= start) & ((count - start) % k == 0)


@_schedule
def inverse_sqrt_schedule(
    init_value: Scalar, transition_steps: Positive, *, offset: Count = 0
) -> Schedule:
    r"""Stays, then falls as one over the square root of time.

    $$ f(t) = I\,\sqrt{\frac{T}{\max(t + O, T)}}. $$

    With $O = T$ the fall begins at once, which is what follows a warmup. The Transformer
    rises to a peak $I$ at its $W$th step, which is $t = W - 1$ here, and falls on:
    `warmup_schedule(inverse_sqrt_schedule(I, W, offset=W), W - 1, I / W)` with
    $I = (d W)^{-1/2}$. Adafactor's $\min(r, 1 / \sqrt{t + 1})$ is $I = r$,
    $T = 1 / r^2$, $O = 1$.

    Args:
        init_value: $I$.
        transition_steps: $T > 0$, the time from which on it falls. It need not be whole.
        offset: $O$, how much time is over at step 0.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.inverse_sqrt_schedule(1.0, transition_steps=4)
        >>> [float(f(t)) for t in (0, 4, 16, 64)]
        [1.0, 1.0, 0.5, 0.25]
        >>> f = ox.warmup_schedule(ox.inverse_sqrt_schedule(1.0, 4, offset=4), 4)
        >>> [float(f(t)) for t in (0, 2, 4, 16)]
        [0.0, 0.5, 1.0, 0.5]

    References:
        A. Vaswani et al., [Attention is all you need](https://arxiv.org/abs/1706.03762),
        2017.

        N. Shazeer and M. Stern, [Adafactor](https://arxiv.org/abs/1804.04235), 2018.
    """

    def value(count: jax.Array) -> Any:
        # The two are added as numbers, since as integers they might overflow.
        over = (as_scalar(count) + offset) / transition_steps
        return init_value / jnp.sqrt(jnp.maximum(over, 1))

    return value


@_schedule
def rex_schedule(
    init_value: Scalar,
    decay_steps: PositiveCount,
    end_value: Scalar = 0.0,
    *,
    beta: Annotated[_checks.Value, Number("(-inf, 1)")] = 0.5,
) -> Schedule:
    r"""Falls slowly at first and fast in the end: a reflected exponential.

    $$ f(t) = E + (I - E)\,\frac{1 - x}{1 - \beta x}, \qquad x = \min(t / T, 1). $$

    Args:
        init_value: $I$.
        decay_steps: $T$.
        end_value: $E$, from step $T$ on.
        beta: $\beta < 1$. One half is the schedule of the paper, 0 a straight line; near
            1 it falls ever later, and below 0 fast at first.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.rex_schedule(1.0, decay_steps=10)
        >>> [round(float(f(t)), 3) for t in (0, 5, 8, 10, 99)]
        [1.0, 0.667, 0.333, 0.0, 0.0]

    References:
        J. Chen, C. Wolfe and A. Kyrillidis, [REX: revisiting budgeted training with an
        improved schedule](https://arxiv.org/abs/2107.04197), 2022.
    """

    def value(count: jax.Array) -> Any:
        left = _left(count, 0, decay_steps)
        return _between(end_value, init_value, left / (1 - beta + beta * left))

    return value


@_schedule
def piecewise_constant_schedule(
    init_value: Scalar, boundaries_and_scales: Mapping[int, Any] | None = None
) -> Schedule:
    """Multiplies the value by a scale at each boundary.

    The value changes *at* the boundary: `{100: 0.1}` takes a tenth from step 100 on, as in
    Optax and PyTorch's `MultiStepLR`. TensorFlow and Keras change one step later.

    Args:
        init_value: The value before the first boundary.
        boundaries_and_scales: For each boundary, a step, the scale >= 0.

    Raises:
        ValueError: If a boundary or a scale is negative.

    Example:
        >>> import optimjax as ox
        >>> f = ox.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.1})
        >>> [round(float(f(t)), 3) for t in (9, 10, 19, 20)]
        [1.0, 0.5, 0.5, 0.05]
    """
    steps, scales = _sorted_scales(
        boundaries_and_scales, "piecewise_constant_schedule", _checks.Integer(0)
    )

    def value(count: jax.Array) -> Any:
        now, current = jnp.broadcast_to(as_scalar(init_value), count.shape), init_value
        for step, scale in zip(steps, scales, strict=True):
            current = current * scale
            now = jnp.where(count >= step, as_scalar(current), now)
        return now

    return value


def _sorted_scales(
    boundaries_and_scales: Mapping[Any, Any] | None, name: str, step_check: Any
) -> tuple[list[Any], list[Any]]:
    where = f"`{name}(boundaries_and_scales=...)`"
    if boundaries_and_scales is not None and not isinstance(boundaries_and_scales, Mapping):
        raise TypeError(
            f"{where} must be a dict from steps to scales, such as {{100: 0.1}}, but got "
            f"{boundaries_and_scales!r}."
        )
    steps, scales = [], []
    for step, scale in sorted((boundaries_and_scales or {}).items()):
        steps.append(step_check(step, f"each step of {where}"))
        scales.append(Number("[0, inf)")(scale, f"each scale of {where}"))
    return steps, scales


@_schedule
def cosine_decay_schedule(
    init_value: Scalar,
    decay_steps: PositiveCount,
    alpha: Scalar = 0.0,
    exponent: NonNegative = 1.0,
    *,
    num_periods: NonNegative = 0.5,
    periodic: bool = False,
) -> Schedule:
    r"""Falls along half a cosine; or follows it further.

    $$ f(t) = I\,\Bigl((1 - \alpha)\,\bigl[\tfrac12
       (1 + \cos \tfrac{2 \pi n t}{T})\bigr]^{p} + \alpha\Bigr) $$

    up to step $T$, and the value of step $T$ from there, which is $\alpha I$; or, if
    `periodic`, for ever. Keras' `CosineDecay`; PyTorch's
    `CosineAnnealingLR(T_max=T, eta_min=alpha*I)` is `periodic`.

    Args:
        init_value: $I$.
        decay_steps: $T$.
        alpha: $\alpha$, the fraction of $I$ that is left (not a rate).
        exponent: $p \ge 0$.
        num_periods: $n \ge 0$, how many waves there are up to step $T$: a half, unless
            the value is to rise again on the way, as in TensorFlow's
            `linear_cosine_decay`.
        periodic: Whether the wave goes on after step $T$, where the value would rise.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.cosine_decay_schedule(1.0, decay_steps=10, alpha=0.2)
        >>> [round(float(f(t)), 3) for t in (0, 5, 10, 99)]
        [1.0, 0.6, 0.2, 0.2]
        >>> f = ox.cosine_decay_schedule(1.0, decay_steps=10, alpha=0.2, periodic=True)
        >>> [round(float(f(t)), 3) for t in (0, 5, 10, 15, 20, 30)]
        [1.0, 0.6, 0.2, 0.6, 1.0, 0.2]

    References:
        I. Loshchilov and F. Hutter, [SGDR: stochastic gradient descent with warm
        restarts](https://arxiv.org/abs/1608.03983), 2017.
    """
    halves = 2 * num_periods  # How many times it falls or rises within $T$ steps.
    giant = decay_steps >= 2**31  # No int32 holds it.
    steps = float(decay_steps) if giant else decay_steps

    def value(count: jax.Array) -> Any:
        t = as_scalar(count) if giant else count
        t = jnp.maximum(t, 0) if periodic else jnp.clip(t, 0, steps)
        wave = _wave(t, steps, halves) ** exponent
        return init_value * ((1 - alpha) * wave + alpha)

    return value


def _wave(t: jax.Array, steps: float, halves: Any) -> jax.Array:
    """`(1 + cos(pi halves t / steps)) / 2`, by integers if there is no part of a half."""
    rounds, over = t // steps, t % steps
    if isinstance(halves, float) and halves.is_integer() and halves * steps < 2**31:
        n = int(halves)
        turns = n * over // steps + n % 2 * (rounds % 2)
        over = n * over % steps
        left = jnp.where(turns % 2 == 0, steps - over, over)
        return _half_cosine(as_scalar(left) / steps)
    whole = jnp.mod(halves * as_scalar(rounds), 2)
    return jnp.square(jnp.cos(0.5 * math.pi * (whole + halves * (as_scalar(over) / steps))))


def _half_cosine(left: jax.Array) -> jax.Array:
    """`(1 + cos(pi (1 - left))) / 2`: from 1 to 0 as `left` does, exact near the end."""
    return jnp.square(jnp.sin(0.5 * math.pi * left))


@_schedule
def cosine_restarts_schedule(
    init_value: Scalar,
    first_decay_steps: PositiveCount,
    t_mul: AtLeastOne = 2.0,
    m_mul: NonNegative = 1.0,
    alpha: Scalar = 0.0,
) -> Schedule:
    r"""Falls along half a cosine, again and again, each time more slowly.

    Cycle $i = 0, 1, \dots$ takes $T\,k^i$ steps and falls from $I\,c^i$ as
    `cosine_decay_schedule` does. Keras' `CosineDecayRestarts`; PyTorch's
    `CosineAnnealingWarmRestarts(T_0, T_mult)` is $k$ = `T_mult`, $c = 1$.

    Args:
        init_value: $I$.
        first_decay_steps: $T$.
        t_mul: $k \ge 1$, by how much each cycle is longer than the last. Keras' default
            is 2, PyTorch's 1.
        m_mul: $c \ge 0$, by how much its start is higher.
        alpha: The fraction that is left at the end of a cycle.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.cosine_restarts_schedule(1.0, first_decay_steps=10)
        >>> [round(float(f(t)), 3) for t in (0, 5, 10, 20, 30)]
        [1.0, 0.5, 1.0, 0.5, 1.0]

    References:
        I. Loshchilov and F. Hutter, [SGDR: stochastic gradient descent with warm
        restarts](https://arxiv.org/abs/1608.03983), 2017.
    """
    growth = _plain(
        t_mul,
        "cosine_restarts_schedule(t_mul=...)",
        "the steps of the restarts depend on it",
    )
    starts, lengths = _cycles(first_decay_steps, growth)

    def value(count: jax.Array) -> Any:
        firsts = jnp.asarray(np.ceil(starts), count.dtype)  # The first step of each cycle.
        if growth == 1:
            cycle = count // first_decay_steps
            left = 1 - as_scalar(count % first_decay_steps) / first_decay_steps
        else:
            cycle = jnp.searchsorted(firsts, count, side="right") - 1
            late = as_scalar(jnp.asarray(np.ceil(starts) - starts))[cycle]
            over = as_scalar(count - firsts[cycle]) + late
            left = 1 - over / as_scalar(jnp.asarray(lengths))[cycle]
        top = jnp.power(as_scalar(m_mul), as_scalar(cycle))
        return init_value * ((1 - alpha) * top * _half_cosine(left) + alpha)

    return value


def _cycles(first: int, growth: float) -> tuple[np.ndarray, np.ndarray]:
    """Where each cycle starts, up to the largest step, and how long it is; in float64."""
    starts, lengths = [0.0], [float(first)]
    while growth > 1 and starts[-1] + lengths[-1] < 2**31:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)
        if len(starts) > 100_000:
            raise ValueError(
                "`cosine_restarts_schedule(t_mul=...)` must be 1 or well above, but got "
                f"{growth}, which makes more than 100,000 cycles."
            )
    return np.asarray(starts), np.asarray(lengths)


@_schedule
def cyclic_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    rise_steps: PositiveCount,
    fall_steps: Count | None = None,
    *,
    shape: Literal["linear", "cosine"] = "linear",
    amplitude: ScalarOrSchedule = 1.0,
) -> Schedule:
    r"""Rises to a peak and falls back, again and again.

    $$ f(t) = I + (P - I)\,w(t)\,a(t), $$

    where the wave $w$ rises from 0 to 1 in $U$ steps and falls back in $D$. PyTorch's
    `CyclicLR`: its mode `"triangular2"` has the amplitude
    `exponential_decay(1.0, U + D, 0.5, staircase=True)`, `"exp_range"` has
    `exponential_decay(1.0, 1, gamma)`, and its `scale_fn` is any function of the step, or
    `lambda t: scale_fn(1 + t // (U + D))`. A momentum that cycles inversely has its
    highest value for $I$ and its lowest for $P$.

    Args:
        init_value: $I$, at the start and the end of each cycle.
        peak_value: $P$, in its middle. It may lie below $I$.
        rise_steps: $U$.
        fall_steps: $D$; with 0 the value drops at once, and `None` is $U$.
        shape: Whether the wave rises and falls in straight lines or along half cosines.
        amplitude: $a$, what the height of the wave is multiplied by: a number, or a
            function of the step.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.cyclic_schedule(1.0, 3.0, rise_steps=2)
        >>> [float(f(t)) for t in range(6)]
        [1.0, 2.0, 3.0, 2.0, 1.0, 2.0]
        >>> half = ox.exponential_decay(1.0, 4, 0.5, staircase=True)
        >>> f = ox.cyclic_schedule(1.0, 3.0, rise_steps=2, amplitude=half)
        >>> [float(f(t)) for t in (0, 2, 4, 6, 8, 10)]
        [1.0, 3.0, 1.0, 2.0, 1.0, 1.5]

    References:
        L. N. Smith, [Cyclical learning rates for training neural
        networks](https://arxiv.org/abs/1506.01186), 2017.
    """
    fall = rise_steps if fall_steps is None else fall_steps

    def value(count: jax.Array) -> Any:
        t = jnp.maximum(count, 0) % (rise_steps + fall)
        down = as_scalar(rise_steps + fall - t) / max(fall, 1)
        wave = jnp.where(t <= rise_steps, as_scalar(t) / rise_steps, down)
        if shape == "cosine":
            wave = _half_cosine(wave)
        height = as_scalar(amplitude(count)) if callable(amplitude) else amplitude
        return _between(init_value, peak_value, wave * height)

    return value


@_schedule
def join_schedules(
    schedules: Sequence[ScalarOrSchedule], boundaries: Sequence[int]
) -> Schedule:
    """Follows one schedule after another, each counting its steps from 0.

    Args:
        schedules: Schedules, or numbers for constant ones; one at least.
        boundaries: The steps at which the second, third, ... take over; ascending, one
            less than `schedules`.

    Raises:
        ValueError: If the numbers of schedules and boundaries do not fit, or the
            boundaries do not ascend.

    Example:
        >>> import optimjax as ox
        >>> f = ox.join_schedules([ox.linear_schedule(0.0, 1.0, 4), 0.5], [4])
        >>> [float(f(t)) for t in (0, 2, 3, 4)]
        [0.0, 0.5, 0.75, 0.5]
    """
    schedules, boundaries = list(schedules), list(boundaries)
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            "`join_schedules(boundaries=...)` must be one fewer than the schedules, but "
            f"got {len(boundaries)} for {len(schedules)} schedules."
        )
    for boundary in boundaries:
        _checks.Integer(0)(boundary, "each of `join_schedules(boundaries=...)`")
    if any(a > b for a, b in itertools.pairwise(boundaries)):
        raise ValueError(
            "`join_schedules(boundaries=...)` must be steps in ascending order, but got "
            f"{boundaries}."
        )
    functions = [s if callable(s) else constant_schedule(s) for s in schedules]

    def value(count: jax.Array) -> Any:
        now = as_scalar(functions[0](count))
        for boundary, f in zip(boundaries, functions[1:], strict=True):
            # Before its time a schedule is asked for step 0, never for a negative one.
            then = as_scalar(f(jnp.maximum(count - boundary, 0)))
            now = jnp.where(count < boundary, now, then)
        return now

    return value


@_schedule
def warmup_schedule(
    schedule: ScalarOrSchedule, warmup_steps: Count, init_value: Scalar = 0.0
) -> Schedule:
    r"""Rises in a straight line to where a schedule begins, then follows it from there.

    $f(t) = I + \frac{t}{W} (g(0) - I)$ for $t < W$, and $g(t - W)$ from then on.

    Args:
        schedule: $g$, a schedule, or a number for a constant one.
        warmup_steps: $W$; with 0 there is no warmup.
        init_value: $I$, the value at step 0.

    Raises:
        ValueError: If `warmup_steps` is negative or a number is not finite.

    Example:
        >>> import optimjax as ox
        >>> f = ox.warmup_schedule(ox.cosine_decay_schedule(1.0, 10), warmup_steps=4)
        >>> [round(float(f(t)), 3) for t in (0, 2, 4, 9, 14)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    after = schedule if callable(schedule) else constant_schedule(schedule)

    def value(count: jax.Array) -> Any:
        peak = as_scalar(after(jnp.zeros((), jnp.int32)))
        rise = init_value + _since(count, 0, max(warmup_steps, 1)) * (peak - init_value)
        then = as_scalar(after(jnp.maximum(count - warmup_steps, 0)))
        return jnp.where(count < warmup_steps, rise, then)

    return value


@_schedule
def warmup_constant_schedule(
    init_value: Scalar, peak_value: Scalar, warmup_steps: Count
) -> Schedule:
    """Rises in a straight line, then stays: `warmup_schedule` before a constant.

    Args:
        init_value: The value at step 0.
        peak_value: The value from step `warmup_steps` on.
        warmup_steps: The length of the rise.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.warmup_constant_schedule(0.0, 1.0, warmup_steps=4)
        >>> [float(f(t)) for t in (0, 2, 4, 9)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return warmup_schedule(peak_value, warmup_steps, init_value)


@_schedule
def warmup_cosine_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Count,
    decay_steps: PositiveCount,
    end_value: Scalar = 0.0,
    exponent: NonNegative = 1.0,
) -> Schedule:
    """Rises in a straight line, then falls along half a cosine.

    Args:
        init_value: The value at step 0.
        peak_value: The value at step `warmup_steps`.
        warmup_steps: The length of the rise.
        decay_steps: The length of the whole, warmup included, as in Optax; Keras'
            `CosineDecay` counts them without.
        end_value: The value from step `decay_steps` on.
        exponent: As in `cosine_decay_schedule`.

    Raises:
        ValueError: If an argument lies outside of its range, or the warmup does not end
            before the decay.

    Example:
        >>> import optimjax as ox
        >>> f = ox.warmup_cosine_decay_schedule(0.0, 1.0, 4, decay_steps=14)
        >>> [round(float(f(t)), 3) for t in (0, 2, 4, 9, 14)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not decay_steps > warmup_steps:
        raise ValueError(
            "`warmup_cosine_decay_schedule(decay_steps=...)` counts the warmup in, so it "
            f"must exceed `warmup_steps` = {warmup_steps}, but got {decay_steps}."
        )
    fall = decay_steps - warmup_steps
    # The cosine in terms of its own end, so that a peak of zero divides nothing.
    wave = cosine_decay_schedule(1.0, fall, exponent=exponent)
    return warmup_schedule(
        lambda count: end_value + (peak_value - end_value) * wave(count),
        warmup_steps,
        init_value,
    )


@_schedule
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Rises and falls along half a cosine, again and again, each time as it is told.

    Each cycle is a `warmup_cosine_decay_schedule` and takes its `decay_steps`; the last
    one's end stays. For cycles that all follow one rule there is
    `cosine_restarts_schedule`.

    Args:
        cosine_kwargs: The arguments of each cycle, as a dict; one at least.

    Raises:
        TypeError: If a cycle has an unknown argument or lacks one.
        ValueError: If an argument lies outside of its range, or there is no cycle.

    Example:
        >>> import optimjax as ox
        >>> cycle = dict(init_value=0.0, warmup_steps=2, decay_steps=6)
        >>> f = ox.sgdr_schedule([cycle | dict(peak_value=p) for p in (1.0, 0.5)])
        >>> [round(float(f(t)), 3) for t in (0, 2, 4, 6, 8, 10, 99)]
        [0.0, 1.0, 0.5, 0.0, 0.5, 0.25, 0.0]

    References:
        I. Loshchilov and F. Hutter, [SGDR: stochastic gradient descent with warm
        restarts](https://arxiv.org/abs/1608.03983), 2017.
    """
    cycles = [dict(kwargs) for kwargs in cosine_kwargs]
    if not cycles:
        raise ValueError("`sgdr_schedule(cosine_kwargs=...)` must hold a cycle or more.")
    schedules = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cycles]
    ends = itertools.accumulate(kwargs["decay_steps"] for kwargs in cycles[:-1])
    return join_schedules(schedules, list(ends))


@_schedule
def warmup_stable_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Count,
    stable_steps: Count,
    decay_steps: PositiveCount,
    end_value: Scalar = 0.0,
    *,
    shape: Literal["linear", "cosine", "1-sqrt"] = "linear",
    exponent: NonNegative = 1.0,
) -> Schedule:
    r"""Rises in a straight line, stays, then falls: WSD.

    The fall, $x$ of which is over, is $E + (P - E)\,s(x)^p$ with

    $$ s(x) = 1 - x, \quad \tfrac12 (1 + \cos \pi x), \quad \text{or} \quad
       1 - \sqrt{x}. $$

    Since the fall is told by its own length, a run can be taken up anywhere in the middle
    and be finished from there. Another fall is spelled
    `join_schedules([warmup_constant_schedule(...), fall], [W + S])`; MiniCPM's is
    `exponential_decay(P, n, 0.5)`.

    Args:
        init_value: The value at step 0.
        peak_value: $P$, the value from step $W$ to step $W + S$.
        warmup_steps: $W$, the length of the rise.
        stable_steps: $S$, how long the value stays.
        decay_steps: The length of the fall alone.
        end_value: $E$, the value after the fall.
        shape: $s$: a straight line, half a cosine, or `"1-sqrt"`, the fastest at first.
        exponent: $p \ge 0$; with a straight line, a power of the time that is left.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.warmup_stable_decay_schedule(0.0, 1.0, 4, 10, 4, shape="1-sqrt")
        >>> [float(f(t)) for t in (0, 2, 4, 14, 15, 18, 99)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]

    References:
        S. Hu et al., [MiniCPM](https://arxiv.org/abs/2404.06395), 2024.

        A. Hägele et al., [Scaling laws and compute-optimal training beyond fixed training
        durations](https://arxiv.org/abs/2405.18392), 2024.
    """

    def fall(count: jax.Array) -> Any:
        left = _left(count, stable_steps, decay_steps)
        if shape == "cosine":
            left = _half_cosine(left)
        elif shape == "1-sqrt":  # As `left / (1 + sqrt(x))`, which is exact near the end.
            left = left / (1 + jnp.sqrt(_since(count, stable_steps, decay_steps)))
        return _between(end_value, peak_value, left**exponent)

    return warmup_schedule(fall, warmup_steps, init_value)


@_schedule
def warmup_exponential_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: Count,
    transition_steps: Count,
    decay_rate: Positive,
    transition_begin: Count = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    """Rises in a straight line, then follows `exponential_decay`.

    Args:
        init_value: The value at step 0.
        peak_value: The value at step `warmup_steps`.
        warmup_steps: The length of the rise.
        transition_steps: As in `exponential_decay`, as is the rest.
        decay_rate: The rate.
        transition_begin: How many steps after the warmup the decay begins.
        staircase: Whether to fall in stairs.
        end_value: Where to stop.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.warmup_exponential_decay_schedule(0.0, 1.0, 4, 10, 0.25)
        >>> [float(f(t)) for t in (0, 2, 4, 9, 14)]
        [0.0, 0.5, 1.0, 0.5, 0.25]
    """
    fall = exponential_decay(
        peak_value,
        transition_steps,
        decay_rate,
        transition_begin,
        staircase,
        end_value,
    )
    return warmup_schedule(fall, warmup_steps, init_value)


@_schedule
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Scalar,
    boundaries_and_scales: Mapping[Any, Any] | None = None,
) -> Schedule:
    """Moves from value to value, each reached at its boundary.

    The value at each boundary is that at the one before times its scale; between them it
    moves in a straight line or along half a cosine, and after the last it stays. PyTorch's
    `OneCycleLR(P, N)` is `{pct_start * N - 1: div_factor, N - 1: 1 / (div_factor *
    final_div_factor)}` from `P / div_factor`, and with `three_phase` it is
    `{pct_start * N - 1: div_factor, 2 * pct_start * N - 2: 1 / div_factor, N - 1: 1 /
    final_div_factor}`.

    Args:
        interpolate_type: `"linear"` or `"cosine"`.
        init_value: The value at step 0.
        boundaries_and_scales: For each boundary, a time >= 0 that may lie between two
            steps, the scale >= 0.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.piecewise_interpolate_schedule("linear", 1.0, {10: 3.0, 20: 0.0})
        >>> [float(f(t)) for t in (0, 5, 10, 15, 99)]
        [1.0, 2.0, 3.0, 1.5, 0.0]
    """
    steps, scales = _sorted_scales(
        boundaries_and_scales, "piecewise_interpolate_schedule", Number("[0, inf)")
    )
    return _through(interpolate_type, init_value, list(zip(steps, scales, strict=True)))


def _through(kind: str, init_value: Any, points: Sequence[tuple[float, Any]]) -> Schedule:
    """From `init_value` through the points in turn: at each time the scale applies."""

    def value(count: jax.Array) -> Any:
        now = jnp.broadcast_to(as_scalar(init_value), count.shape)
        begin, low = 0, init_value
        for end, scale in points:
            high = low * scale
            # Of an end between two steps, the whole and the rest are subtracted apart.
            whole = math.ceil(end)
            over = jnp.clip(count, math.ceil(begin), whole)
            left = as_scalar(whole - over) - (whole - end)
            left = jnp.maximum(left, 0) / max(end - begin, _TINY)
            if kind == "cosine":
                left = _half_cosine(left)
            now = jnp.where(count >= math.ceil(begin), high + (low - high) * left, now)
            begin, low = end, high
        return jnp.where(count >= math.ceil(begin), as_scalar(low), now)

    return value


_TINY = 1e-30  # In place of the length of a segment of none, where no step lies.


@_schedule
def cosine_onecycle_schedule(
    transition_steps: PositiveCount,
    peak_value: Scalar,
    pct_start: Fraction = 0.3,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
) -> Schedule:
    """Rises to a peak along half a cosine, and falls far below its start along another.

    From `peak_value / div_factor` at step 0 to `peak_value` at step
    `int(pct_start * transition_steps)`, to `peak_value / (div_factor *
    final_div_factor)` at step `transition_steps` and after. PyTorch's `OneCycleLR` gets to
    each of them one step earlier: see `piecewise_interpolate_schedule`.

    Args:
        transition_steps: The length of the cycle.
        peak_value: The highest value.
        pct_start: The fraction of the cycle that is spent rising.
        div_factor: What the start is divided by.
        final_div_factor: What the start is divided by to give the end.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.cosine_onecycle_schedule(100, 1.0)
        >>> [round(float(f(t)), 4) for t in (0, 30, 65, 100)]
        [0.04, 1.0, 0.5, 0.0]

    References:
        L. N. Smith and N. Topin, [Super-convergence](https://arxiv.org/abs/1708.07120),
        2018.
    """
    rise = _plain(pct_start, "cosine_onecycle_schedule(pct_start=...)", _FIXES_STEPS)
    points = [
        (int(rise * transition_steps), div_factor),
        (transition_steps, 1.0 / (div_factor * final_div_factor)),
    ]
    return _through("cosine", peak_value / div_factor, points)


_FIXES_STEPS = "it fixes the steps at which the schedule turns"


@_schedule
def linear_onecycle_schedule(
    transition_steps: PositiveCount,
    peak_value: Scalar,
    pct_start: Fraction = 0.3,
    pct_final: Fraction = 0.85,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
) -> Schedule:
    """Rises to a peak in a straight line, falls back, and falls on, in two more.

    From `peak_value / div_factor` at step 0 to `peak_value` at step
    `int(pct_start * transition_steps)`, back at step `int(pct_final * transition_steps)`,
    to `peak_value / (div_factor * final_div_factor)` at step `transition_steps` and after.

    Args:
        transition_steps: The length of the cycle.
        peak_value: The highest value.
        pct_start: The fraction of the cycle that is spent rising.
        pct_final: The fraction of the cycle after which the last fall begins.
        div_factor: What the peak is divided by to give the start.
        final_div_factor: What the start is divided by to give the end.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import optimjax as ox
        >>> f = ox.linear_onecycle_schedule(100, 1.0)
        >>> [round(float(f(t)), 4) for t in (0, 30, 85, 100)]
        [0.04, 1.0, 0.04, 0.0]
    """
    rise = _plain(pct_start, "linear_onecycle_schedule(pct_start=...)", _FIXES_STEPS)
    back = _plain(pct_final, "linear_onecycle_schedule(pct_final=...)", _FIXES_STEPS)
    if not rise <= back:
        raise ValueError(
            "`linear_onecycle_schedule(pct_final=...)` must be at least `pct_start` = "
            f"{rise}, but got {back}."
        )
    points = [
        (int(rise * transition_steps), div_factor),
        (int(back * transition_steps), 1.0 / div_factor),
        (transition_steps, 1.0 / final_div_factor),
    ]
    return _through("linear", peak_value / div_factor, points)
