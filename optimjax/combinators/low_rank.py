"""Transformations that see a matrix in a subspace, where it is small: GaLore."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import _branches, _dtypes, base, numerics
from .._checks import Refusal
from .._linalg import adjoint, product, same_way
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..matrices import Axes, join, roles, shapes, slot_for, some_matrix, split
from ..selection import unboxed
from ..typing import PositiveCount, Scalar

# Traced once for each role, shape and dtype.
_kernel = functools.partial(jax.jit, static_argnames=("role", "side"))


def _on_the_left(shape: tuple[int, ...], side: str) -> bool:
    """Whether the inputs are the side that is projected."""
    *_, inputs, outputs = shape
    return inputs == outputs or (inputs < outputs) == (side == "smaller")


@_kernel
def _down(x: jax.Array, projectors: Any, *, role: str, side: str) -> Any:
    """What the inner transformation sees of a parameter: an array, or one a stack."""
    low = []
    with jax.numpy_dtype_promotion("standard"):
        for stack, p in zip(split(x, role), projectors, strict=True):
            if isinstance(p, tuple):
                seen = stack
            elif _on_the_left(stack.shape, side):
                seen = product(adjoint(p), stack)
            else:
                seen = product(stack, p)
            low.append(_dtypes.cast(seen, x.dtype).reshape(_shape_of(seen.shape)))
    return tuple(low) if len(low) > 1 else low[0]


def _shape_of(stack: tuple[int, ...]) -> tuple[int, ...]:
    """That of a matrix, where there is only one: some rules ask how many axes there are."""
    return stack[1:] if stack[0] == 1 else stack


@_kernel
def _up(
    low: Any, projectors: Any, like: jax.Array, scale: Any, *, role: str, side: str
) -> jax.Array:
    """The way back, to an array such as `like`."""
    stacks = []
    with jax.numpy_dtype_promotion("standard"):
        parts = low if isinstance(low, tuple) else (low,)
        columns = zip(shapes(like, role), parts, projectors, strict=True)
        for shape, part, p in columns:
            x = part.reshape(shape[0], *part.shape[-2:])
            if isinstance(p, tuple):
                stacks.append(x)
            elif _on_the_left(shape, side):
                stacks.append(scale * product(p, x))
            else:
                stacks.append(scale * product(x, adjoint(p)))
        out = join(tuple(_dtypes.cast(x, like.dtype) for x in stacks), role, like)
    return out


@_kernel
def _renewed(x: jax.Array, projectors: Any, *, role: str, side: str) -> Any:
    """The leading singular vectors of each matrix, turned towards those there were.

    Constants to derivatives, which are infinite where two singular values meet.
    """
    new = []
    for stack, old in zip(split(jax.lax.stop_gradient(x), role), projectors, strict=True):
        if isinstance(old, tuple):
            new.append(old)
            continue
        left, _, right = jnp.linalg.svd(stack, full_matrices=False)
        vectors = left if _on_the_left(stack.shape, side) else adjoint(right)
        vectors = _dtypes.cast(vectors[..., : old.shape[-1]], old.dtype)
        new.append(same_way(vectors, old))
    return jax.lax.stop_gradient(tuple(new))


class InLowRankState(NamedTuple):
    """State of `in_low_rank`."""

    count: jax.Array  # t, (), int32: the steps taken.
    # P: for each parameter a tuple, with one array (batch, side, rank) for each stack of
    # matrices, or () for one that is not projected.
    projectors: Params
    inner_state: OptState  # Of the inner transformation, for the projected gradients.


class _View:
    """The updates as the inner transformation sees them, and the way back."""

    def __init__(self, updates: Updates, projectors: Any, axes: Axes, side: str):
        self.leaves, self.treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        self.projectors = _dtypes.match(
            self.treedef, self.leaves, projectors, "the state", free=True
        )
        self.side = side
        found = roles(axes, updates, known=True).values()
        # None for what the inner transformation is given as it is.
        self.roles = [
            role if jax.tree.leaves(p) else None
            for role, p in zip(found, self.projectors, strict=True)
        ]

    def _columns(self, tree: Any) -> Any:
        leaves = self.treedef.flatten_up_to(tree)
        return zip(leaves, self.projectors, self.roles, strict=True)

    def empty(self) -> Any:
        """For `init`: what is not projected as it is, and zeros for what is."""

        def zeros(x: Any, p: Any, role: str) -> Any:
            how = functools.partial(_down, role=role, side=self.side)
            return jax.tree.map(
                lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(how, x, p)
            )

        return self.treedef.unflatten(
            x if role is None else zeros(x, p, role)
            for x, p, role in self._columns(self.treedef.unflatten(self.leaves))
        )

    def renewed(self) -> Any:
        return self.treedef.unflatten(
            p if role is None or x is None else _renewed(x, p, role=role, side=self.side)
            for x, p, role in self._columns(self.treedef.unflatten(self.leaves))
        )

    def down(self, tree: Any) -> Any:
        return self.treedef.unflatten(
            x if role is None or x is None else _down(x, p, role=role, side=self.side)
            for x, p, role in self._columns(tree)
        )

    def up(self, tree: Any, scale: Any) -> Any:
        return self.treedef.unflatten(
            low
            if role is None or x is None
            else _up(low, p, x, scale, role=role, side=self.side)
            for (low, p, role), x in zip(self._columns(tree), self.leaves, strict=True)
        )

    def fits(self, tree: Any) -> bool:
        """Whether a tree, an extra argument of `update`, is one like the updates."""
        if jax.tree.structure(tree, is_leaf=_dtypes.is_none) != self.treedef:
            return False
        pairs = zip(self.treedef.flatten_up_to(tree), self.leaves, strict=True)
        return all(x is None or y is None or jnp.shape(x) == y.shape for x, y in pairs)


@transformation(state=InLowRankState)
def in_low_rank(
    inner: GradientTransformation,
    rank: PositiveCount = 128,
    update_proj_gap: PositiveCount = 200,
    scale: Scalar = 1.0,
    *,
    side: Literal["smaller", "larger"] = "smaller",
    axes: Axes = None,
) -> GradientTransformation:
    r"""Lets a transformation see matrices in a subspace of low rank, to save state: GaLore.

    For an m x n matrix with $m \le n$, and the $r$ leading left singular vectors $P$ of its
    gradient at every $k$-th step,

    $$ R_t = P^* G_t, \qquad U_t = \alpha\, P\, \mathrm{inner}(R_t), $$

    and on the other side, $R_t = G_t P$, where $m > n$. `inner` is given $R_t$, an r x n
    matrix, and its state is as small. A matrix with a side no longer than `rank`, and
    whatever is no matrix, it is given as it is, where $\alpha$ has no part.

    When $P$ is renewed, the state of `inner` stays, as in the paper: moments of what was
    seen in one basis go on in the next. Singular vectors have no sign (or, of complex
    matrices, no phase): each is turned towards the one before it, so that what LAPACK gives
    does not decide whether a moment changes its sign. Between two renewals no sign matters
    to an `inner` whose every number goes by itself, and is odd, as in Adam.

    The inner transformation is given no params, which have no place in the subspace. What
    needs them belongs outside: `chain(in_low_rank(scale_by_adam()), add_decayed_weights(
    0.1), scale_by_learning_rate(lr))`; see `galore`.

    A renewal takes a singular value decomposition of each matrix, which the steps between
    do not compute. (Under a `vmap` over states they do.) To derivatives, $P$ is a constant.

    Args:
        inner: Any transformation that needs no params.
        rank: $r \ge 1$.
        update_proj_gap: $k \ge 1$, from one renewal to the next, in steps; the first step
            is one.
        scale: $\alpha$: 0.25 in the paper's experiments. May be traced.
        side: The side that is projected: the smaller, as in the paper, or the larger, as in
            Optax, where $R_t$ is r x m, which takes less memory if `inner` keeps two
            moments, and more if it keeps none. If both are as long, it is the inputs.
        axes: What the axes of a parameter are: a role such as `"io"`, a dict of patterns of
            paths and roles, a function of path and leaf, or None for what has two axes (see
            `optimjax.matrices`).

    Returns:
        A `GradientTransformation` with an `InLowRankState`: besides that of `inner`, for
        n r or m r numbers, it has $4 m r$ bytes for an m x n matrix (with the larger side,
        $4 n r$).

    Raises:
        TypeError: If `inner` is no transformation; by `init`, if `axes` is none of what it
            may be.
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, or if a role does not fit its parameter; in `update`, if `inner` needs
            the params.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.in_low_rank(ox.scale_by_adam(), rank=2)
        >>> params = {"w": jnp.ones((3, 100)), "b": jnp.ones(100)}
        >>> state = t.init(params)
        >>> moments = state.inner_state["scale_by_rms"].nu
        >>> state.projectors["w"][0].shape, moments["w"].shape, moments["b"].shape
        ((1, 3, 2), (2, 100), (100,))

    References:
        J. Zhao et al., [GaLore: memory-efficient LLM training by gradient low-rank
        projection](https://arxiv.org/abs/2403.03507), 2024.
    """
    base.check_stages("in_low_rank", [inner])

    def init(params: Params) -> InLowRankState:
        params = unboxed(params)
        some_matrix(axes, params)

        def projector(shape: tuple[int, int, int], dtype: Any) -> Any:
            batch, inputs, outputs = shape
            if rank >= min(inputs, outputs):
                return ()
            length = inputs if _on_the_left(shape, side) else outputs
            return jnp.zeros((batch, length, rank), dtype)

        projectors = slot_for(params, axes, projector)
        inner_state = inner.init(_View(params, projectors, axes, side).empty())
        return InLowRankState(jnp.zeros((), jnp.int32), projectors, inner_state)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: InLowRankState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, InLowRankState]:
        del params
        view = _View(updates, state.projectors, axes, side)
        projectors = _branches.cond(
            state.count % update_proj_gap == 0, view.renewed, lambda: state.projectors
        )
        view = _View(updates, projectors, axes, side)
        seen = view.down(updates)
        lane = seen if gradient is updates else view.down(gradient)
        extra = {k: view.down(v) if view.fits(v) else v for k, v in extra.items()}
        try:
            out, _, inner_state = base.advance(
                inner, seen, lane, state.inner_state, None, extra
            )
        except ValueError as error:
            if "needs the current parameters" not in str(error):
                raise
            raise Refusal(
                ValueError,
                f"gives {inner!r} no parameters, which have no place in the subspace. What "
                "needs them belongs outside: `chain(in_low_rank(...), "
                "add_decayed_weights(...), scale_by_learning_rate(...))`.",
            ) from None
        out = view.up(out, scale)
        count = numerics.increment(state.count)
        return out, out, InLowRankState(count, projectors, inner_state)

    return base.combinator(init, advance, (inner,))
