"""Estimates of curvature: right in the mean, and where they can be, exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox

KEY = jax.random.key(0)
DRAWS = 20_000


def many(estimate, draws=DRAWS):
    """The mean over many keys, and its standard error as the draws tell it."""
    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, draws))
    found = jax.tree.map(np.float64, found)
    mean = jax.tree.map(lambda x: x.mean(axis=0), found)
    return mean, jax.tree.map(lambda x: x.std(axis=0) / draws**0.5, found)


def form(n):
    a = np.random.default_rng(1).normal(size=(n, n))
    return (a + a.T) / 2


def test_hutchinson_is_exact_where_the_hessian_is_diagonal():
    def loss(p):
        return jnp.sum(p["w"] ** 4) - 3.0 * p["b"] ** 2

    params = {"w": jnp.array([1.0, -2.0, 0.0]), "b": jnp.float32(1.5)}
    for key in jax.random.split(KEY, 3):
        got = ox.hutchinson_diagonal(loss, params, key)
        np.testing.assert_array_equal(got["w"], [12.0, 48.0, 0.0])
        np.testing.assert_array_equal(got["b"], -6.0)


def test_hutchinson_is_right_in_the_mean_and_varies_as_it_should():
    a = form(5)
    loss = lambda p: 0.5 * p @ jnp.float32(a) @ p
    estimate = functools.partial(ox.hutchinson_diagonal, loss, jnp.ones(5))
    mean, error = many(estimate)
    # Each is a_ii and the rest of its row with random signs.
    deviation = np.sqrt((a**2).sum(axis=1) - np.diag(a) ** 2)
    # Of 5 numbers, one beyond 5 standard errors comes about once in 350,000 times.
    assert (np.abs(mean - np.diag(a)) < 5 * deviation / DRAWS**0.5).all()
    # The relative error of a deviation is about that of the mean.
    np.testing.assert_allclose(error * DRAWS**0.5, deviation, rtol=5 / DRAWS**0.5)


def test_a_complex_parameter_has_the_mean_of_the_curvatures_along_its_parts():
    def loss(z):
        return jnp.sum(3.0 * z.real**2 + 1.0 * z.imag**2)

    mean, error = many(lambda key: ox.hutchinson_diagonal(loss, jnp.ones(2, "c8"), key))
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, 4.0)
    np.testing.assert_allclose(error, 0.0)  # The two are not coupled.
    coupled, error = many(
        lambda key: ox.hutchinson_diagonal(
            lambda z: jnp.sum(z.real * z.imag + z.imag**2), jnp.ones(2, "c8"), key
        )
    )
    assert (error > 0).all()
    assert (np.abs(coupled - 1.0) < 5 * error).all()


X = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)


def logits_fn(params):
    """A small network: seven examples, four classes."""
    return jnp.tanh(X @ params["a"]) @ params["b"]


def network():
    rng = np.random.default_rng(3)
    return {
        "a": jnp.float32(rng.normal(size=(3, 5))),
        "b": jnp.float32(rng.normal(size=(5, 4))),
    }


def gauss_newton(params):
    """The diagonal of the matrix, from the Jacobian of the logits, in float64."""
    jacobian = jax.tree.map(np.float64, jax.jacobian(logits_fn)(params))
    p = np.float64(jax.nn.softmax(logits_fn(params)))
    inner = np.einsum("bi,ij->bij", p, np.eye(4)) - np.einsum("bi,bj->bij", p, p)

    def diagonal(j):
        return np.einsum("bikl,bij,bjkl->kl", j, inner, j) / len(X)

    return jax.tree.map(diagonal, jacobian)


def test_gauss_newton_bartlett_is_right_in_the_mean():
    params = network()
    mean, error = many(
        lambda key: ox.gauss_newton_bartlett_diagonal(logits_fn, params, key)
    )
    for name, want in gauss_newton(params).items():
        # Of 35 numbers, one beyond 5 standard errors comes about once in 50,000 times.
        assert (np.abs(mean[name] - want) < 5 * error[name]).all()
        assert (error[name] < 0.05 * want).all()  # So that half of it would be seen.
        assert (mean[name] > 0).all()


def test_positions_count_as_examples():
    """A text of six positions is as good as six examples."""
    params = jnp.float32([0.3, -0.2])
    table = jnp.float32(np.random.default_rng(4).normal(size=(6, 3, 2)))

    def estimate(*shape):
        return ox.gauss_newton_bartlett_diagonal(
            lambda p: (table @ p).reshape(shape), params, KEY
        )

    flat, deep = estimate(6, 3), estimate(2, 3, 3)
    np.testing.assert_allclose(flat, deep, rtol=1e-6)


def test_estimates_of_low_precision_are_float32():
    low = jnp.ones(3, jnp.bfloat16)
    of_loss = ox.hutchinson_diagonal(lambda p: jnp.sum(p * p), low, KEY)
    of_logits = ox.gauss_newton_bartlett_diagonal(lambda p: p[None], low, KEY)
    assert of_loss.dtype == of_logits.dtype == jnp.float32
    np.testing.assert_array_equal(of_loss, 2.0)


def test_labels_are_drawn_from_bfloat16_logits_as_finely_as_from_float32():
    """In bfloat16, no noise is as large as it takes for odds of e^9 : 1."""

    def rare(p):
        return jnp.array([[9.0, 0.0]], p.dtype) + jnp.outer(jnp.ones(64, p.dtype), p)

    low = jnp.zeros(2, jnp.bfloat16)
    mean, error = many(lambda key: ox.gauss_newton_bartlett_diagonal(rare, low, key))
    odds = np.exp(-9.0) / (1 + np.exp(-9.0))
    assert (np.abs(mean - odds * (1 - odds)) < 5 * error).all()
    assert (error < 0.1 * mean).all()


def test_what_is_no_function_is_refused_by_name():
    with pytest.raises(TypeError, match=r"hutchinson_diagonal.*function for its `fun`"):
        ox.hutchinson_diagonal(1.0, jnp.ones(1), KEY)
    with pytest.raises(TypeError, match="one real number"):
        ox.hutchinson_diagonal(lambda p: (p.sum(), 0), jnp.ones(1), KEY)
    with pytest.raises(TypeError, match=r"\['n'\].*int32"):
        ox.hutchinson_diagonal(lambda p: p["w"], {"w": 1.0, "n": jnp.int32(1)}, KEY)
    with pytest.raises(ValueError, match="axis of classes"):
        ox.gauss_newton_bartlett_diagonal(lambda p: p, jnp.float32(1.0), KEY)
