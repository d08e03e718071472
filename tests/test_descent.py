"""Every contributed optimizer arrives: in a bowl of two leaves, and in a curved valley.

What Optax's `contrib/_common_test.py` asks of each, beside what the laws ask of all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox

STEPS = 30_000  # Some need twenty thousand in the valley.
NEAR = 0.03
BOTTOM = {
    "v": jnp.array([1.0, -1.0, 1.0]),
    "w": jnp.array([[3.0, -2.0], [1.0, 4.0]]),
}


def bowl(params):
    """Round, around `BOTTOM`."""
    distances = jax.tree.map(lambda p, b: jnp.sum((p - b) ** 2), params, BOTTOM)
    return sum(jax.tree.leaves(distances))


def valley(params):
    """Rosenbrock's function in `v`; in `w`, if it is there, a bowl."""
    a, b = params["v"]
    gap = params["w"] - BOTTOM["w"] if "w" in params else jnp.zeros(1)
    return (1 - a) ** 2 + 100 * (b - a**2) ** 2 + jnp.sum(gap**2)


def end(tx, loss, start):
    """The params to evaluate with, after all steps."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, obj_fn=loss)
        return (ox.apply_updates(params, updates), state), None

    @jax.jit
    def run(start):
        (params, state), _ = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
        return ox.eval_params(state, params)

    return run(start)


def check_near(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=NEAR, atol=NEAR)


CONTRIBUTED = [
    ox.acprop(1e-3),
    ox.ademamix(1e-3),
    ox.simplified_ademamix(1e-3),
    ox.adopt(1e-2),
    ox.cocob(),
    ox.cocob(weight_decay=1e-2),
    ox.dadapt_adamw(0.1),
    ox.dog(1.0),
    ox.dog(1.0, layerwise=True),
    ox.dowg(1.0),
    ox.madgrad(1e-2),
    ox.momo(0.1),
    ox.momo_adam(0.1),
    ox.muon(1e-2),
    ox.galore(1e-2, rank=2),
    ox.prodigy(0.1),
    ox.schedule_free_sgd(1e-2, warmup_steps=5000),
    ox.schedule_free_adamw(1e-2, warmup_steps=5000),
    ox.schedule_free(ox.sgd(1e-2), 1e-2),
    ox.sophia(1e-2),
    ox.chain(ox.sgd(1e-3), ox.reduce_on_plateau()),
    ox.sam(ox.sgd(1e-3), 1e-5, two_step=True),
    ox.mechanize(ox.sgd(0.1), weight_decay=0.0),
]
FOR_MATRICES = ("muon", "galore")


@pytest.mark.parametrize("tx", CONTRIBUTED, ids=str)
def test_it_arrives_in_a_bowl(tx):
    start = {"v": jnp.array([-1.0, 10.0, 1.0]), "w": jnp.zeros((2, 2))}
    check_near(end(tx, bowl, start), BOTTOM)


@pytest.mark.parametrize("tx", CONTRIBUTED, ids=str)
def test_it_arrives_in_a_curved_valley(tx):
    target = {"v": jnp.ones(2)}
    if str(tx).startswith(FOR_MATRICES):  # They refuse what has no matrix in it.
        target["w"] = BOTTOM["w"]
    check_near(end(tx, valley, jax.tree.map(jnp.zeros_like, target)), target)
