"""Whitening by Kronecker products of triangular matrices that are learnt: PSGD."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _branches, _dtypes, numerics
from .._checks import Key, typed_key
from .._linalg import adjoint, in_units, product
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..matrices import Axes, matrixwise, roles, slot_for, some_matrix
from ..schedules import exponential_decay
from ..selection import unboxed
from ..tree import leafwise, random_like
from ..typing import Count, Decay, FractionOrSchedule, Positive, Threshold

# 1 for 500 steps, and from there in 3,500 to 0.03.
ANNEALED = exponential_decay(1.0, 1000, math.exp(-1), 500, end_value=0.03)


class PsgdFactors(NamedTuple):
    """The factors of a stack of matrices: triangular, or the diagonals of diagonal ones."""

    left: Any  # For the inputs, (batch, inputs, inputs) or (batch, inputs).
    right: Any  # For the outputs, likewise; () where there is but one factor.


def _transposed(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


def _times(q: jax.Array, x: jax.Array) -> jax.Array:
    return q[..., None] * x if q.ndim == 2 else product(q, x)


def _adjoint_times(q: jax.Array, x: jax.Array) -> jax.Array:
    return _times(q if q.ndim == 2 else adjoint(q), x)


def _inverse_adjoint_times(q: jax.Array, x: jax.Array) -> jax.Array:
    if q.ndim == 2:
        return numerics.over(x, q[..., None])
    return jax.lax.linalg.triangular_solve(
        q, x, left_side=True, transpose_a=True, conjugate_a=True
    )


def _on_sides(f: Any, q: PsgdFactors, x: jax.Array) -> jax.Array:
    """`f(q, x)` along the inputs by one factor, and along the outputs by the other."""
    x = f(q.left, x)
    return x if isinstance(q.right, tuple) else _transposed(f(q.right, _transposed(x)))


def _spectral_bound(h: jax.Array) -> jax.Array:
    """At most the largest eigenvalue of each, at least each entry of its diagonal.

    Two steps of the power method from the largest column, for positive matrices.
    """
    longest = jnp.argmax(jnp.sum(numerics.abs_sq(h), axis=-2), axis=-1)
    x = product(h, jnp.take_along_axis(h, longest[:, None, None], axis=-1))
    length, next_length = (
        numerics.sqrt(jnp.sum(numerics.abs_sq(y), axis=(-2, -1), keepdims=True))
        for y in (x, product(h, x))
    )
    return numerics.divide(next_length, length)


def _moved(q: Any, a: jax.Array, b: jax.Array, lr: Any) -> Any:
    """A factor, a step nearer to where the rows of `a` are as those of `b`."""
    if q.ndim == 2:
        ours, wanted = (jnp.sum(numerics.abs_sq(x), axis=-1) for x in (a, b))
        bound = jnp.max(ours + wanted, axis=-1, keepdims=True, initial=0)
        return q - lr * numerics.divide(ours - wanted, bound) * q
    ours, wanted = (product(x, adjoint(x)) for x in (a, b))
    step = numerics.divide(jnp.triu(ours - wanted), _spectral_bound(ours + wanted))
    return q - lr * product(step, q)


def _balanced(q: PsgdFactors) -> PsgdFactors:
    """With the largest entries of both factors alike; their product is what it was."""
    roots = []
    for factor in q:
        entries = jnp.abs(jax.lax.stop_gradient(factor)).reshape(factor.shape[0], -1)
        roots.append(jnp.sqrt(jnp.max(entries, axis=-1)))
    gain = roots[1] / roots[0]
    gains = (gain, 1 / gain)
    return PsgdFactors(
        *(x * by.reshape(-1, *[1] * (x.ndim - 1)) for x, by in zip(q, gains, strict=True))
    )


def _renew(
    g: jax.Array, q: PsgdFactors, v: jax.Array, *, lr: Any
) -> tuple[jax.Array, PsgdFactors]:
    given = g
    none = jnp.all(g == 0, axis=(-2, -1))
    g, g_size = in_units(g)
    a, a_size = in_units(_on_sides(_times, q, g))
    b, b_size = in_units(_on_sides(_inverse_adjoint_times, q, v))
    # Only the proportion of both counts: so, no square leaves the range of the dtype.
    ratio = b_size / a_size / g_size
    a, b = a * jnp.minimum(1, 1 / ratio), b * jnp.minimum(1, ratio)
    if isinstance(q.right, tuple):
        new = PsgdFactors(_moved(q.left, a, b, lr), ())
    else:
        right = _moved(q.right, _transposed(a), _transposed(b), lr)
        new = _balanced(PsgdFactors(_moved(q.left, a, b, lr), right))

    def kept(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(none.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return given, jax.tree.map(kept, q, new)


def _precondition(
    u: jax.Array, q: PsgdFactors, *, max_rms: Any
) -> tuple[jax.Array, PsgdFactors]:
    u, size = in_units(u)
    x, x_size = in_units(_on_sides(_times, q, u))
    x, y_size = in_units(_on_sides(_adjoint_times, q, x))
    count = max(x.shape[-1] * x.shape[-2], 1)
    squares = jnp.sum(numerics.abs_sq(x), axis=(-2, -1), keepdims=True) / count
    limit = numerics.divide(max_rms, numerics.sqrt(squares))
    return x * jnp.minimum(size * x_size * y_size, limit), q


def _as_column(x: jax.Array, q: jax.Array, *reads: jax.Array, of_stacks: Any, **how: Any):
    """A rule for stacks, for an array with one factor, the diagonal of a diagonal one."""
    column = (1, x.size, 1)
    factors = PsgdFactors(q.reshape(1, -1), ())
    rest = (y.reshape(column) for y in reads)
    out, (left, _) = of_stacks(x.reshape(column), factors, *rest, **how)
    return out.reshape(x.shape), left.reshape(q.shape)


def _on_all(
    rule: Any, tree: Any, axes: Axes, factors: Any, reads: tuple[Any, ...] = (), **how: Any
) -> tuple[Any, Any]:
    """A rule for stacks, applied to matrices and to all else."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_dtypes.is_none)
    matrix = [role is not None for role in roles(axes, tree, known=True).values()]
    others = [None if m else x for x, m in zip(leaves, matrix, strict=True)]
    out, factors = matrixwise(rule, tree, axes, factors, reads=reads, **how)
    how = {"of_stacks": rule, **how}
    rest, factors = leafwise(
        _as_column, treedef.unflatten(others), factors, reads=reads, **how
    )
    pairs = zip(treedef.flatten_up_to(out), treedef.flatten_up_to(rest), strict=True)
    return treedef.unflatten(
        x if m else y for (x, y), m in zip(pairs, matrix, strict=True)
    ), factors


def _normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    # The same numbers also where the gradients are wider.
    kind = np.complex64 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float32
    return _dtypes.cast(jax.random.normal(key, shape, kind), dtype)


class ScaleByPsgdKronState(NamedTuple):
    """State of `scale_by_psgd_kron`."""

    count: jax.Array  # t, (), int32: the steps taken.
    key_data: jax.Array  # The next random key, as plain uint32 that any format can save.
    # Q: for each matrix a tuple of `PsgdFactors`, one for each stack; for any other
    # parameter an array of its shape, the diagonal of its one factor.
    factors: Params


@transformation(state=ScaleByPsgdKronState)
def scale_by_psgd_kron(
    precond_lr: Decay = 0.1,
    preconditioner_update_probability: FractionOrSchedule = ANNEALED,
    *,
    precond_init_scale: Positive = 1.0,
    max_size_triangular: Count = 8192,
    momentum_into_precond_update: bool = True,
    max_rms: Threshold = 1.1,
    axes: Axes = None,
    key: Key = 0,
) -> GradientTransformation:
    r"""Multiplies matrices from both sides by what makes them white noise: PSGD-Kron.

    A matrix $G$ becomes $Q_l^* Q_l\, G\, (Q_r^* Q_r)^T$, with upper triangular $Q_l$ and
    $Q_r$. They are learnt: with a new $V$ of standard normal numbers,

    $$ A = Q_l\, G\, Q_r^T, \qquad B = Q_l^{-*}\, V\, \overline{Q_r}^{-1}, $$
    $$ Q_l \leftarrow Q_l - \eta\, \frac{\mathrm{triu}(A A^* - B B^*)}
       {\lVert A A^* + B B^* \rVert}\, Q_l, \qquad
       Q_r \leftarrow Q_r - \eta\, \frac{\mathrm{triu}(A^T \bar A - B^T \bar B)}
       {\lVert A^T \bar A + B^T \bar B \rVert}\, Q_r, $$

    which stand still where, in the mean, $Q^* Q = \mathrm E[g g^*]^{-1/2}$ for
    $Q = Q_l \otimes Q_r$, as near as a Kronecker product comes to it: the covariance of
    what comes out is then the identity. $\lVert \cdot \rVert$ is a lower bound of the
    largest eigenvalue, by the power method, that is no less than any entry of the diagonal:
    so all diagonals stay positive, and $Q^* Q$ positive definite, for any $\eta < 1$.

    A side longer than `max_size_triangular`, or of length 1, has a diagonal factor, and
    whatever is no matrix has one factor in all, a diagonal one: each of its numbers is
    divided by a root mean square. (The reference gives an array of more axes a factor for
    each; here, its `axes` say which two sides it has.)

    Matrices of a stack, and those side by side in one parameter, are each on their own,
    with their own limit of the root mean square of what comes out. A matrix whose gradients
    are all zero keeps its factors, which would grow and grow. The factors of a matrix
    are made equally large at each renewal, which changes nothing but the range of numbers;
    the reference does it at random.

    A renewal costs about $4 mn (m + n) + m^3 + n^3$ multiplications, a step without one
    $2 mn (m + n)$: what is not to be renewed is not computed. (Under a `vmap` over states
    it is, since they may differ in that.)

    Args:
        precond_lr: $\eta$, in $[0, 1)$. May be traced.
        preconditioner_update_probability: How likely a renewal of $Q$ is at a step: a
            number in $[0, 1]$, a traced scalar, or a schedule. By default 1 for 500 steps,
            which then falls by 1/1000 a step to 0.03.
        precond_init_scale: What $Q$ is at first, times the identity. By how far the first
            gradients are from $1 / Q^2$ says for how long updates are too short or (up to
            `max_rms`) too long; each renewal changes $Q$ by a factor of
            $(1 \pm \eta)^2$ at most.
        max_size_triangular: The length up to which a side has a triangular factor; 0 for
            none.
        momentum_into_precond_update: Whether to learn $Q$ from the direction, the momentum
            that stands before this stage; else from the gradient (see `chain`).
        max_rms: The largest root mean square of what a matrix becomes, in $[0, \infty]$;
            what is larger is scaled down. May be traced.
        axes: What the axes of a parameter are: a role such as `"io"`, a dict of patterns of
            paths and roles, a function of path and leaf, or None for what has two axes (see
            `optimjax.matrices`).
        key: For $V$ and the renewals: a random key of `jax.random.key`, or an integer.

    Returns:
        A `GradientTransformation` with a `ScaleByPsgdKronState`: $4 (m^2 + n^2)$ bytes for
        a matrix, 8 a parameter if it is square, 4 a parameter for all else.

    Raises:
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter.
        TypeError: If `key` is neither a key nor an integer; by `init`, if `axes` is none of
            what it may be.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.scale_by_psgd_kron(0.05, 1.0, max_rms=float("inf"))
        >>> sizes = jnp.array([[10.0], [0.3]])
        >>> def step(state, key):
        ...     updates, state = t.update(sizes * jax.random.normal(key, (2, 3)), state)
        ...     return state, updates
        >>> keys = jax.random.split(jax.random.key(0), 2000)
        >>> _, updates = jax.lax.scan(step, t.init(jnp.zeros((2, 3))), keys)
        >>> print(jnp.round(jnp.std(updates[1000:], axis=(0, 2)), 1))  # Of each row.
        [1. 1.]

    References:
        X.-L. Li, [Preconditioned stochastic gradient
        descent](https://arxiv.org/abs/1512.04202), 2015, and [Preconditioner on matrix Lie
        group for SGD](https://arxiv.org/abs/1809.10232), 2018.
        O. Pooladzandi and X.-L. Li, [Curvature-informed SGD via general purpose Lie-group
        preconditioners](https://arxiv.org/abs/2402.04553), 2024.
        The limit, the probabilities and the defaults are those of
        [`kron`](https://github.com/evanatyourservice/kron_torch), as it is used most.
    """
    key = typed_key(key)
    kind = jax.random.key_impl(key)

    def init(params: Params) -> ScaleByPsgdKronState:
        found = some_matrix(axes, params)
        root = jnp.sqrt(numerics.as_scalar(precond_init_scale))

        def factor(batch: int, size: int, dtype: Any) -> jax.Array:
            if 1 < size <= max_size_triangular:
                eye = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (batch, size, size))
                return eye * _dtypes.cast(root, dtype)
            real = jnp.finfo(dtype).dtype
            return jnp.ones((batch, size), real) * _dtypes.cast(root, real)

        def factors(shape: tuple[int, int, int], dtype: Any) -> PsgdFactors:
            batch, *sizes = shape
            return PsgdFactors(*(factor(batch, size, dtype) for size in sizes))

        def diagonal(x: Any) -> jax.Array:
            ones = jnp.ones(x.shape, _dtypes.real_dtype(x))
            return ones * _dtypes.cast(precond_init_scale, ones.dtype)

        slots = slot_for(params, axes, factors)
        leaves, treedef = jax.tree.flatten(unboxed(params), is_leaf=_dtypes.is_none)
        made = (
            slot if role is not None or x is None else diagonal(x)
            for x, role, slot in zip(
                leaves, found.values(), treedef.flatten_up_to(slots), strict=True
            )
        )
        return ScaleByPsgdKronState(
            jnp.zeros((), jnp.int32),
            jnp.array(jax.random.key_data(key), copy=True),
            treedef.unflatten(made),
        )

    def update(
        updates: Updates,
        state: ScaleByPsgdKronState,
        params: Params | None = None,
        *,
        gradient: Updates,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra
        held = jax.random.wrap_key_data(state.key_data, impl=kind)
        next_key, for_choice, for_probes = jax.random.split(held, 3)
        seen = updates if momentum_into_precond_update else gradient
        probability = numerics.at_step(preconditioner_update_probability, state.count)

        def renewed() -> Any:
            probes = random_like(for_probes, seen, _normal)
            return _on_all(
                _renew, seen, axes, state.factors, reads=(probes,), lr=precond_lr
            )[1]

        factors = _branches.cond(
            jax.random.uniform(for_choice, (), np.float32)
            < _dtypes.cast(probability, np.float32),
            renewed,
            lambda: state.factors,
        )
        updates, _ = _on_all(_precondition, updates, axes, factors, max_rms=max_rms)
        count = numerics.increment(state.count)
        return updates, ScaleByPsgdKronState(count, jax.random.key_data(next_key), factors)

    return GradientTransformation(init, update)
