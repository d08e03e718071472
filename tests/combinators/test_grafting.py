"""Directions of one transformation with the lengths of another."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimjax as ox

GRADS = {"w": jnp.array([[3.0, -4.0], [0.5, 2.0]]), "b": jnp.array([1.0, -2.0]), "n": None}


def test_each_leaf_has_its_direction_and_its_length():
    t = ox.graft(direction=ox.adam(1e-3), magnitude=ox.sgd(10.0))
    got, state = t.update(GRADS, t.init(GRADS))
    assert set(state._fields) == {"direction", "magnitude"}
    for name in "wb":
        size = 10 * jnp.linalg.norm(GRADS[name])
        want = -np.sign(GRADS[name]) * size / np.sqrt(GRADS[name].size)
        np.testing.assert_allclose(got[name], want, rtol=1e-5)
    assert got["n"] is None


def test_a_transformation_grafted_to_itself_is_itself():
    one = ox.chain(ox.scale_by_momentum(0.9), ox.add_decayed_weights(0.1))
    t = ox.graft(one, one)
    state, alone = t.init(GRADS), one.init(GRADS)
    for _ in range(3):
        got, state = t.update(GRADS, state, GRADS)
        want, alone = one.update(GRADS, alone, GRADS)
        np.testing.assert_allclose(got["w"], want["w"], rtol=1e-6)


def test_both_take_the_gradient_of_a_chain():
    """Adam's second moment on both sides is of gradients, not of their mean."""
    mean = (ox.scale_by_momentum(0.9, dampening=0.9), ox.add_bias_correction(0.9))
    rms = ox.scale_by_rms(0.99, bias_correction=True)
    t, adam = ox.chain(*mean, ox.graft(rms, rms)), ox.scale_by_adam(b2=0.99)
    state, alone = t.init(GRADS), adam.init(GRADS)
    for scale in (1.0, -2.0, 0.5):
        grads = ox.tree.scale(scale, GRADS)
        got, state = t.update(grads, state)
        want, alone = adam.update(grads, alone)
        np.testing.assert_allclose(got["w"], want["w"], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_whose_squares_float32_does_not_hold(scale):
    t = ox.graft(ox.scale(scale), ox.scale(1e-38 / scale if scale < 1 else scale / 1e28))
    got, _ = t.update(GRADS, t.init(GRADS))
    want = GRADS["w"] * (1e-38 / scale if scale < 1 else scale / 1e28)
    np.testing.assert_allclose(got["w"], want, rtol=1e-5)


def test_no_direction_is_no_step():
    t = ox.graft(ox.set_to_zero(), ox.sgd(1.0))
    assert not t.update(GRADS, t.init(GRADS))[0]["w"].any()


def test_transformations_of_optax_go_in():
    t = ox.graft(direction=optax.scale(3.0), magnitude=optax.sgd(0.5))
    got, _ = t.update(GRADS, t.init(GRADS))
    np.testing.assert_allclose(ox.tree.norm(got["b"]), 0.5 * np.sqrt(5), rtol=1e-6)
    with pytest.raises(TypeError, match="`graft` takes transformations, but argument 1"):
        ox.graft(ox.sgd(1.0), ox.sgd)
