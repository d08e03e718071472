"""What is peculiar to learning the length of another optimizer's steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from precision import enable_x64

import optimjax as ox

CURVATURES = np.geomspace(1.0, 30.0, 6)
TARGET = np.array([2.0, -1.0, 0.5, 1.0, -0.5, 3.0])


def trained(tx, steps, start, dtype=jnp.float32, target=TARGET, apply=ox.apply_updates):
    """The loss at each step, the last params and the state."""

    def loss(p):
        distance = p - jnp.asarray(target, p.dtype)
        return 0.5 * jnp.sum(jnp.asarray(CURVATURES, p.dtype) * distance * distance)

    def step(carry, _):
        p, state = carry
        value, grads = jax.value_and_grad(loss)(p)
        updates, state = tx.update(grads, state, p, value=value)
        return (apply(p, updates), state), value

    p = jnp.asarray(start, dtype)
    (p, state), losses = jax.lax.scan(step, (p, tx.init(p)), length=steps)
    return np.asarray(losses), np.asarray(p), state


@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_it_is_optaxs_where_that_loses_no_digits(base):
    """What it loses are `eps / s` of the way, and the roundings of the params over `s`."""
    settings = {"eps": 1e-15, "s_init": 1e-3}
    with enable_x64():
        ours = ox.mechanize(getattr(ox, base)(1.0), **settings)
        ours = trained(ours, 25, np.zeros(6), jnp.float64)
        with jax.numpy_dtype_promotion("standard"):
            theirs = optax.contrib.mechanize(getattr(optax, base)(1.0), **settings)
            theirs = trained(theirs, 25, np.zeros(6), jnp.float64)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours[2].s, theirs[2].s, rtol=1e-9)


def test_a_way_too_short_to_be_seen_in_the_params_is_still_a_way():
    """Optax looks for it in the params: where these are large, it never moves."""
    start, target = np.full(6, 100.0), 100.0 + TARGET
    ours = trained(ox.mechanize(ox.adam(1e-3)), 600, start, target=target)[0]
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.contrib.mechanize(optax.adam(1e-3))
        theirs = trained(theirs, 600, start, target=target)[0]
    assert ours[-1] < 1e-2 * ours[0]
    assert (theirs == theirs[0]).all()


@pytest.mark.parametrize("base", [ox.sgd, ox.adam])
def test_the_rate_of_the_base_is_no_matter(base):
    paths = [
        trained(ox.mechanize(base(rate), 0.0, 1e-20, 1e-3 / rate), 30, np.zeros(6))[0]
        for rate in (1.0, 2.0**-10)
    ]
    np.testing.assert_allclose(*paths, rtol=1e-4)


def test_the_params_are_where_the_way_leads_times_the_scale():
    _, p, state = trained(ox.mechanize(ox.adam(1.0)), 100, TARGET + 1.0)
    way = np.float64(state.s).sum() * np.float64(state.way)
    np.testing.assert_allclose(p, TARGET + 1.0 + way, rtol=1e-5)


def test_its_scale_can_be_measured():
    _, _, state = trained(
        ox.measure(ox.mechanize(ox.sgd(1.0)), "mechanic_scale"), 5, np.zeros(6)
    )
    np.testing.assert_allclose(
        ox.get_measures(state)["mechanic_scale"], state.inner_state.s.sum(), rtol=1e-6
    )


def test_the_pull_is_towards_zero_and_zero_is_no_pull():
    """Along a way that a gradient does not see, only the pull counts."""
    p, g = jnp.float32([3.0, 4.0]), jnp.float32([2.0, 0.0])

    def gains(weight_decay):
        away = ox.stateless(lambda u, params: jnp.float32([0.0, 1.0]))
        tx = ox.mechanize(away, weight_decay, s_init=1.0, num_betas=1)
        _, state = tx.update(g, tx.init(p), p)
        scale = float(state.s[0])
        _, state = tx.update(g, state, p)
        return float(state.v[0]), scale

    v, scale = gains(0.5)
    # h = -<(0, 1), 0.5 S |g| p / |p|> = -0.5 S 2 (4 / 5)
    assert v == pytest.approx((0.8 * scale) ** 2, rel=1e-5)
    assert gains(0.0)[0] == 0.0


def test_the_base_gets_what_it_reads():
    losses, *_ = trained(ox.mechanize(ox.polyak_sgd()), 100, np.zeros(6))
    assert losses[-1] < 0.1 * losses[0]
    p = jnp.ones(2)
    tx = ox.mechanize(ox.polyak_sgd())
    with pytest.raises(TypeError, match="needs the argument `value`"):
        tx.update(p, tx.init(p), p)


def test_what_has_no_gradient_stays_where_it_is():
    params = {"a": jnp.ones(2), "b": jnp.full(1, 9.0)}
    tx = ox.mechanize(ox.adam(1.0))
    u, state = tx.update({"a": jnp.ones(2), "b": None}, tx.init(params), params)
    assert u["b"] is None
    np.testing.assert_array_equal(state.way["b"], 0.0)
    assert (state.way["a"] < 0).all()


def test_scalars_are_float32_whatever_the_parameters():
    tx, p = ox.mechanize(ox.sgd(1.0)), jnp.ones(2, jnp.bfloat16)
    _, state = tx.update(p, tx.init(p), p)
    scalars = state.s, state.r, state.m, state.v
    assert {(x.dtype.name, x.shape) for x in scalars} == {("float32", (6,))}
    assert state.way.dtype == jnp.float32


def test_hyperparameters_may_be_traced():
    def first(s_init, weight_decay):
        tx = ox.mechanize(ox.sgd(1.0), weight_decay, s_init=s_init)
        p = jnp.ones(2)
        return tx.update(p, tx.init(p), p)[0]

    got = jax.jit(first)(0.5, 0.1)
    np.testing.assert_allclose(got, first(0.5, 0.1), rtol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: ox.chain(ox.clip_by_global_norm(100.0), tx),
        lambda tx: ox.accumulate(tx, 2),
        lambda tx: ox.masked(tx, "**"),
        lambda tx: ox.average_params(tx, 0.9),
    ],
)
def test_it_goes_with_others(wrap):
    tx = wrap(ox.mechanize(ox.chain(ox.scale_by_adam(), ox.scale(-1.0)), s_init=1e-3))
    losses, *_ = trained(tx, 300, np.zeros(6))
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_one_gradient_whose_square_overflows_does_not_end_the_run(size):
    tx, p = ox.mechanize(ox.chain(ox.scale_by_sign(), ox.scale(-1.0)), s_init=1e-3), TARGET
    p, grads = jnp.float32(p), [jnp.ones(6), jnp.full(6, jnp.float32(size)), -jnp.ones(6)]
    state = tx.init(p)
    for g in [*grads, *grads]:
        u, state = tx.update(g, state, p)
        p = ox.apply_updates(p, u)
        assert jnp.isfinite(u).all()
        assert all(jnp.isfinite(x).all() for x in state[:4])


def test_what_is_no_transformation_is_refused():
    with pytest.raises(
        TypeError, match=r"`mechanize` takes transformations.*`adam\(...\)`"
    ):
        ox.mechanize(ox.adam)
