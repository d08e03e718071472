"""Steps that end in a set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import _dtypes
from ..base import GradientTransformation, Params, Updates, memoryless, transformation
from ..tree import leafwise


def _moved(u: jax.Array, p: jax.Array) -> jax.Array:
    return p + u


def _step(u: jax.Array, end: jax.Array, p: jax.Array) -> jax.Array:
    del u  # All that it says is in `end`.
    return end - p


@transformation
def project(projection: Callable[[Params], Params]) -> GradientTransformation:
    r"""Makes the step end in a set: projected gradient descent, and what is like it.

    With $p + u$ the point that the updates lead to, $u' = P(p + u) - p$. It stands last,
    behind the learning rate. That the next params are $p + u'$, rounded, puts them as near
    to the set as rounding can; bounds of zero are kept exactly.

    Behind an optimizer that scales each number differently (Adam, say) the step ends in the
    set all the same, but where it stops is not where the loss is least in it.

    Args:
        projection: $P$, a function from params to params, such as those of
            `optimjax.projections`. It is given $p + u$ in float32 at least, and `None`
            where there are no updates. One with arguments is given by
            `lambda p: projection_box(p, 0.0, 1.0)`; for some of the leaves, put `project`
            inside of `masked` or `partition`.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        TypeError: If `projection` is not a function.
        ValueError: In `update`, if params are missing, or if what `projection` returned
            does not match the updates, by key path.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.sgd(1.0), ox.project(ox.projections.projection_simplex))
        >>> params = jnp.array([0.5, 0.5, 0.0])
        >>> updates, _ = t.update(jnp.array([1.0, 0.0, 0.5]), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [0. 1. 0.]

    References:
        E. S. Levitin and B. T. Polyak, [Constrained minimization
        methods](https://doi.org/10.1016/0041-5553(66)90114-5), 1966.
    """
    if not callable(projection):
        raise TypeError(
            "`project(projection=...)` must be a function from params to params, but got "
            f"{projection!r}."
        )

    def end_in_the_set(updates: Updates, params: Params) -> Updates:
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        end = projection(leafwise(_moved, updates, reads=(params,)))
        end = treedef.unflatten(
            _dtypes.match(treedef, leaves, end, "what its projection returned")
        )
        return leafwise(_step, updates, reads=(end, params))

    return memoryless(end_in_the_set)


def _no_further_than_zero(u: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.where(p + u < 0, -p, u)


@transformation(real=True, packable=True)
def keep_params_nonnegative() -> GradientTransformation:
    r"""Shortens steps so that no parameter falls below zero: $u' = \max(u, -p)$.

    It stands last, behind the learning rate. What would become negative becomes exactly
    zero, and so does a parameter that was negative and would remain so.

    Returns:
        A `GradientTransformation` with an `EmptyState`. It needs the params.

    Raises:
        TypeError: In `init`, if a parameter is complex.
        ValueError: In `update`, if params are missing.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.chain(ox.sgd(1.0), ox.keep_params_nonnegative())
        >>> params = jnp.array([1.0, 0.1])
        >>> updates, _ = t.update(jnp.array([0.5, 0.5]), t.init(params), params)
        >>> print(ox.apply_updates(params, updates))
        [0.5 0. ]
    """
    return memoryless(
        lambda updates, params: leafwise(_no_further_than_zero, updates, reads=(params,))
    )
