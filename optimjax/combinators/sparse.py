"""Gradients that say something about a few of the parameters only."""

from typing import Any

import jax
import jax.numpy as jnp

from .. import _dtypes, base
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..selection import by_path, part
from ..tree import leafwise
from .routing import MaskedState, PartitionState


def _present(g: jax.Array) -> jax.Array:
    return (g != 0).astype(g.dtype)


def _as_given(updates: Updates, given: Any) -> Updates:
    """`present`, stretched to the shapes of the updates."""
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    masks = _dtypes.match(treedef, leaves, given, "`present`", scalars=True, stretched=True)

    def stretch(u: jax.Array, mask: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(mask).astype(bool), u.shape).astype(u.dtype)

    return treedef.unflatten(
        None if u is None else stretch(u, m) for u, m in zip(leaves, masks, strict=True)
    )


def _without(u: jax.Array, present: jax.Array) -> jax.Array:
    return jnp.where(present != 0, u, 0)


@transformation
def sparsely(inner: GradientTransformation) -> GradientTransformation:
    r"""Moves, and remembers, only those parameters that have a gradient at this step.

    Rows of an embedding that a batch does not contain have gradient zero, and most
    optimizers go on moving them, from memory. Here their update is zero, and their entries
    in the state stay what they are; counts go on for all. With Adam's chain in the form
    "epsilon hat" it is PyTorch's `SparseAdam`; with any, the lazy optimizers of TensorFlow.

    What gathers gradients belongs around it, `accumulate(sparsely(...), k)`: inside of it,
    numbers that are absent from the batch at which the step is taken would lose their sum.

    Args:
        inner: Any transformation. What it keeps in trees like the params, or like the part
            of them that a mask or a partition gives away, is kept back; what it keeps in
            other shapes (factored moments, counts) is not.

    Returns:
        A `GradientTransformation` with the state of `inner`. It reads `present=...`, a tree
        like the gradients with booleans, or 0 and 1, in its leaves, which may have length 1
        along any axis (one for each row of an embedding); without it, a gradient that is
        not zero is present. Where all the params are one scalar, what is kept for it cannot
        be told from what is kept for all, and goes on.

    Raises:
        TypeError: If `inner` is no transformation.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.sparsely(ox.sgd(1.0, momentum=0.5))
        >>> state = t.init(jnp.zeros(2))
        >>> for g in ([1.0, 1.0], [1.0, 0.0]):
        ...     updates, state = t.update(jnp.array(g), state)
        ...     print(updates)
        [-1. -1.]
        [-1.5  0. ]
    """
    base.check_stages("sparsely", [inner])

    def advance(
        updates: Updates,
        gradient: Updates,
        state: OptState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        given = extra.get("present")
        if given is None:
            present = leafwise(_present, updates)
        else:
            present = _as_given(updates, given)
        out, lane, new = base.advance(inner, updates, gradient, state, params, extra)
        kept = leafwise(_without, out, reads=(present,))
        return kept, lane, where_present(new, state, present)

    return base.combinator(inner.init, advance, (inner,), reads={"present"})


def where_present(new: Any, old: Any, present: Any) -> Any:
    """`new`, but `old` where a number in a tree like `present` is not present."""
    leaves, treedef = jax.tree.flatten(present, is_leaf=_dtypes.is_none)

    def like_params(tree: Any) -> bool:
        try:
            slots = treedef.flatten_up_to(tree)
        except (ValueError, TypeError, KeyError):
            return False
        return all(map(_fits, slots, leaves))

    if hasattr(present, "shape") and present.shape == ():
        return new  # Every scalar of the state would look like a slot.

    def those(marked: Any) -> Any:
        return part(by_path(present), by_path(marked))

    def merge(n: Any, o: Any) -> Any:
        if isinstance(o, MaskedState):
            inner = where_present(n.inner_state, o.inner_state, those(o.chosen))
            return n._replace(inner_state=inner)
        if isinstance(o, PartitionState):
            inners = {
                label: where_present(s, o.inner_states[label], those(o.members[label]))
                for label, s in n.inner_states.items()
            }
            return n._replace(inner_states=inners)
        if not like_params(o):
            return n
        pairs = zip(*map(treedef.flatten_up_to, (n, o)), leaves, strict=True)
        return treedef.unflatten(
            a if p is None or a is None else jnp.where(p != 0, a, b) for a, b, p in pairs
        )

    def apart(node: Any) -> bool:
        return isinstance(node, MaskedState | PartitionState) or like_params(node)

    return jax.tree.map(merge, new, old, is_leaf=apart)


def _fits(slot: Any, present: Any) -> bool:
    if slot is None or present is None:
        return slot is None or hasattr(slot, "shape")
    return (
        hasattr(slot, "shape")
        and slot.shape == present.shape
        and jnp.issubdtype(slot.dtype, jnp.inexact)
    )
