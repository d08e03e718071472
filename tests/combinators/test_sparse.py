"""Gradients of a few parameters only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox


def test_absent_numbers_are_as_if_the_step_had_not_been(rng):
    # But for the count: Adam's, run for each number on its own steps alone.
    grads = rng.normal(size=(6, 4)).astype(np.float32)
    present = rng.random(size=(6, 4)) < 0.5
    tx = ox.sparsely(ox.chain(ox.scale_by_momentum(0.9), ox.scale_by_rms(0.99)))
    state = tx.init(jnp.zeros(4))
    for g, m in zip(grads, present, strict=True):
        u, state = tx.update(jnp.asarray(g), state, present=jnp.asarray(m))
        np.testing.assert_array_equal(np.asarray(u)[~m], 0.0)
    for i in range(4):
        alone = ox.chain(ox.scale_by_momentum(0.9), ox.scale_by_rms(0.99))
        own = alone.init(jnp.zeros(()))
        for g in grads[present[:, i], i]:
            _, own = alone.update(jnp.float32(g), own)
        np.testing.assert_allclose(state["scale_by_rms"].nu[i], own["scale_by_rms"].nu)
        got = state["scale_by_momentum"].momentum[i]
        np.testing.assert_allclose(got, own["scale_by_momentum"].momentum, rtol=1e-6)


def test_without_a_mask_a_zero_is_absent_and_counts_go_on():
    tx = ox.sparsely(ox.adam(0.1))
    params = {"w": jnp.zeros((2, 2)), "frozen": jnp.zeros(3)}
    state = tx.init(params)
    rows = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    for _ in range(2):
        u, state = tx.update({"w": rows, "frozen": None}, state, params)
    np.testing.assert_array_equal(u["w"][1], 0.0)
    assert u["frozen"] is None
    nu = state["scale_by_rms"].nu["w"]
    assert (nu[0] > 0).all()
    assert (nu[1] == 0).all()
    assert state["scale_by_rms"].count == 2


def test_it_works_within_a_chain_and_a_scan():
    tx = ox.chain(ox.clip(1.0), ox.sparsely(ox.sgd(1.0, momentum=0.5)))
    g = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    _, us = jax.lax.scan(lambda s, x: tx.update(x, s)[::-1], tx.init(g[0]), g)
    np.testing.assert_array_equal(us, [[-1.0, 0.0], [0.0, -1.0]])


def test_a_mask_may_have_one_number_for_each_row():
    tx = ox.sparsely(ox.adam(0.1))
    g = {"rows": jnp.ones((2, 3))}
    u, _ = tx.update(g, tx.init(g), present={"rows": jnp.array([[True], [False]])})
    np.testing.assert_allclose(u["rows"], [[-0.1] * 3, [0.0] * 3], rtol=1e-5)


def test_a_mask_that_does_not_fit_is_refused_by_name():
    tx = ox.sparsely(ox.adam(0.1))
    g = {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"`sparsely` got updates .*\['w'\]"):
        tx.update(g, tx.init(g), present={"w": jnp.ones((3, 2))})


def test_params_may_be_one_array_or_one_scalar():
    for p in (jnp.ones(2), jnp.float32(1.0)):
        tx = ox.sparsely(ox.nadam(0.1, momentum_decay=0.004))
        u, state = tx.update(p, tx.init(p))
        np.testing.assert_allclose(u, -0.1056, rtol=1e-3)
        np.testing.assert_array_equal(tx.update(0 * p, state)[0], 0.0)


@pytest.mark.parametrize(
    "route",
    [
        lambda tx: ox.masked(tx, "w"),
        lambda tx: ox.partition({"w": tx, "**": ox.sgd(1.0)}),
        lambda tx: ox.chain(ox.masked(ox.partition({"**": ox.masked(tx, "w")}), True)),
    ],
)
def test_what_is_kept_for_a_part_of_the_params_is_kept_back_too(route):
    params = {"w": jnp.zeros((2, 2)), "b": [jnp.zeros(2), jnp.zeros(())]}
    got, want = ox.sparsely(route(ox.adam(0.1))), route(ox.sparsely(ox.adam(0.1)))
    here, there = got.init(params), want.init(params)
    for rows in ([1.0, 2.0], [1.0, 0.0], [0.0, 3.0]):
        grads = jax.tree.map(jnp.ones_like, params)
        grads["w"] = jnp.outer(jnp.array(rows), jnp.ones(2))
        _, here = got.update(grads, here, params)
        _, there = want.update(grads, there, params)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(a, b)
