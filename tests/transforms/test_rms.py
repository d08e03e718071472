"""What is peculiar to dividing by sizes. The laws it shares are in `test_laws.py`."""

import jax
import jax.numpy as jnp
import numpy as np
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
