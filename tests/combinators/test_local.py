"""What is peculiar to workers that go on by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import gradients, primitives
from workers import AXIS, collectives, on_devices, together

import optimjax as ox
from optimjax import compressors

W = 8
DILOCO = ox.adamw(0.1), ox.sgd(0.7, momentum=0.9, nesterov=True)


def paths(tx, grads, how, params=None):
    """The params of all workers after each step; `grads` are (steps, workers, ...)."""

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return ox.apply_updates(params, updates), state

    step = how(step)
    params = jnp.ones(grads.shape[1:]) if params is None else params
    state, path = jax.vmap(tx.init)(params), []
    for g in grads:
        params, state = step(g, state, params)
        path.append(params)
    return np.stack(path), state


def test_an_exchange_at_every_step_is_data_parallelism():
    grads = jnp.asarray(gradients(20, W, 6))
    got, _ = paths(ox.local_updates(ox.sgd(0.1), ox.sgd(1.0), 1, AXIS), grads, on_devices)

    def mean(g, state, params):
        return ox.sgd(0.1).update(jax.lax.pmean(g, AXIS), state, params)

    plain = ox.GradientTransformation(ox.sgd(0.1).init, mean)
    want, _ = paths(plain, grads, on_devices)
    # A rounding of the params, of each worker and of what comes of them, at each step.
    steps = np.arange(1, 21)[:, None, None]
    assert (np.abs(got - want) <= 2 * 2.0**-24 * steps * np.abs(want).max()).all()
    assert np.abs(want - 1).max() > 0.1


def test_workers_part_between_exchanges_and_meet_at_them():
    grads = jnp.asarray(gradients(7, W, 6))
    path, state = paths(ox.local_updates(*DILOCO, 3, AXIS), grads, together)
    spread = np.ptp(path, axis=1).max(axis=-1)
    met = np.arange(1, 8) % 3 == 0
    assert (spread[met] <= 2.0**-23 * np.abs(path).max()).all()
    assert (spread[~met] > 1e-2).all()
    # The state of the inner optimizer stays with its worker.
    moments = state.inner_state["scale_by_momentum"].momentum
    assert np.ptp(moments, axis=0).min() > 1e-3
    shared = jax.vmap(ox.eval_params)(state, jnp.asarray(path[-1]))
    np.testing.assert_allclose(shared, path[5], rtol=1e-6)


def test_devices_do_what_a_batch_does():
    grads = jnp.asarray(gradients(7, W, 6))
    for outer in (
        DILOCO[1],
        ox.chain(ox.compress(compressors.top_k(0.5), AXIS), ox.sgd(1)),
    ):
        axis = AXIS if outer is DILOCO[1] else None
        tx = ox.local_updates(DILOCO[0], outer, 3, axis)
        apart, batch = (paths(tx, grads, how)[0] for how in (on_devices, together))
        np.testing.assert_allclose(apart, batch, rtol=1e-5, atol=1e-6)


def test_one_worker_looks_ahead():
    grads = jnp.asarray(gradients(9, 1, 6))
    inner = ox.adam(0.1)
    got, _ = paths(ox.local_updates(inner, ox.sgd(0.4), 4), grads, together)
    want, _ = paths(ox.lookahead(inner, 4, 0.4), grads, together)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def update_of(tx, params):
    return lambda g, state: tx.update(g, state, params)


@pytest.mark.parametrize("compressed", [False, True])
def test_nothing_crosses_the_link_between_exchanges(compressed):
    params = jnp.ones(4000)
    if compressed:
        outer = ox.chain(ox.compress(compressors.sign(), AXIS), ox.sgd(1.0))
        tx, most = ox.local_updates(ox.adam(0.1), outer, 100), W * 504
    else:
        tx, most = ox.local_updates(*DILOCO, 100, AXIS), 16000
    grads, state = jnp.ones((W, 4000)), jax.vmap(tx.init)(jnp.ones((W, 4000)))
    step = on_devices(update_of(tx, params))
    found = [
        (name, inside)
        for name, inside in primitives(jax.make_jaxpr(step)(grads, state).jaxpr)
        if name.startswith(("psum", "pmean", "all_gather"))
    ]
    assert found
    assert all(inside for _, inside in found), found
    text = step.lower(grads, state).compile().as_text()
    assert "conditional" in text
    sizes = [size for where, _, size in collectives(text) if where != "ENTRY"]
    assert sizes
    assert len(sizes) == len(list(collectives(text)))
    assert sum(sizes) <= most


def test_a_leaf_without_a_gradient_waits_for_the_next_exchange():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = ox.local_updates(ox.sgd(0.5), ox.sgd(1.0), 1)
    state = tx.init(params)
    for grads in ({"a": jnp.ones(2), "b": None}, params):
        updates, state = tx.update(grads, state, params)
    np.testing.assert_allclose(updates["b"], -0.5)
    np.testing.assert_allclose(state.shared["b"], 0.5)


def test_what_is_no_transformation_is_refused_by_its_place():
    with pytest.raises(TypeError, match=r"`local_updates` takes .* but `outer` is sgd\."):
        ox.local_updates(ox.sgd(0.1), ox.sgd, 3)
