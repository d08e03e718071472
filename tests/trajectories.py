"""The one loop that tests train with."""

import jax
import numpy as np

import optimjax as ox


def trajectory(tx, params, grads, **extra):
    """The params after each update; `grads` and `extra` have a leading axis of steps."""

    def step(carry, x):
        params, state = carry
        g, extra = x
        updates, state = tx.update(g, state, params, **extra)
        params = ox.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), (grads, extra))[1]


def run(tx, grads, params, **extra):
    """All updates and states of a run; `grads` and `extra` have a leading axis of steps."""

    def step(carry, x):
        params, state = carry
        u, state = tx.update(x[0], state, params, **x[1])
        return (ox.apply_updates(params, u), state), (u, state)

    return jax.lax.scan(step, (params, tx.init(params)), (grads, extra))[1]


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)
