"""Second moments in less memory: of rows and columns in place of single numbers."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _dtypes, numerics
from .._checks import Refusal
from ..base import GradientTransformation, Params, transformation
from ..selection import unboxed
from ..tree import remembering, slot_like
from ..typing import Decay, Fraction, NonNegative, PositiveCount


class FactoredMoment(NamedTuple):
    """The second moment of a factored leaf: its means over one axis, and another."""

    row: jax.Array  # r, the leaf's shape without its column axis; real.
    col: jax.Array  # c, the leaf's shape without its row axis; real.


class ScaleByFactoredRmsState(NamedTuple):
    """State of `scale_by_factored_rms`."""

    count: jax.Array  # t, (), int32: the steps taken.
    nu: Params  # For each parameter, v, or a `FactoredMoment` in its place.


def _factored_axes(
    shape: tuple[int, ...], factored: bool, smallest: int, dims: str
) -> tuple[int, int] | None:
    """The axis of the rows and that of the columns, or `None` to keep all of `v`."""
    if not factored or len(shape) < 2:
        return None
    axes = np.argsort(shape, stable=True)[-2:] if dims == "largest" else (-2, -1)
    row, col = (int(axis) % len(shape) for axis in axes)
    return (row, col) if min(shape[row], shape[col]) >= smallest else None


def _factored_rms(
    g: jax.Array,
    v: Any,
    *,
    weight: Any,
    epsilon: Any,
    clamp: bool,
    **which: Any,
) -> tuple[jax.Array, Any]:
    floor, added = (epsilon, 0.0) if clamp else (0.0, epsilon)
    square = numerics.abs_sq(g) + added
    axes = _factored_axes(g.shape, **which)
    want = [g.shape]
    if axes is not None:
        want = [tuple(np.delete(g.shape, axis)) for axis in reversed(axes)]
    if [x.shape for x in jax.tree.leaves(v)] != want:
        raise Refusal(
            ValueError,
            f"got a state that was made with another `min_dim_size_to_factor`, or another "
            f"choice of axes, for a leaf of shape {g.shape}.",
        )
    if axes is None:
        v = numerics.mix(v, square, weight)
        return numerics.divide(g, numerics.sqrt(jnp.maximum(v, floor * floor))), v
    row, col = axes
    r = numerics.mix(v.row, jnp.mean(square, axis=col), weight)
    c = numerics.mix(v.col, jnp.mean(square, axis=row), weight)
    r_, c_ = jnp.expand_dims(r, col), jnp.expand_dims(c, row)
    mean = jnp.maximum(jnp.mean(r_, axis=row, keepdims=True), floor)
    # Roots of each: their products and quotients would under- and overflow.
    share = numerics.divide(numerics.sqrt(r_), numerics.sqrt(mean))
    root = jnp.maximum(share * numerics.sqrt(c_), floor)
    # Squares that have overflowed stay so, and give no update, as in `v` itself.
    root = jnp.where(jnp.isinf(mean) | jnp.isinf(c_), jnp.inf, root)
    return numerics.divide(g, root), FactoredMoment(r, c)


@transformation(state=ScaleByFactoredRmsState)
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Fraction = 0.8,
    step_offset: NonNegative = 0.0,
    min_dim_size_to_factor: PositiveCount = 128,
    epsilon: NonNegative = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] | None = None,
    *,
    factored_dims: Literal["largest", "last"] = "largest",
    clamp: bool = False,
) -> GradientTransformation:
    r"""Divides by a root mean square of which only rows and columns are kept: Adafactor.

    With $\omega_t = (t - t_0)^{-\alpha}$ and $q_t = |g_t|^2 + \epsilon$, for a matrix

    $$ r_t = (1 - \omega_t)\, r_{t-1} + \omega_t\, \mathrm{mean}_j\, q_t, \qquad
       c_t = (1 - \omega_t)\, c_{t-1} + \omega_t\, \mathrm{mean}_i\, q_t, $$
    $$ \hat v_{ij} = r_i\, c_j / \mathrm{mean}\, r, \qquad u_t = g_t / \sqrt{\hat v_t}, $$

    and for a smaller leaf $v_t = (1 - \omega_t)\, v_{t-1} + \omega_t\, q_t$ and
    $u_t = g_t / \sqrt{v_t}$. At the first step $\omega = 1$, so there is no bias.

    Args:
        factored: Whether to factor at all.
        decay_rate: $\alpha$, in $[0, 1]$. May be traced, as may be the next and `epsilon`.
        step_offset: $t_0$: how many steps to count less; up to $t_0$, $\omega = 1$.
        min_dim_size_to_factor: How long both axes have to be for a leaf to be factored: 128
            in Optax; 1 for PyTorch and Keras, which factor whatever has two axes.
        epsilon: $\epsilon \ge 0$.
        decay_rate_fn: A function of $t - 1 - t_0$ and $\alpha$ that gives $1 - \omega_t$;
            `None` for the above.
        factored_dims: Which two axes of a leaf with more than two: the longest (Optax), or
            the last (PyTorch, Keras).
        clamp: PyTorch's place of $\epsilon$: not in $q$, but as a floor,
            $\hat v_{ij} = r_i\, c_j / \max(\mathrm{mean}\, r, \epsilon)$ and
            $u = g / \sqrt{\max(\hat v, \epsilon^2)}$.

    Returns:
        A `GradientTransformation` with a `ScaleByFactoredRmsState`: for an m x n matrix it
        holds m + n numbers.

    Raises:
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_factored_rms(min_dim_size_to_factor=2)
        >>> grads = jnp.outer(jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5]))
        >>> updates, state = t.update(grads, t.init(grads))
        >>> print(jnp.round(updates, 3))
        [[ 1.  1.]
         [-1. -1.]]

    References:
        N. Shazeer and M. Stern, [Adafactor: adaptive learning rates with sublinear memory
        cost](https://arxiv.org/abs/1804.04235), 2018.
    """
    which = {
        "factored": factored,
        "smallest": min_dim_size_to_factor,
        "dims": factored_dims,
    }

    def fresh(params: Params) -> Params:
        def moment(p: Any) -> Any:
            shape, dtype = jnp.shape(p), _dtypes.real_dtype(p)
            axes = _factored_axes(shape, **which)
            if axes is None:
                return jnp.zeros(shape, dtype)
            without = (np.delete(shape, axis) for axis in reversed(axes))
            return FactoredMoment(*(jnp.zeros(tuple(s), dtype) for s in without))

        return jax.tree.map(moment, params)

    def at(t: jax.Array) -> dict[str, Any]:
        if decay_rate_fn is not None:
            decay = decay_rate_fn(numerics.as_scalar(t) - 1 - step_offset, decay_rate)
            return {"weight": 1 - numerics.as_scalar(decay)}
        steps = jnp.maximum(numerics.as_scalar(t) - step_offset, 1)
        return {"weight": jnp.power(steps, -decay_rate)}

    return remembering(
        ScaleByFactoredRmsState,
        _factored_rms,
        {"nu": fresh},
        at=at,
        epsilon=epsilon,
        clamp=clamp,
        **which,
    )


class ScaleBySm3State(NamedTuple):
    """State of `scale_by_sm3`."""

    mu: Params  # For each parameter, a tuple with one vector for each of its axes.
    nu: Params  # m, the mean of scaled gradients, shaped like the params.

    directions = ("nu",)


def _along(vector: jax.Array, axis: int, ndim: int) -> jax.Array:
    return jnp.expand_dims(vector, [a for a in range(ndim) if a != axis])


def _sm3(
    g: jax.Array, cover: Any, m: jax.Array, *, b1: Any, b2: Any, eps: Any, weight: Any
) -> tuple[jax.Array, Any, jax.Array]:
    if len(cover) != max(g.ndim, 1):
        raise Refusal(
            ValueError,
            f"got a state for an array of {len(cover)} axes at a leaf of shape {g.shape}.",
        )
    bounds = [_along(c, axis, g.ndim) for axis, c in enumerate(cover) if g.ndim]
    v = weight * jnp.square(g) + b2 * functools.reduce(jnp.minimum, bounds or cover)
    scaled = jnp.where(v == 0, 0, numerics.divide(g, numerics.sqrt(v + eps)))
    m = numerics.decay_and_add(m, (1 - b1) * scaled, b1)
    others = ([a for a in range(g.ndim) if a != axis] for axis in range(len(cover)))
    return m, tuple(jnp.max(v, axis=tuple(o), initial=0) for o in others), m


@transformation(state=ScaleBySm3State, real=True)
def scale_by_sm3(
    b1: Decay = 0.9, b2: Fraction = 1.0, eps: NonNegative = 1e-8
) -> GradientTransformation:
    r"""Divides by a root of sums that are kept for rows and columns only: SM3.

    A leaf of $k$ axes has $k$ vectors $\mu^{(a)}$; number $i$ lies on one entry of each:

    $$ v_{t,i} = w\, g_{t,i}^2 + \beta_2 \min_a \mu^{(a)}_{t-1, i_a}, \qquad
       \mu^{(a)}_{t,j} = \max_{i:\, i_a = j} v_{t,i}, $$
    $$ u_t = m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t / \sqrt{v_t + \epsilon}, $$

    where $w = 1 - \beta_2$, or 1 if $\beta_2 = 1$, and $g / \sqrt{\cdot}$ is 0 where
    $v = 0$. It is AdaGrad with a bound in place of each sum.

    Args:
        b1: $\beta_1$, in $[0, 1)$. May be traced.
        b2: $\beta_2$, in $[0, 1]$; 1 for sums, as in the paper. May be traced.
        eps: $\epsilon \ge 0$. May be traced.

    Returns:
        A `GradientTransformation` with a `ScaleBySm3State`.

    Raises:
        ValueError: If an argument lies outside of its range.
        TypeError: In `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_sm3(b1=0.0, eps=0.0)
        >>> grads = jnp.array([[3.0, 0.0], [0.0, 4.0]])
        >>> updates, state = t.update(grads, t.init(grads))
        >>> print(updates, state.mu[0])
        [[1. 0.]
         [0. 1.]] [ 9. 16.]

    References:
        R. Anil et al., [Memory efficient adaptive
        optimization](https://arxiv.org/abs/1901.11150), 2019.
    """

    def fresh(params: Params) -> Params:
        def covers(p: Any) -> tuple[jax.Array, ...]:
            dtype = _dtypes.real_dtype(p)
            lengths = [(n,) for n in jnp.shape(p)] or [()]  # A number covers itself.
            return tuple(jnp.zeros(length, dtype) for length in lengths)

        return jax.tree.map(covers, unboxed(params))

    return remembering(
        ScaleBySm3State,
        _sm3,
        {"mu": fresh, "nu": slot_like},
        at=lambda t: {"weight": jnp.where(b2 == 1, 1.0, 1 - b2)},
        b1=b1,
        b2=b2,
        eps=eps,
    )
