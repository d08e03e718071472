"""Keeping updates within bounds."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, numerics
from ..base import (
    EmptyState,
    GradientTransformation,
    OptState,
    Params,
    Updates,
    memoryless,
    transformation,
)
from ..tree import leafwise, norm
from ..typing import NonNegative, Number, Threshold


def _clip(g: jax.Array, *, bound: Any) -> jax.Array:
    return jnp.clip(g, -bound, bound)


@transformation(real=True, packable=True)
def clip(max_delta: Threshold) -> GradientTransformation:
    r"""Clips each number to an interval: $u = \min(\max(g, -\delta), \delta)$.

    NaN stays NaN. Complex updates are refused: clip their norm instead.

    Args:
        max_delta: $\delta$, in $[0, \infty]$. May be traced.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If `max_delta` is negative.
        TypeError: In `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.clip(1.0)
        >>> updates, _ = t.update(jnp.array([3.0, -0.5]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1.  -0.5]
    """
    return memoryless(lambda updates: leafwise(_clip, updates, bound=max_delta))


def _shrink(g: jax.Array, *, factor: Any) -> jax.Array:
    return g * factor


@transformation(packable=True)
def clip_by_global_norm(
    max_norm: Threshold,
    *,
    # No number by default, which `optax.inject_hyperparams` would trace.
    ord: Annotated[float, Number("[1, inf]", plain=True)] | None = None,
    eps: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Scales all updates down together if their common norm is too large.

    $$ u = g \cdot \min\bigl(1, c / (\lVert g \rVert_q + \epsilon)\bigr), \qquad
       \lVert g \rVert_2 = \sqrt{\textstyle\sum_i |g_i|^2} \text{ over all leaves}. $$

    The norm is that of `tree.norm`: float32 at least, whatever the leaves are, so
    that numbers whose squares leave the range of that dtype (in float32, beyond 1.8e19 or
    below 1e-23) make it infinite, and the updates zero, or leave them out. A NaN makes all
    updates NaN.

    Args:
        max_norm: $c$, in $[0, \infty]$. May be traced.
        ord: $q$, in $[1, \infty]$: PyTorch's `norm_type`. A Python number; `None` for 2.
        eps: $\epsilon \ge 0$: 1e-6 in PyTorch's `clip_grad_norm_`, 0 in TensorFlow and
            Optax.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.clip_by_global_norm(1.0)
        >>> updates, _ = t.update(jnp.array([3.0, -4.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 0.6 -0.8]

    References:
        R. Pascanu, T. Mikolov and Y. Bengio, [On the difficulty of training recurrent
        neural networks](https://arxiv.org/abs/1211.5063), 2013.
    """

    def shrink(updates: Updates) -> Updates:
        factor = numerics.down_to(
            norm(updates, 2.0 if ord is None else ord) + eps, max_norm
        )
        return leafwise(_shrink, updates, factor=factor)

    return memoryless(shrink)


def _clip_norm(g: jax.Array, *, max_norm: Any) -> jax.Array:
    return g * numerics.down_to(numerics.sqrt(jnp.sum(numerics.abs_sq(g))), max_norm)


@transformation
def clip_by_norm(max_norm: Threshold) -> GradientTransformation:
    r"""Scales each leaf down if its own norm is too large.

    $u = g \cdot \min(1, c / \lVert g \rVert)$ for every leaf $g$ by itself: the `clipnorm`
    of Keras, TensorFlow's `clip_by_norm`. The direction as a whole changes; to keep it,
    see `clip_by_global_norm`.

    Args:
        max_norm: $c$, in $[0, \infty]$. May be traced.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: If `max_norm` is negative.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.clip_by_norm(1.0)
        >>> grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([0.5])}
        >>> updates, _ = t.update(grads, t.init(grads))
        >>> print(updates["a"], updates["b"])
        [ 0.6 -0.8] [0.5]
    """
    return memoryless(lambda updates: leafwise(_clip_norm, updates, max_norm=max_norm))


class ZeroNansState(NamedTuple):
    """State of `zero_nans`."""

    found_nan: Params  # For each parameter, (), bool: whether its last update had a NaN.


@transformation(state=ZeroNansState, packable=True)
def zero_nans() -> GradientTransformation:
    """Replaces NaN by zero, and says where in its state. Infinities stay.

    Returns:
        A `GradientTransformation` with a `ZeroNansState`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.zero_nans()
        >>> updates, state = t.update(jnp.array([1.0, jnp.nan]), t.init(jnp.zeros(2)))
        >>> print(updates, state.found_nan)
        [1. 0.] True
    """

    def init(params: Params) -> OptState:
        return ZeroNansState(jax.tree.map(lambda p: jnp.zeros((), bool), params))

    def update(
        updates: Updates,
        state: ZeroNansState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        old = _dtypes.match(treedef, leaves, state.found_nan, "the state", scalars=True)
        found = treedef.unflatten(
            None if o is None else _has_nan(g) for g, o in zip(leaves, old, strict=True)
        )
        updates = leafwise(_without_nans, updates)
        return updates, ZeroNansState(found)

    return GradientTransformation(init, update)


def _has_nan(g: jax.Array | None) -> jax.Array:
    return jnp.zeros((), bool) if g is None else jnp.any(jnp.isnan(g))


def _without_nans(g: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(g), 0, g)


def _centralize(g: jax.Array, *, output_axis: int) -> jax.Array:
    if g.ndim < 2:
        return g
    kept = range(g.ndim)[output_axis]
    inputs = tuple(axis for axis in range(g.ndim) if axis != kept)
    return g - jnp.mean(g, axis=inputs, keepdims=True)


@transformation
def centralize(output_axis: int | None = None) -> GradientTransformation:
    r"""Subtracts from the gradient of each output of a layer its mean over the inputs.

    For a leaf of two axes or more, $u = g - \mathrm{mean}(g)$ over all axes but
    `output_axis`. Vectors and scalars pass unchanged.

    Args:
        output_axis: The axis of the outputs: 0 (`None`) for weights stored as PyTorch
            stores them, (out, in, ...), as Optax assumes; -1 for the (..., in, out) of Flax
            and Keras.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        ValueError: In `init`, if a leaf of two axes or more has no such axis.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.centralize()
        >>> updates, _ = t.update(
        ...     jnp.array([[1.0, 3.0], [5.0, 5.0]]), t.init(jnp.zeros((2, 2)))
        ... )
        >>> print(updates)
        [[-1.  1.]
         [ 0.  0.]]

    References:
        H. Yong et al., [Gradient centralization: a new optimization technique for deep
        neural networks](https://arxiv.org/abs/2004.01461), 2020.
    """
    # No number by default, which `optax.inject_hyperparams` would trace.
    axis = 0 if output_axis is None else output_axis

    def init(params: Params) -> OptState:
        for path, p in jax.tree.leaves_with_path(params):
            ndim = jnp.ndim(p)
            if ndim > 1 and not -ndim <= axis < ndim:
                raise ValueError(
                    f"`centralize(output_axis=...)` must be an axis of every matrix, but "
                    f"got {axis} for the leaf {jax.tree_util.keystr(path)} of "
                    f"shape {jnp.shape(p)}."
                )
        return EmptyState()

    _, update = memoryless(lambda updates: leafwise(_centralize, updates, output_axis=axis))
    return GradientTransformation(init, update)
