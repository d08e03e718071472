"""Rules of one number per leaf: how long its parameters, its gradient, its update are."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, numerics
from ..base import (
    EmptyState,
    GradientTransformation,
    Params,
    Updates,
    counting,
    memoryless,
    transformation,
)
from ..selection import chosen_by
from ..tree import global_norm, leafwise, remembering, slot_like
from ..typing import (
    Decay,
    Mask,
    NonNegative,
    NonNegativeOrSchedule,
    Positive,
    Scalar,
    StorageDtype,
    Threshold,
)


def _norm(x: jax.Array) -> jax.Array:
    return numerics.sqrt(jnp.sum(numerics.abs_sq(x)))


def _rms(x: jax.Array) -> jax.Array:
    return numerics.sqrt(jnp.sum(numerics.abs_sq(x)) / max(x.size, 1))


def _trust(
    u: jax.Array, p: jax.Array, counts: Any, *, min_norm: Any, coefficient: Any, eps: Any
) -> jax.Array:
    of_p, of_u = (jnp.maximum(_norm(x), min_norm) for x in (p, u))
    ratio = coefficient * numerics.divide(of_p, of_u + eps)
    ratio = jnp.where((of_p == 0) | (of_u == 0), 1, ratio)
    return jnp.where(counts, u * ratio, u)


@transformation
def scale_by_trust_ratio(
    min_norm: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    *,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Makes the update of each leaf as long as the leaf itself, times a coefficient.

    $$ u' = u \cdot c\, \frac{\max(\lVert p \rVert, n)}
       {\max(\lVert u \rVert, n) + \epsilon}, $$

    and $u' = u$ where one of the two maxima is zero.

    Args:
        min_norm: $n \ge 0$, a floor under both norms.
        trust_coefficient: $c \ge 0$.
        eps: $\epsilon \ge 0$.
        mask: Which parameters it is for, as in `add_decayed_weights`; `None`: all.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_trust_ratio()
        >>> params = jnp.array([6.0, 8.0])
        >>> updates, _ = t.update(jnp.array([0.0, 2.0]), t.init(params), params)
        >>> print(updates)
        [ 0. 10.]

    References:
        Y. You, I. Gitman and B. Ginsburg, [Large batch training of convolutional
        networks](https://arxiv.org/abs/1708.03888), 2017 (LARS).
        Y. You et al., [Large batch optimization for deep
        learning](https://arxiv.org/abs/1904.00962), 2020 (LAMB).
    """

    def scale(updates: Updates, params: Params) -> Updates:
        return leafwise(
            _trust,
            updates,
            reads=(params, chosen_by(mask, params)),
            min_norm=min_norm,
            coefficient=trust_coefficient,
            eps=eps,
        )

    return memoryless(scale)


def _times_norm(u: jax.Array, p: jax.Array, *, min_scale: Any) -> jax.Array:
    return u * jnp.maximum(_norm(p), min_scale)


@transformation
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3) -> GradientTransformation:
    r"""Multiplies each leaf by the norm of its parameters.

    $$ u' = u \max(\lVert p \rVert, n) $$

    Args:
        min_scale: $n \ge 0$, a floor under the norm.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        ValueError: If `min_scale` is negative; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_param_block_norm()
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(params), params)
        >>> print(updates)
        [  5. -10.]
    """
    return memoryless(
        lambda updates, params: leafwise(
            _times_norm, updates, reads=(params,), min_scale=min_scale
        )
    )


def _times_rms(u: jax.Array, p: jax.Array, *, min_scale: Any) -> jax.Array:
    return u * jnp.maximum(_rms(p), min_scale)


@transformation
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3) -> GradientTransformation:
    r"""Multiplies each leaf by the root mean square of its parameters, as Adafactor does.

    Args:
        min_scale: A floor >= 0 under the root mean square.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        ValueError: If `min_scale` is negative; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_param_block_rms()
        >>> params = jnp.array([1.0, 7.0])
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(params), params)
        >>> print(updates)
        [  5. -10.]
    """
    return memoryless(
        lambda updates, params: leafwise(
            _times_rms, updates, reads=(params,), min_scale=min_scale
        )
    )


def _clip_rms(g: jax.Array, *, threshold: Any) -> jax.Array:
    return numerics.over(g, jnp.maximum(1, _rms(g) / threshold))


@transformation
def clip_by_block_rms(threshold: Positive) -> GradientTransformation:
    r"""Scales each leaf down if its root mean square is too large.

    $u = g / \max(1, \mathrm{rms}(g) / \tau)$ for every leaf $g$ by itself.

    Args:
        threshold: $\tau > 0$.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If `threshold` is not positive.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.clip_by_block_rms(1.0)
        >>> updates, _ = t.update(jnp.array([1.0, 7.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [0.2 1.4]

    References:
        N. Shazeer and M. Stern, [Adafactor](https://arxiv.org/abs/1804.04235), 2018.
    """
    return memoryless(lambda updates: leafwise(_clip_rms, updates, threshold=threshold))


Axis = int | tuple[int, ...] | None


def _clip_adaptively(
    g: jax.Array, p: jax.Array, *, clipping: Any, eps: Any, axis: Axis
) -> jax.Array:
    largest = clipping * jnp.maximum(numerics.unitwise_norm(p, axis), eps)
    norm = numerics.unitwise_norm(g, axis)
    small = norm <= largest
    return jnp.where(small, g, g * (largest / jnp.where(small, 1, norm)))


@transformation
def adaptive_grad_clip(
    clipping: NonNegative, eps: NonNegative = 1e-3, *, axis: Axis = None
) -> GradientTransformation:
    r"""Scales the gradient of each unit down to a fraction of the unit's parameters.

    $u = g \cdot \min(1, \lambda \max(\lVert p \rVert, \epsilon) / \lVert g \rVert)$, where
    the norms are of one unit each: for vectors and scalars over the whole leaf; for
    matrices, (in, out), and kernels of attention heads, (in, heads, out), over the first
    axis; for kernels of convolutions, (..., in, out), over all axes but the last.

    Args:
        clipping: $\lambda \ge 0$, how long a gradient may be, measured by its parameters.
        eps: $\epsilon \ge 0$, a floor under the length of the parameters.
        axis: The axis or axes of one unit, where the above does not fit.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        ValueError: If an argument is negative; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.adaptive_grad_clip(0.1)
        >>> params = jnp.array([6.0, 8.0])
        >>> updates, _ = t.update(jnp.array([0.0, 2.0]), t.init(params), params)
        >>> print(updates)
        [0. 1.]

    References:
        A. Brock et al., [High-performance large-scale image recognition without
        normalization](https://arxiv.org/abs/2102.06171), 2021.
    """
    axes = (axis,) if isinstance(axis, int) else axis or ()
    if not isinstance(axes, tuple) or not all(isinstance(a, int) for a in axes):
        raise TypeError(
            "`adaptive_grad_clip(axis=...)` must be an axis, or a tuple of axes, but got "
            f"{axis!r}."
        )

    def init(params: Params) -> EmptyState:
        for path, p in jax.tree.leaves_with_path(params):
            if any(not -jnp.ndim(p) <= a < jnp.ndim(p) for a in axes):
                raise ValueError(
                    f"`adaptive_grad_clip(axis=...)` must be of every leaf, but got {axis} "
                    f"for the leaf {_dtypes.name_of(path)} of shape {jnp.shape(p)}."
                )
        return EmptyState()

    _, update = memoryless(
        lambda updates, params: leafwise(
            _clip_adaptively,
            updates,
            reads=(params,),
            clipping=clipping,
            eps=eps,
            axis=axis,
        )
    )
    return GradientTransformation(init, update)


def _divided(g: jax.Array, *, by: Any) -> jax.Array:
    return numerics.over(g, by)


@transformation
def normalize_by_update_norm(
    scale_factor: Positive = 1.0, eps: Positive = 1e-6
) -> GradientTransformation:
    r"""Gives all updates together a common length.

    $$ u = g\, c / (\lVert g \rVert + \epsilon) $$

    Args:
        scale_factor: $c > 0$, the length.
        eps: $\epsilon > 0$, so that zero gradients give zeros.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.normalize_by_update_norm(2.0)
        >>> updates, _ = t.update(jnp.array([3.0, -4.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1.2 -1.6]
    """
    return memoryless(
        lambda updates: leafwise(
            _divided, updates, by=(global_norm(updates) + eps) / scale_factor
        )
    )


def _clip_average(g: jax.Array, *, max_norm: Any) -> jax.Array:
    norm = _norm(g) / max(g.size, 1)
    small = norm <= max_norm
    return jnp.where(small, g, g * (max_norm / jnp.where(small, 1, norm)))


@transformation
def clip_by_average_norm(max_norm: Threshold) -> GradientTransformation:
    r"""Scales each leaf down if its norm, divided by its size, is too large.

    $u = g \cdot \min(1, c\, d / \lVert g \rVert)$ for every leaf $g$ of $d$ numbers by
    itself: TensorFlow 1's `clip_by_average_norm`.

    Args:
        max_norm: $c$, in $[0, \infty]$. May be traced.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If `max_norm` is negative.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.clip_by_average_norm(1.0)
        >>> updates, _ = t.update(jnp.array([3.0, -4.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1.2 -1.6]
    """
    return memoryless(lambda updates: leafwise(_clip_average, updates, max_norm=max_norm))


class ScaleByNovogradState(NamedTuple):
    """State of `scale_by_novograd`."""

    count: jax.Array  # t, (), int32: the steps taken.
    mu: Params  # m, the sum of normalised gradients, shaped like the params; in `mu_dtype`.
    nu: Params  # v, for each parameter one number, (): the mean of |g|^2; real.

    directions = ("mu",)


def _novograd(
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    p: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
    weight_decay: Any,
    first: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    square = jnp.sum(numerics.abs_sq(g))
    v = jnp.where(first, square, numerics.decay_and_add(v, (1 - b2) * square, b2))
    term = numerics.divide(g, numerics.sqrt(v + eps_root) + eps) + weight_decay * p
    m = numerics.decay_and_add(m, term, b1)
    return m, m, v


@transformation(state=ScaleByNovogradState)
def scale_by_novograd(
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: Scalar = 0.0,
    mu_dtype: StorageDtype | None = None,
) -> GradientTransformation:
    r"""Divides each leaf by a running mean of its norm, then adds up: NovoGrad.

    $$ v_t = \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \qquad
       v_1 = \lVert g_1 \rVert^2, $$
    $$ u_t = m_t = \beta_1 m_{t-1} + \Bigl( \frac{g_t}{\sqrt{v_t + \epsilon_r} + \epsilon}
       + \lambda p_t \Bigr). $$

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced, as may be the rest.
        b2: $\beta_2$, in $[0, 1)$.
        eps: $\epsilon \ge 0$.
        eps_root: $\epsilon_r \ge 0$.
        weight_decay: $\lambda$.
        mu_dtype: The dtype in which $m$ is stored; `None`: that of the parameter, but
            float32 for parameters of lower precision.

    Returns:
        A `GradientTransformation` with a `ScaleByNovogradState`. It needs the params.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_novograd(eps=0.0)
        >>> params = jnp.zeros(2)
        >>> updates, _ = t.update(jnp.array([3.0, -4.0]), t.init(params), params)
        >>> print(updates)
        [ 0.6 -0.8]

    References:
        B. Ginsburg et al., [Stochastic gradient methods with layer-wise adaptive moments
        for training of deep networks](https://arxiv.org/abs/1905.11286), 2019.
    """

    def one_each(params: Params) -> Params:
        return jax.tree.map(lambda p: jnp.zeros((), _dtypes.real_dtype(p)), params)

    return remembering(
        ScaleByNovogradState,
        _novograd,
        {"mu": functools.partial(slot_like, dtype=mu_dtype), "nu": one_each},
        reads=("params",),
        at=lambda t: {"first": t == 1},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
    )


class ShrinkStepState(NamedTuple):
    """State of `shrink_step`."""

    count: jax.Array  # t, (), int32: the steps taken.


def _shrunk(u: jax.Array, p: jax.Array, *, factor: Any, loss: Any) -> jax.Array:
    return numerics.times(factor, u) - loss * p


@transformation(state=ShrinkStepState)
def shrink_step(learning_rate: NonNegativeOrSchedule) -> GradientTransformation:
    r"""Makes the step end nearer to the origin, as Fromage does to keep norms from growing.

    $$ p' = \frac{p + u}{\sqrt{1 + \eta_t^2}}, \qquad u' = p' - p. $$

    A step at right angles to $p$, of length $\eta \lVert p \rVert$, then keeps the norm. It
    stands behind the learning rate.

    Args:
        learning_rate: $\eta \ge 0$: a number, a traced scalar, or a schedule.

    Returns:
        A `GradientTransformation` with a `ShrinkStepState`. It needs the params.

    Raises:
        ValueError: If `learning_rate` is negative or not finite; in `update`, if params are
            missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.shrink_step(0.75)
        >>> params = jnp.array([10.0, 0.0])
        >>> updates, _ = t.update(jnp.array([0.0, 7.5]), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [8. 6.]

    References:
        J. Bernstein et al., [On the distance between two neural networks and the stability
        of learning](https://arxiv.org/abs/2002.03432), 2020.
    """

    def shrink(updates: Updates, params: Params, count: jax.Array) -> Updates:
        rate = numerics.at_step(learning_rate, count)
        # A Python number is taken in double precision.
        length = (math.sqrt if isinstance(rate, float) else jnp.sqrt)(1 + rate * rate)
        loss = rate * rate / (length * (1 + length))  # 1 - 1 / length, without cancelling.
        return leafwise(_shrunk, updates, reads=(params,), factor=1 / length, loss=loss)

    return counting(ShrinkStepState, shrink)
