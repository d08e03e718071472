"""What is peculiar to bounds. The laws they share are in `test_laws.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox


def clipped(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


def test_a_global_norm_is_one_over_all_leaves():
    grads = {"a": jnp.asarray([3.0]), "b": jnp.asarray([[4.0]]), "c": None}
    u = clipped(ox.clip_by_global_norm(1.0), grads)
    np.testing.assert_allclose([u["a"][0], u["b"][0, 0]], [0.6, 0.8], rtol=1e-6)
    u = clipped(ox.clip_by_global_norm(5.5), grads)
    np.testing.assert_array_equal(u["a"], grads["a"])


def test_many_low_precision_leaves_have_the_right_norm():
    # Squares summed in bfloat16 give 16 here, and 20 is right.
    leaves = [jnp.ones(1, jnp.bfloat16)] * 400
    assert ox.tree.global_norm(leaves) == 20.0


def test_float16_leaves_do_not_overflow_the_norm():
    # 300^2 is more than float16 holds: an overflow would clip everything to zero.
    grads = jnp.full(4, 300.0, jnp.float16)
    np.testing.assert_allclose(ox.tree.global_norm(grads), 600.0)
    u = clipped(ox.clip_by_global_norm(6.0), grads)
    np.testing.assert_allclose(u, 3.0, rtol=1e-3)


@pytest.mark.parametrize("size", [10**4, 10**7])
def test_a_norm_of_many_numbers_is_right_to_rounding(size):
    # Summed one after the other in float32, ones stop counting at 2^24.
    x = jnp.full(size, 0.1)
    want = np.linalg.norm(np.asarray(x, np.float64))
    np.testing.assert_allclose(ox.tree.global_norm(x), want, rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, None, {"a": jnp.zeros(3)}, {"a": jnp.zeros((0, 2))}])
def test_the_norm_of_nothing_is_zero(tree):
    assert ox.tree.global_norm(tree) == 0


def test_the_norm_has_derivative_zero_at_zero():
    slope = jax.grad(lambda x: ox.tree.global_norm({"x": x}))(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 0.0)


def test_zero_gradients_pass_a_bound_of_zero_as_zeros():
    for make in (ox.clip, ox.clip_by_global_norm, ox.clip_by_norm):
        np.testing.assert_array_equal(clipped(make(0.0), jnp.zeros(3)), 0.0)
        np.testing.assert_array_equal(clipped(make(0.0), jnp.ones(3)), 0.0)


def test_a_bound_of_infinity_clips_nothing():
    g = jnp.asarray([1e30, -2.0])
    for make in (ox.clip, ox.clip_by_global_norm, ox.clip_by_norm):
        np.testing.assert_array_equal(clipped(make(float("inf")), g), g)


@pytest.mark.parametrize("make", [ox.clip_by_global_norm, ox.clip_by_norm])
def test_nan_does_not_pass_for_a_small_norm(make):
    u = clipped(make(1.0), jnp.asarray([jnp.nan, 1.0]))
    assert jnp.isnan(u).all()


def test_zeroed_nans_are_told_by_leaf():
    grads = {"a": jnp.asarray([1.0, jnp.nan]), "b": jnp.asarray([jnp.inf])}
    tx = ox.zero_nans()
    u, state = tx.update(grads, tx.init(grads))
    np.testing.assert_array_equal(u["a"], [1.0, 0.0])
    np.testing.assert_array_equal(u["b"], [jnp.inf])
    assert jax.tree.map(bool, state.found_nan) == {"a": True, "b": False}
    _, state = tx.update(jax.tree.map(jnp.zeros_like, grads), state)
    assert not any(jax.tree.leaves(state.found_nan))


@pytest.mark.parametrize(("axis", "means"), [(0, (1, 2)), (-1, (0, 1)), (1, (0, 2))])
def test_centralized_outputs_have_mean_zero(axis, means, rng):
    g = jnp.float32(rng.normal(size=(3, 4, 5)))
    u = clipped(ox.centralize(axis), g)
    np.testing.assert_allclose(jnp.mean(u, means), 0.0, atol=1e-6)
    spread = np.ptp(g - u, axis=means)  # What was taken away is one number an output.
    np.testing.assert_allclose(spread, 0.0, atol=1e-6)


def test_vectors_are_not_centralized():
    g = {"b": jnp.ones(3), "s": jnp.ones(())}
    np.testing.assert_array_equal(clipped(ox.centralize(), g)["b"], 1.0)


def test_an_output_axis_that_a_matrix_lacks_is_refused():
    with pytest.raises(ValueError, match=r"centralize\(output_axis.*2 .*\['w'\].*\(2, 3\)"):
        ox.centralize(2).init({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})


# Norms of units.


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((), None),
        ((5,), None),
        ((1, 5), None),
        ((5, 1), None),
        ((1, 5, 1, 1), None),
        ((3, 5), 0),
        ((3, 5, 2), 0),
        ((1, 5, 2), 0),
        ((2, 3, 4, 5), (0, 1, 2)),
        ((2, 2, 3, 4, 5), (0, 1, 2, 3)),
    ],
    ids=str,
)
def test_a_unit_is_what_feeds_one_output(shape, axis, rng):
    x = rng.normal(size=shape)
    want = np.sqrt(np.sum(x**2, axis=axis, keepdims=True))
    got = ox.numerics.unitwise_norm(jnp.float32(x))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_axes_of_a_unit_may_be_chosen():
    got = ox.numerics.unitwise_norm(jnp.array([[3.0, 4j]]), axis=1)
    np.testing.assert_allclose(got, [[5.0]])
    assert got.dtype == jnp.float32


def test_unit_norms_of_low_precision_are_in_float32_and_flat_at_zero():
    assert ox.numerics.unitwise_norm(jnp.ones(400, jnp.bfloat16)) == 20.0
    assert ox.numerics.unitwise_norm(jnp.full(4, 300.0, jnp.float16)) == 600.0
    slope = jax.grad(lambda x: jnp.sum(ox.numerics.unitwise_norm(x)))(jnp.zeros((2, 2)))
    np.testing.assert_array_equal(slope, 0.0)
