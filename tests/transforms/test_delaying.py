"""What is peculiar to late gradients. The steps stand against oracles in the catalogue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping import gradients, run
from trajectories import trajectory

import optimjax as ox


def test_no_delay_is_none():
    grads = gradients(4, 3)
    np.testing.assert_array_equal(run(ox.delay(0), grads), grads)
    assert ox.delay(0).init(jnp.zeros(3)).pending is None


def test_a_schedule_is_rounded_and_held_to_the_room_there_is():
    grads = jnp.arange(1.0, 7.0)[:, None]
    delays = jnp.array([0.0, 1.4, 0.6, 99.0, -3.0, 2.0])
    got = run(ox.delay(2, at=lambda t: delays[t]), grads)
    np.testing.assert_array_equal(got.ravel(), [1, 1, 2, 2, 5, 4])


def test_an_optimizer_can_wait_for_its_first_gradient():
    grads, params = jnp.asarray(gradients(9, 3)), jnp.ones(3)
    waiting = ox.conditionally_mask(ox.adam(0.1), lambda t: t >= 4)
    got = trajectory(ox.chain(ox.delay(4), waiting), params, grads)
    np.testing.assert_array_equal(got[:4], np.ones((4, 3)))
    np.testing.assert_array_equal(got[4:], trajectory(ox.adam(0.1), params, grads[:5]))


def test_stale_params_may_be_given_instead_of_kept():
    """As a server does that remembers when a worker came for its copy."""
    rng = np.random.default_rng(0)
    grads, params = jnp.float32(rng.normal(size=(2, 8, 3)))
    how = {"strength": 0.3, "decay": 0.9}
    kept, given = ox.compensate_delay(steps=2, **how), ox.compensate_delay(**how)
    a, b = kept.init(params[0]), given.init(params[0])
    for t, (g, p) in enumerate(zip(grads, params, strict=True)):
        want, a = kept.update(g, a, p)
        got, b = given.update(g, b, p, stale_params=params[max(t - 2, 0)])
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert a.stale_params.shape == (3, 3)
    assert b.stale_params is None


def test_compensation_is_exact_where_squares_are_curvature():
    """Of the loss -log w, whose Hessian is the square of its gradient, to first order."""
    then, now = jnp.array([2.0]), jnp.array([2.01])
    t = ox.compensate_delay(1.0)
    got, _ = t.update(-1 / then, t.init(now), now, stale_params=then)
    np.testing.assert_allclose(got, -1 / now, rtol=3e-5)
    assert abs(-1 / then - got)[0] > 2e-3


def test_the_adaptive_strength_has_no_units():
    rng = np.random.default_rng(1)
    grads, params = jnp.float32(rng.normal(size=(2, 6, 3)))

    def updates(scale):
        t = ox.compensate_delay(0.5, 2, decay=0.95, eps=0.0)

        def step(state, x):
            u, state = t.update(scale * x[0], state, x[1])
            return state, u

        return jax.lax.scan(step, t.init(params[0]), (grads, params))[1]

    np.testing.assert_allclose(updates(64.0), 64.0 * updates(1.0), rtol=1e-6)


def test_nothing_comes_twice_where_gradients_are_missing():
    params, one = {"a": jnp.zeros(1), "b": jnp.zeros(1)}, jnp.ones(1)
    for tx in (ox.delay(1), ox.delay_updates(ox.identity(), 1)):
        state, seen = tx.init(params), []
        for b in (one, 2 * one, None, 3 * one, 4 * one):
            updates, state = tx.update({"a": one, "b": b}, state)
            seen.append(None if updates["b"] is None else float(updates["b"][0]))
        assert seen == [0.0, 1.0, None, 0.0, 3.0]


def test_of_a_step_without_a_gradient_the_params_alone_are_kept():
    t, params = ox.compensate_delay(1.0, 1, decay=0.5), jnp.arange(1.0, 6.0)[:, None]
    state = t.init(params[0])
    for i, p in enumerate(params):
        before = state.mean_square
        g = None if i % 2 else jnp.ones(1)
        u, state = t.update(g, state, p)
        if g is None:
            assert u is None
            np.testing.assert_array_equal(state.mean_square, before)
        else:  # They are one further each time.
            way = float(i > 0)
            want = 1.0 + way / np.sqrt(state.mean_square + 1e-7)
            np.testing.assert_allclose(u, want, rtol=1e-6)


def test_what_is_missing_is_asked_for():
    g = jnp.ones(2)
    t = ox.compensate_delay(1.0)
    with pytest.raises(TypeError, match=r"`compensate_delay` needs .*`stale_params`"):
        t.update(g, t.init(g), g)
    with pytest.raises(TypeError, match="needs the longest delay"):
        ox.compensate_delay(1.0, at=lambda t: t)
    with pytest.raises(TypeError, match=r"`delay\(at=...\)` must be a function"):
        ox.delay(3, at=2)
    t = ox.scale_by_staleness()
    with pytest.raises(TypeError, match=r"`scale_by_staleness` needs .*`staleness`"):
        t.update(g, t.init(g))
    with pytest.raises(TypeError, match="needs a number for its `staleness`"):
        t.update(g, t.init(g), staleness=g)
