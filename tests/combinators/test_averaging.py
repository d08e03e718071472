"""What is peculiar to averages of the parameters, and to asking for them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optimjax as ox

GRADS = np.random.default_rng(2).normal(size=(15, 4)).astype(np.float32)
START = np.float32([1.0, -2.0, 0.5, 0.0])


def run(tx, grads=GRADS, params=START, pick=ox.eval_params):
    """The params after each step, what `pick` makes of state and params, and the last."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = ox.apply_updates(params, updates)
        return (params, state), (params, pick(state, params))

    params = jnp.asarray(params)
    (_, state), out = jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(grads))
    return *out, state


def warming(n):
    return jnp.minimum(0.9, (1 + n) / (10 + n))


def exactly_warming(n):
    return min(0.9, (1 + n) / (10 + n))


# Arguments of `average_params`, and how the oracle has them.
AVERAGES = {
    "of all": ({}, {}),
    "of the tail": ({"start": 5}, {"first": 5}),
    "of cycles": ({"start": 3, "every": 4}, {"first": 3, "every": 4}),
    "decaying": ({"decay": 0.9}, {"decay": 0.9}),
    "decaying from the first step": (
        {"decay": 0.9, "start": 1},
        {"decay": 0.9, "first": 1},
    ),
    "decaying, of cycles": (
        {"decay": 0.6, "start": 2, "every": 3},
        {"decay": 0.6, "first": 2, "every": 3},
    ),
    "warming up": ({"decay": warming}, {"decay": exactly_warming}),
    "without bias": (
        {"decay": 0.9, "debias": True, "every": 2},
        {"decay": 0.9, "debias": True, "every": 2},
    ),
    "of the last alone": ({"decay": 0.0}, {"decay": 0.0}),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_the_average_is_that_of_its_samples(name):
    kwargs, exact = AVERAGES[name]
    path, got, _ = run(ox.average_params(ox.sgd(0.1, momentum=0.9), **kwargs))
    want = oracles.average(path, START, **exact)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def test_the_gradient_passes_through_it():
    smooth, divide = ox.scale_by_momentum(0.9), ox.scale_by_rms(0.9)
    path, _, _ = run(ox.chain(ox.average_params(smooth), divide))
    want, _, _ = run(ox.chain(smooth, divide))
    np.testing.assert_array_equal(path, want)


def test_what_has_no_gradient_at_a_step_is_sampled_all_the_same():
    tx = ox.average_params(ox.sgd(1.0))
    params = {"w": jnp.array(4.0), "b": jnp.array(1.0)}
    state = tx.init(params)
    for w in (jnp.array(2.0), None, None):
        updates, state = tx.update({"w": w, "b": jnp.array(0.0)}, state, params)
        params = ox.apply_updates(params, updates)
    assert params["w"] == 2.0
    assert state.average["w"] == 2.5  # Of 4, 2, 2, 2.


def test_what_is_no_array_is_left_alone():
    # As Equinox modules are: the state is made for the arrays, the params have all.
    whole = {"w": jnp.ones(2), "frozen": jnp.ones(2), "f": jnp.tanh}
    for tx in (
        ox.average_params(ox.sgd(0.5)),
        ox.lookahead(ox.sgd(0.5), 1, 0.5, on_sync="reset"),
        ox.schedule_free(ox.sgd(0.5), 0.5),
    ):
        state = tx.init({**whole, "f": None})
        grads = {"w": jnp.ones(2), "frozen": None, "f": None}
        updates, state = tx.update(grads, state, whole)
        params = ox.apply_updates(whole, updates)
        got = ox.eval_params(state, params)
        assert got["f"] is jnp.tanh
        np.testing.assert_array_equal(got["frozen"], 1.0)
        assert (got["w"] < 1).all()
        inside = jax.jit(lambda g, s, tx=tx: tx.update(g, s, whole)[1])(grads, state)
        assert jax.tree.structure(inside) == jax.tree.structure(state)


def test_low_precision_is_averaged_as_it_is_rounded_but_not_in_it():
    path, got, state = run(ox.average_params(ox.sgd(1e-3)), params=START.astype("bfloat16"))
    want = oracles.average(np.float64(path), np.float64(START))
    np.testing.assert_allclose(state.average, want[-1], rtol=1e-6)
    assert got.dtype == jnp.bfloat16


# Lookahead. Its steps stand against an oracle in the catalogue.


def test_at_a_synchronisation_the_params_are_the_slow_weights():
    path, slow, _ = run(ox.lookahead(ox.adam(0.1), 5, 0.5))
    np.testing.assert_allclose(path[4::5], slow[4::5], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(slow[:4], np.tile(START, (4, 1)))
    assert (path[:4] != slow[:4]).all()


def test_a_reset_state_is_made_at_the_slow_weights():
    tx = ox.lookahead(ox.scale_by_madgrad(0.1), 5, 0.5, on_sync="reset")
    path, _, state = run(tx)
    assert state.inner_state.count == 0
    np.testing.assert_allclose(state.inner_state.start, path[-1], rtol=1e-6)
    assert not state.inner_state.sum_of_gradients.any()
    _, _, state = run(tx, GRADS[:-1])
    assert state.inner_state.count == 4


def test_what_is_not_floating_is_not_pulled_back():
    inner = ox.chain(ox.adam(0.1), ox.add_noise(0.1, 0.5, jax.random.key(0)))
    _, _, state = run(ox.lookahead(inner, 5, 0.5, on_sync="pull_back"))
    _, _, kept = run(inner)
    rms, exact = (s["adam"]["scale_by_rms"] for s in (state.inner_state, kept))
    assert rms.count == exact.count == len(GRADS)
    assert (rms.nu != exact.nu).any()
    np.testing.assert_array_equal(rms.nu, state.slow_inner_state["adam"]["scale_by_rms"].nu)
    assert state.slow_inner_state["adam"]["scale_by_rms"].count is None


# Schedule-free. Its steps stand against oracles in the catalogue.


@pytest.mark.parametrize("b1", [0.9, 0.0])
def test_the_average_of_schedule_free_is_that_of_the_equations(b1):
    path, got, _ = run(ox.schedule_free_sgd(0.1, 10, b1))
    want = oracles.schedule_free_sgd(
        GRADS, START, learning_rate=0.1, warmup_steps=10, b1=b1, averages=True
    )
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-6)
    assert np.abs(path - got).max() > 0.01


def test_low_precision_parameters_take_no_rounding_along():
    # The gradients do not depend on them: they are those of the float32 run, rounded once.
    grads = np.random.default_rng(4).normal(size=(500, 4)).astype(np.float32)
    tx = ox.schedule_free_sgd(1e-2)
    low = START.astype("bfloat16")
    (path, got, _), (want, mean, _) = run(tx, grads, low), run(tx, grads, np.float32(low))
    np.testing.assert_allclose(np.float32(path), want, rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(np.float32(got), mean, rtol=2**-8, atol=1e-6)
    assert np.abs(np.float32(got[-1]) - START).max() > 0.05


def test_the_weights_of_many_steps_do_not_drift():
    tx = ox.schedule_free_sgd(0.1)
    _, _, state = run(tx, np.zeros(100_000, np.float32), np.float32(1.0), lambda s, p: ())
    assert state.total == 100_000


def test_a_rate_of_zero_has_no_weight():
    tx = ox.schedule_free(ox.sgd(1.0), lambda t: jnp.where(t < 3, 0.0, 1.0))
    _, got, state = run(tx)
    np.testing.assert_allclose(got[:2], np.tile(START, (2, 1)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[2], START - GRADS[:3].sum(axis=0), rtol=1e-5)
    assert state.total == len(GRADS) - 2
    _, _, state = run(ox.schedule_free(ox.sgd(1.0), 0.0, weight_lr_power=0.0))
    assert state.total == len(GRADS)


# Asking for them.


class OwnState(NamedTuple):
    inner_state: Any

    def eval_params(self, params):
        del params


def averaged(p):
    """The state of an average that answers `p + 1`."""
    return ox.average_params(ox.identity()).init(jax.tree.map(lambda x: x + 1, p))


PARAMS = {"w": jnp.zeros(2), "b": (jnp.zeros((), jnp.bfloat16), None)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"adam": (), "average_params": s},
        lambda s: ((1.0, None), [s]),
        lambda s: ox.average_params(ox.identity()).init(PARAMS)._replace(
            average=s.average, inner_state=averaged({"w": 5.0})
        ),
    ],
)  # fmt: skip
def test_an_average_is_found_wherever_it_is(wrap):
    got = jax.jit(ox.eval_params)(wrap(averaged(PARAMS)), PARAMS)
    assert jax.tree.structure(got) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(got["w"], 1.0)
    assert got["b"][0] == 1.0
    assert got["b"][0].dtype == jnp.bfloat16


def test_where_nothing_is_averaged_the_params_are_those_to_evaluate_with():
    for state in (ox.adam(0.1).init(PARAMS), (), OwnState(averaged(PARAMS))):
        assert ox.eval_params(state, PARAMS) is PARAMS


def test_of_two_averages_side_by_side_neither_is_taken():
    tx = ox.chain(ox.average_params(ox.identity()), ox.lookahead(ox.sgd(0.1), 2, 0.5))
    with pytest.raises(ValueError, match=r"\['average_params'\] and \['lookahead'\] of"):
        ox.eval_params(tx.init(PARAMS), PARAMS)


def test_state_and_params_that_have_changed_places_are_refused():
    for tx in (
        ox.average_params(ox.sgd(0.1)),
        ox.masked(ox.average_params(ox.sgd(0.1)), "w"),
        ox.chain(ox.clip(1.0), ox.average_params(ox.sgd(0.1))),
    ):
        params = {"w": jnp.ones(2), "b": jnp.ones(1)}
        with pytest.raises(ValueError, match="got the params for the state"):
            ox.eval_params(params, tx.init(params))


def test_the_average_of_asgd_answers():
    path, got, state = run(ox.asgd(0.1, t0=0.0))
    np.testing.assert_array_equal(got[-1], state.average)
    assert (got[-1] != path[-1]).all()
    np.testing.assert_array_equal(ox.eval_params(ox.asgd().init(START), START), START)


MAKERS = {
    "average_params": ox.average_params,
    "lookahead": lambda inner: ox.lookahead(inner, 2, 0.5),
    "schedule_free": lambda inner: ox.schedule_free(inner, 0.1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_misuse_is_refused_by_name(name):
    make = MAKERS[name]
    with pytest.raises(
        TypeError, match=f"`{name}` takes transformations, but argument 0 is sgd"
    ):
        make(ox.sgd)
    tx, params = make(ox.sgd(0.1)), jnp.ones(2)
    with pytest.raises(ValueError, match=f"`{name}` needs the current parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(TypeError, match=f"`{name}` needs a state of its own kind"):
        tx.update(params, ox.adam(0.1).init(params), params)


def test_what_was_not_known_at_the_last_synchronisation_is_not_pulled_back():
    tx = ox.lookahead(ox.measure(ox.sgd(0.1), "gradient_norm"), 2, 0.5, on_sync="pull_back")
    params = jnp.ones(4)
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params)
    assert ox.get_measures(state.inner_state)["gradient_norm"] == 2.0
