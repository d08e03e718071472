"""Some steps of a transformation at one place, and what its step and its state hold."""

import jax
import numpy as np


def gradients(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(tx, grads, params=None):
    """The updates of some steps."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    start = jax.tree.map(lambda g: g[0], grads)
    return jax.lax.scan(step, tx.init(start), grads)[1]


def primitives(jaxpr, inside=False):
    """The names of all primitives, each with whether it stands inside of a branch."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, inside
        for param in jax.tree.leaves(
            eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            sub = getattr(param, "jaxpr", param)
            if hasattr(sub, "eqns"):
                yield from primitives(sub, inside or eqn.primitive.name == "cond")


def nbytes(state):
    """Of all arrays; the few of single numbers are not counted."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.ndim)
