"""Dividing by the size that gradients have had: AdaGrad, RMSprop, Adam and their kin.

Each takes the size from the gradient and divides the direction by it. Where nothing
smooths the direction before, the two are the same array.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import GradientTransformation, Params, transformation
from ..tree import remembering, slot_like
from ..typing import Decay, NonNegative, StorageDtype


class ScaleByRssState(NamedTuple):
    """State of `scale_by_rss`."""

    sum_of_squares: Params  # s, shaped like the params, real; float32 or wider.


def _rss(
    u: jax.Array, s: jax.Array, g: jax.Array, *, eps: Any, eps_root: Any
) -> tuple[jax.Array, jax.Array]:
    s = s + numerics.abs_sq(g)
    root = numerics.sqrt(s + eps_root) + eps
    return jnp.where(s == 0, 0, numerics.divide(u, root)), s


@transformation(state=ScaleByRssState, packable=True)
def scale_by_rss(
    initial_accumulator_value: NonNegative = 0.1,
    eps: NonNegative = 1e-7,
    *,
    eps_in_sqrt: bool = True,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Divides by the root of the sum of all squared gradients so far: AdaGrad.

    $$ s_t = s_{t-1} + |g_t|^2, \qquad u_t = \frac{d_t}{\sqrt{s_t + \epsilon}}
       \quad\text{or}\quad \frac{d_t}{\sqrt{s_t} + \epsilon}, $$

    and $u_t = 0$ where $s_t = 0$. $d_t$ is the direction, $g_t$ the gradient that it came
    from (see `chain`); alone they are the same.

    Args:
        initial_accumulator_value: $s_0 \ge 0$: 0.1 in Optax, Keras and TensorFlow 1; 0 in
            PyTorch and in the paper.
        eps: $\epsilon \ge 0$: 1e-7 in Optax and Keras, 1e-10 in PyTorch, none (0) in
            TensorFlow 1.
        eps_in_sqrt: Whether $\epsilon$ is added inside of the root (Optax, Keras 3) or
            outside (PyTorch, Keras 2, the paper).
        dtype: The dtype in which $s$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByRssState`.

    Raises:
        ValueError: If a number is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_rss(0.0, eps=0.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (3.0, 4.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [1.]
        [0.8]

    References:
        J. Duchi, E. Hazan and Y. Singer, [Adaptive subgradient methods for online
        learning and stochastic optimization](https://jmlr.org/papers/v12/duchi11a.html),
        2011.
    """
    return remembering(
        ScaleByRssState,
        _rss,
        {
            "sum_of_squares": lambda params: slot_like(
                params, initial_accumulator_value, dtype=dtype, real=True
            )
        },
        reads=("gradient",),
        eps=0.0 if eps_in_sqrt else eps,
        eps_root=eps if eps_in_sqrt else 0.0,
    )


class ScaleByRmsState(NamedTuple):
    """State of `scale_by_rms`. All but the count are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    nu: Params  # v, the mean of squares; real, float32 or wider, or `dtype`.
    mean: Params | None  # a, the mean of gradients, if `centered`; else None.
    nu_max: Params | None  # The largest v so far, if `amsgrad`; else None.

    directions = ("mean",)


def _rms(
    u: jax.Array,
    v: jax.Array,
    a: jax.Array | None,
    v_max: jax.Array | None,
    g: jax.Array,
    *,
    decay: Any,
    eps: Any,
    eps_root: Any,
    correction: Any,
    amsgrad: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    v = numerics.decay_and_add(v, numerics.weighted_square(g, 1 - decay), decay)
    v_hat = v
    if v_max is not None and amsgrad == "raw":
        v_hat = v_max = jnp.maximum(v_max, v_hat)
    v_hat = numerics.times(correction, v_hat)
    if a is not None:
        a = numerics.decay_and_add(a, (1 - decay) * g, decay)
        # Rounding can make a small variance negative, hence the maximum.
        v_hat = jnp.maximum(v_hat - numerics.abs_sq(numerics.times(correction, a)), 0)
    if v_max is not None and amsgrad == "corrected":
        v_hat = v_max = jnp.maximum(v_max, v_hat)
    return numerics.divide(u, numerics.sqrt(v_hat + eps_root) + eps), v, a, v_max


@transformation(state=ScaleByRmsState, packable=True)
def scale_by_rms(
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    *,
    eps_in_sqrt: bool = False,
    eps_root: NonNegative = 0.0,
    centered: bool = False,
    bias_correction: bool = False,
    amsgrad: Literal["raw", "corrected"] | None = None,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Divides by the root of the running mean of squared gradients: RMSprop and Adam.

    $$ v_t = \beta\, v_{t-1} + (1 - \beta)\, |g_t|^2, \qquad
       u_t = \frac{d_t}{\sqrt{\hat v_t} + \epsilon}, $$

    and $u_t = 0$ where the denominator is. $d_t$ is the direction, $g_t$ the gradient
    that it came from (see `chain`); alone they are the same. $\hat v_t = v_t$, changed by
    the options in this order:

    - `bias_correction`: $\hat v_t = v_t / (1 - \beta^t)$.
    - `centered`: minus $|\hat a_t|^2$, where $a_t = \beta\, a_{t-1} + (1 - \beta)\, g_t$ is
      corrected in the same way: the variance in place of the mean square.
    - `amsgrad`: the largest value so far, of $v$ before it is corrected (`"raw"`: PyTorch,
      Keras) or after (`"corrected"`: Optax). Without correction, as in the paper, they
      are the same.

    Args:
        decay: $\beta$, in $[0, 1)$. May be traced.
        eps: $\epsilon \ge 0$, added to the root (PyTorch; Adam).
        initial_scale: $v_0 \ge 0$: 0 but in TensorFlow 1's RMSProp, where it is 1.
        eps_in_sqrt: Whether `eps` is added inside of the root instead: RMSprop in Optax,
            Keras 3 and TensorFlow 1. It is an option here, and Optax's default there.
        eps_root: A number $\ge 0$ that is added inside of the root in any case.
        centered: Whether to divide by the standard deviation.
        bias_correction: Whether to divide out the bias towards $v_0 = 0$.
        amsgrad: Which maximum to keep, if any.
        dtype: The dtype in which the moments are stored; `None`: that of the parameter,
            but float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByRmsState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_rms(0.75, eps=0.0)
        >>> updates, _ = t.update(jnp.array([3.0, -0.1]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 2. -2.]

    References:
        T. Tieleman and G. Hinton, [Lecture 6.5: RMSProp](
        https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf), 2012.
        A. Graves, [Generating sequences with recurrent neural
        networks](https://arxiv.org/abs/1308.0850), 2013, for `centered`.
        D. P. Kingma and J. Ba, [Adam](https://arxiv.org/abs/1412.6980), 2015.
        S. J. Reddi, S. Kale and S. Kumar, [On the convergence of Adam and
        beyond](https://arxiv.org/abs/1904.09237), 2018, for `amsgrad`.
    """
    real_slot = functools.partial(slot_like, dtype=dtype, real=True)
    return remembering(
        ScaleByRmsState,
        _rms,
        {
            "nu": lambda params: real_slot(params, initial_scale),
            "mean": functools.partial(slot_like, dtype=dtype) if centered else None,
            "nu_max": real_slot if amsgrad else None,
        },
        reads=("gradient",),
        at=lambda t: {
            "correction": numerics.debiasing(decay, t) if bias_correction else 1.0
        },
        decay=decay,
        eps=0.0 if eps_in_sqrt else eps,
        eps_root=eps_root + eps if eps_in_sqrt else eps_root,
        amsgrad=amsgrad,
    )


class ScaleByInfinityMomentState(NamedTuple):
    """State of `scale_by_infinity_moment`."""

    nu: Params  # w, shaped like the params, real; float32 or wider, or `dtype`.


def _infinity(
    u: jax.Array,
    w: jax.Array,
    g: jax.Array,
    *,
    decay: Any,
    eps_in_max: Any,
    eps: Any,
) -> tuple[jax.Array, jax.Array]:
    w = jnp.maximum(numerics.decay_and_add(w, 0, decay), numerics.modulus(g) + eps_in_max)
    return numerics.divide(u, w + eps), w


@transformation(state=ScaleByInfinityMomentState, packable=True)
def scale_by_infinity_moment(
    decay: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    eps_in_max: bool = True,
    dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Divides by a decaying maximum of the gradients' sizes: Adamax.

    $$ w_t = \max(\beta\, w_{t-1},\; |g_t| + \epsilon), \qquad u_t = d_t / w_t, $$

    and $u_t = 0$ where $w_t = 0$. $d_t$ is the direction, $g_t$ the gradient that it came
    from (see `chain`); alone they are the same.

    Args:
        decay: $\beta$, in $[0, 1)$. May be traced.
        eps: $\epsilon \ge 0$.
        eps_in_max: Whether $\epsilon$ stands inside of the maximum (PyTorch, Optax), or
            is added to it where it divides (Keras, TensorFlow). The paper has none.
        dtype: The dtype in which $w$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByInfinityMomentState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_infinity_moment(0.5, eps=0.0)
        >>> state = t.init(jnp.zeros(1))
        >>> for g in (4.0, 1.0):
        ...     updates, state = t.update(jnp.array([g]), state)
        ...     print(updates)
        [1.]
        [0.5]

    References:
        D. P. Kingma and J. Ba, [Adam](https://arxiv.org/abs/1412.6980), 2015, section 7.
    """
    return remembering(
        ScaleByInfinityMomentState,
        _infinity,
        {"nu": functools.partial(slot_like, dtype=dtype, real=True)},
        reads=("gradient",),
        decay=decay,
        eps_in_max=eps if eps_in_max else 0.0,
        eps=0.0 if eps_in_max else eps,
    )


class ScaleByRectifiedRmsState(NamedTuple):
    """State of `scale_by_rectified_rms`."""

    count: jax.Array  # t, (), int32: the steps taken.
    nu: Params  # v, the mean of squares, shaped like the params; real.


def _rectified(
    u: jax.Array,
    v: jax.Array,
    g: jax.Array,
    *,
    decay: Any,
    eps: Any,
    eps_root: Any,
    rectifies: Any,
    gain: Any,
    correction: Any,
) -> tuple[jax.Array, jax.Array]:
    weighted = numerics.weighted_square(g, 1 - decay)
    v = numerics.decay_and_add(v, weighted, decay)
    v_hat = numerics.times(correction, v)
    scaled = numerics.divide(u * gain, numerics.sqrt(v_hat + eps_root) + eps)
    return jnp.where(rectifies, scaled, u), v


# Taylor's, of coth(x) - 1/x in x, x^3, x^5, ...: good to 1e-17 up to 1/2.
_COTH = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
    87734 / 38979295480125,
    -349222 / 1531329465290625,
    310732 / 13447856940643125,
)


def _coth_less_pole(x: Any) -> Any:
    """`coth(x) - 1/x` for `0 <= x <= 1/2`, by its series, since the two would cancel."""
    series = 0.0
    for coefficient in reversed(_COTH):
        series = coefficient + x * x * series
    return x * series


def _sma_length(decay: Any, t: jax.Array) -> jax.Array:
    r"""RAdam's $\rho_t = \rho_\infty - 2 t \beta^t / (1 - \beta^t)$, $t \ge 1$.

    As written, the two terms cancel at first: in float32 at 0.999, the first ten are good
    to two or three digits. There, with $x = -\log \beta$ and $L(y) = \coth y - 1/y$, it is
    the sum of $t\,(1 - L(t x / 2))$ and $L(x / 2)$, which do not; nor does the first form
    later on.
    """
    most = (1 + decay) / (1 - decay)
    x = -numerics.log_of_decay(decay)
    t = numerics.as_scalar(t)
    early = t * x < 1
    y, z = jnp.where(early, t * x, 1), jnp.where(early, 1, t * x)
    at_first = t * (1 - _coth_less_pole(y / 2)) + _coth_less_pole(jnp.minimum(x / 2, 0.5))
    return jnp.where(early, at_first, most - 2 * t / jnp.expm1(z))


@transformation(state=ScaleByRectifiedRmsState, packable=True)
def scale_by_rectified_rms(
    decay: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: NonNegative = 5.0,
    *,
    eps_hat: bool = False,
) -> GradientTransformation:
    r"""Divides by the root mean square once enough gradients tell it: RAdam's second half.

    With $\rho_\infty = 2 / (1 - \beta) - 1$ and
    $\rho_t = \rho_\infty - 2 t \beta^t / (1 - \beta^t)$, how many gradients the mean of
    squares is worth, and

    $$ r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\,\rho_\infty}
       {(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_t}}, \qquad
       v_t = \beta\, v_{t-1} + (1 - \beta)\, |g_t|^2, $$
    $$ u_t = \frac{r_t\, d_t}{\sqrt{v_t / (1 - \beta^t) + \epsilon_r} + \epsilon}
       \text{ if } \rho_t \ge \theta, \text{ else } d_t. $$

    $d_t$ is the direction, $g_t$ the gradient that it came from (see `chain`). Behind
    `scale_by_momentum(b1, dampening=b1)` and `add_bias_correction(b1)` it is RAdam.

    Args:
        decay: $\beta$, in $[0, 1)$. May be traced, as may be the rest. Up to 2/3, $\rho_t$
            never gets to 5.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$.
        threshold: $\theta$: 5 in PyTorch and Optax, 4 in the paper; below 4, $r_t = 0$
            where it is not defined.
        eps_hat: Whether to add $\epsilon_r$ and $\epsilon$ before $v$ is corrected, as
            PyTorch does: $u_t = r_t \sqrt{1 - \beta^t}\, d_t / (\sqrt{v_t + \epsilon_r} +
            \epsilon)$.

    Returns:
        A `GradientTransformation` with a `ScaleByRectifiedRmsState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_rectified_rms()
        >>> state = t.init(jnp.zeros(1))
        >>> for _ in range(6):
        ...     updates, state = t.update(jnp.array([9.0]), state)
        >>> print(updates)  # The first five are 9.
        [0.0258211]

    References:
        L. Liu et al., [On the variance of the adaptive learning rate and
        beyond](https://arxiv.org/abs/1908.03265), 2020.
    """

    def at(t: jax.Array) -> dict[str, Any]:
        most = (1 + decay) / (1 - decay)  # It is 2 / (1 - decay) - 1.
        length = _sma_length(decay, t)
        part = (length - 4) / (most - 4) * (length - 2) / (most - 2) * most / length
        r = numerics.sqrt(jnp.where(length > 4, part, 0))
        correction = numerics.one_minus_power(decay, t)
        return {
            "rectifies": length >= threshold,
            "gain": r * jnp.sqrt(correction) if eps_hat else r,
            "correction": 1.0 if eps_hat else numerics.debiasing(decay, t),
        }

    return remembering(
        ScaleByRectifiedRmsState,
        _rectified,
        {"nu": functools.partial(slot_like, real=True)},
        reads=("gradient",),
        at=at,
        decay=decay,
        eps=eps,
        eps_root=eps_root,
    )


class ScaleByAdadeltaState(NamedTuple):
    """State of `scale_by_adadelta`. Both are shaped like the params, and real."""

    e_g: Params  # a, the mean of squared gradients.
    e_x: Params  # x, the mean of squared steps.


def _adadelta(
    g: jax.Array, a: jax.Array, x: jax.Array, *, rho: Any, eps: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    a = numerics.decay_and_add(a, numerics.weighted_square(g, 1 - rho), rho)
    u = numerics.divide(g * numerics.sqrt(x + eps), numerics.sqrt(a + eps))
    x = numerics.decay_and_add(x, numerics.weighted_square(u, 1 - rho), rho)
    return u, a, x


@transformation(state=ScaleByAdadeltaState, packable=True)
def scale_by_adadelta(rho: Decay = 0.9, eps: NonNegative = 1e-6) -> GradientTransformation:
    r"""Multiplies by the size of past steps over the size of past gradients: Adadelta.

    $$ a_t = \rho\, a_{t-1} + (1 - \rho)\, |g_t|^2, \qquad
       u_t = \frac{\sqrt{x_{t-1} + \epsilon}}{\sqrt{a_t + \epsilon}}\, g_t, \qquad
       x_t = \rho\, x_{t-1} + (1 - \rho)\, |u_t|^2. $$

    The steps start from nothing but $\epsilon$, which decides how fast they grow.

    Args:
        rho: $\rho$, in $[0, 1)$. May be traced. 0.9 in PyTorch and Optax, 0.95 in the
            paper, Keras and TensorFlow.
        eps: $\epsilon \ge 0$: 1e-6 in the paper, PyTorch and Optax, 1e-7 in Keras, 1e-8 in
            TensorFlow 1.

    Returns:
        A `GradientTransformation` with a `ScaleByAdadeltaState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_adadelta(0.75, eps=1.0)
        >>> updates, _ = t.update(jnp.array([2.0, 0.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [1.4142135 0.       ]

    References:
        M. D. Zeiler, [ADADELTA: an adaptive learning rate
        method](https://arxiv.org/abs/1212.5701), 2012.
    """
    real = functools.partial(slot_like, real=True)
    return remembering(
        ScaleByAdadeltaState, _adadelta, {"e_g": real, "e_x": real}, rho=rho, eps=eps
    )
