"""The one loop that tests train with."""

import jax

import optimjax as ox


def trajectory(tx, params, grads):
    """The params after each update; `grads` has a leading axis of steps."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = ox.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]
