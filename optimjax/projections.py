r"""Euclidean projections: the point of a set that is nearest to a tree.

$$ P(x) = \arg\min_{y \in S} \lVert x - y \rVert_2, $$

where $x$ is all the numbers of a tree, taken as one long vector. They have the names and
the arguments of `optax.projections`, and these habits:

- Numbers are computed in float32 at least, and rounded once, to the dtype of the leaf.
  Norms neither overflow nor underflow.
- `None` is no leaf: where the tree has it, so has the result.
- What lies in a convex set already is given back as it is, and derivatives on the edge of
  one are those inside.
- Of several nearest points they give one, never NaN.

To make every step of an optimizer end in a set, see `project`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _dtypes, numerics
from ._checks import Refusal, checked
from .tree import broadcast_prefix
from .typing import NonNegative, Scalar, Threshold


def _projected(
    rule: Callable[..., list[jax.Array]],
    tree: Any,
    *others: Any,
    real: bool = False,
    **scalars: Any,
) -> Any:
    """The tree of `rule(leaves, *others, **scalars)`: lists of arrays in, and one out.

    Each of `others` is a list with an item for every leaf of `tree`, `None` counted.
    """
    _dtypes.check_inexact(tree, "the tree", real=real)
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_dtypes.is_none)
    here = [i for i, x in enumerate(leaves) if x is not None]
    if not here:
        return tree
    columns = [[column[i] for i in here] for column in (leaves, *others)]
    for i, x in zip(here, _computed(rule, columns, scalars), strict=True):
        leaves[i] = x
    return treedef.unflatten(leaves)


@functools.partial(jax.jit, static_argnums=0)
def _computed(rule: Any, columns: Any, scalars: Any) -> list[jax.Array]:
    """A rule in one real dtype, or the complex one over it."""
    real = _dtypes.real_dtype(*jax.tree.leaves(columns))

    def widened(x: Any) -> jax.Array:
        return _dtypes.cast(x, _dtypes.with_real(_dtypes.dtype_of(x), real))

    wide, numbers = jax.tree.map(widened, (columns, scalars))
    # Everything is in one real dtype now: that a real array meets a complex one is meant.
    with jax.numpy_dtype_promotion("standard"):
        out = rule(*wide, **numbers)
    return [
        _dtypes.cast(y, _dtypes.dtype_of(x)) for x, y in zip(columns[0], out, strict=True)
    ]


def _total(parts: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(parts))


def _largest(xs: list[jax.Array], least: float) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(x, initial=least) for x in xs]))


def _unit(xs: list[jax.Array]) -> jax.Array:
    """A power of two near the largest modulus: divided by it, squares stay in range."""
    largest = jax.lax.stop_gradient(_largest([numerics.modulus(x) for x in xs], 0))
    usable = (largest > 0) & (largest < jnp.inf)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1))
    return jnp.ldexp(jnp.ones_like(largest), exponent - 1)  # Of 1, that is 1.


def _norm(xs: list[jax.Array], unit: jax.Array) -> jax.Array:
    """The 2-norm of `xs / unit`. It does not depend on the unit, nor do derivatives."""
    squares = [jnp.sum(numerics.abs_sq(numerics.over(x, unit))) for x in xs]
    return numerics.sqrt(_total(squares))


# Bounds on each number.


def _onto_positive(xs: list[jax.Array]) -> list[jax.Array]:
    return [jnp.where(x < 0, 0, x) for x in xs]


@checked
def projection_non_negative(tree: Any) -> Any:
    r"""Projects onto the vectors without negative numbers: $\max(x, 0)$.

    Args:
        tree: A tree of real arrays.

    Returns:
        A tree like `tree`. NaN stays NaN.

    Raises:
        TypeError: If a leaf is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([-1.0, 2.0]), "b": None}
        >>> print(ox.projections.projection_non_negative(tree)["w"])
        [0. 2.]
    """
    return _projected(_onto_positive, tree, real=True)


def _onto_box(
    xs: list[jax.Array], lows: list[jax.Array], highs: list[jax.Array]
) -> list[jax.Array]:
    def held(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        low, high = (jnp.broadcast_to(bound, x.shape) for bound in (low, high))
        return jnp.where(x < low, low, jnp.where(x > high, high, x))

    return list(map(held, xs, lows, highs))


@checked
def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    r"""Projects onto a box: $\min(\max(x, l), h)$.

    Args:
        tree: A tree of real arrays.
        lower: $l$: a number, a tree of arrays that broadcast to the leaves of `tree`, or a
            prefix of one. It may be minus infinity.
        upper: $h \ge l$, likewise.

    Returns:
        A tree like `tree`. NaN stays NaN.

    Raises:
        ValueError: If bounds do not match the tree, or, where their values are known, if
            $l \le h$ does not hold, by key path.
        TypeError: If a leaf or a bound is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([-3.0, 0.5]), "b": jnp.array(7.0)}
        >>> held = ox.projections.projection_box(tree, -1.0, {"w": 1.0, "b": jnp.inf})
        >>> print(held["w"], held["b"])
        [-1.   0.5] 7.0
    """
    return _boxed(tree, lower, upper, "`lower`", "`upper`")


@checked
def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    r"""Projects onto a cube with one corner at the origin: $\min(\max(x, 0), c)$.

    Args:
        tree: A tree of real arrays.
        scale: $c \ge 0$: a number, a tree of arrays that broadcast to the leaves of `tree`,
            or a prefix of one.

    Returns:
        A tree like `tree`. NaN stays NaN.

    Raises:
        ValueError: If `scale` does not match the tree, or, where its value is known, if it
            is negative, by key path.
        TypeError: If a leaf is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.projections.projection_hypercube(jnp.array([-3.0, 0.5, 7.0])))
        [0.  0.5 1. ]
    """
    return _boxed(tree, 0.0, scale, "0", "`scale`")


def _boxed(tree: Any, lower: Any, upper: Any, low_name: str, high_name: str) -> Any:
    _dtypes.check_inexact(tree, "the tree", real=True)
    lows, highs = _bounds(tree, lower, low_name), _bounds(tree, upper, high_name)
    for (path, _), low, high in zip(_with_paths(tree), lows, highs, strict=True):
        if low is None or isinstance(low, jax.core.Tracer):
            continue
        if isinstance(high, jax.core.Tracer):
            continue
        if not np.all(np.asarray(low, np.float64) <= np.asarray(high, np.float64)):
            raise Refusal(
                ValueError,
                f"needs {low_name} <= {high_name}, which does not hold for the leaf "
                f"{_dtypes.name_of(path)}.",
            )
    return _projected(_onto_box, tree, lows, highs, real=True)


def _bounds(tree: Any, bound: Any, name: str) -> list[Any]:
    """The bound of every leaf of `tree`, `None` leaves counted."""
    treedef = jax.tree.structure(tree, is_leaf=_dtypes.is_none)
    bounds = treedef.flatten_up_to(broadcast_prefix(bound, tree, name))
    for (path, x), b in zip(_with_paths(tree), bounds, strict=True):
        if b is None:
            continue
        _check_real(b, f"the {name} of the leaf {_dtypes.name_of(path)}")
        shape = jnp.shape(x)
        if jnp.ndim(b) > len(shape) or any(
            n not in (1, m)
            for n, m in zip(reversed(jnp.shape(b)), reversed(shape), strict=False)
        ):
            raise Refusal(
                ValueError,
                f"got {name} of shape {jnp.shape(b)} for the leaf {_dtypes.name_of(path)} "
                f"of shape {shape}.",
            )
    return bounds


def _check_real(x: Any, what: str) -> None:
    if jnp.issubdtype(_dtypes.dtype_of(x), jnp.complexfloating):
        raise Refusal(TypeError, f"cannot take complex numbers in {what}.")


def _with_paths(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree.leaves_with_path(tree, is_leaf=_dtypes.is_none)


# Balls and spheres.


def _shares(xs: list[jax.Array], scale: jax.Array) -> list[jax.Array]:
    r"""The projection of real `xs` onto the simplex: $\max(x - \tau, 0)$.

    Newton's method on $\sum \max(x - \tau, 0) = c$, which is convex and falls: from a
    $\tau$ that is too low it rises to the right one in a few steps, and what has fallen
    below stays there. Nothing is sorted, and sums go by halves.
    """
    # As distances from the largest, which are exact for all that is near to it.
    top = jax.lax.stop_gradient(_largest(xs, -math.inf))
    below = [x - top for x in xs]

    def threshold(ds: list[jax.Array], low: jax.Array, scale: jax.Array) -> jax.Array:
        """What it would be if all above `low` were to stay positive."""
        above = [d > low for d in ds]
        pairs = zip(above, ds, strict=True)
        total = _total([jnp.sum(jnp.where(a, d, 0)) for a, d in pairs])
        count = _total([jnp.sum(a, dtype=total.dtype) for a in above])
        return (total - scale) / jnp.maximum(count, 1)

    fixed, known = jax.lax.stop_gradient((below, scale))
    low, _ = jax.lax.while_loop(
        lambda pair: pair[0] < pair[1],
        lambda pair: (pair[1], threshold(fixed, pair[1], known)),
        # All that is not within `scale` of the largest comes to zero.
        (-known, threshold(fixed, -known, known)),
    )
    tau = threshold(below, low, scale)
    return [jnp.where(d <= low, 0, d - tau) for d in below]


@checked
def projection_simplex(tree: Any, scale: NonNegative = 1) -> Any:
    r"""Projects onto a simplex: $y \ge 0$, $\sum_i y_i = c$.

    $P(x) = \max(x - \tau, 0)$, with the number $\tau$ for which the sum is right. Numbers
    that are much smaller than the largest become exactly zero.

    Args:
        tree: A tree of real arrays.
        scale: $c \ge 0$; with 1, the result is a probability distribution over all the
            numbers of the tree. May be traced.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: If `scale` is negative or not finite.
        TypeError: If a leaf is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
        >>> on = ox.projections.projection_simplex(tree)
        >>> print(on["w"], on["b"])
        [0.75 0.  ] 0.25

    References:
        C. Michelot, [A finite algorithm for finding the projection of a point onto the
        canonical simplex of R^n](https://doi.org/10.1007/BF00938486), 1986.
    """
    return _projected(_shares, tree, real=True, scale=scale)


def _directed(x: jax.Array, size: jax.Array) -> jax.Array:
    """What has modulus `size` and the direction of `x`; that of one where `x` is zero."""
    if not jnp.iscomplexobj(x):
        return jnp.where(x < 0, -size, size)
    moved = (x != 0) & (size > 0)
    phase = numerics.over(x, jnp.where(moved, numerics.modulus(x), 1))
    return jnp.where(moved, phase * size, size)


def _onto_l1_sphere(xs: list[jax.Array], *, scale: jax.Array) -> list[jax.Array]:
    sizes = _shares([numerics.modulus(x) for x in xs], scale)
    return list(map(_directed, xs, sizes))


@checked
def projection_l1_sphere(tree: Any, scale: NonNegative = 1) -> Any:
    r"""Projects onto the sphere of the 1-norm: $\sum_i |y_i| = c$.

    The moduli are projected onto the simplex, and signs, or phases, are kept. Where a zero
    has to move, it becomes positive (Optax leaves it, and the norm is too small).

    Args:
        tree: A tree of real or complex arrays.
        scale: $c \ge 0$. May be traced.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: If `scale` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.projections.projection_l1_sphere(jnp.array([0.5, -0.25])))
        [ 0.625 -0.375]
    """
    return _projected(_onto_l1_sphere, tree, scale=scale)


def _onto_l1_ball(xs: list[jax.Array], *, scale: jax.Array) -> list[jax.Array]:
    inside = _total([jnp.sum(numerics.modulus(x)) for x in xs]) <= scale
    # Harmless numbers where the sphere is not asked for, for the sake of derivatives.
    outside = [jnp.where(inside, 1, x) for x in xs]
    moved = _onto_l1_sphere(outside, scale=scale)
    return [jnp.where(inside, x, y) for x, y in zip(xs, moved, strict=True)]


@checked
def projection_l1_ball(tree: Any, scale: Threshold = 1) -> Any:
    r"""Projects onto the ball of the 1-norm: $\sum_i |y_i| \le c$.

    From outside of it every number moves towards zero by the same amount, and no further.

    Args:
        tree: A tree of real or complex arrays.
        scale: $c$, in $[0, \infty]$. May be traced.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: If `scale` is negative.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.projections.projection_l1_ball(jnp.array([1.0, -0.5, 0.25]), 1.0))
        [ 0.75 -0.25  0.  ]

    References:
        J. Duchi et al., [Efficient projections onto the l1-ball for learning in high
        dimensions](https://doi.org/10.1145/1390156.1390191), 2008.
    """
    return _projected(_onto_l1_ball, tree, scale=scale)


def _onto_l2_sphere(xs: list[jax.Array], *, scale: jax.Array) -> list[jax.Array]:
    unit = _unit(xs)
    norm = _norm(xs, unit)
    factor = numerics.divide(scale, norm)
    alike = scale / math.sqrt(max(1, sum(x.size for x in xs)))
    return [jnp.where(norm == 0, alike, numerics.over(x, unit) * factor) for x in xs]


@checked
def projection_l2_sphere(tree: Any, scale: NonNegative = 1) -> Any:
    r"""Projects onto the sphere of the 2-norm: $y = c\, x / \lVert x \rVert_2$.

    To zero all its points are equally near: it goes to the one whose numbers are all alike
    (in Optax, to NaN).

    Args:
        tree: A tree of real or complex arrays.
        scale: $c \ge 0$. May be traced.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: If `scale` is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)}
        >>> on = ox.projections.projection_l2_sphere(tree, 10.0)
        >>> print(on["w"], on["b"])
        [6. 0.] -8.0
    """
    return _projected(_onto_l2_sphere, tree, scale=scale)


def _onto_l2_ball(xs: list[jax.Array], *, scale: jax.Array) -> list[jax.Array]:
    unit = _unit(xs)
    norm = _norm(xs, unit)
    inside = norm <= scale / unit
    # Not by `scale / unit`, which vanishes for numbers near the largest. Inside, `scale`
    # may be infinite, which derivatives must not see.
    factor = jnp.where(inside, 0, scale) / jnp.where(inside, 1, norm)
    return [jnp.where(inside, x, numerics.over(x, unit) * factor) for x in xs]


@checked
def projection_l2_ball(tree: Any, scale: Threshold = 1) -> Any:
    r"""Projects onto the ball of the 2-norm: $y = x \min(1, c / \lVert x \rVert_2)$.

    Args:
        tree: A tree of real or complex arrays.
        scale: $c$, in $[0, \infty]$. May be traced.

    Returns:
        A tree like `tree`.

    Raises:
        ValueError: If `scale` is negative.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> tree = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)}
        >>> within = ox.projections.projection_l2_ball(tree)
        >>> print(within["w"], within["b"])
        [0.6 0. ] -0.8
    """
    return _projected(_onto_l2_ball, tree, scale=scale)


def _onto_linf_ball(xs: list[jax.Array], *, scale: jax.Array) -> list[jax.Array]:
    def held(x: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(x):
            size = numerics.modulus(x)
            inside = size <= scale
            phase = numerics.over(x, jnp.where(inside, 1, size))
            return jnp.where(inside, x, phase * jnp.where(inside, 0, scale))
        return jnp.where(x < -scale, -scale, jnp.where(x > scale, scale, x))

    return [held(x) for x in xs]


@checked
def projection_linf_ball(tree: Any, scale: Threshold = 1) -> Any:
    r"""Projects onto the ball of the maximum norm: $|y_i| \le c$ for every number.

    Args:
        tree: A tree of real or complex arrays. Complex numbers keep their phases.
        scale: $c$, in $[0, \infty]$. May be traced.

    Returns:
        A tree like `tree`. NaN stays NaN.

    Raises:
        ValueError: If `scale` is negative.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> print(ox.projections.projection_linf_ball(jnp.array([-3.0, 0.5, 7.0])))
        [-1.   0.5  1. ]
    """
    return _projected(_onto_linf_ball, tree, scale=scale)


# What one linear condition makes.


def _matching(x: Any, a: Any, *, real: bool = False) -> list[Any]:
    """The leaves of `a`, one for each of `x`, `None` counted."""
    _dtypes.check_inexact(x, "the tree", real=real)
    leaves, treedef = jax.tree.flatten(x, is_leaf=_dtypes.is_none)
    shaped = jax.tree.map(lambda y: y if hasattr(y, "shape") else jnp.asarray(y), a)
    matching = _dtypes.match(treedef, leaves, shaped, "`a`", ours="arrays")
    for (path, leaf), y in zip(_with_paths(x), matching, strict=True):
        if leaf is not None and not jnp.iscomplexobj(leaf):
            _check_real(
                y, f"`a`, where the tree is real, at the leaf {_dtypes.name_of(path)}"
            )
    return matching


def _products(xs: list[jax.Array], ys: list[jax.Array]) -> jax.Array:
    r"""The inner product $\sum_i \bar x_i y_i$."""
    # Not `jnp.vdot`: accelerators may multiply in fewer bits there.
    return _total([jnp.sum(jnp.conj(x) * y) for x, y in zip(xs, ys, strict=True)])


def _along(normal: list[jax.Array], excess: jax.Array) -> list[jax.Array]:
    r"""The multiple of $a$ whose product with $a$ is `excess`; zero where $a$ is."""
    square = _total([jnp.sum(numerics.abs_sq(a)) for a in normal])
    factor = numerics.divide(excess, square)
    return [factor * a for a in normal]


def _scaled(normal: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """A normal vector in a unit of its own size: neither it nor its length matters."""
    unit = _unit(normal)
    return [numerics.over(a, unit) for a in normal], unit


def _onto_vector(xs: list[jax.Array], normal: list[jax.Array]) -> list[jax.Array]:
    normal, _ = _scaled(normal)
    return _along(normal, _products(normal, xs))


@checked
def projection_vector(x: Any, a: Any) -> Any:
    r"""Projects onto the line through the origin and a vector.

    $$ P(x) = a\, \frac{\langle a, x \rangle}{\langle a, a \rangle}, \qquad
       \langle a, x \rangle = \sum_i \bar a_i x_i. $$

    If $a$ is zero, so is the result (NaN in Optax).

    Args:
        x: A tree of real or complex arrays.
        a: $a$, a tree of the same structure and shapes.

    Returns:
        A tree like `x`.

    Raises:
        ValueError: If `a` does not match `x`, by key path.
        TypeError: If a leaf of `a` is complex where that of `x` is real, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x, a = jnp.array([2.0, 1.0]), jnp.array([3.0, 4.0])
        >>> print(ox.projections.projection_vector(x, a))
        [1.2 1.6]
    """
    return _projected(_onto_vector, x, _matching(x, a))


def _onto_hyperplane(
    xs: list[jax.Array], normal: list[jax.Array], *, b: jax.Array
) -> list[jax.Array]:
    normal, unit = _scaled(normal)
    missing = b / unit - _products(normal, xs)
    return [x + step for x, step in zip(xs, _along(normal, missing), strict=True)]


@checked
def projection_hyperplane(x: Any, a: Any, b: Scalar) -> Any:
    r"""Projects onto a hyperplane: $\langle a, y \rangle = b$.

    $$ P(x) = x + a\, \frac{b - \langle a, x \rangle}{\langle a, a \rangle}, \qquad
       \langle a, x \rangle = \sum_i \bar a_i x_i. $$

    If $a$ is zero there is no plane, and $x$ is given back (NaN in Optax).

    Args:
        x: A tree of real or complex arrays.
        a: $a$, a tree of the same structure and shapes.
        b: $b$, any finite number. May be traced.

    Returns:
        A tree like `x`.

    Raises:
        ValueError: If `a` does not match `x`, by key path, or if `b` is not finite.
        TypeError: If a leaf of `a` is complex where that of `x` is real, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = jnp.array([1.0, 2.0, 6.0])
        >>> print(ox.projections.projection_hyperplane(x, jnp.ones(3), 0.0))
        [-2. -1.  3.]
    """
    return _projected(_onto_hyperplane, x, _matching(x, a), b=b)


def _onto_halfspace(
    xs: list[jax.Array], normal: list[jax.Array], *, b: jax.Array
) -> list[jax.Array]:
    normal, unit = _scaled(normal)
    missing = b / unit - _products(normal, xs)
    steps = _along(normal, jnp.where(missing >= 0, 0, missing))
    return [x + step for x, step in zip(xs, steps, strict=True)]


@checked
def projection_halfspace(x: Any, a: Any, b: Scalar) -> Any:
    r"""Projects onto a half-space: $\langle a, y \rangle \le b$.

    As `projection_hyperplane`, but nothing moves that is on the right side.

    Args:
        x: A tree of real arrays.
        a: $a$, a tree of the same structure and shapes.
        b: $b$, any finite number. May be traced.

    Returns:
        A tree like `x`.

    Raises:
        ValueError: If `a` does not match `x`, by key path, or if `b` is not finite.
        TypeError: If a leaf is complex, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> x = jnp.array([1.0, 2.0, 6.0])
        >>> print(ox.projections.projection_halfspace(x, jnp.ones(3), 0.0))
        [-2. -1.  3.]
        >>> print(ox.projections.projection_halfspace(x, jnp.ones(3), 10.0))
        [1. 2. 6.]
    """
    return _projected(_onto_halfspace, x, _matching(x, a, real=True), b=b)
