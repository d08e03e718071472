"""Smoothing: running sums and means of past updates, and the corrections of their bias.

These change the direction and leave the gradient that it came from alone, so that a
later `scale_by_rms` still sees the gradient.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise, remembering, slot_like
from ..typing import (
    Decay,
    DecayOrSchedule,
    FractionOrSchedule,
    NonNegative,
    ScalarOrSchedule,
    StorageDtype,
)


class ScaleByMomentumState(NamedTuple):
    """State of `scale_by_momentum`."""

    count: jax.Array  # t, (), int32: the steps taken.
    momentum: Params  # m, shaped like the params; float32 or wider, or `dtype`.

    directions = ("momentum",)


def _momentum(
    g: jax.Array, m: jax.Array, *, decay: Any, gain: Any, ahead: Any, nesterov: bool
) -> tuple[jax.Array, jax.Array]:
    m = numerics.decay_and_add(m, gain * g, decay)
    return numerics.decay_and_add(m, ahead * g, decay) if nesterov else m, m


@transformation(state=ScaleByMomentumState, smooths=True, packable=True)
def scale_by_momentum(
    decay: FractionOrSchedule = 0.9,
    *,
    dampening: FractionOrSchedule = 0.0,
    nesterov: bool = False,
    undamped_start: bool = False,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Replaces each update by a decaying sum, or a running mean, of the updates so far.

    With $m_0 = 0$, decay $\beta$ and dampening $\tau$,

    $$ m_t = \beta\, m_{t-1} + (1 - \tau)\, g_t, \qquad u_t = m_t, $$

    or, if `nesterov`, $u_t = \beta\, m_t + (1 - \tau)\, g_t$: the value that $m_{t+1}$
    would take were $g_t$ to come again.

    Without dampening this is the heavy ball: a constant $g$ tends to $g / (1 - \beta)$.
    With `dampening` equal to `decay` it is the running mean, and $m_t / (1 - \beta^t)$ is
    free of the bias towards the zero that it started from (`add_bias_correction`).

    Put `scale_by_learning_rate` behind it for the momentum of PyTorch, TensorFlow 1 and
    Optax, before it for that of Keras (the rate inside the velocity), which is Polyak's
    $x_{t+1} = x_t - \eta\, g_t + \beta (x_t - x_{t-1})$. While the rate is constant, the
    two are one; when it changes, they part.

    Args:
        decay: $\beta$, in $[0, 1]$: a number, a traced scalar, or a schedule. With 1 it is
            the plain sum.
        dampening: $\tau$, in $[0, 1]$, likewise.
        nesterov: Whether to look one step ahead.
        undamped_start: Whether $m_1 = g_1$ whatever the dampening, as in PyTorch.
        dtype: The dtype in which $m$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByMomentumState`.

    Raises:
        ValueError: If `decay` or `dampening` lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_momentum(0.5)
        >>> state = t.init(jnp.zeros(2))
        >>> for _ in range(3):
        ...     updates, state = t.update(jnp.array([1.0, -2.0]), state)
        ...     print(updates)
        [ 1. -2.]
        [ 1.5 -3. ]
        [ 1.75 -3.5 ]

    References:
        B. T. Polyak, [Some methods of speeding up the convergence of iteration
        methods](https://doi.org/10.1016/0041-5553(64)90137-5), 1964.
        I. Sutskever et al., [On the importance of initialization and momentum in deep
        learning](https://proceedings.mlr.press/v28/sutskever13.html), 2013, for
        Nesterov's method; with the gradient taken at the point itself, as in
        Y. Bengio et al., [Advances in optimizing recurrent
        networks](https://arxiv.org/abs/1212.0901), 2012, and every framework.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        gain = 1 - numerics.at_step(dampening, t - 1)
        first = t == 1
        return {
            "decay": numerics.at_step(decay, t - 1),
            "gain": jnp.where(first, 1.0, gain) if undamped_start else gain,
            "ahead": gain,
        }

    return remembering(
        ScaleByMomentumState,
        _momentum,
        {"momentum": functools.partial(slot_like, dtype=dtype)},
        at=at,
        nesterov=nesterov,
    )


class EmaState(NamedTuple):
    """State of `ema`."""

    count: jax.Array  # t, (), int32: the steps taken.
    ema: Params  # m, shaped like the params; float32 or wider, or `dtype`.

    directions = ("ema",)


def _ema(
    g: jax.Array, m: jax.Array, *, decay: Any, correction: Any
) -> tuple[jax.Array, jax.Array]:
    m = numerics.decay_and_add(m, (1 - decay) * g, decay)
    return numerics.times(correction, m), m


@transformation(state=EmaState, smooths=True, packable=True)
def ema(
    decay: Decay, *, debias: bool = True, dtype: StorageDtype | None = None
) -> GradientTransformation:
    r"""Replaces each update by the exponential moving average of the updates so far.

    $$ m_t = \beta\, m_{t-1} + (1 - \beta)\, g_t, \qquad u_t = m_t / (1 - \beta^t), $$

    or $u_t = m_t$ without `debias`. The same as `scale_by_momentum(b, dampening=b)`,
    followed by `add_bias_correction(b)` if debiased, in one stage.

    Args:
        decay: $\beta$, in $[0, 1)$. May be traced.
        debias: Whether to divide the bias towards zero out of the mean.
        dtype: As in `scale_by_momentum`.

    Returns:
        A `GradientTransformation` with an `EmaState`.

    Raises:
        ValueError: If `decay` lies outside of $[0, 1)$.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.ema(0.5)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (3.0, 6.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [3.]
        [5.]
    """
    return remembering(
        EmaState,
        _ema,
        {"ema": functools.partial(slot_like, dtype=dtype)},
        at=lambda t: {"correction": numerics.debiasing(decay, t) if debias else 1.0},
        decay=decay,
    )


class AddBiasCorrectionState(NamedTuple):
    """State of `add_bias_correction`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _rescale(u: jax.Array, *, gain: Any, factor: Any = 1.0) -> jax.Array:
    return numerics.times(gain, u) * factor


def _look_further(
    m: jax.Array, g: jax.Array, *, of_mean: Any, of_gradient: Any
) -> jax.Array:
    return of_mean * m + of_gradient * g


def _look_ahead(
    m: jax.Array,
    g: jax.Array,
    *,
    decay: Any,
    of_mean: Any,
    of_gradient: Any,
    factor: Any = 1.0,
) -> jax.Array:
    ahead = numerics.times(of_mean, numerics.times(decay, m))
    return (ahead + numerics.times(of_gradient, (1 - decay) * g)) * factor


@transformation(state=AddBiasCorrectionState, smooths=True, packable=True)
def add_bias_correction(
    decay: DecayOrSchedule, *, rms_decay: Decay | None = None, nesterov: bool = False
) -> GradientTransformation:
    r"""Divides the bias towards zero out of a running mean that started there.

    After $t$ steps a mean with decay $\beta$ has given away $\beta^t$ of its weight to
    its start, so, for $t = 1, 2, \dots$,

    $$ u_t = m_t / (1 - \beta^t). $$

    With `rms_decay` $= \beta_2$ it is multiplied by $\sqrt{1 - \beta_2^t}$ besides, which
    corrects a preceding `scale_by_rms(b2, ...)` that did not correct itself: Adam as
    TensorFlow and Keras compute it, whose epsilon counts for $1 / \sqrt{1 - \beta_2^t}$
    times as much as that of the paper's Algorithm 1.

    With `nesterov`, Nadam's direction, of the mean that the next step would see:

    $$ u_t = \frac{\beta\, m_t}{1 - \beta^{t+1}} + \frac{(1 - \beta)\, g_t}{1 - \beta^t},
    $$

    where $g_t$ is the gradient that $m_t$ was made of (see `chain`).

    Args:
        decay: $\beta$, in $[0, 1)$, that of the mean: a number, a traced scalar, or a
            schedule, whose newest value counts for all steps, as in PyTorch.
        rms_decay: $\beta_2$, in $[0, 1)$, or `None` to leave the second moment alone.
        nesterov: Whether to look one step ahead.

    Returns:
        A `GradientTransformation` with an `AddBiasCorrectionState`.

    Raises:
        ValueError: If a decay lies outside of $[0, 1)$.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(
        ...     ox.scale_by_momentum(0.9, dampening=0.9), ox.add_bias_correction(0.9)
        ... )
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1. -2.]

    References:
        D. P. Kingma and J. Ba, [Adam: a method for stochastic
        optimization](https://arxiv.org/abs/1412.6980), 2015; section 2 for the form with
        `rms_decay`.
        T. Dozat, [Incorporating Nesterov momentum into
        Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016, with a constant
        decay; for his schedule, see `add_nadam_correction`.
    """

    def init(params: Params) -> OptState:
        del params
        return AddBiasCorrectionState(jnp.zeros((), jnp.int32))

    def update(
        updates: Updates,
        state: AddBiasCorrectionState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = numerics.increment(state.count)
        b = numerics.at_step(decay, state.count)
        now = numerics.debiasing(b, count)
        factor = 1.0
        if rms_decay is not None:
            factor = jnp.sqrt(numerics.one_minus_power(rms_decay, count))
        if nesterov:
            ahead = numerics.debiasing(b, numerics.as_scalar(count) + 1)
            updates = leafwise(
                _look_ahead,
                updates,
                reads=(gradient,),
                decay=b,
                of_mean=ahead,
                of_gradient=now,
                factor=factor,
            )
        else:
            updates = leafwise(_rescale, updates, gain=now, factor=factor)
        return updates, AddBiasCorrectionState(count)

    return GradientTransformation(init, update)


class AddNadamCorrectionState(NamedTuple):
    """State of `add_nadam_correction`."""

    count: jax.Array  # t, (), int32: the steps taken.
    product: jax.Array  # mu_1 ... mu_t, (), float32 or wider.


@transformation(state=AddNadamCorrectionState, smooths=True, packable=True)
def add_nadam_correction(
    decay: Decay = 0.9, momentum_decay: NonNegative = 0.004
) -> GradientTransformation:
    r"""Looks one step ahead, as Nadam does, along a decay that warms up.

    $$ \mu_t = \beta\, (1 - \tfrac12\, 0.96^{\psi t}), \qquad
       u_t = \frac{(1 - \mu_t)\, g_t}{1 - \prod_{i \le t} \mu_i}
           + \frac{\mu_{t+1}\, m_t}{1 - \prod_{i \le t+1} \mu_i}, $$

    where $m_t$ is the running mean with the constant decay $\beta$, and $g_t$ the
    gradient that it was made of (see `chain`).

    Args:
        decay: $\beta$, in $[0, 1)$, that of the mean.
        momentum_decay: $\psi \ge 0$. The paper, PyTorch and Keras 2 have 0.004; Keras 3
            has 1, which warms up 250 times faster. For a constant $\mu = \beta$, as in
            Optax, use `add_bias_correction(..., nesterov=True)`.

    Returns:
        A `GradientTransformation` with an `AddNadamCorrectionState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(
        ...     ox.scale_by_momentum(0.9, dampening=0.9), ox.add_nadam_correction(0.9)
        ... )
        >>> updates, _ = t.update(jnp.array([1.0]), t.init(jnp.zeros(1)))
        >>> print(updates)
        [1.0564]

    References:
        T. Dozat, [Incorporating Nesterov momentum into
        Adam](https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ), 2016.
    """

    def mu(t: jax.Array) -> Any:
        return decay * (1 - 0.5 * jnp.power(0.96, momentum_decay * t))

    def init(params: Params) -> OptState:
        del params
        return AddNadamCorrectionState(jnp.zeros((), jnp.int32), numerics.as_scalar(1.0))

    def update(
        updates: Updates,
        state: AddNadamCorrectionState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = numerics.increment(state.count)
        t = numerics.as_scalar(count)
        now, ahead = mu(t), mu(t + 1)
        product = (state.product * now).astype(state.product.dtype)
        updates = leafwise(
            _look_further,
            updates,
            reads=(gradient,),
            of_mean=ahead / (1 - product * ahead),
            of_gradient=(1 - now) / (1 - product),
        )
        return updates, AddNadamCorrectionState(count, product)

    return GradientTransformation(init, update)


class AddGradientState(NamedTuple):
    """State of `add_gradient`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _plus(u: jax.Array, g: jax.Array, *, factor: Any) -> jax.Array:
    return u + factor * g


@transformation(state=AddGradientState, smooths=True, packable=True)
def add_gradient(factor: ScalarOrSchedule) -> GradientTransformation:
    r"""Adds a multiple of the newest gradient to the direction: $u_t = d_t + c_t\, g_t$.

    $g_t$ is the gradient that the direction came from (see `chain`); alone they are the
    same. Behind `scale_by_momentum` it weighs the newest gradient apart, as
    quasi-hyperbolic momentum and simplified AdEMAMix do.

    Args:
        factor: $c$: a number, a traced scalar, or a schedule.

    Returns:
        A `GradientTransformation` with an `AddGradientState`.

    Raises:
        ValueError: If `factor` is not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.scale_by_momentum(0.5), ox.add_gradient(2.0))
        >>> updates, _ = t.update(jnp.array([1.0]), t.init(jnp.zeros(1)))
        >>> print(updates)
        [3.]

    References:
        J. Ma and D. Yarats, [Quasi-hyperbolic momentum and Adam for deep
        learning](https://arxiv.org/abs/1810.06801), 2019.
        D. Morwani et al., [Connections between schedule-free optimizers, AdEMAMix, and
        accelerated SGD variants](https://arxiv.org/abs/2502.02431), 2025.
    """
    return remembering(
        AddGradientState,
        _plus,
        {},
        reads=("gradient",),
        at=lambda t: {"factor": numerics.at_step(factor, t - 1)},
    )


class ScaleByOptimisticGradientState(NamedTuple):
    """State of `scale_by_optimistic_gradient`."""

    count: jax.Array  # t, (), int32: the steps taken.
    previous: Params  # The update that came in before, shaped like the params.

    directions = ("previous",)


def _optimistic(
    g: jax.Array, old: jax.Array, *, alpha: Any, beta: Any, first: Any
) -> tuple[jax.Array, jax.Array]:
    return alpha * g + beta * jnp.where(first, 0, g - old), g


@transformation(state=ScaleByOptimisticGradientState, packable=True)
def scale_by_optimistic_gradient(
    alpha: ScalarOrSchedule = 1.0, beta: ScalarOrSchedule = 1.0
) -> GradientTransformation:
    r"""Adds what changed since the last step, as if it would change so again.

    $$ u_t = \alpha_t\, g_t + \beta_t\, (g_t - g_{t-1}), \qquad u_1 = \alpha_1\, g_1. $$

    Args:
        alpha: $\alpha$: a number, a traced scalar, or a schedule.
        beta: $\beta$, likewise.

    Returns:
        A `GradientTransformation` with a `ScaleByOptimisticGradientState`.

    Raises:
        ValueError: If an argument is not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_optimistic_gradient()
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (1.0, 3.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [1.]
        [5.]

    References:
        A. Mokhtari, A. Ozdaglar and S. Pattathil, [A unified analysis of extra-gradient and
        optimistic gradient methods](https://arxiv.org/abs/1901.08511), 2019.
    """
    return remembering(
        ScaleByOptimisticGradientState,
        _optimistic,
        {"previous": slot_like},
        at=lambda t: {
            "first": t == 1,
            "alpha": numerics.at_step(alpha, t - 1),
            "beta": numerics.at_step(beta, t - 1),
        },
    )
