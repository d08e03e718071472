"""Estimates of curvature as transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest

import optimjax as ox

A = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, -1.0], [0.5, -1.0, 4.0]], np.float32)
HUTCHINSON = ox.hutchinson_estimator_diag_hessian
BARTLETT = ox.gauss_newton_bartlett_estimator


def loss(p):
    """A quadratic form of `w`, and a cube of `b`, which are coupled."""
    return 0.5 * p["w"] @ A @ p["w"] + p["b"] ** 3 * p["w"][0]


PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.float32(2.0)}


def logits_fn(p):
    return jnp.outer(p["w"], jnp.arange(4.0)) * p["b"] / 10.0


@pytest.mark.parametrize(
    ("make", "extra"),
    [(HUTCHINSON, {"obj_fn": loss}), (BARTLETT, {"logits_fn": logits_fn})],
)
def test_each_step_has_a_key_of_its_own(make, extra):
    tx = make(3)
    state = tx.init(PARAMS)
    seen = []
    for _ in range(6):
        diagonal, state = tx.update(PARAMS, state, PARAMS, **extra)
        seen.append(np.asarray(diagonal["w"]))
    assert len(np.unique(np.stack(seen), axis=0)) > 1
    again, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, **extra)
    np.testing.assert_array_equal(again["w"], seen[0])


@pytest.mark.parametrize("kind", [jax.random.key, jax.random.PRNGKey])
def test_hutchinsons_numbers_are_those_of_optax(kind):
    key = kind(5)
    theirs = optax.contrib.hutchinson_estimator_diag_hessian(key)
    ours = HUTCHINSON(key)
    with jax.numpy_dtype_promotion("standard"):
        want, _ = theirs.update(PARAMS, theirs.init(PARAMS), PARAMS, obj_fn=loss)
    got, _ = ours.update(PARAMS, ours.init(PARAMS), PARAMS, obj_fn=loss)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6), got, want)


def test_a_seed_is_a_key():
    states = [HUTCHINSON(k).init(PARAMS) for k in (7, jax.random.key(7))]
    np.testing.assert_array_equal(states[0].key_data, states[1].key_data)
    other = HUTCHINSON(jax.random.key(7, impl="rbg"))  # Of another kind.
    other.update(PARAMS, other.init(PARAMS), PARAMS, obj_fn=loss)
    with pytest.raises(TypeError, match=r"\(random_seed=...\)` must be one key"):
        HUTCHINSON("seed")


def test_what_has_no_gradient_is_held_fast():
    """Its curvature does not come into that of others, nor need it be an array."""
    grads = {"w": None, "b": jnp.float32(1.0)}
    params = {"w": PARAMS["w"], "b": PARAMS["b"]}
    tx = HUTCHINSON()
    for seed in range(4):
        state = HUTCHINSON(seed).init(params)
        got, _ = tx.update(grads, state, params, obj_fn=loss)
        assert got["w"] is None
        np.testing.assert_allclose(got["b"], 6.0 * 2.0 * 1.0)  # 6 b w_0, and no noise.

    def with_name(p):
        assert p["name"] == "net"
        return p["b"] ** 2

    @jax.jit
    def step(b):
        named = {"name": "net", "b": b}
        return tx.update({"name": None, "b": b}, tx.init(b), named, obj_fn=with_name)[0]

    assert step(PARAMS["b"])["b"] == 2.0


def test_the_name_that_line_searches_have_for_it_will_do():
    tx = HUTCHINSON()
    by_either = [
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, **{name: loss})[0]["w"]
        for name in ("obj_fn", "value_fn")
    ]
    np.testing.assert_array_equal(*by_either)


def test_a_missing_function_is_asked_for():
    for tx, name in ((HUTCHINSON(), "obj_fn"), (BARTLETT(), "logits_fn")):
        with pytest.raises(TypeError, match=f"needs the argument `{name}`, a function"):
            tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        with pytest.raises(ValueError, match="needs the current parameters"):
            tx.update(PARAMS, tx.init(PARAMS), **{name: loss})
