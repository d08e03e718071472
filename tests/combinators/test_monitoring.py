"""Numbers about a step, and that they cost nothing where nobody asks for them."""

import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimjax as ox
from optimjax import _reports

ALL = {"gradient_norm", "update_norm", "param_norm", "update_to_weight", "cosine"}


def after(tx, params, *grads):
    """What is kept after steps with these gradients, and the params before the last."""
    state = tx.init(params)
    for i, g in enumerate(grads):
        updates, state = tx.update(g, state, params)
        if i < len(grads) - 1:
            params = ox.apply_updates(params, updates)
    return ox.get_measures(state), params, updates


def flat(tree):
    return np.concatenate([np.float64(x).ravel() for x in jax.tree.leaves(tree)])


def test_measures_are_what_they_say(rng):
    p, *grads = (
        {
            "w": jnp.asarray(rng.normal(size=(2, 3)), "float32"),
            "b": jnp.float32(rng.normal()),
        }
        for _ in range(4)
    )
    got, p, updates = after(ox.measure(ox.adamw(0.1)), p, *grads)
    g, u, p = map(flat, (grads[-1], updates, p))
    norm = np.linalg.norm
    want = {
        "gradient_norm": norm(g),
        "update_norm": norm(u),
        "param_norm": norm(p),
        "update_to_weight": norm(u) / norm(p),
        "cosine": -g @ u / norm(g) / norm(u),
    }
    assert got.keys() == want.keys() == ALL
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-6, err_msg=name)
        assert value.dtype == jnp.float32


def test_what_has_no_gradient_is_not_measured():
    p = {"w": jnp.array([3.0, 4.0]), "frozen": jnp.full(2, 100.0)}
    got, _, _ = after(
        ox.measure(ox.sgd(0.5)), p, {"w": jnp.array([2.0, 0.0]), "frozen": None}
    )
    assert got["param_norm"] == 5.0
    np.testing.assert_allclose(got["update_to_weight"], 0.2)


def test_what_comes_in_and_goes_out_is_measured_not_the_gradient_lane():
    smooth = ox.scale_by_momentum(0.5)
    tx = ox.chain(smooth, ox.measure(smooth, "gradient_norm", "update_norm"))
    got, _, _ = after(tx, jnp.ones(1), jnp.ones(1), jnp.ones(1))
    assert got == {"gradient_norm": 1.5, "update_norm": 2.0}


def test_cosines_do_not_depend_on_lengths():
    for size in (1e-15, 1.0, 1e15):
        g = size * jnp.array([3.0, 4.0])
        got, _, _ = after(ox.measure(ox.sgd(1e-3), "cosine"), g, g)
        np.testing.assert_allclose(got["cosine"], 1.0, rtol=1e-6)
    z = jnp.array([1.0 + 2.0j, -3.0j])
    got, _, _ = after(ox.measure(ox.sgd(0.1), "cosine"), z, z)
    np.testing.assert_allclose(got["cosine"], 1.0, rtol=1e-6)
    got, _, _ = after(ox.measure(ox.scale(1.0)), jnp.zeros(2), jnp.zeros(2))
    assert got["cosine"] == got["update_to_weight"] == 0.0


def test_functions_are_given_gradient_updates_and_params():
    tx = ox.measure(
        ox.sgd(0.5), "cosine", both=lambda g, u, p: (g + 10 * u + 100 * p).sum()
    )
    got, _, _ = after(tx, jnp.array([3.0]), jnp.array([2.0]))
    assert got.keys() == {"cosine", "both"}
    assert got["both"] == 2 - 10 + 300


def test_before_the_first_step_all_is_nan():
    state = ox.measure(ox.sgd(0.1), "cosine", "learning_rate").init(jnp.ones(2))
    assert np.isnan(list(ox.get_measures(state).values())).all()


# Learning rates.

RATE = "learning_rate"


def test_the_learning_rate_is_the_one_in_force():
    tx = ox.measure(ox.adam(ox.linear_schedule(1.0, 0.0, 4)), RATE)
    one = jnp.ones(2)
    for n, rate in ((1, 1.0), (2, 0.75), (4, 0.25)):
        np.testing.assert_allclose(after(tx, one, *[one] * n)[0][RATE], rate)


def test_where_no_step_is_taken_no_rate_is_in_force():
    one, bad = jnp.ones(2), jnp.full(2, np.nan)
    fading = ox.sgd(ox.linear_schedule(1.0, 0.0, 4))
    for make, grads, want in (
        (lambda tx: ox.accumulate(tx, 2), [one, one, one, one], [None, 1.0, None, 0.75]),
        (lambda tx: ox.apply_if_finite(tx, 2), [one, bad, one], [1.0, None, 0.75]),
        (ox.dynamic_loss_scaling, [bad, one], [None, 1.0]),
    ):
        tx = ox.measure(make(fading), RATE)

        def step(state, g, tx=tx):
            _, state = tx.update(g, state)
            return state, state.measures[RATE]

        _, rates = jax.lax.scan(step, tx.init(one), jnp.stack(grads))
        np.testing.assert_allclose(rates, [np.nan if r is None else r for r in want])


def test_several_rates_have_several_names():
    one = jnp.ones(1)
    two = ox.chain(ox.sgd(0.5), ox.sgd(0.25))
    got, _, _ = after(ox.measure(two, RATE, "learning_rate_2"), one, one)
    assert got == {RATE: 0.5, "learning_rate_2": 0.25}
    parts = ox.partition({"a": ox.sgd(0.5), "b": ox.chain(ox.clip(1.0), ox.sgd(0.25))})
    p = {"a": one, "b": one}
    for tx in (parts, ox.accumulate(parts, 1)):
        got, _, _ = after(ox.measure(tx, "b/learning_rate", "a/learning_rate"), p, p)
        assert {k.split("/")[-2]: float(v) for k, v in got.items()} == {"a": 0.5, "b": 0.25}


def test_each_of_several_measures_hears_all_that_is_inside_of_it():
    one = jnp.ones(1)
    inner = ox.measure(ox.sgd(0.5), RATE, "update_norm")
    silent = ox.measure(ox.sgd(0.125), "update_norm")
    tx = ox.chain(inner, silent, ox.sgd(0.25))
    outer = ox.measure(tx, RATE, "learning_rate_2", "learning_rate_3")
    state = outer.update(one, outer.init(one))[1]
    assert list(state.measures.values()) == [0.5, 0.125, 0.25]
    assert state.inner_state["measure"].measures == {RATE: 0.5, "update_norm": 0.5}
    names = set(ox.get_measures(state))
    assert {"learning_rate_2", "learning_rate_3"} < names
    assert len(names) == 6  # Two rates of one name and two norms are told by paths.


def test_what_is_not_there_is_refused_by_name():
    for tx in (ox.scale(1.0), optax.sgd(0.1), optax.chain(*[ox.sgd(0.1)])):
        measured = ox.measure(tx, RATE)
        with pytest.raises(ValueError, match=r"`measure` finds no \['learning_rate'\]"):
            measured.update(jnp.ones(1), measured.init(jnp.ones(1)))
    with pytest.raises(ValueError, match=r"there are .*'cosine', 'learning_rate'"):
        after(ox.measure(ox.sgd(0.1), "rate"), jnp.ones(1), jnp.ones(1))
    with pytest.raises(TypeError, match="`measure` takes names, but got <function"):
        ox.measure(ox.sgd(0.1), lambda g, u, p: 0)
    with pytest.raises(TypeError, match=r"`measure\(size=...\)` must be a function"):
        ox.measure(ox.sgd(0.1), size="norm")
    with pytest.raises(ValueError, match=r"shape \(1,\) from the measure 'u'"):
        after(ox.measure(ox.sgd(0.1), u=lambda g, u, p: u), jnp.ones(1), jnp.ones(1))


# Nothing else changes.


def test_updates_are_the_same_bit_for_bit(rng):
    inner = ox.accumulate(ox.adamw(ox.linear_schedule(0.1, 0.0, 9)), 2)
    p = {"a": jnp.ones(3), "b": jnp.ones(())}
    grads = {"a": jnp.asarray(rng.normal(size=(6, 3)), "float32"), "b": jnp.ones(6)}

    def run(tx):
        def step(state, g):
            updates, state = tx.update(g, state, p)
            return state, updates

        return jax.lax.scan(step, tx.init(p), grads)

    state, updates = run(ox.measure(inner, *ALL, RATE))
    jax.tree.map(np.testing.assert_array_equal, (state.inner_state, updates), run(inner))


def programs(tx):
    """The program of a step, as traced and as compiled, without line numbers and names."""
    p = {"a": jnp.ones(3), "b": jnp.ones(2)}
    args = p, tx.init(p), p
    text = jax.jit(tx.update).lower(*args).compile().as_text()
    text = text[text.index("\n\n%") :]  # Behind the table of files.
    return str(jax.make_jaxpr(tx.update)(*args)), re.sub(r", metadata=\{[^}]*\}", "", text)


def test_unused_reports_leave_no_trace_in_any_program(monkeypatch):
    def step():
        parts = ox.partition(
            {"a": ox.adam(0.1), "b": ox.sgd(ox.linear_schedule(0.1, 0.0, 9))}
        )
        return ox.chain(ox.clip(1.0), ox.accumulate(parts, 2))

    with_them = programs(step())
    with monkeypatch.context() as without:
        without.setattr(_reports, "report", lambda name, value: None)
        without.setattr(_reports, "wanted", lambda: False)
        assert programs(step()) == with_them


def test_what_is_not_asked_for_is_not_computed():
    p = jnp.ones(3)

    def operations(tx):
        return len(jax.make_jaxpr(tx.update)(p, tx.init(p), p).eqns)

    plain = operations(ox.sgd(0.1))
    assert operations(ox.measure(ox.sgd(0.1), RATE)) <= plain + 1
    assert operations(ox.measure(ox.sgd(0.1), "cosine")) > plain + 1


def test_threads_do_not_hear_each_other():
    inside, done = threading.Event(), threading.Event()

    def pause(updates, params):
        inside.set()
        assert done.wait(30)
        return updates

    measured = ox.measure(ox.chain(ox.stateless(pause), ox.sgd(0.5)), RATE)
    heard = []
    one = jnp.ones(1)
    thread = threading.Thread(target=lambda: heard.append(after(measured, one, one)[0]))
    thread.start()
    assert inside.wait(30)
    assert not _reports.wanted()
    other = ox.chain(ox.clip(2.0), ox.sgd(0.25))
    jax.make_jaxpr(lambda g: ox.base.advance(other, g, g, other.init(g), g, {})[0])(one)
    done.set()
    thread.join()
    assert heard == [{RATE: 0.5}]


def test_an_error_while_listening_leaves_nothing_listening():
    def fail(updates, params):
        assert _reports.wanted()
        raise RuntimeError

    for inner in (ox.stateless(fail), ox.accumulate(ox.stateless(fail), 2)):
        parts = ox.partition({"**": ox.chain(ox.sgd(0.1), inner)})
        with pytest.raises(RuntimeError):
            after(ox.measure(parts, "**/learning_rate"), jnp.ones(1), jnp.ones(1))
        assert not _reports.wanted()
        assert _reports._listening.prefix == ""


def test_foreign_code_around_ours_leaks_no_tracer():
    # MultiSteps traces our update for itself: the rate in there is not to be had outside.
    foreign = optax.MultiSteps(ox.sgd(0.5), 2).gradient_transformation()
    jitted = ox.GradientTransformation(ox.sgd(0.5).init, jax.jit(ox.sgd(0.5).update))
    one = jnp.ones(1)
    with jax.checking_leaks(), jax.numpy_dtype_promotion("standard"):
        for inner in (foreign, jitted):
            tx = ox.measure(ox.chain(inner, ox.sgd(0.25)), RATE, "update_norm")
            got, _, _ = after(tx, one, one, one)
            assert got == {RATE: 0.25, "update_norm": 0.125}


def test_it_works_within_every_transformation_of_jax(rng):
    tx = ox.measure(ox.accumulate(ox.sgd(0.5), 1), RATE, "gradient_norm")
    g = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def measures(g):
        return tx.update(g, tx.init(g), g)[1].measures

    want = np.linalg.norm(g, axis=1)
    for got in (jax.vmap(measures)(g), jax.lax.map(measures, g)):
        np.testing.assert_allclose(got["gradient_norm"], want, rtol=1e-6)
        np.testing.assert_array_equal(got[RATE], 0.5)
    slope = jax.jit(jax.grad(lambda g: measures(g)["gradient_norm"]))(g[0])
    np.testing.assert_allclose(slope, g[0] / want[0], rtol=1e-6)


def test_a_state_without_measures_has_none():
    assert ox.get_measures(ox.adam(0.1).init(jnp.ones(1))) == {}
