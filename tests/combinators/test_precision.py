"""Parameters of low precision that go where those of high precision do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox

BOTH = [ox.master_weights, ox.kahan_summation]
LOW = [jnp.bfloat16, jnp.float16]


@functools.partial(jax.jit, static_argnums=0)
def run(tx, params, grads):
    """The params after all steps, the state then, and the params after each."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = ox.apply_updates(params, updates)
        return (params, state), params

    (params, state), path = jax.lax.scan(step, (params, tx.init(params)), grads)
    return params, state, path


def normal(rng, *shape):
    return jnp.float32(rng.normal(size=shape))


@pytest.mark.parametrize("dtype", LOW)
# Rates that are powers of two: XLA may or may not fuse a product into the sum behind it,
# and these products are exact.
@pytest.mark.parametrize("inner", [
    ox.adamw(2.0**-8, weight_decay=0.125),
    ox.sgd(2.0**-6, momentum=0.5),
    ox.chain(ox.clip_by_global_norm(0.5), ox.lamb(2.0**-7)),
], ids=repr)  # fmt: skip
def test_the_master_goes_where_a_float32_run_does(inner, dtype, rng):
    params = {"w": normal(rng, 4, 5), "b": [normal(rng)]}
    low = jax.tree.map(lambda p: p.astype(dtype), params)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), low)
    grads = jax.tree.map(lambda p: normal(rng, 100, *p.shape).astype(dtype), params)
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    want, _, _ = run(inner, params, wide)
    for g in (grads, wide):
        _, state, _ = run(ox.master_weights(inner), low, g)
        jax.tree.map(np.testing.assert_array_equal, state.master, want)


@pytest.mark.parametrize("dtype", LOW)
def test_the_params_are_the_master_rounded(dtype, rng):
    # Steps that leave a parameter within a factor of two need no rounding of their own.
    p = (2 + normal(rng, 1000)).astype(dtype)
    p = jnp.clip(p, 1, 3)
    g = normal(rng, 20, 1000) * 0.01
    for grads in (g, g.astype(dtype)):
        params, state, _ = run(ox.master_weights(ox.sgd(1.0)), p, grads)
        np.testing.assert_array_equal(params, state.master.astype(dtype))


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("tx", BOTH)
def test_what_a_large_step_loses_does_not_add_up(tx, dtype, rng):
    # Around zero nearly every step more than doubles or halves, or changes the sign.
    g = (normal(rng, 2000, 50) * 0.01).astype(dtype)
    _, _, path = run(tx(ox.sgd(1.0)), jnp.zeros(50, dtype), g)
    exact = -np.cumsum(np.asarray(g, np.float64), axis=0)
    eps = float(jnp.finfo(dtype).eps)
    error = np.abs(np.asarray(path, np.float64) - exact)
    # Half a place of where it stands, and of the last step.
    bound = eps * (np.abs(exact) + np.abs(np.asarray(g, np.float64)))
    # The master has the error of a sum of float32. Of some steps Kahan's sum loses half a
    # place, to either side: a walk of at most as many steps.
    walk = 1e-6 if tx is ox.master_weights else eps * 0.01 * 2000**0.5 / 10
    assert (error <= bound + walk).all()


@pytest.mark.parametrize("tx", BOTH)
@pytest.mark.parametrize("g_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_small_steps_arrive(tx, g_dtype, sign):
    grads = jnp.full(10_000, -sign * 1e-4, g_dtype)
    want = 1 - 1e4 * float(grads[0])
    p = jnp.ones((), jnp.bfloat16)
    got, _, _ = run(tx(ox.sgd(1.0)), p, grads)
    still, _, _ = run(ox.sgd(1.0), p, grads)
    assert still == 1.0
    # Half a place in bfloat16, or the error of a float32 sum.
    assert abs(float(got) - want) <= max(2**-9 * abs(want), 3e-4)


def test_a_long_sum_in_float32_is_that_in_float64_rounded(rng):
    g = normal(rng, 100_000, 20) * 1e-6
    want = 1 - np.asarray(g, np.float64).sum(0)
    got, _, _ = run(ox.kahan_summation(ox.sgd(1.0)), jnp.ones(20), g)
    plain, _, _ = run(ox.sgd(1.0), jnp.ones(20), g)
    np.testing.assert_array_equal(got, want.astype(np.float32))
    assert np.abs(plain - want).max() > 1e-5


@pytest.mark.parametrize("dtype", LOW)
def test_what_was_swallowed_is_kept_to_a_fraction_of_the_last_place(dtype, rng):
    p = normal(rng, 500).astype(dtype)
    g = normal(rng, 500) * 1e-3
    tx = ox.kahan_summation(ox.sgd(1.0))
    updates, state = tx.update(g, tx.init(p), p)
    new = np.asarray(ox.apply_updates(p, updates), np.float64)
    assert state.swallowed.dtype == jnp.int16
    above = np.abs(new).astype(jnp.dtype(dtype))
    place = np.nextafter(above, np.array(np.inf, jnp.dtype(dtype))).astype(np.float64)
    place = place - np.abs(new)
    kept = np.asarray(state.swallowed, np.float64) * place / 2**16
    exact = np.asarray(p, np.float64) - np.asarray(g, np.float64)
    assert (np.abs(new - exact) > 1000 * place / 2**16).any()
    np.testing.assert_array_less(np.abs(new + kept - exact), 1.01 * place / 2**17)


def test_in_float32_what_was_swallowed_is_the_rest_of_the_sum_however_large_the_step(rng):
    p, g = (normal(rng, 2000) * np.float32(10) ** rng.integers(-3, 4, 2000) for _ in "pg")
    tx = ox.kahan_summation(ox.sgd(1.0))
    updates, state = tx.update(g, tx.init(p), p)
    new, kept = (np.asarray(x, np.float64) for x in (p + updates, state.swallowed))
    exact = np.asarray(p, np.float64) - np.asarray(g, np.float64)
    size = np.maximum(np.abs(p), np.abs(g)).astype(np.float64)
    np.testing.assert_array_less(np.abs(new + kept - exact), 2**-46 * size)


def test_a_complex_parameter_is_summed_part_by_part(rng):
    g = normal(rng, 1000, 4) * 1e-8
    grads = jax.lax.complex(g, -2 * g)
    tx = ox.kahan_summation(ox.sgd(1.0))
    got, state, _ = run(tx, jnp.ones(4, jnp.complex64), grads)
    parts = [run(tx, jnp.full(4, p), x)[:2] for p, x in ((1.0, g), (0.0, -2 * g))]
    np.testing.assert_array_equal(got, jax.lax.complex(parts[0][0], parts[1][0]))
    kept = [state.swallowed for _, state in parts]
    np.testing.assert_array_equal(state.swallowed, jax.lax.complex(*kept))


def test_a_leaf_that_is_wide_enough_has_no_master(rng):
    params = {"low": jnp.ones(3, jnp.bfloat16), "wide": normal(rng, 3)}
    params["z"] = jnp.ones(2, jnp.complex64)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.3), params)
    inner = ox.adam(0.1)
    tx = ox.master_weights(inner)
    state = tx.init(params)
    assert state.master["low"].dtype == jnp.float32
    assert state.master["wide"] is None
    assert state.master["z"] is None
    updates, state = tx.update(grads, state, params)
    assert state.master["wide"] is None
    want, _ = inner.update(grads, inner.init(params), params)
    for name in ("wide", "z"):
        np.testing.assert_array_equal(updates[name], want[name])


def test_the_master_may_have_any_real_dtype(rng):
    with enable_x64():
        params = {"w": normal(rng, 3), "z": jnp.ones(2, jnp.complex64)}
        grads = jax.tree.map(lambda p: jnp.full((1000, *p.shape), 1e-9, p.dtype), params)
        got, state, _ = run(ox.master_weights(ox.sgd(1.0), "float64"), params, grads)
        wide = {"w": params["w"].astype("float64"), "z": params["z"].astype("complex128")}
        want, _, _ = run(ox.sgd(1.0), wide, grads)
        jax.tree.map(np.testing.assert_array_equal, state.master, want)
        jax.tree.map(
            lambda a, b, p: np.testing.assert_array_equal(a, b.astype(p.dtype)),
            got, want, params,
        )  # fmt: skip
    low = ox.master_weights(ox.sgd(1.0), "bfloat16").init(jnp.ones(2, jnp.float16))
    assert low.master is None  # Neither holds the other.


def test_params_set_from_outside_are_set_back_by_the_master_and_kept_by_kahan():
    for tx, want in ((ox.master_weights, 0.5), (ox.kahan_summation, 3.5)):
        t = tx(ox.sgd(0.5))
        state = t.init(jnp.ones((), jnp.bfloat16))
        p = jnp.asarray(4, jnp.bfloat16)
        updates, _ = t.update(jnp.ones((), jnp.bfloat16), state, p)
        assert ox.apply_updates(p, updates) == want


def test_inner_sees_the_master_for_params():
    t = ox.master_weights(ox.chain(ox.set_to_zero(), ox.add_decayed_weights(-0.001)))
    p = jnp.ones((), jnp.bfloat16)
    _, state, _ = run(t, p, jnp.zeros(100, jnp.bfloat16))
    np.testing.assert_allclose(state.master, 0.999**100, rtol=1e-5)


@pytest.mark.parametrize("tx", BOTH)
def test_leaves_without_gradients_stay_what_they_are(tx):
    params = {"a": {"x": jnp.ones(2, jnp.bfloat16)}, "b": jnp.ones(2, jnp.bfloat16)}
    t = tx(ox.sgd(0.001))
    state = t.init(params)
    updates, new = t.update({"a": None, "b": jnp.ones(2)}, state, params)
    assert updates["a"] is None
    slot = "master" if tx is ox.master_weights else "swallowed"
    jax.tree.map(
        np.testing.assert_array_equal, getattr(new, slot)["a"], getattr(state, slot)["a"]
    )
    assert (getattr(new, slot)["b"] != getattr(state, slot)["b"]).all()


@pytest.mark.parametrize("tx", BOTH)
def test_what_is_wrong_is_said_by_name(tx):
    name, p = tx.__name__, jnp.ones(2, jnp.bfloat16)
    t = tx(ox.sgd(0.1))
    with pytest.raises(
        TypeError, match=f"`{name}` takes transformations, but argument 0 is 0.1"
    ):
        tx(0.1)
    with pytest.raises(ValueError, match=f"`{name}` needs the current parameters"):
        t.update(p, t.init(p))
    with pytest.raises(TypeError, match=f"`{name}` needs a state of its own kind"):
        t.update(p, ox.EmptyState(), p)
    with pytest.raises(ValueError, match=f"`{name}` got updates whose structure"):
        t.update({"w": p}, t.init([p]), {"w": p})
    with pytest.raises(TypeError, match=f"`{name}` needs floating"):
        t.init(jnp.ones(2, jnp.int32))
