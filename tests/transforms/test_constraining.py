"""What is peculiar to steps that end in a set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import projections


def step(tx, params, grads):
    updates, _ = tx.update(grads, tx.init(params), params)
    return ox.apply_updates(params, updates)


def test_projected_gradient_descent_finds_the_least_loss_in_the_set():
    # The point of the simplex that is nearest to the target, under another metric.
    weights, target = jnp.array([1.0, 4.0, 2.0]), jnp.array([1.0, 0.5, -1.0])
    tx = ox.chain(ox.sgd(0.1), ox.project(projections.projection_simplex))

    def once(carry, _):
        x, state = carry
        updates, state = tx.update(weights * (x - target), state, x)
        return (ox.apply_updates(x, updates), state), None

    start = jnp.full(3, 1 / 3)
    (x, _), _ = jax.lax.scan(once, (start, tx.init(start)), length=200)
    # By hand: x_i = t_i - m / w_i on the support, with sum 1: m = 0.5 / (1 + 1/4).
    np.testing.assert_allclose(x, [0.6, 0.4, 0.0], atol=1e-6)


def test_the_step_is_what_the_projection_makes_of_where_it_would_lead():
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    grads = {"w": jnp.array([3.0, 1.0]), "b": jnp.array(-4.0)}
    box = lambda t: projections.projection_box(t, -1.5, 1.25)
    got = step(ox.project(box), params, grads)
    np.testing.assert_allclose(got["w"], [1.25, -1.0], rtol=1e-6)
    np.testing.assert_allclose(got["b"], -1.5, rtol=1e-6)


def test_a_projection_sees_no_parameter_without_a_gradient():
    seen = []

    def look(tree):
        seen.append(tree)
        return tree

    params = {"w": jnp.ones(2, jnp.bfloat16), "frozen": jnp.ones(3)}
    grads = {"w": jnp.ones(2, jnp.bfloat16), "frozen": None}
    tx = ox.project(look)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["frozen"] is None
    assert all(tree["frozen"] is None and tree["w"].dtype == jnp.float32 for tree in seen)
    # So the norm of the others is not theirs to share.
    ball = ox.project(projections.projection_l2_ball)
    got = step(
        ball, {"w": jnp.array([3.0]), "f": jnp.array([4.0])}, {"w": jnp.zeros(1), "f": None}
    )
    np.testing.assert_array_equal(got["w"], [1.0])
    np.testing.assert_array_equal(got["f"], [4.0])


@pytest.mark.parametrize("p_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "tx",
    [ox.keep_params_nonnegative(), ox.project(projections.projection_non_negative)],
    ids=repr,
)
def test_no_parameter_falls_below_zero_and_many_are_zero(tx, p_dtype, rng):
    params = jnp.asarray(np.abs(rng.normal(size=1000)), p_dtype)
    grads = jnp.asarray(rng.normal(size=1000) * 10.0 ** rng.integers(-6, 3, size=1000))
    got = step(tx, params, grads.astype(jnp.float32))
    below = np.float64(params) + np.float64(grads) < 0
    assert (got >= 0).all()
    assert (got[below] == 0).all()
    assert below.sum() > 100


def test_updates_that_lead_nowhere_bad_stay_as_they_are(rng):
    params, grads = jnp.float32(np.abs(rng.normal(size=(2, 50))))
    tx = ox.keep_params_nonnegative()
    np.testing.assert_array_equal(tx.update(grads, tx.init(params), params)[0], grads)


def test_a_negative_parameter_goes_to_zero_unless_it_gets_there_itself():
    got = step(ox.keep_params_nonnegative(), jnp.full(3, -1.0), jnp.array([-1.0, 0.5, 3.0]))
    np.testing.assert_array_equal(got, [0.0, 0.0, 2.0])


def test_what_is_wrong_is_named():
    with pytest.raises(TypeError, match=r"`project\(projection=...\)` must be a function"):
        ox.project(1.0)
    params = {"w": jnp.ones(2), "b": jnp.ones(3)}
    for tx in (ox.project(lambda t: t), ox.keep_params_nonnegative()):
        with pytest.raises(ValueError, match="needs the current parameters"):
            tx.update(params, tx.init(params))
    for wrong, where in (
        (lambda t: {"w": t["w"]}, r"structure.*\['b'\]"),
        (lambda t: {**t, "w": jnp.ones(3)}, r"shape.*\['w'\]"),
        (lambda t: {**t, "b": None}, r"\['b'\].*None"),
    ):
        tx = ox.project(wrong)
        with pytest.raises(ValueError, match=rf"^`project` got .*{where}"):
            tx.update(params, tx.init(params), params)
