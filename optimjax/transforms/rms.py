"""Dividing by the size that gradients have had: AdaGrad, RMSprop, Adam and their kin.

Each takes the size from the gradient and divides the direction by it. Where nothing
smooths the direction before, the two are the same array.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import numerics
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..tree import leafwise, slot_like
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


@transformation(state=ScaleByRssState)
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

    def init(params: Params) -> OptState:
        s = slot_like(params, initial_accumulator_value, dtype=dtype, real=True)
        return ScaleByRssState(s)

    def update(
        updates: Updates,
        state: ScaleByRssState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        updates, s = leafwise(
            _rss,
            updates,
            state.sum_of_squares,
            reads=(gradient,),
            eps=0.0 if eps_in_sqrt else eps,
            eps_root=eps if eps_in_sqrt else 0.0,
        )
        return updates, ScaleByRssState(s)

    return GradientTransformation(init, update)


class ScaleByRmsState(NamedTuple):
    """State of `scale_by_rms`. All but the count are shaped like the params."""

    count: jax.Array  # t, (), int32: the steps taken.
    nu: Params  # v, the mean of squares; real, float32 or wider, or `dtype`.
    mean: Params | None  # a, the mean of gradients, if `centered`; else None.
    nu_max: Params | None  # The largest v so far, if `amsgrad`; else None.


def _weighted_square(g: jax.Array, weight: Any) -> jax.Array:
    """`weight * |g|^2`, in the order that overflows later than the square alone."""
    if jnp.iscomplexobj(g):
        return weight * g.real * g.real + weight * g.imag * g.imag
    return weight * g * g


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
    v = numerics.decay_and_add(v, _weighted_square(g, 1 - decay), decay)
    v_hat = v
    if v_max is not None and amsgrad == "raw":
        v_hat = v_max = jnp.maximum(v_max, v_hat)
    v_hat = v_hat / correction
    if a is not None:
        a = numerics.decay_and_add(a, (1 - decay) * g, decay)
        # Rounding can make a small variance negative, hence the maximum.
        v_hat = jnp.maximum(v_hat - numerics.abs_sq(numerics.over(a, correction)), 0)
    if v_max is not None and amsgrad == "corrected":
        v_hat = v_max = jnp.maximum(v_max, v_hat)
    return numerics.divide(u, numerics.sqrt(v_hat + eps_root) + eps), v, a, v_max


@transformation(state=ScaleByRmsState)
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

    def init(params: Params) -> OptState:
        return ScaleByRmsState(
            count=jnp.zeros((), jnp.int32),
            nu=slot_like(params, initial_scale, dtype=dtype, real=True),
            mean=slot_like(params, dtype=dtype) if centered else None,
            nu_max=slot_like(params, dtype=dtype, real=True) if amsgrad else None,
        )

    def update(
        updates: Updates,
        state: ScaleByRmsState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        count = numerics.increment(state.count)
        correction = numerics.one_minus_power(decay, count) if bias_correction else 1.0
        updates, nu, mean, nu_max = leafwise(
            _rms,
            updates,
            state.nu,
            state.mean,
            state.nu_max,
            reads=(gradient,),
            decay=decay,
            eps=0.0 if eps_in_sqrt else eps,
            eps_root=eps_root + eps if eps_in_sqrt else eps_root,
            correction=correction,
            amsgrad=amsgrad,
        )
        return updates, ScaleByRmsState(count, nu, mean, nu_max)

    return GradientTransformation(init, update)


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


@transformation(state=ScaleByInfinityMomentState)
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

    def init(params: Params) -> OptState:
        return ScaleByInfinityMomentState(slot_like(params, dtype=dtype, real=True))

    def update(
        updates: Updates,
        state: ScaleByInfinityMomentState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        updates, nu = leafwise(
            _infinity,
            updates,
            state.nu,
            reads=(gradient,),
            decay=decay,
            eps_in_max=eps if eps_in_max else 0.0,
            eps=0.0 if eps_in_max else eps,
        )
        return updates, ScaleByInfinityMomentState(nu)

    return GradientTransformation(init, update)
