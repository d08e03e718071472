"""Running moments of the gradient: the kin of Adam that is no chain of simpler stages.

Each keeps a first moment and a second one that depend on each other, or more moments than
two. All take the direction that they are given for the gradient.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import GradientTransformation, Params, transformation
from ..tree import remembering, slot_like
from ..typing import (
    Decay,
    DecayOrSchedule,
    Fraction,
    NonNegative,
    NonNegativeOrSchedule,
    StorageDtype,
)

_real_slot = functools.partial(slot_like, real=True)


def _mean(m: jax.Array, g: jax.Array, decay: Any) -> jax.Array:
    """One step of the running mean of `g`."""
    return numerics.decay_and_add(m, (1 - decay) * g, decay)


def _mean_square(v: jax.Array, g: jax.Array, decay: Any) -> jax.Array:
    """One step of the running mean of `|g|^2`."""
    return numerics.decay_and_add(v, numerics.weighted_square(g, 1 - decay), decay)


class ScaleByBeliefState(NamedTuple):
    """State of `scale_by_belief`."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the mean of gradients, shaped like the params.
    nu: Params  # s, the mean square of g - m, shaped like the params; real.

    directions = ("mu",)


def _belief(
    g: jax.Array,
    m: jax.Array,
    s: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
    now: Any,
    ahead: Any,
    correction: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    m = _mean(m, g, b1)
    s = _mean_square(s, g - m, b2) + eps_root
    m_hat = numerics.times(now, m)
    if ahead is not None:
        m_hat = numerics.times(ahead, b1 * m) + numerics.times(now, (1 - b1) * g)
    root = numerics.sqrt(numerics.times(correction, s)) + eps
    return numerics.divide(m_hat, root), m, s


@transformation(state=ScaleByBeliefState, packable=True)
def scale_by_belief(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Divides the mean gradient by how far gradients have been from it: AdaBelief.

    $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
       s_t = \beta_2 s_{t-1} + (1 - \beta_2)\, |g_t - m_t|^2 + \epsilon_r, $$
    $$ u_t = \hat m_t / (\sqrt{s_t / (1 - \beta_2^t)} + \epsilon), \qquad
       \hat m_t = m_t / (1 - \beta_1^t), $$

    or $\hat m_t$ one step ahead as in `add_bias_correction(..., nesterov=True)`. Note that
    $\epsilon_r$ is added at every step, and adds up: to $\epsilon_r / (1 - \beta_2)$ in the
    long run. It is so in the paper and in Optax.

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be the rest.
        b2: $\beta_2$, in $[0, 1)$.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$.
        nesterov: Whether to look one step ahead.

    Returns:
        A `GradientTransformation` with a `ScaleByBeliefState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_belief(0.5, 0.0, eps=0.0)
        >>> updates, _ = t.update(jnp.array([4.0]), t.init(jnp.zeros(1)))
        >>> print(updates)  # 4 / |4 - 2|
        [2.]

    References:
        J. Zhuang et al., [AdaBelief optimizer: adapting stepsizes by the belief in observed
        gradients](https://arxiv.org/abs/2010.07468), 2020.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        later = numerics.as_scalar(t) + 1
        return {
            "now": numerics.debiasing(b1, t),
            "ahead": numerics.debiasing(b1, later) if nesterov else None,
            "correction": numerics.debiasing(b2, t),
        }

    return remembering(
        ScaleByBeliefState,
        _belief,
        {"mu": slot_like, "nu": _real_slot},
        at=at,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByAcpropState(NamedTuple):
    """State of `scale_by_acprop`."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the mean of gradients, shaped like the params.
    nu: Params  # s, the mean square of g - m, shaped like the params; real.

    directions = ("mu",)


def _acprop(
    g: jax.Array,
    m: jax.Array,
    s: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
    first: Any,
    correction: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    s_hat = jnp.where(first, 1, numerics.times(correction, s))
    u = numerics.divide(g, numerics.sqrt(s_hat) + eps)
    s = _mean_square(s, g - m, b2) + eps_root
    return u, _mean(m, g, b1), s


@transformation(state=ScaleByAcpropState, packable=True)
def scale_by_acprop(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
) -> GradientTransformation:
    r"""Divides the gradient by the spread that was known before it came: ACProp.

    $$ u_t = g_t / (\sqrt{s_{t-1} / (1 - \beta_2^{t-1})} + \epsilon), \qquad
       u_1 = g_1 / (1 + \epsilon), $$
    $$ s_t = \beta_2 s_{t-1} + (1 - \beta_2)\, |g_t - m_{t-1}|^2 + \epsilon_r, \qquad
       m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t. $$

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be the rest.
        b2: $\beta_2$, in $[0, 1)$.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$, added at every step, as in `scale_by_belief`.

    Returns:
        A `GradientTransformation` with a `ScaleByAcpropState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_acprop(b2=0.0, eps=0.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (4.0, 2.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [4.]
        [0.5]

    References:
        J. Zhuang et al., [Momentum centering and asynchronous update for adaptive gradient
        methods](https://arxiv.org/abs/2110.05454), 2021.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        # At the first step there is no s yet, and the correction is not used.
        before = numerics.debiasing(b2, jnp.maximum(t - 1, 1))
        return {"first": t == 1, "correction": before}

    return remembering(
        ScaleByAcpropState,
        _acprop,
        {"mu": slot_like, "nu": _real_slot},
        at=at,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByYogiState(NamedTuple):
    """State of `scale_by_yogi`."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the mean of gradients, shaped like the params.
    nu: Params  # v, the second moment, shaped like the params; real.

    directions = ("mu",)


def _yogi(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
    correction_1: Any,
    correction_2: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    m = _mean(m, g, b1)
    square = numerics.abs_sq(g)
    change = jnp.sign(v - square) * numerics.weighted_square(g, 1 - b2)
    v = jnp.where(v == square, v, v - change)  # Both may be infinite.
    root = numerics.sqrt(numerics.times(correction_2, v) + eps_root) + eps
    return numerics.divide(numerics.times(correction_1, m), root), m, v


@transformation(state=ScaleByYogiState, packable=True)
def scale_by_yogi(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 1e-6,
) -> GradientTransformation:
    r"""Adam with a second moment that moves by the square, not by the distance to it.

    $$ v_t = v_{t-1} - (1 - \beta_2)\, \mathrm{sgn}(v_{t-1} - |g_t|^2)\, |g_t|^2, $$

    and all else as in Adam: where gradients become small, $v$ falls slowly.

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be `b2` to `eps_root`.
        b2: $\beta_2$, in $[0, 1)$.
        eps: $\epsilon \ge 0$, added to the root.
        eps_root: A number $\ge 0$ that is added inside of the root.
        initial_accumulator_value: $m_0 = v_0 \ge 0$. That $m$ starts there as well, so that
            a parameter that never gets a gradient moves, is as in Optax; but for complex
            parameters $m_0 = 0$, since no direction is better than others.

    Returns:
        A `GradientTransformation` with a `ScaleByYogiState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_yogi(0.0, 0.0, eps=0.0, initial_accumulator_value=0.0)
        >>> updates, _ = t.update(jnp.array([3.0, -0.5]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1. -1.]

    References:
        M. Zaheer et al., [Adaptive methods for nonconvex optimization](
        https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization),
        2018.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        return {
            "correction_1": numerics.debiasing(b1, t),
            "correction_2": numerics.debiasing(b2, t),
        }

    start = initial_accumulator_value

    def mean(params: Params) -> Params:
        def slot(p: Any) -> jax.Array:
            return slot_like(p, 0.0 if jnp.iscomplexobj(p) else start)

        return jax.tree.map(slot, params)

    return remembering(
        ScaleByYogiState,
        _yogi,
        {
            "mu": mean,
            "nu": lambda params: _real_slot(params, start),
        },
        at=at,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByAdanState(NamedTuple):
    """State of `scale_by_adan`. All but the count are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the mean of gradients.
    delta: Params  # v, the mean of their differences.
    nu: Params  # n, the second moment; real.
    previous: Params  # g, the gradient of the step before.

    directions = ("mu", "delta", "previous")


def _adan(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    n: jax.Array,
    old: jax.Array,
    *,
    b1: Any,
    b2: Any,
    b3: Any,
    look_ahead: Any,
    eps: Any,
    eps_root: Any,
    first: Any,
    of_m: Any,
    of_v: Any,
    of_n: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    difference = jnp.where(first, 0, g - old)
    m = _mean(m, g, b1)
    v = _mean(v, difference, b2)
    n = _mean_square(n, g + look_ahead * difference, b3)
    u = numerics.times(of_m, m) + look_ahead * numerics.times(of_v, v)
    root = numerics.sqrt(numerics.times(of_n, n) + eps_root) + eps
    return numerics.divide(u, root), m, v, n, g


@transformation(state=ScaleByAdanState, packable=True)
def scale_by_adan(
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    *,
    difference_weight: Fraction | None = None,
) -> GradientTransformation:
    r"""Nesterov's momentum from the differences of gradients, over their size: Adan.

    With $\Delta_t = g_t - g_{t-1}$ and $\Delta_1 = 0$,

    $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
       v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, \Delta_t, $$
    $$ n_t = \beta_3 n_{t-1} + (1 - \beta_3)\, |g_t + w\, \Delta_t|^2, \qquad
       u_t = \frac{\hat m_t + w\, \hat v_t}{\sqrt{\hat n_t + \epsilon_r} + \epsilon}, $$

    where a hat divides the bias $1 - \beta^t$ out, and $w = \beta_2$. The paper writes
    $1 - \beta$ for what is $\beta$ here and in its code; Optax 0.2.8, which does as well,
    kept the paper's $1 - \beta_2$ for $w$, and hardly looks ahead.

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be the rest.
        b2: $\beta_2$, in $[0, 1)$.
        b3: $\beta_3$, in $[0, 1)$.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$.
        difference_weight: $w$, in $[0, 1]$; `None` for $\beta_2$. Optax's is `1 - b2`.

    Returns:
        A `GradientTransformation` with a `ScaleByAdanState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_adan(eps=0.0)
        >>> updates, _ = t.update(jnp.array([3.0, -0.1]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1. -1.]

    References:
        X. Xie et al., [Adan: adaptive Nesterov momentum algorithm for faster optimizing
        deep models](https://arxiv.org/abs/2208.06677), 2022.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        return {
            "first": t == 1,
            "of_m": numerics.debiasing(b1, t),
            "of_v": numerics.debiasing(b2, t),
            "of_n": numerics.debiasing(b3, t),
        }

    return remembering(
        ScaleByAdanState,
        _adan,
        {
            "mu": slot_like,
            "delta": slot_like,
            "nu": _real_slot,
            "previous": slot_like,
        },
        at=at,
        b1=b1,
        b2=b2,
        b3=b3,
        look_ahead=b2 if difference_weight is None else difference_weight,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByAdemamixState(NamedTuple):
    """State of `scale_by_ademamix`. All but the count are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    fast: Params  # m, the fast mean of gradients, in `mu_dtype`.
    slow: Params  # l, the slow one, in `mu_dtype`.
    nu: Params  # v, the second moment; real.

    directions = ("fast", "slow")


def _ademamix(
    g: jax.Array,
    m: jax.Array,
    slow: jax.Array,
    v: jax.Array,
    *,
    b1: Any,
    b2: Any,
    b3: Any,
    alpha: Any,
    eps: Any,
    eps_root: Any,
    correction_1: Any,
    correction_2: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    m = _mean(m, g, b1)
    slow = _mean(slow, g, b3)
    v = _mean_square(v, g, b2)
    u = numerics.times(correction_1, m) + alpha * slow
    root = numerics.sqrt(numerics.times(correction_2, v) + eps_root) + eps
    return numerics.divide(u, root), m, slow, v


@transformation(state=ScaleByAdemamixState, packable=True)
def scale_by_ademamix(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: DecayOrSchedule = 0.9999,
    alpha: NonNegativeOrSchedule = 6.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Adam with a second, much slower mean of gradients beside the first: AdEMAMix.

    $$ u_t = \frac{m_t / (1 - \beta_1^t) + \alpha_t\, l_t}
       {\sqrt{v_t / (1 - \beta_2^t) + \epsilon_r} + \epsilon}, \qquad
       l_t = \beta_{3,t}\, l_{t-1} + (1 - \beta_{3,t})\, g_t, $$

    with $m$ and $v$ as in Adam. The slow mean starts at zero and is not corrected.

    Args:
        b1: $\beta_1$, in $[0, 1)$.
        b2: $\beta_2$, in $[0, 1)$.
        b3: $\beta_3$, in $[0, 1)$: a number, or a schedule. The paper warms it up from
            $\beta_1$, and `alpha` from 0, when training is long.
        alpha: $\alpha \ge 0$, the weight of the slow mean: a number, or a schedule.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$.
        mu_dtype: The dtype in which the two means are stored; `None`: that of the
            parameter, but float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByAdemamixState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_ademamix(b3=0.5, alpha=2.0, eps=0.0)
        >>> updates, _ = t.update(jnp.array([3.0, -0.1]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 2. -2.]

    References:
        M. Pagliardini, P. Ablin and D. Grangier, [The AdEMAMix optimizer: better, faster,
        older](https://arxiv.org/abs/2409.03137), 2024.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        return {
            "b3": numerics.at_step(b3, t - 1),
            "alpha": numerics.at_step(alpha, t - 1),
            "correction_1": numerics.debiasing(b1, t),
            "correction_2": numerics.debiasing(b2, t),
        }

    mean = functools.partial(slot_like, dtype=mu_dtype)
    return remembering(
        ScaleByAdemamixState,
        _ademamix,
        {"fast": mean, "slow": mean, "nu": _real_slot},
        at=at,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByAdoptState(NamedTuple):
    """State of `scale_by_adopt`."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the mean of normalised gradients, shaped like the params.
    nu: Params  # v, the second moment, shaped like the params; real.

    directions = ("mu",)


def _adopt(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    nesterov: bool,
    first: Any,
    bound: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normalised = numerics.divide(g, jnp.maximum(numerics.sqrt(v), eps))
    if bound is not None:
        normalised = jnp.clip(normalised, -bound, bound)
    # The first gradient only tells the size.
    m = jnp.where(first, m, _mean(m, normalised, b1))
    v = jnp.where(first, numerics.abs_sq(g), _mean_square(v, g, b2))
    ahead = jnp.where(first, m, _mean(m, normalised, b1)) if nesterov else m
    return ahead, m, v


def fourth_root(count: jax.Array) -> jax.Array:
    """The bound that the paper puts on normalised gradients at each step."""
    return jnp.power(numerics.as_scalar(count), 0.25)


@transformation(state=ScaleByAdoptState, real=True, packable=True)
def scale_by_adopt(
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: StorageDtype | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: NonNegativeOrSchedule = fourth_root,
) -> GradientTransformation:
    r"""Divides each gradient by the size of those before it, then smooths: ADOPT.

    $$ n_t = \mathrm{clip}\bigl(g_t / \max(\sqrt{v_{t-1}}, \epsilon),\ \pm c_{t-1}\bigr),
       \qquad u_t = m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, n_t, $$
    $$ v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad v_1 = g_1^2, \quad m_1 = 0, $$

    with $c_t = t^{1/4}$. If `nesterov`, $u_t = \beta_1 m_t + (1 - \beta_1)\, n_t$ from the
    second step on. The first step only measures: its update is zero.

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be `b2` and `eps`.
        b2: $\beta_2$, in $[0, 1)$.
        eps: $\epsilon \ge 0$, a floor under the root.
        mu_dtype: The dtype in which $m$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.
        nesterov: Whether to look one step ahead.
        use_clipping: Whether to clip the normalised gradients.
        clip_value_fn: $c$, a function of the step, which counts from 0, or a number.

    Returns:
        A `GradientTransformation` with a `ScaleByAdoptState`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: In `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_adopt(b1=0.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (2.0, 1.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [0.]
        [0.5]

    References:
        S. Taniguchi et al., [ADOPT: modified Adam can converge with any $\beta_2$ with the
        optimal rate](https://arxiv.org/abs/2411.02853), 2024.
    """
    return remembering(
        ScaleByAdoptState,
        _adopt,
        {"mu": functools.partial(slot_like, dtype=mu_dtype), "nu": slot_like},
        at=lambda t: {
            "first": t == 1,
            "bound": numerics.at_step(clip_value_fn, t - 1) if use_clipping else None,
        },
        b1=b1,
        b2=b2,
        eps=eps,
        nesterov=nesterov,
    )
