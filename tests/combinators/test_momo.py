"""What is peculiar to momentum whose rate follows from the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import oracles
import pytest
from precision import enable_x64

import optimjax as ox

CURVATURES = np.geomspace(1.0, 30.0, 6)
START = np.array([2.0, -1.0, 0.5, 1.0, -0.5, 3.0])


def loss(p):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, p.dtype) * p * p) + 0.1 * jnp.sum(p**4)


def trained(tx, steps=40, dtype=jnp.float32, loss=loss):
    """The params at each step, and the last."""

    def step(carry, _):
        p, state = carry
        value, grads = jax.value_and_grad(loss)(p)
        updates, state = tx.update(grads, state, p, value=value)
        return (p + updates, state), p

    p = jnp.asarray(START, dtype)
    (p, state), path = jax.lax.scan(step, (p, tx.init(p)), length=steps)
    return np.concatenate([path, p[None]]), state


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"adapt_lower_bound": True, "lower_bound": -30.0}, {"learning_rate": 0.01}],
    ids=str,
)
@pytest.mark.parametrize("name", ["momo", "momo_adam"])
def test_without_decay_it_is_optaxs(name, kwargs):
    with enable_x64():
        ours, _ = trained(getattr(ox, name)(**kwargs), dtype=jnp.float64)
        with jax.numpy_dtype_promotion("standard"):
            theirs = getattr(optax.contrib, name)(**kwargs)
            theirs, _ = trained(theirs, dtype=jnp.float64)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_decay_is_of_the_step_too():
    """One step minimises the model with the penalty; Optax's ends elsewhere."""
    rate, decay = 0.3, 0.5
    p, g, f = START[:3], np.array([1.0, -2.0, 0.5]), 1.5

    def model(x):
        line = np.maximum(f + np.sum(g * (x - p), axis=-1), 0.0)
        distance = np.sum((x - p) ** 2, axis=-1) / (2 * rate)
        return line + distance + decay / 2 * np.sum(x * x, axis=-1)

    def landed(make):
        tx = make(rate, weight_decay=decay)
        params = jnp.float32(p)
        with jax.numpy_dtype_promotion("standard"):
            u, _ = tx.update(jnp.float32(g), tx.init(params), params, value=f)
        return p + np.float64(u)

    nearby = np.random.default_rng(0).normal(size=(2000, 3)) * 1e-2
    ours, theirs = landed(ox.momo), landed(optax.contrib.momo)
    assert (model(ours) <= model(ours + nearby) + 1e-7).all()
    assert (model(theirs) > model(theirs + nearby) + 1e-4).any()


def test_without_memory_it_is_polyaks_step():
    with enable_x64():  # It overshoots, and so enlarges roundings.
        momo, _ = trained(ox.momo(0.2, beta=0.0), 15, dtype=jnp.float64)
        polyak = ox.polyak_sgd(0.2, variant="sps+")
        polyak, _ = trained(polyak, 15, dtype=jnp.float64)
    np.testing.assert_allclose(momo, polyak, rtol=1e-8)


def test_any_preconditioner_will_do():
    """Here, one that is not in the paper: AdaGrad's."""
    stage = ox.scale_by_rss(0.0, 1e-3, eps_in_sqrt=False)
    tx = ox.momo(0.5, preconditioner=stage)
    rng = np.random.default_rng(1)
    grads, values = rng.normal(size=(25, 6)), rng.uniform(0.5, 2.0, size=25)

    def step(carry, x):
        p, state = carry
        u, state = tx.update(x[0], state, p, value=x[1])
        return (p + u, state), p + u

    p = jnp.float32(START)
    _, path = jax.lax.scan(step, (p, tx.init(p)), (jnp.float32(grads), jnp.float32(values)))
    want = oracles.momo(
        np.float64(np.float32(grads)),
        START,
        learning_rate=0.5,
        below=lambda grads: np.sqrt(np.sum(grads**2, axis=0)) + 1e-3,
        value=np.float64(np.float32(values)),
    )
    np.testing.assert_allclose(path, want, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("make", [ox.momo, ox.momo_adam])
def test_a_rate_a_thousand_times_too_large_does_no_harm(make):
    for rate in (10.0, 1e4):
        path, _ = trained(make(rate), 300)
        assert loss(path[-1]) < 1e-6 * loss(path[0])
    plain, _ = trained(ox.sgd(10.0))
    assert not np.isfinite(plain[-1]).all()


@pytest.mark.parametrize("make", [ox.momo, ox.momo_adam])
def test_a_bound_that_is_not_known_is_found(make):
    """Of a loss whose minimum is 7: the default bound of 0 makes steps too long."""

    def above(p):
        return loss(p) + 7.0

    _, state = trained(make(1.0, adapt_lower_bound=True), 400, loss=above)
    assert abs(float(state.lower_bound) - 7.0) < 0.01
    fixed, _ = trained(make(30.0), 400, loss=above)
    found, _ = trained(make(30.0, adapt_lower_bound=True), 400, loss=above)
    # At such a rate all ways have jumps, when is a matter of rounding: no single point.
    usual = [np.median([loss(p) for p in path[-200:]]) for path in (found, fixed)]
    assert usual[0] < 0.2 * usual[1]


def test_its_rate_can_be_measured():
    p = jnp.float32([3.0, -4.0])
    tx = ox.measure(ox.momo(10.0), "momo_rate", "learning_rate")
    _, state = tx.update(p, tx.init(p), p, value=12.5)
    assert ox.get_measures(state) == {"momo_rate": 0.5, "learning_rate": 10.0}


def test_nothing_left_to_gain_is_no_step():
    tx, p = ox.momo(1.0, beta=0.5, lower_bound=2.0), jnp.ones(2)
    u, state = tx.update(jnp.ones(2), tx.init(p), p, value=1.0)
    np.testing.assert_array_equal(u, 0.0)
    u, _ = tx.update(jnp.zeros(2), state, p, value=1.0)
    np.testing.assert_array_equal(u, 0.0)


def test_what_has_no_gradient_has_no_part_in_the_step():
    params = {"a": jnp.float32([3.0, -4.0]), "b": jnp.float32([1e6])}
    tx = ox.momo(10.0)
    state = tx.init(params)
    u, state = tx.update({"a": params["a"], "b": None}, state, params, value=12.5)
    assert u["b"] is None
    np.testing.assert_allclose(u["a"], [-1.5, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(state.momentum["b"], 0.0)
    np.testing.assert_allclose(state.product, 25.0, rtol=1e-6)


def test_scalars_are_float32_whatever_the_parameters():
    p = jnp.ones(3, jnp.bfloat16)
    tx = ox.momo_adam()
    _, state = tx.update(p, tx.init(p), p, value=jnp.bfloat16(1.0))
    scalars = state.value, state.product, state.lower_bound
    assert {x.dtype.name for x in scalars} == {"float32"}
    assert state.momentum.dtype == jnp.float32


def test_hyperparameters_may_be_traced_and_the_rate_a_schedule():
    p = jnp.float32(START)

    def after_two(rate, bound, make=ox.momo):
        tx = make(rate, lower_bound=bound, weight_decay=bound)
        state = tx.init(p)
        for _ in range(2):
            u, state = tx.update(p, state, p, value=30.0)
        return u

    got = jax.jit(after_two)(0.25, 0.5)
    np.testing.assert_allclose(got, after_two(0.25, 0.5), rtol=1e-6)
    halving = after_two(ox.inverse_time_decay(0.5, 1, 1.0), 0.5)
    np.testing.assert_allclose(halving, got, rtol=1e-6)


def test_a_missing_value_is_asked_for_and_a_wrong_one_refused():
    tx, p = ox.momo(), jnp.ones(2)
    with pytest.raises(TypeError, match=r"`momo` needs the argument `value`"):
        tx.update(p, tx.init(p), p)
    with pytest.raises(TypeError, match=r"`momo` needs a number for its `value`"):
        tx.update(p, tx.init(p), p, value=jnp.ones(2))
    with pytest.raises(TypeError, match=r"transformations, but `preconditioner`"):
        ox.momo(preconditioner=ox.scale_by_rms)


def test_it_stands_in_a_chain_behind_clipping_around_and_inside_of_others():
    tx = ox.chain(ox.clip_by_global_norm(50.0), ox.masked(ox.momo_adam(0.5), "**"))
    path, _ = trained(ox.apply_if_finite(tx, 3), 300)
    assert loss(path[-1]) < 1e-4 * loss(path[0])
