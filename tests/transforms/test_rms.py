"""What is peculiar to dividing by sizes. The laws it shares are in `test_laws.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optimjax as ox


@pytest.mark.parametrize(
    "make",
    [
        lambda: ox.scale_by_rms(0.9, eps=0.0),
        lambda: ox.scale_by_rms(0.9, eps=0.0, bias_correction=True, centered=True),
        lambda: ox.scale_by_rss(0.0, eps=0.0),
        lambda: ox.scale_by_infinity_moment(0.9, eps=0.0),
    ],
)
def test_without_epsilon_a_zero_gradient_gives_zero_with_a_finite_derivative(make):
    def total(g):
        tx = make()
        updates, state = tx.update(g, tx.init(g))
        return jnp.sum(updates) + jnp.sum(tx.update(g, state)[0])

    value, slope = jax.value_and_grad(total)(jnp.zeros(3))
    assert value == 0
    assert jnp.isfinite(slope).all()


def test_the_first_step_of_adam_has_the_size_of_the_rate():
    g = jnp.asarray([1e-3, -1.0, 1e3])
    tx = ox.adam(0.1, eps=0.0)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, [-0.1, 0.1, -0.1], rtol=1e-6)


def test_a_mean_square_started_at_one_makes_small_first_steps():
    g = jnp.asarray([1.0])
    started = ox.scale_by_rms(0.9, eps=0.0, initial_scale=1.0)
    plain = ox.scale_by_rms(0.9, eps=0.0)
    u1, _ = started.update(g, started.init(g))
    u0, _ = plain.update(g, plain.init(g))
    np.testing.assert_allclose([u1[0], u0[0]], [1.0, np.sqrt(10.0)], rtol=1e-6)


def test_a_centered_rms_of_a_constant_gradient_is_its_epsilon_never_nan():
    # The variance of a constant is zero; as a difference it may round to less.
    g = jnp.asarray([1e3, 1.2345, 1e-6])
    tx = ox.scale_by_rms(0.3, eps=1e-3, centered=True)
    state = tx.init(g)
    for _ in range(200):
        updates, state = tx.update(g, state)
        assert jnp.isfinite(updates).all()


@pytest.mark.parametrize("make", [ox.adam, ox.rmsprop, ox.amsgrad, ox.adagrad])
def test_an_overflow_of_the_square_is_no_nan(make):
    tx = make(1.0)
    state = tx.init(jnp.ones(1))
    for g in (1.0, 1e30, 1.0, 1.0):
        updates, state = tx.update(jnp.asarray([g]), state)
        assert jnp.isfinite(updates).all()


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_sizes_are_right_to_rounding_for_every_decay(decay, rng):
    grads = np.float32(np.exp(3 * rng.normal(size=(40, 50))))
    tx = ox.scale_by_rms(decay, eps=0.0)

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, updates

    got = jax.lax.scan(step, tx.init(jnp.asarray(grads[0])), jnp.asarray(grads))[1]
    want = oracles.scale_by_rms(np.float64(grads), decay=decay, eps=0.0)
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_adagrad_does_not_hide_a_nan():
    tx = ox.adagrad(1.0)
    g = jnp.asarray([jnp.nan])
    assert jnp.isnan(tx.update(g, tx.init(g))[0]).all()


@pytest.mark.parametrize("kind", ["raw", "corrected"])
def test_amsgrad_never_forgets_its_largest(kind):
    tx = ox.scale_by_rms(0.5, eps=0.0, amsgrad=kind)
    g = jnp.asarray([8.0])
    _, state = tx.update(g, tx.init(g))
    for _ in range(20):
        updates, state = tx.update(jnp.asarray([1.0]), state)
    np.testing.assert_allclose(updates, 1 / np.sqrt(0.5 * 64), rtol=1e-6)


def test_the_size_comes_from_the_gradient_and_divides_the_direction():
    # The direction is a tenth of the gradient; RMSprop of a direction would make it one.
    tx = ox.chain(ox.scale_by_momentum(0.9, dampening=0.9), ox.scale_by_rms(0.0, eps=0.0))
    g = jnp.asarray([5.0, -5.0])
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, [0.1, -0.1], rtol=1e-6)


def test_second_moments_of_complex_leaves_are_real():
    p = jnp.asarray([3 + 4j], jnp.complex64)
    tx = ox.scale_by_rms(0.0, eps=0.0)
    updates, state = tx.update(p, tx.init(p))
    assert state.nu.dtype == jnp.float32
    np.testing.assert_allclose(updates, [0.6 + 0.8j], rtol=1e-6)
