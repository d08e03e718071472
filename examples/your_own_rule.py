"""A transformation of your own: written, put into a chain, and checked by the laws.

The rule is Lion's (X. Chen et al., https://arxiv.org/abs/2302.06675): it steps by the sign
of a mix of the gradient and a running mean, and keeps that mean on a slower clock.

    python examples/your_own_rule.py
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import optimjax as ox
from optimjax.testing import LAWS, check_transformation
from optimjax.tree import leafwise, slot_like
from optimjax.typing import Decay


class ScaleByLionState(NamedTuple):
    """State of `scale_by_lion`."""

    momentum: Any  # m, shaped like the params; float32 or wider.


# The rule is a function of one array and reads like its equations. `leafwise` brings it to
# trees, and looks after None, dtypes and errors.
def lion(g, m, *, b1, b2):
    u = jnp.sign(b1 * m + (1 - b1) * g)
    m = b2 * m + (1 - b2) * g
    return u, m


# The decorator checks `b1` and `b2` against their annotation, compiles a plain call, gives
# the transformation its name, and refuses the state of another.
@ox.transformation(state=ScaleByLionState)
def scale_by_lion(b1: Decay = 0.9, b2: Decay = 0.99) -> ox.GradientTransformation:
    def init(params):
        return ScaleByLionState(slot_like(params))

    def update(updates, state, params=None, **extra):
        updates, momentum = leafwise(lion, updates, state.momentum, b1=b1, b2=b2)
        return updates, ScaleByLionState(momentum)

    return ox.GradientTransformation(init, update)


def loss(params):
    """A valley four times as steep across as along, with its lowest point at (1, -2)."""
    return (params["x"] - 1.0) ** 2 + 4.0 * (params["y"] + 2.0) ** 2


def main():
    params = {"x": jnp.asarray(-3.0), "y": jnp.asarray(3.0)}
    optimizer = ox.chain(
        ox.clip_by_global_norm(1.0),
        scale_by_lion(b1=0.9),
        ox.add_decayed_weights(1e-3),
        ox.scale_by_learning_rate(ox.cosine_decay_schedule(0.1, 200)),
    )
    print(optimizer)

    check_transformation(scale_by_lion(), params)
    check_transformation(optimizer, params)
    print(f"keeps all {len(LAWS)} laws, alone and in the chain")

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return ox.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(201):
        if i % 50 == 0:
            x, y = params["x"], params["y"]
            print(f"step {i:3d}   x {x:6.3f}   y {y:6.3f}   loss {loss(params):.5f}")
        params, state = step(params, state)

    try:
        scale_by_lion(b1=1.5)
    except ValueError as error:
        print(f"and a wrong argument says so: {error}")
    return params


if __name__ == "__main__":
    main()
