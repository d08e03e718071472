"""What is peculiar to steps that land late, and to knowing where they lead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import gradients
from workers import AXIS, on_devices, together

import optimjax as ox


def train(tx, params, steps, where=ox.predicted_params):
    """The params after each step on a bowl; the gradient is taken at what `where` says."""
    curvature = jnp.linspace(0.1, 1.0, params.size)

    @jax.jit
    def step(params, state):
        g = curvature * jnp.sin(where(state, params))
        updates, state = tx.update(g, state, params)
        return ox.apply_updates(params, updates), state

    state, path = tx.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        path.append(params)
    return np.stack(path)


START = jnp.linspace(-2.0, 3.0, 5)


@pytest.mark.parametrize("inner", [ox.adam(0.1), ox.sgd(0.9, momentum=0.9)], ids=str)
def test_one_worker_that_knows_its_steps_loses_nothing_by_the_delay(inner):
    """It goes the way that it would have gone, and arrives that much later."""
    got = train(ox.delay_updates(inner, 4), START, 40)
    want = train(inner, START, 36)
    np.testing.assert_allclose(got[4:], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[:4], np.tile(START, (4, 1)))
    heedless = train(ox.delay_updates(inner, 4), START, 40, lambda s, params: params)
    assert np.abs(heedless[4:] - want).max() > 0.1


@pytest.mark.parametrize("how", [together, on_devices])
def test_the_mean_over_workers_lands(how):
    grads = jnp.asarray(gradients(5, 4, 3))
    tx = ox.delay_updates(ox.sgd(0.5), 2, AXIS)
    state = jax.vmap(tx.init)(grads[0])
    step = how(tx.update) if how is together else how(tx.update, workers=4)
    for t, g in enumerate(grads):
        updates, state = step(g, state)
        want = -0.5 * grads[t - 2].mean(axis=0) if t >= 2 else jnp.zeros(3)
        np.testing.assert_allclose(updates, np.tile(want, (4, 1)), atol=1e-6)
    # And each knows what it has sent itself.
    own = ox.predicted_params(jax.tree.map(lambda x: x[1], state), jnp.zeros(3))
    np.testing.assert_allclose(own, -0.5 * (grads[3, 1] + grads[4, 1]), rtol=1e-6)


def test_what_goes_on_as_it_has_is_foreseen():
    for decay in (0.0, 0.9):
        tx = ox.predict_params(ox.sgd(0.5), 3, decay=decay)
        params, g = jnp.array([7.0]), jnp.array([1.0])
        state = tx.init(params)
        np.testing.assert_array_equal(ox.predicted_params(state, params), params)
        for _ in range(4):
            _, state = tx.update(g, state, params)
            np.testing.assert_allclose(
                ox.predicted_params(state, params), params - 1.5, rtol=1e-6
            )


def test_predictions_are_found_and_have_the_dtypes_of_the_params():
    params = {
        "w": jnp.ones(2, jnp.bfloat16),
        "frozen": None,
        "z": jnp.ones(1, jnp.complex64),
    }
    for wrap in (lambda tx: ox.delay_updates(tx, 2), lambda tx: ox.predict_params(tx, 2)):
        tx = ox.chain(ox.clip_by_global_norm(9.0), ox.average_params(wrap(ox.sgd(0.25))))
        state = tx.init(params)
        _, state = tx.update(params, state, params)
        got = ox.predicted_params(state, params)
        assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, params)
        # One step is on its way; or two like the last are foreseen.
        assert float(got["w"][0]) in (0.75, 0.5)


def test_no_prediction_is_the_params_and_two_are_an_error():
    params = jnp.ones(2)
    assert ox.predicted_params(ox.adam(0.1).init(params), params) is params
    two = ox.predict_params(ox.delay_updates(ox.sgd(0.1), 1), 1)
    assert ox.predicted_params(two.init(params)[-1], params).shape == (2,)
    pair = {"a": two.init(params)[-1], "b": two.init(params)[-1]}
    with pytest.raises(ValueError, match=r"found more than one prediction, at .*'a'.*'b'"):
        ox.predicted_params(pair, params)
    with pytest.raises(ValueError, match="`predicted_params` got params"):
        ox.predicted_params(two.init(params)[-1], {"w": params})
