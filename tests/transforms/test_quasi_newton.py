"""L-BFGS: which pairs it keeps, and what of them."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from precision import enable_x64

import optimjax as ox


def along_a_path(tx, grads, params):
    """The directions, and the states, where params and gradients are given."""

    def step(state, x):
        u, state = tx.update(x[0], state, x[1])
        return state, (u, state)

    first = jax.tree.map(lambda p: p[0], params)
    return jax.lax.scan(step, tx.init(first), (grads, params))[1]


def quadratic_path(rng, steps, n=6):
    """Params that wander, and the gradients of a quadratic there."""
    a = rng.normal(size=(n, n))
    curvature = a @ a.T + np.eye(n)
    params = rng.normal(size=(steps, n))
    return params @ curvature, params


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("size", [1, 4])
def test_it_is_the_product_of_dense_matrices(rng, size, scaled):
    with enable_x64():
        grads, params = quadratic_path(rng, 9)
        tx = ox.scale_by_lbfgs(size, scaled)
        got, state = along_a_path(tx, jnp.asarray(grads), jnp.asarray(params))
        want = oracles.scale_by_lbfgs(
            grads, params, memory_size=size, scale_init_precond=scaled
        )
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11 * np.abs(want).max())
        assert state.pairs[-1] == 8  # None was refused.


def test_a_tree_is_one_vector(rng):
    grads, params = (np.float32(x) for x in quadratic_path(rng, 6))
    whole, _ = along_a_path(ox.scale_by_lbfgs(3), grads, params)
    cut = [
        {"a": x[:, :2], "b": [x[:, 2:5].reshape(-1, 3, 1), x[:, 5]]}
        for x in (grads, params)
    ]
    parts, _ = along_a_path(ox.scale_by_lbfgs(3), *cut)
    joined = np.concatenate(
        [parts["a"], parts["b"][0].reshape(-1, 3), parts["b"][1][:, None]], axis=1
    )
    np.testing.assert_allclose(joined, whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())


def test_a_pair_without_positive_curvature_is_refused():
    params = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [3.0, 1.0]])
    # Of curvature 2, then -1, then 0 along the step.
    grads = jnp.array([[1.0, 1.0], [3.0, 1.0], [3.0, 0.0], [3.0, 5.0]])
    us, state = along_a_path(ox.scale_by_lbfgs(2), grads, params)
    np.testing.assert_array_equal(state.pairs, [0, 1, 1, 1])
    np.testing.assert_array_equal(state.identity_scale[1:], [0.5, 0.5, 0.5])
    # H is what the one pair says: one half, along the step and elsewhere.
    np.testing.assert_allclose(us[1:], grads[1:] / 2, rtol=1e-6)


def test_directions_lead_down_whatever_the_gradients(rng):
    grads, params = rng.normal(size=(2, 60, 5)).astype(np.float32)
    us, state = along_a_path(ox.scale_by_lbfgs(4), grads, params)
    assert 10 < state.pairs[-1] < 50  # Some were refused, and some were not.
    cosines = (
        np.sum(us * grads, 1) / np.linalg.norm(us, axis=1) / np.linalg.norm(grads, axis=1)
    )
    assert (cosines > 0).all()


@pytest.mark.parametrize("scaled", [True, False])
def test_short_steps_lead_down_where_curvature_is_negative(scaled):
    """No search sees to it. Optax takes the pairs in, and climbs."""

    def himmelblau(x):  # At (1, 1) both curvatures are negative.
        return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2

    tx = ox.lbfgs(1e-3, memory_size=5, scale_init_precond=scaled, linesearch=None)

    def step(carry, _):
        p, state = carry
        value, grad = jax.value_and_grad(himmelblau)(p)
        updates, state = tx.update(grad, state, p)
        return (p + updates, state), value

    p = jnp.ones(2)
    (_, state), values = jax.lax.scan(step, (p, tx.init(p)), length=5)
    assert (np.diff(values) < 0).all()
    assert state["scale_by_lbfgs"].pairs == 0


def test_where_nothing_moved_the_memory_is_emptied(rng):
    grads, params = (np.float32(x) for x in quadratic_path(rng, 5))
    again = [np.concatenate([x, x[-1:]]) for x in (grads, params)]
    us, state = along_a_path(ox.scale_by_lbfgs(3), *again)
    np.testing.assert_array_equal(state.pairs, [0, 1, 2, 3, 4, 0])
    g = grads[-1]
    np.testing.assert_allclose(us[-1], g * min(1, 1 / np.linalg.norm(g)), rtol=1e-6)


def test_the_first_step_is_no_longer_than_one():
    tx = ox.scale_by_lbfgs()
    for g, length in (([3.0, 4.0], 1.0), ([0.3, 0.4], 0.5), ([0.0, 0.0], 0.0)):
        u, _ = tx.update(jnp.array(g), tx.init(jnp.zeros(2)), jnp.zeros(2))
        np.testing.assert_allclose(jnp.linalg.norm(u), length, rtol=1e-6)


def test_nan_costs_two_pairs_and_no_more(rng):
    grads, params = (np.float32(x) for x in quadratic_path(rng, 6))
    grads[2] = np.nan
    us, state = along_a_path(ox.scale_by_lbfgs(3), grads, params)
    np.testing.assert_array_equal(state.pairs, [0, 1, 1, 1, 2, 3])
    assert np.isfinite(us[3:]).all()


def test_a_leaf_without_gradient_for_a_while_keeps_the_rest_right(rng):
    grads, params = (np.float32(x) for x in quadratic_path(rng, 4))
    tx = ox.scale_by_lbfgs(3)
    state = tx.init({"a": params[0, :3], "b": params[0, 3:]})
    for t in range(4):
        p = {"a": params[t, :3], "b": params[t, 3:]}
        g = {"a": grads[t, :3], "b": None if t == 2 else grads[t, 3:]}
        u, state = tx.update(g, state, p)
        assert (u["b"] is None) == (t == 2)
        assert jnp.vdot(u["a"], g["a"]) > 0 or t != 2
    row = state.diff_params_memory["b"][1]  # Of the second step, where "b" had none.
    np.testing.assert_array_equal(row, 0.0)
    # The one after it spans both.
    np.testing.assert_allclose(
        state.diff_params_memory["b"][2], params[3, 3:] - params[1, 3:], rtol=1e-6
    )


def test_memory_of_low_precision_is_float32():
    state = ox.scale_by_lbfgs(2).init(jnp.ones(3, jnp.bfloat16))
    assert state.diff_params_memory.shape == (2, 3)
    assert state.diff_params_memory.dtype == state.params.dtype == jnp.float32


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"memory_size=...\)` must be at least 1"):
        ox.scale_by_lbfgs(0)
    with pytest.raises(TypeError, match=r"^`lbfgs` takes .* but `linesearch` is 'zoom'"):
        ox.lbfgs(linesearch="zoom")  # type: ignore
    tx = ox.scale_by_lbfgs()
    with pytest.raises(ValueError, match="`scale_by_lbfgs` needs the current parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("size", [1e-28, 1e-22, 1.0, 1e20, 1e30])
def test_the_size_of_the_gradients_does_not_count(size):
    """Though their squares are zero, or infinite, in float32."""
    tx, curvature = ox.scale_by_lbfgs(), np.float32(size) * np.float32([1.0, 20.0])
    params = np.float32([1.0, 2.0])
    _, state = tx.update(curvature * params, tx.init(params), params)
    step, state = tx.update(curvature * params / 2, state, params / 2)
    assert state.pairs == 1
    np.testing.assert_allclose(step, params / 2, rtol=1e-5)  # Newton's, along the pair.
