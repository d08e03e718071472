"""When curvature is estimated, where from, and what is done with it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optimjax as ox

CURVATURES = np.float32([1.0, 10.0, 100.0, -1.0])
START = jnp.array([1.0, -1.0, 0.5, 0.1])


def loss(p):
    """Its Hessian is diagonal, and so known exactly from one estimate."""
    return 0.5 * jnp.sum(CURVATURES * p * p)


class CountingState(NamedTuple):
    runs: Any


@ox.transformation(state=CountingState)
def counting():
    """An estimator that says how often it has been run: 1, 2, ..."""

    def init(params):
        del params
        return CountingState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        runs = state.runs + 1
        return ox.tree.full_like(updates, runs.astype(jnp.float32)), CountingState(runs)

    return ox.GradientTransformation(init, update)


RULES = [ox.scale_by_curvature, ox.scale_by_curvature_rms]


@pytest.mark.parametrize("rule", RULES)
def test_it_is_estimated_at_the_first_step_and_at_every_kth_from_there(rule):
    tx = rule(0.5, update_interval=3, hessian_diagonal_fn=counting())
    state, runs, means = tx.init(START), [], []
    for _ in range(8):
        _, state = tx.update(START, state)
        runs.append(int(state.hessian_fn_state.runs))
        means.append(float(state.mean[0]))
    assert runs == [1, 1, 1, 2, 2, 2, 3, 3]
    assert means[0] == 0.5
    assert means[0] == means[2] < means[3] == means[5] < means[6]
    assert (int(state.count), int(state.estimates)) == (8, 3)


@pytest.mark.parametrize("rule", RULES)
def test_between_two_estimates_the_estimator_is_not_run(rule):
    runs = []

    def noted(updates, params):
        jax.debug.callback(lambda: runs.append(None))
        return updates

    tx = rule(update_interval=3, hessian_diagonal_fn=ox.stateless(noted))

    def step(state, g):
        return tx.update(g, state)[1], None

    jax.block_until_ready(jax.lax.scan(step, tx.init(START), jnp.ones((7, 4))))
    jax.effects_barrier()
    assert len(runs) == 3


def test_the_estimate_of_a_step_counts_at_that_step():
    """In Optax it counts at the next, and the first step is by the sign alone."""
    tx = ox.sophia(1.0, b2=0.0, gamma=1.0, weight_decay=0.0, clip_threshold=None)
    updates, _ = tx.update(jax.grad(loss)(START), tx.init(START), START, obj_fn=loss)
    np.testing.assert_allclose(updates[:3], -START[:3], rtol=1e-6)  # Newton's step.


def test_where_the_curvature_is_negative_the_step_is_by_the_sign():
    tx = ox.sophia(0.1, weight_decay=0.0)
    updates, _ = tx.update(jax.grad(loss)(START), tx.init(START), START, obj_fn=loss)
    assert updates[3] == 0.1  # Away from the maximum at zero.


def trained(tx, steps=30, **extra):
    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p, **extra)
        return (ox.apply_updates(p, updates), state), p

    (p, _), path = jax.lax.scan(step, (START, tx.init(START)), length=steps)
    return np.concatenate([path[1:], p[None]])


@pytest.mark.parametrize(
    ("make", "oracle"),
    [(ox.sophia, oracles.sophia), (ox.adahessian, oracles.adahessian)],
)
def test_with_its_own_estimates_it_is_the_rule_of_the_paper(make, oracle):
    path = trained(make(0.05, update_interval=1), obj_fn=loss)
    at = np.concatenate([np.asarray(START)[None], path[:-1]])
    want = oracle(
        CURVATURES * np.float64(at),
        np.float64(START),
        learning_rate=0.05,
        hessian_diagonal=np.broadcast_to(CURVATURES, at.shape),
    )
    # Gradients are those of our path, whose roundings the curvature of 100 amplifies.
    np.testing.assert_allclose(path, want, rtol=1e-5, atol=1e-5)


def test_what_is_handed_in_counts_when_it_is_handed_in():
    tx = ox.scale_by_curvature(0.5, 1.0, hessian_diagonal_fn=None)
    state = tx.init(START)
    g = jnp.ones(4)
    signs, state = tx.update(g, state)  # Nothing is known yet.
    assert (signs > 1e7).all()
    _, state = tx.update(g, state, hessian_diagonal=CURVATURES)
    np.testing.assert_array_equal(state.mean, 0.5 * CURVATURES)
    _, state = tx.update(g, state)
    np.testing.assert_array_equal(state.mean, 0.5 * CURVATURES)
    _, state = tx.update(g, state, hessian_diagonal=2.0)  # For all numbers.
    np.testing.assert_array_equal(state.mean, 0.25 * CURVATURES + 1.0)
    assert (int(state.count), int(state.estimates)) == (4, 2)


def test_the_root_mean_square_of_nothing_takes_no_step():
    tx = ox.scale_by_curvature_rms(hessian_diagonal_fn=None)
    updates, state = tx.update(START, tx.init(START))
    np.testing.assert_array_equal(updates, 0.0)
    updates, _ = tx.update(START, state, hessian_diagonal=2.0)
    np.testing.assert_allclose(updates, START / (2.0 + 1e-4), rtol=1e-6)


def test_a_prefix_may_stand_for_a_tree_and_a_part_gets_its_part():
    params = {"a": {"w": jnp.ones(2), "v": jnp.ones(3)}, "b": jnp.ones(1)}
    tx = ox.scale_by_curvature_rms(0.0, 0.0, hessian_diagonal_fn=None)
    got, _ = tx.update(params, tx.init(params), hessian_diagonal={"a": 2.0, "b": 4.0})
    assert [float(x[0]) for x in jax.tree.leaves(got)] == [0.5, 0.5, 0.25]
    part = ox.masked(tx, "a/**")
    whole = ox.tree.full_like(params, 5.0)
    got, _ = part.update(params, part.init(params), params, hessian_diagonal=whole)
    np.testing.assert_allclose(
        [float(x[0]) for x in jax.tree.leaves(got)], [0.2, 0.2, 1.0], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"`hessian_diagonal`.*does not match"):
        tx.update(params, tx.init(params), hessian_diagonal={"a": 2.0})


def test_the_window_of_a_convolution_has_one_curvature():
    kernel = jnp.ones((2, 2, 3, 1))
    h = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    for axes in ((0, 1), (2, 3), ()):
        tx = ox.scale_by_curvature_rms(
            0.0, 0.0, hessian_diagonal_fn=None, spatial_axes=axes
        )
        got, _ = tx.update(kernel, tx.init(kernel), hessian_diagonal=h)
        mean = h.mean(axis=axes, keepdims=True) if axes else h
        want = np.broadcast_to(1 / np.abs(mean), h.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    with pytest.raises(ValueError, match=r"spatial_axes=...\)` must be some of the axes"):
        ox.adahessian(0.1, spatial_axes=(4,))
    with pytest.raises(ValueError, match=r"^`adahessian\(spatial_axes=...\)` must be"):
        ox.adahessian(0.1, spatial_axes=0)  # type: ignore


def test_without_any_power_of_the_curvature_it_is_descent():
    tx = ox.scale_by_curvature_rms(eps=0.0, hessian_power=0.0)
    updates, _ = tx.update(START, tx.init(START), START, obj_fn=loss)
    np.testing.assert_array_equal(updates, START)


def test_hyperparameters_may_be_traced():
    def first(gamma, decay):
        tx = ox.sophia(0.1, b2=decay, gamma=gamma)
        return tx.update(START, tx.init(START), START, obj_fn=loss)[0]

    got = jax.jit(jax.vmap(first))(jnp.array([0.01, 1.0]), jnp.array([0.9, 0.5]))
    np.testing.assert_allclose(got[1], first(1.0, 0.5), rtol=1e-6)
    power = jax.jit(
        lambda k: ox.adahessian(0.1, hessian_power=k).update(
            START, ox.adahessian(0.1).init(START), START, obj_fn=loss
        )[0]
    )
    want = ox.adahessian(0.1, hessian_power=0.5)
    want, _ = want.update(START, want.init(START), START, obj_fn=loss)
    np.testing.assert_allclose(power(0.5), want, rtol=1e-6)


def test_it_goes_inside_of_what_gathers_gradients():
    tx = ox.accumulate(ox.sophia(0.1, update_interval=2), 3)

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p, obj_fn=loss)
        return (ox.apply_updates(p, updates), state), p

    grads = jnp.ones((12, 4))
    (_, state), _ = jax.lax.scan(step, (START, tx.init(START)), grads)
    (found,) = ox.states.states_in(state, ox.ScaleByCurvatureState).values()
    assert (int(found.count), int(found.estimates)) == (4, 2)


def test_any_transformation_is_an_estimator():
    """Even a chain of one: what the authors' AdaHessian does, the mean of moduli."""
    moduli = ox.chain(
        ox.hutchinson_estimator_diag_hessian(),
        ox.stateless(lambda h, params: jax.tree.map(jnp.abs, h)),
    )
    tx = ox.sophia(0.1, b2=0.0, gamma=1.0, weight_decay=0.0, hessian_diagonal_fn=moduli)
    updates, _ = tx.update(START, tx.init(START), START, obj_fn=loss)
    np.testing.assert_allclose(updates, -0.1 * START / np.abs(CURVATURES), rtol=1e-6)
    with pytest.raises(
        TypeError, match=r"takes transformations, but `hessian_diagonal_fn`"
    ):
        ox.sophia(0.1, hessian_diagonal_fn=moduli.update)


def test_sophia_g_trains_a_classifier_by_its_own_labels():
    rng = np.random.default_rng(0)
    xs = jnp.float32(rng.normal(size=(64, 5)))
    ys = jnp.argmax(xs @ jnp.float32(rng.normal(size=(5, 3))), axis=-1)

    def logits(p):
        return jnp.tanh(xs @ p["in"]) @ p["out"]

    def cross_entropy(p):
        log_p = jax.nn.log_softmax(logits(p))
        return -jnp.mean(jnp.take_along_axis(log_p, ys[:, None], axis=1))

    estimator = ox.gauss_newton_bartlett_estimator()
    tx = ox.sophia(0.03, gamma=0.05, hessian_diagonal_fn=estimator)

    def step(carry, _):
        p, state = carry
        value, grads = jax.value_and_grad(cross_entropy)(p)
        updates, state = tx.update(grads, state, p, logits_fn=logits)
        return (ox.apply_updates(p, updates), state), value

    p = {"in": jnp.float32(rng.normal(size=(5, 8))), "out": jnp.zeros((8, 3))}
    losses = jax.lax.scan(step, (p, tx.init(p)), length=100)[1]
    assert losses[0] == pytest.approx(np.log(3))
    assert losses[-1] < 0.1
