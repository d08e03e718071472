"""Directions that past steps tell the curvature of: quasi-Newton methods."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, numerics
from ..base import GradientTransformation, Params, Updates, transformation
from ..tree import add_scale, norm, scale, slot_like, sub, vdot, zeros_like
from ..typing import PositiveCount


class ScaleByLbfgsState(NamedTuple):
    """State of `scale_by_lbfgs`, of `memory_size` m.

    The trees are float32 at least. Of the pairs, number i is in row i % m.
    """

    count: jax.Array  # (), int32: the steps taken.
    pairs: jax.Array  # (), int32: the pairs kept since the memory was last empty.
    params: Params  # Those of the last step.
    updates: Updates  # The gradient of the last step.
    diff_params_memory: Params  # s, with a leading axis of length m.
    diff_updates_memory: Updates  # y, likewise.
    weights_memory: jax.Array  # 1 / <s, y>, (m,), float32 or wider; zero where empty.
    identity_scale: jax.Array  # gamma of the last pair kept, (), of the same dtype.


@transformation(state=ScaleByLbfgsState)
def scale_by_lbfgs(
    memory_size: PositiveCount = 10, scale_init_precond: bool = True
) -> GradientTransformation:
    r"""Multiplies the gradient by an inverse Hessian that the last steps tell: L-BFGS.

    Of the last $m$ changes of parameters $s_i = p_{i+1} - p_i$ and of gradients
    $y_i = g_{i+1} - g_i$, oldest first, it is

    $$ H \leftarrow (I - \rho_i s_i y_i^\top)\, H\, (I - \rho_i y_i s_i^\top)
       + \rho_i s_i s_i^\top, \qquad \rho_i = \frac{1}{s_i^\top y_i}, $$

    from $H = \gamma I$ with $\gamma = s^\top y / y^\top y$ of the last pair. It is never
    built: $u = H g$ takes $4 m$ multiplications a parameter (the two loops). Before there
    is a pair, $\gamma = \min(1, 1 / \lVert g \rVert)$: the first step is no longer than 1.

    $H$ is positive definite, so that $-u$ points downhill, only if every
    $s^\top y > 0$. A line search with the curvature condition sees to that; where it is
    broken, or is nothing but rounding ($s^\top y \le \epsilon \lVert s \rVert \lVert y
    \rVert$ with the machine epsilon), the pair is refused: the memory stays as it is.

    Where the parameters have not moved at all since the last step, somebody refused it (a
    line search that failed, say). The memory is emptied then, and the gradient itself is
    tried, where the same direction would be refused again.

    The gradients should be of one function: those of small batches differ by their noise.

    Args:
        memory_size: $m \ge 1$, the pairs to keep.
        scale_init_precond: Whether there is a $\gamma$, or else $\gamma = 1$ throughout.

    Returns:
        A `GradientTransformation` with a `ScaleByLbfgsState`, which holds $2m + 2$ arrays
        for each parameter. It needs the params. Where there is no gradient (None), the pair
        is taken for zero. Complex numbers count as pairs of real ones.

    Raises:
        ValueError: If `memory_size` lies below 1; in `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> curvature = jnp.array([1.0, 10.0])  # of the loss sum(curvature * p**2) / 2
        >>> t = ox.chain(ox.scale_by_lbfgs(), ox.scale(-1.0))
        >>> p = jnp.array([1.0, 1.0])
        >>> state = t.init(p)
        >>> for _ in range(8):
        ...     updates, state = t.update(curvature * p, state, p)
        ...     p = ox.apply_updates(p, updates)
        >>> print(jnp.abs(p).max() < 1e-4)
        True

    Unlike in Optax, pairs of no positive curvature are refused (there they enter, and may
    make $\gamma$, and the step, negative), memory is float32 for parameters of lower
    precision, and the memory is emptied after a step that was not taken.

    References:
        D. Liu and J. Nocedal, [On the limited memory BFGS method for large scale
        optimization](https://doi.org/10.1007/BF01589116), 1989; J. Nocedal and S. Wright,
        Numerical optimization, 2006, algorithm 7.4.
    """

    def init(params: Params) -> ScaleByLbfgsState:
        dtype = _dtypes.real_dtype(*jax.tree.leaves(params))

        def memory() -> Params:
            return jax.tree.map(
                lambda x: jnp.zeros((memory_size, *x.shape), x.dtype), slot_like(params)
            )

        return ScaleByLbfgsState(
            count=jnp.zeros((), jnp.int32),
            pairs=jnp.zeros((), jnp.int32),
            params=slot_like(params),
            updates=slot_like(params),
            diff_params_memory=memory(),
            diff_updates_memory=memory(),
            weights_memory=jnp.zeros(memory_size, dtype),
            identity_scale=jnp.ones((), dtype),
        )

    def update(
        updates: Updates, state: ScaleByLbfgsState, params: Params, **extra: Any
    ) -> tuple[Updates, ScaleByLbfgsState]:
        del extra
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)

        def newest(tree: Any, what: str, old: Any) -> Any:
            """`tree` as the state keeps it, but `old` where there is no gradient."""
            news = _dtypes.match(treedef, leaves, tree, what)
            olds = _dtypes.match(treedef, leaves, old, "the state")
            return treedef.unflatten(
                o if u is None else _dtypes.cast(x, o.dtype)
                for u, x, o in zip(leaves, news, olds, strict=True)
            )

        here = newest(params, "the params", state.params)
        gradient = newest(updates, "the updates", state.updates)
        s, y = sub(here, state.params), sub(gradient, state.updates)
        state = _remembered(state, s, y)
        state = state._replace(
            count=numerics.increment(state.count), params=here, updates=gradient
        )
        direction = newest(updates, "the updates", zeros_like(state.updates))
        gamma: Any = 1.0
        if scale_init_precond:
            first = 1 / jnp.maximum(_length(direction, state.weights_memory.dtype), 1)
            gamma = jnp.where(state.pairs > 0, state.identity_scale, first)
        outs = treedef.flatten_up_to(_two_loops(state, direction, gamma))
        return treedef.unflatten(
            None if u is None else _dtypes.cast(x, u.dtype)
            for u, x in zip(leaves, outs, strict=True)
        ), state

    return GradientTransformation(init, update)


def _inner(x: Any, y: Any, dtype: Any) -> jax.Array:
    """The inner product of two trees, complex numbers taken for pairs of real ones."""
    return _dtypes.cast(jnp.real(vdot(x, y)), dtype)


def _in_units(x: Any, dtype: Any) -> tuple[Any, jax.Array]:
    """A tree over its largest modulus, and that: so squares neither vanish nor overflow."""
    largest = _dtypes.cast(norm(x, "inf"), dtype)
    unit = jnp.where(largest > 0, largest, 1)
    return jax.tree.map(
        lambda x: numerics.over(x, _dtypes.cast(unit, _dtypes.real_dtype(x))), x
    ), unit


def _length(x: Any, dtype: Any) -> jax.Array:
    x, unit = _in_units(x, dtype)
    return unit * numerics.sqrt(_inner(x, x, dtype))


def _remembered(state: ScaleByLbfgsState, s: Any, y: Any) -> ScaleByLbfgsState:
    """The state with the pair `s, y`, if it says anything of curvature."""
    dtype = state.weights_memory.dtype
    (a, s_unit), (b, y_unit) = _in_units(s, dtype), _in_units(y, dtype)
    ab, aa, bb = _inner(a, b, dtype), _inner(a, a, dtype), _inner(b, b, dtype)
    rounding = jnp.finfo(dtype).eps * numerics.sqrt(aa) * numerics.sqrt(bb)
    sy, gamma = ab * s_unit * y_unit, ab / jnp.where(bb > 0, bb, 1) * (s_unit / y_unit)
    started = state.count > 0
    kept = started & (ab > rounding)  # False for NaN.
    for x in (sy, 1 / sy, gamma):  # The numbers of the two loops.
        kept = kept & (x > 0) & jnp.isfinite(x)
    emptied = started & (aa == 0)
    pairs = jnp.where(emptied, 0, state.pairs)
    row = pairs % len(state.weights_memory)

    def put(rows: jax.Array, new: jax.Array) -> jax.Array:
        return rows.at[row].set(jnp.where(kept, new, rows[row]))

    weights = jnp.where(emptied, 0, state.weights_memory)
    return state._replace(
        pairs=jnp.where(kept, numerics.increment(pairs), pairs),
        diff_params_memory=jax.tree.map(put, state.diff_params_memory, s),
        diff_updates_memory=jax.tree.map(put, state.diff_updates_memory, y),
        weights_memory=put(weights, 1 / jnp.where(kept, sy, 1)),
        identity_scale=jnp.where(kept, gamma, state.identity_scale),
    )


def _two_loops(state: ScaleByLbfgsState, direction: Any, gamma: Any) -> Any:
    """`H` times `direction`."""
    size, dtype = len(state.weights_memory), state.weights_memory.dtype
    newest_first = (state.pairs - 1 - jnp.arange(size, dtype=jnp.int32)) % size

    def pair(row: jax.Array) -> Any:
        memories = state.diff_params_memory, state.diff_updates_memory
        return jax.tree.map(lambda rows: rows[row], memories)

    def away(q: Any, row: jax.Array) -> tuple[Any, jax.Array]:
        s, y = pair(row)
        alpha = state.weights_memory[row] * _inner(s, q, dtype)
        return add_scale(q, -alpha, y), alpha

    def back(q: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        row, alpha = at
        s, y = pair(row)
        beta = state.weights_memory[row] * _inner(y, q, dtype)
        return add_scale(q, alpha - beta, s), None

    q, alphas = jax.lax.scan(away, direction, newest_first)
    q = scale(gamma, q)
    return jax.lax.scan(back, q, (newest_first, alphas), reverse=True)[0]
