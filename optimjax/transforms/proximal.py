"""Methods that say where the parameters shall be, and step there.

The proximal map of a penalty, with exact zeros; and the methods of dual averaging, which
keep a sum of gradients and set the parameters from it: FTRL, AdaGrad's dual form, MADGRAD.
Their update is the new parameter minus the old one.
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from .._checks import Number
from ..base import (
    GradientTransformation,
    Params,
    Updates,
    counting,
    transformation,
)
from ..tree import leafwise, remembering, slot_like, slot_of
from ..typing import Decay, NonNegative, NonNegativeOrSchedule


class SoftThresholdState(NamedTuple):
    """State of `soft_threshold`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _shrunk(x: jax.Array, threshold: Any) -> jax.Array:
    return jnp.sign(x) * jnp.maximum(numerics.modulus(x) - threshold, 0)


def _soft(u: jax.Array, p: jax.Array, *, threshold: Any, shrinkage: Any) -> jax.Array:
    return numerics.over(_shrunk(p + u, threshold), 1 + shrinkage) - p


@transformation(state=SoftThresholdState, packable=True)
def soft_threshold(
    threshold: NonNegativeOrSchedule = 0.0, *, shrinkage: NonNegativeOrSchedule = 0.0
) -> GradientTransformation:
    r"""Makes the step end where the proximal map of an elastic-net penalty puts it.

    With $w = p + u$ the point that the updates lead to,

    $$ p' = \frac{\mathrm{sign}(w) \max(|w| - \tau, 0)}{1 + \sigma}, \qquad u' = p' - p, $$

    the minimiser of $\tfrac12 |p' - w|^2 + \tau |p'| + \tfrac{\sigma}{2} |p'|^2$.
    Parameters become exactly zero. It stands last, behind the learning rate: with
    $\tau = \eta \lambda_1$ and $\sigma = \eta \lambda_2$ behind plain gradient descent it
    is TensorFlow 1's `ProximalGradientDescentOptimizer`.

    Args:
        threshold: $\tau \ge 0$: a number, a traced scalar, or a schedule.
        shrinkage: $\sigma \ge 0$, likewise.

    Returns:
        A `GradientTransformation` with a `SoftThresholdState`. It needs the params.

    Raises:
        ValueError: If an argument is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.soft_threshold(0.5)
        >>> params = jnp.array([2.0, 0.25, -2.0])
        >>> updates, _ = t.update(jnp.zeros(3), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [ 1.5  0.  -1.5]

    References:
        J. Duchi and Y. Singer, [Efficient online and batch learning using forward
        backward splitting](https://jmlr.org/papers/v10/duchi09a.html), 2009.
    """

    def move(updates: Updates, params: Params, count: jax.Array) -> Updates:
        return leafwise(
            _soft,
            updates,
            reads=(params,),
            threshold=numerics.at_step(threshold, count),
            shrinkage=numerics.at_step(shrinkage, count),
        )

    return counting(SoftThresholdState, move)


class ProximalGradientDescentState(NamedTuple):
    """State of `proximal_gradient_descent`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _proximal_descent(
    g: jax.Array, p: jax.Array, *, rate: Any, l1: Any, l2: Any
) -> jax.Array:
    return _soft(-rate * g, p, threshold=rate * l1, shrinkage=rate * l2)


@transformation(state=ProximalGradientDescentState, packable=True)
def proximal_gradient_descent(
    learning_rate: NonNegativeOrSchedule,
    *,
    l1: NonNegative = 0.0,
    l2: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Gradient descent whose steps end where an elastic-net penalty puts them (ISTA).

    $$ w = p_t - \eta_t\, g_t, \qquad
       p_{t+1} = \frac{\mathrm{sgn}(w) \max(|w| - \eta_t \lambda_1, 0)}
       {1 + \eta_t \lambda_2}. $$

    Behind another optimizer, `soft_threshold` does the same.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        l1: $\lambda_1 \ge 0$, for exact zeros. May be traced, as may be `l2`.
        l2: $\lambda_2 \ge 0$.

    Returns:
        A `GradientTransformation` with a `ProximalGradientDescentState`. It needs the
        params.

    Raises:
        ValueError: If an argument is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.proximal_gradient_descent(0.5, l1=1.0)
        >>> params = jnp.array([2.0, 0.25])
        >>> updates, _ = t.update(jnp.zeros(2), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [1.5 0. ]

    References:
        A. Beck and M. Teboulle, [A fast iterative shrinkage-thresholding algorithm for
        linear inverse problems](https://doi.org/10.1137/080716542), 2009, for ISTA.
    """
    return remembering(
        ProximalGradientDescentState,
        _proximal_descent,
        {},
        reads=("params",),
        at=lambda t: {"rate": numerics.rate_at(learning_rate, t - 1)},
        l1=l1,
        l2=l2,
    )


class ProximalAdagradState(NamedTuple):
    """State of `proximal_adagrad`."""

    count: jax.Array  # t, (), int32: the steps taken.
    sum_of_squares: Params  # s, shaped like the params; real.


def _proximal_adagrad(
    g: jax.Array, s: jax.Array, p: jax.Array, *, rate: Any, l1: Any, l2: Any
) -> tuple[jax.Array, jax.Array]:
    s = s + numerics.abs_sq(g)
    own_rate = numerics.divide(rate * jnp.ones_like(s), numerics.sqrt(s))
    u = _soft(-own_rate * g, p, threshold=own_rate * l1, shrinkage=own_rate * l2)
    return u, s


@transformation(state=ProximalAdagradState, packable=True)
def proximal_adagrad(
    learning_rate: NonNegativeOrSchedule,
    initial_accumulator_value: NonNegative = 0.1,
    *,
    l1: NonNegative = 0.0,
    l2: NonNegative = 0.0,
) -> GradientTransformation:
    r"""AdaGrad whose steps end where an elastic-net penalty puts them, as in TensorFlow 1.

    $$ s_t = s_{t-1} + |g_t|^2, \qquad \eta = \eta_t / \sqrt{s_t}, \qquad
       w = p_t - \eta\, g_t, $$
    $$ p_{t+1} = \frac{\mathrm{sgn}(w) \max(|w| - \eta \lambda_1, 0)}{1 + \eta \lambda_2},
    $$

    and $p_{t+1} = p_t$ where $s_t = 0$.

    Args:
        learning_rate: $\eta_t \ge 0$, a number, a traced scalar, or a schedule.
        initial_accumulator_value: $s_0 \ge 0$.
        l1: $\lambda_1 \ge 0$. May be traced, as may be `l2`.
        l2: $\lambda_2 \ge 0$.

    Returns:
        A `GradientTransformation` with a `ProximalAdagradState`. It needs the params.

    Raises:
        ValueError: If an argument is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.proximal_adagrad(1.0, 0.0, l1=0.5)
        >>> params = jnp.array([2.0, 0.5])
        >>> updates, _ = t.update(jnp.array([0.5, 0.25]), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [0. 0.]

    References:
        J. Duchi, E. Hazan and Y. Singer, [Adaptive subgradient methods for online
        learning and stochastic optimization](https://jmlr.org/papers/v12/duchi11a.html),
        2011.
    """
    return remembering(
        ProximalAdagradState,
        _proximal_adagrad,
        {
            "sum_of_squares": lambda params: slot_like(
                params, initial_accumulator_value, real=True
            )
        },
        reads=("params",),
        at=lambda t: {"rate": numerics.rate_at(learning_rate, t - 1)},
        l1=l1,
        l2=l2,
    )


class FtrlState(NamedTuple):
    """State of `ftrl`. Both slots are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    linear: Params  # z, the sum of gradients less that of the proximal terms.
    sum_of_squares: Params  # n, real.

    directions = ("linear",)


def _power_and_growth(n: jax.Array, added: jax.Array, power: float) -> Any:
    """`(n + added)**power`, and by how much that is more than `n**power`.

    Where little is added, the difference of the two would cancel.
    """
    new = n + added
    if power == 0.5:
        root, old = numerics.sqrt(new), numerics.sqrt(n)
        return root, numerics.divide(added, root + old)
    root, old = jnp.power(new, power), jnp.power(n, power)
    share = numerics.divide(added, new)
    small = share < 0.5
    fine = -root * jnp.expm1(power * jnp.log1p(-jnp.where(small, share, 0)))
    return root, jnp.where(small, fine, root - old)


def _ftrl(
    g: jax.Array,
    z: jax.Array,
    n: jax.Array,
    p: jax.Array,
    *,
    rate: Any,
    power: Any,
    l1: Any,
    l2: Any,
    l2_shrinkage: Any,
    beta: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # What is finite, and has no square that is, is left out.
    g = jnp.where(jnp.isinf(numerics.abs_sq(g)) & jnp.isfinite(g), 0, g)
    square = numerics.abs_sq(g)
    new_n = n + square
    root, growth = _power_and_growth(n, square, power)
    still = rate == 0  # A rate of zero: nothing moves, and nothing is remembered.
    safe = jnp.where(still, 1, rate)
    new_z = z + g + 2 * l2_shrinkage * p - growth / safe * p
    curvature = (root + beta) / safe + 2 * l2
    u = numerics.divide(-_shrunk(new_z, l1), curvature) - p
    return (
        jnp.where(still, 0, u),
        jnp.where(still, z, new_z),
        jnp.where(still, n, new_n),
    )


@transformation(state=FtrlState, packable=True)
def ftrl(
    learning_rate: NonNegativeOrSchedule,
    # No number by default, which `optax.inject_hyperparams` would trace.
    learning_rate_power: Annotated[float, Number("(-inf, 0]", plain=True)] | None = None,
    initial_accumulator_value: NonNegative = 0.1,
    *,
    l1: NonNegative = 0.0,
    l2: NonNegative = 0.0,
    l2_shrinkage: NonNegative = 0.0,
    beta: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Follows the regularised leader, with a rate for each number: FTRL-Proximal.

    With $q = -$ `learning_rate_power`,

    $$ n_t = n_{t-1} + |g_t|^2, \qquad
       z_t = z_{t-1} + g_t + 2 \lambda_s p_t - \frac{n_t^q - n_{t-1}^q}{\eta_t}\, p_t, $$
    $$ p_{t+1} = -\,\frac{\mathrm{sgn}(z_t) \max(|z_t| - \lambda_1, 0)}
       {(n_t^q + \beta) / \eta_t + 2 \lambda_2}, $$

    as TensorFlow and Keras compute it. The parameters are set, not moved: one that never
    gets a gradient is 0 after the first step.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule. At 0 a step
            changes nothing, the state included.
        learning_rate_power: $-q \le 0$, a plain number; `None` for the paper's -0.5.
        initial_accumulator_value: $n_0 \ge 0$.
        l1: $\lambda_1 \ge 0$, for exact zeros. May be traced, as may be the rest.
        l2: $\lambda_2 \ge 0$.
        l2_shrinkage: $\lambda_s \ge 0$, a penalty on size that counts as a gradient, but
            not in $n$.
        beta: $\beta \ge 0$.

    Returns:
        A `GradientTransformation` with an `FtrlState`. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.ftrl(0.5, l1=1.0)
        >>> params = jnp.array([0.0, 0.0])
        >>> updates, _ = t.update(jnp.array([2.0, -0.5]), t.init(params), params)
        >>> print(updates)
        [-0.2469324  0.       ]

    References:
        H. B. McMahan et al., [Ad click prediction: a view from the
        trenches](https://doi.org/10.1145/2487575.2488200), 2013.
    """
    power = -0.5 if learning_rate_power is None else learning_rate_power
    return remembering(
        FtrlState,
        _ftrl,
        {
            "linear": slot_like,
            "sum_of_squares": lambda params: slot_like(
                params, initial_accumulator_value, real=True
            ),
        },
        reads=("params",),
        at=lambda t: {"rate": numerics.rate_at(learning_rate, t - 1)},
        power=-power,
        l1=l1,
        l2=l2,
        l2_shrinkage=l2_shrinkage,
        beta=beta,
    )


class AdagradDualAveragingState(NamedTuple):
    """State of `adagrad_dual_averaging`. Both slots are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    sum_of_gradients: Params  # a.
    sum_of_squares: Params  # s, real.

    directions = ("sum_of_gradients",)


def _dual_averaging(
    g: jax.Array,
    a: jax.Array,
    s: jax.Array,
    p: jax.Array,
    *,
    rate: Any,
    l1: Any,
    l2: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    a = a + g
    s = s + numerics.abs_sq(g)
    new = numerics.divide(-rate * _shrunk(a, l1), l2 * rate + numerics.sqrt(s))
    return new - p, a, s


@transformation(state=AdagradDualAveragingState, packable=True)
def adagrad_dual_averaging(
    learning_rate: NonNegativeOrSchedule,
    initial_accumulator_value: NonNegative = 0.1,
    *,
    l1: NonNegative = 0.0,
    l2: NonNegative = 0.0,
) -> GradientTransformation:
    r"""AdaGrad that sets the parameters from the sum of all gradients, as in TensorFlow 1.

    $$ a_t = a_{t-1} + g_t, \qquad s_t = s_{t-1} + |g_t|^2, \qquad
       p_{t+1} = -\eta_t\, \frac{\mathrm{sgn}(a_t) \max(|a_t| - t\, \lambda_1, 0)}
       {t\, \lambda_2\, \eta_t + \sqrt{s_t}}, $$

    $t = 1, 2, \dots$ What the parameters were at the start is forgotten at the first step.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        initial_accumulator_value: $s_0 \ge 0$.
        l1: $\lambda_1 \ge 0$, for exact zeros. May be traced, as may be `l2`.
        l2: $\lambda_2 \ge 0$.

    Returns:
        A `GradientTransformation` with an `AdagradDualAveragingState`. It needs the params.

    Raises:
        ValueError: If an argument is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.adagrad_dual_averaging(1.0, 0.0, l1=1.0)
        >>> params = jnp.array([5.0, 5.0])
        >>> updates, _ = t.update(jnp.array([2.0, -0.5]), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [-0.5  0. ]

    References:
        J. Duchi, E. Hazan and Y. Singer, [Adaptive subgradient methods for online
        learning and stochastic optimization](https://jmlr.org/papers/v12/duchi11a.html),
        2011.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        steps = numerics.as_scalar(t)
        rate = numerics.rate_at(learning_rate, t - 1)
        return {"rate": rate, "l1": l1 * steps, "l2": l2 * steps}

    return remembering(
        AdagradDualAveragingState,
        _dual_averaging,
        {
            "sum_of_gradients": slot_like,
            "sum_of_squares": lambda params: slot_like(
                params, initial_accumulator_value, real=True
            ),
        },
        reads=("params",),
        at=at,
    )


class ScaleByMadgradState(NamedTuple):
    """State of `scale_by_madgrad`. All but the count are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    sum_of_gradients: Params  # s, weighted.
    sum_of_squares: Params  # v, weighted; real.
    start: Params  # x, the params at the start.

    directions = ("sum_of_gradients", "start")


def _madgrad(
    g: jax.Array,
    s: jax.Array,
    v: jax.Array,
    start: jax.Array,
    p: jax.Array,
    *,
    momentum: Any,
    eps: Any,
    weight: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    s = s + weight * g
    v = v + weight * numerics.abs_sq(g)
    root = jnp.where(v > 0, jnp.cbrt(jnp.where(v > 0, v, 1)), 0) + eps
    u = (1 - momentum) * (start - p - numerics.divide(s, root))
    return u, s, v, start


@transformation(state=ScaleByMadgradState, packable=True)
def scale_by_madgrad(
    learning_rate: NonNegativeOrSchedule,
    momentum: Decay = 0.9,
    eps: NonNegative = 1e-6,
) -> GradientTransformation:
    r"""Averages gradients from the starting point on, over a cube root: MADGRAD.

    With $\lambda_t = (\eta_t + \epsilon) \sqrt t$, $t = 1, 2, \dots$, and $x$ the
    parameters at the start,

    $$ s_t = s_{t-1} + \lambda_t\, g_t, \qquad v_t = v_{t-1} + \lambda_t\, |g_t|^2, \qquad
       z_t = x - \frac{s_t}{\sqrt[3]{v_t} + \epsilon}, $$
    $$ p_{t+1} = \mu\, p_t + (1 - \mu)\, z_t. $$

    The updates are whole steps: no learning rate stands behind.

    Args:
        learning_rate: $\eta \ge 0$, a number, a traced scalar, or a schedule.
        momentum: $\mu$, in $[0, 1)$. May be traced, as may be `eps`.
        eps: $\epsilon \ge 0$.

    Returns:
        A `GradientTransformation` with a `ScaleByMadgradState`. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_madgrad(1.0, momentum=0.0, eps=0.0)
        >>> params = jnp.array([5.0])
        >>> updates, _ = t.update(jnp.array([8.0]), t.init(params), params)
        >>> print(updates)
        [-2.]

    References:
        A. Defazio and S. Jelassi, [Adaptivity without compromise: a momentumized,
        adaptive, dual averaged gradient method for stochastic
        optimization](https://arxiv.org/abs/2101.11075), 2021.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        rate = numerics.rate_at(learning_rate, t - 1)
        return {"weight": (rate + eps) * jnp.sqrt(numerics.as_scalar(t))}

    return remembering(
        ScaleByMadgradState,
        _madgrad,
        {
            "sum_of_gradients": slot_like,
            "sum_of_squares": lambda params: slot_like(params, real=True),
            "start": slot_of,
        },
        reads=("params",),
        at=at,
        momentum=momentum,
        eps=eps,
    )
