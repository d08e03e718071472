"""Element-wise rules in other coordinates: in the axes in which gradients vary."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import _branches, _dtypes, base, numerics, states
from .._checks import Refusal
from .._linalg import adjoint, each, product, same_way
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..matrices import Axes, matrixwise, slot_for, some_matrix
from ..selection import Path, by_path
from ..transforms.kronecker import Sides, gathered
from ..transforms.quasi_newton import ScaleByLbfgsState
from ..transforms.searching import SEARCHES
from ..typing import Decay, PositiveCount
from .branching import no_step, when
from .low_rank import InLowRankState

_NOT_TURNED = (ScaleByLbfgsState, *SEARCHES)


class InEigenbasisState(NamedTuple):
    """State of `in_eigenbasis`."""

    count: jax.Array  # t, (), int32: the steps taken.
    factors: Params  # L and R: for each parameter, a tuple of `Sides`, one for each stack.
    bases: Params  # Q_L and Q_R, likewise; identities at first.
    inner_state: OptState  # That of `inner`, in these bases.


def _gather(g: jax.Array, factors: Sides, **how: Any) -> tuple[jax.Array, Sides]:
    return g, gathered(g, factors, **how)


def _into(x: jax.Array, bases: Sides) -> tuple[jax.Array, Sides]:
    left, right = bases
    x = x if isinstance(left, tuple) else product(adjoint(left), x)
    return x if isinstance(right, tuple) else product(x, right), bases


def _back(x: jax.Array, bases: Sides) -> tuple[jax.Array, Sides]:
    left, right = bases
    x = x if isinstance(left, tuple) else product(left, x)
    return x if isinstance(right, tuple) else product(x, adjoint(right)), bases


def _renewed(
    factor: jax.Array, basis: jax.Array, first: jax.Array, method: str
) -> jax.Array:
    """The eigenvectors of a factor, each in the place of the old one of the same rank."""
    with jax.numpy_dtype_promotion("standard"):
        # Scaled, so that products of it neither over- nor underflow.
        largest = jnp.max(numerics.modulus(factor), axis=(-2, -1), keepdims=True)
        factor, basis = jax.lax.stop_gradient((numerics.divide(factor, largest), basis))
        image = product(factor, basis)
        sizes = jnp.sum(jnp.conj(basis) * image, axis=-2, keepdims=True).real
        falling = jnp.argsort(-sizes, axis=-1)

        def solved() -> jax.Array:
            return jnp.linalg.eigh(factor)[1][..., ::-1]

        def iterated() -> jax.Array:
            """By one step of orthogonal iteration."""
            return jnp.linalg.qr(jnp.take_along_axis(image, falling, axis=-1))[0]

        vectors = solved() if method == "eigh" else _branches.cond(first, solved, iterated)
        places = jnp.argsort(falling, axis=-1)
        return same_way(jnp.take_along_axis(vectors, places, axis=-1), basis)


def _between(old: Params, new: Params) -> Params:
    """What takes coordinates in the old bases to those in the new."""

    def turn(x: jax.Array, y: jax.Array) -> jax.Array:
        return product(adjoint(x), y)

    return jax.tree.map(turn, old, new)


def _turned(state: OptState, turns: dict[Path, Any], axes: Axes) -> OptState:
    """The state of an inner transformation, with the directions in it in new bases."""

    def of_slot(slot: Any) -> Any:
        leaves, treedef = by_path(slot), jax.tree.structure(slot, is_leaf=_dtypes.is_none)
        mine = treedef.unflatten(x if p in turns else None for p, x in leaves.items())
        there = treedef.unflatten(turns.get(p, ()) for p in leaves)
        turned = treedef.flatten_up_to(matrixwise(_into, mine, axes, there)[0])
        return treedef.unflatten(
            x if y is None else y for x, y in zip(leaves.values(), turned, strict=True)
        )

    def visit(node: Any) -> Any:
        if not _has_directions(node):
            return node
        fields = node._asdict()
        return type(node)(
            **{
                name: of_slot(x) if name in node.directions else _turned(x, turns, axes)
                for name, x in fields.items()
            }
        )

    return jax.tree.map(visit, state, is_leaf=_has_directions)


def _has_directions(node: Any) -> bool:
    return hasattr(type(node), "directions")


def _of_leaves(slot: Any) -> dict[Path, Any]:
    """What a slot made by `slot_for` has for each matrix parameter, by its path."""

    def of_one(x: Any) -> bool:
        stacks = isinstance(x, tuple) and len(x) > 0
        return stacks and all(isinstance(stack, Sides) for stack in x)

    closed = jax.tree.map(lambda x: lambda: x, slot, is_leaf=of_one)
    return {path: leaf() for path, leaf in by_path(closed).items() if leaf is not None}


def _wide(params: Params) -> Params:
    """The params in at least float32: turned, they need all digits."""
    return jax.tree.map(lambda p: _dtypes.wide(p) if hasattr(p, "dtype") else p, params)


@transformation(state=InEigenbasisState)
def in_eigenbasis(
    inner: GradientTransformation,
    decay: Decay = 0.95,
    *,
    every: PositiveCount = 10,
    method: Literal["qr", "eigh"] = "qr",
    max_dim: PositiveCount = 10_000,
    skip_first: bool = True,
    axes: Axes = None,
) -> GradientTransformation:
    r"""Runs `inner` in the axes in which the gradients of a matrix vary by themselves.

    With the eigenvectors $Q_L$, $Q_R$ of what Shampoo divides by,

    $$ U_t = Q_L\, \mathrm{inner}(Q_L^*\, D_t\, Q_R)\, Q_R^*, $$
    $$ L_t = \beta\, L_{t-1} + (1 - \beta)\, G_t G_t^*, \qquad
       R_t = \beta\, R_{t-1} + (1 - \beta)\, G_t^* G_t, $$

    for the direction $D_t$ and the gradient $G_t$ of a `chain` (alone they are the same).
    `in_eigenbasis(scale_by_adam())` is SOAP. Around a rule that is the same in all axes,
    such as `scale_by_momentum`, it changes nothing.

    - **Order.** The bases are those of the gradients before; at the end of the steps 1, 1 +
      k, 1 + 2k, ... they are renewed. So that no gradient is looked at in its own axes, in
      which all but a diagonal is rounding, the first only makes the bases: its updates are
      zero, and `inner` does not see it, as in SOAP's own code. With `skip_first=False` it
      is a step in the axes of the parameters, and nothing is lost.
    - **State.** When the bases change, momentum and other directions that `inner` keeps are
      turned with them, which is as if they were kept in the parameters' own axes. Second
      moments and all else stay what they are, each with the eigenvector that takes the
      place of its own. A state of your own says which of its fields are directions by an
      attribute of its class, `directions = ("mu",)`; what does not (a transformation of
      Optax) stays as it is. Or keep momentum outside: `chain(scale_by_momentum(b,
      dampening=b), add_bias_correction(b), in_eigenbasis(scale_by_rms(...)))` is SOAP, too.
    - **Params.** `inner` sees them turned like the gradients, so that weight decay, and
      what looks at lengths, is the same inside and outside; L1 penalties and clipping by
      number are not. So is the extra argument `grad`; other extra arguments are not turned.
      What keeps an average of the parameters is refused: put it around. So are line
      searches, which belong behind it, and L-BFGS, which is the same in all axes.
    - **Other leaves**, which are no matrices, have `inner` as it is, at the same steps.

    A step costs six products, $6 mn(m + n)$ flops (two more for each of D, if it is not G,
    and the params, if `inner` reads them); a renewal by QR some $5 (m^3 + n^3)$, and by
    `eigh` $10 (m^3 + n^3)$ of a slower kind, in a branch that the steps between do not run.
    (Under a `vmap` over states there are no branches: there every step pays.) To
    derivatives, the bases are constants: where two eigenvalues meet, eigenvectors have
    none.

    Args:
        inner: Any transformation that works on each number by itself; not one that itself
            looks at rows, columns or matrices.
        decay: $\beta$, in $[0, 1)$. May be traced.
        every: k, the steps from one renewal of the bases to the next.
        method: How to renew them: `"qr"`, one step of orthogonal iteration, as in the paper
            (the first bases are exact), or `"eigh"`, exactly.
        max_dim: How long a side may be to be turned; a longer one stays as it is.
        skip_first: Whether the first gradient makes the bases and nothing else.
        axes: What the axes of a parameter are: a role such as `"io"`, a dict of patterns of
            paths and roles, a function of path and leaf, or None for what has two axes (see
            `optimjax.matrices`).

    Returns:
        A `GradientTransformation` with an `InEigenbasisState`: that of `inner`, and $8 (m^2
        + n^2)$ bytes for an m x n matrix, 16 a parameter if it is square.

    Raises:
        TypeError: If `inner` is no transformation; by `init`, if `axes` is none of what it
            may be.
        ValueError: If an argument lies outside of its range; by `init`, if there is no
            matrix, if a role does not fit its parameter, or if `inner` keeps an average, or
            holds a line search, L-BFGS, `in_low_rank` or another `in_eigenbasis`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.in_eigenbasis(ox.scale_by_adam())
        >>> params = jnp.zeros((2, 2))
        >>> state = t.init(params)
        >>> for _ in range(2):
        ...     updates, state = t.update(jnp.array([[0.0, 3.0], [-0.1, 0.0]]), state)
        ...     print(jnp.round(updates, 3))
        [[0. 0.]
         [0. 0.]]
        [[ 0.  1.]
         [-1.  0.]]

    References:
        N. Vyas et al., [SOAP: improving and stabilizing Shampoo using
        Adam](https://arxiv.org/abs/2409.11321), 2024. Its code sorts the eigenvectors by
        size, and the second moments with them; here both stay in place, to the same effect.
    """
    base.check_stages("in_eigenbasis", [inner])

    def init(params: Params) -> InEigenbasisState:
        some_matrix(axes, params)
        inner_state = inner.init(params)
        if states.evaluated(inner_state, params) is not None:
            raise Refusal(
                ValueError,
                "cannot have an average of the parameters inside, where they are turned: "
                "put it around, as in `schedule_free(in_eigenbasis(...), ...)`.",
            )
        if any(states.states_in(inner_state, kind) for kind in _NOT_TURNED):
            raise Refusal(
                ValueError,
                "cannot have L-BFGS inside, whose pairs are of one basis, nor a line "
                "search, whose function takes params that are not turned: a search stands "
                "behind, as in `chain(in_eigenbasis(...), scale_by_zoom_linesearch())`.",
            )

        if any(
            states.states_in(inner_state, kind)
            for kind in (InLowRankState, InEigenbasisState)
        ):
            raise Refusal(
                ValueError,
                "cannot have another `in_eigenbasis`, nor `in_low_rank`, inside: what they "
                "keep has axes of its own, which would not turn with these. Put it around, "
                "as in `in_low_rank(in_eigenbasis(...), rank)`.",
            )

        def sides(shape: tuple[int, int, int], of_length: Callable[[int], Any]) -> Sides:
            batch, *lengths = shape
            made = (of_length(n) if n <= max_dim else None for n in lengths)
            return Sides(*(() if x is None else jnp.tile(x, (batch, 1, 1)) for x in made))

        return InEigenbasisState(
            jnp.zeros((), jnp.int32),
            slot_for(params, axes, lambda s, d: sides(s, lambda n: jnp.zeros((n, n), d))),
            slot_for(params, axes, lambda s, d: sides(s, lambda n: jnp.eye(n, dtype=d))),
            inner_state,
        )

    def advance(
        updates: Updates,
        gradient: Updates,
        state: InEigenbasisState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, InEigenbasisState]:
        first = state.count == 0

        def into(tree: Any) -> Any:
            return matrixwise(_into, tree, axes, state.bases)[0]

        def back(tree: Any) -> Any:
            return matrixwise(_back, tree, axes, state.bases)[0]

        def run() -> Any:
            direction = into(updates)
            lane = direction if gradient is updates else into(gradient)
            turned = None if params is None else into(_wide(params))
            given = {**extra, "grad": into(extra["grad"])} if "grad" in extra else extra
            out, new_lane, inner_state = base.advance(
                inner, direction, lane, state.inner_state, turned, given
            )
            new = back(out)
            if new_lane is lane:
                return new, gradient, inner_state
            return new, new if new_lane is out else back(new_lane), inner_state

        if skip_first:
            out, lane, inner_state = when(
                first, lambda: no_step(updates, state.inner_state), run
            )
        else:
            out, lane, inner_state = run()

        how: dict[str, Any] = {"decay": decay, "weight": 1 - decay}
        _, factors = matrixwise(_gather, gradient, axes, state.factors, **how)

        def renew() -> Any:
            how: dict[str, Any] = {"first": first, "method": method}
            bases = each(_renewed, factors, state.bases, unknown=first, **how)
            turns = _of_leaves(_between(state.bases, bases))
            return bases, _turned(inner_state, turns, axes)

        bases, inner_state = _branches.cond(
            state.count % every == 0, renew, lambda: (state.bases, inner_state)
        )
        count = numerics.increment(state.count)
        return out, lane, InEigenbasisState(count, factors, bases, inner_state)

    return base.combinator(init, advance, (inner,), reads={"grad"})
