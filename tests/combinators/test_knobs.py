"""Hyperparameters in the state: read, set, swept, and differentiated."""

import functools
import inspect
import pickle

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import _checks
from optimjax.testing import gradients_like

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}
SGD = ox.inject_hyperparams(ox.sgd)
ADAM = ox.inject_hyperparams(ox.adam)
fading = ox.linear_schedule(1.0, 0.0, 10)
rising = ox.linear_schedule(0.5, 0.9, 4)


def rate(state):
    return float(ox.get_hyperparams(state)["learning_rate"])


def run(tx, state=None, params=PARAMS, **extra):
    """The updates of three steps, and the last state."""
    grads = [gradients_like(params, seed) for seed in range(3)]

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p, **extra)
        return (ox.apply_updates(p, updates), state), updates

    state = tx.init(params) if state is None else state
    stacked = jax.tree.map(lambda *gs: jnp.stack(gs), *grads)
    (_, state), updates = jax.lax.scan(step, (params, state), stacked)
    return updates, state


def numbers_of(case):
    """The names of the arguments that are numbers, or stand at one, and can be traced."""
    bound = inspect.signature(case.make).bind(*case.args, **case.kwargs)
    bound.apply_defaults()
    ranges = _checks.domains(case.make)
    given = {name for name in ranges if bound.arguments.get(name) is not None}
    return {name for name in given if not ranges[name].plain}


NUMBERED = [
    case
    for case in catalogue.ONE_EACH
    if numbers_of(case) and not repr(case()).startswith("inject_hyperparams")
]


@pytest.mark.parametrize("case", NUMBERED, ids=str)
def test_every_factory_can_be_made_with_its_numbers_in_the_state(case):
    tx = case.around(ox.inject_hyperparams(case.make)(*case.args, **case.kwargs))
    there = ox.get_hyperparams(tx.init(PARAMS))
    assert set(there) == numbers_of(case)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in there.values())
    # And it can be run: a traced number is nowhere taken for one that is known.
    state = jax.eval_shape(tx.init, PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    updates, new_state = jax.eval_shape(
        lambda g, s, p: tx.update(g, s, p, **case.extra), PARAMS, state, PARAMS
    )
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in NUMBERED if c.whole], ids=str)
def test_every_optimizer_goes_where_the_plain_one_goes(case):
    params = {"w": PARAMS["w"]}
    tx = ox.inject_hyperparams(case.make)(*case.args, **case.kwargs)
    got, want = (run(tx, params=params, **case.extra)[0]["w"] for tx in (tx, case()))
    # But for rounding the numbers to float32: at worst 1 - 0.999, to 5 digits.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * jnp.abs(want).max())


def test_hyperparameters_are_float32_whatever_the_params_are():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = ADAM(learning_rate=np.float16(0.5), b1=jnp.bfloat16(0.5), b2=rising, eps=1)
    for state in (tx.init(params), run(tx, params=params)[1]):
        dtypes = {k: x.dtype for k, x in ox.get_hyperparams(state).items()}
        assert set(dtypes) == {"learning_rate", "b1", "b2", "eps", "eps_root"}
        assert set(dtypes.values()) == {jnp.dtype(jnp.float32)}
    half = ox.inject_hyperparams(ox.sgd, hyperparam_dtype=jnp.bfloat16)(0.1)
    assert ox.get_hyperparams(half.init(PARAMS))["learning_rate"].dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="hyperparam_dtype must be a real floating dtype"):
        ox.inject_hyperparams(ox.sgd, hyperparam_dtype=int)(0.1)


def test_what_is_set_holds_from_the_next_step_on_and_nothing_compiles_anew():
    traces = 0
    tx = ox.chain(ox.clip_by_global_norm(1e9), ADAM(0.1))

    @jax.jit
    def step(grads, state):
        nonlocal traces
        traces += 1
        return tx.update(grads, state)

    state = tx.init(PARAMS)
    for new in (0.1, 0.25, 3, np.float32(0.5), jnp.asarray(2.0)):
        state = ox.set_hyperparams(state, learning_rate=new, b1=0.0, b2=0.0)
        updates, state = step(PARAMS, state)
        np.testing.assert_allclose(jnp.abs(updates["b"]), float(new), rtol=1e-6)
        assert rate(state) == pytest.approx(float(new))
    assert traces == 1
    # Without a jit around it, the same program serves again, too.
    plain = SGD(0.1)
    state = plain.init(PARAMS)
    for new in (1.0, 2.0):
        state = ox.set_hyperparams(state, learning_rate=new)
        updates, state = plain.update(PARAMS, state)
        np.testing.assert_array_equal(updates["w"], -new * PARAMS["w"])
    assert plain.update._compiled._cache_size() == 1


def test_a_schedule_goes_on_until_it_is_overridden_and_can_be_given_back_to():
    tx = SGD(fading)
    update = jax.jit(tx.update)
    state, seen = tx.init(PARAMS), []

    def take(state):
        updates, state = update(PARAMS, state)
        assert rate(state) == pytest.approx(-float(updates["b"][0]))
        seen.append(rate(state))
        return state

    state = take(take(state))
    state = take(take(ox.set_hyperparams(state, learning_rate=5.0)))
    state = take(ox.set_hyperparams(state, learning_rate=None))
    # Set to what it is: it is held there.
    state = take(take(ox.set_hyperparams(state, learning_rate=rate(state))))
    state = take(ox.set_hyperparams(state, learning_rate=None))
    np.testing.assert_allclose(seen, [1.0, 0.9, 5.0, 5.0, 0.6, 0.6, 0.6, 0.3], rtol=1e-6)
    assert update._cache_size() == 1


def test_a_value_written_into_the_state_by_hand_holds_as_well():
    tx = SGD(fading)
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = fading(2)  # Where the schedule comes by later.
    for _ in range(4):
        updates, state = tx.update(PARAMS, state)
        assert updates["b"][0] == -fading(2)


def test_a_scheduled_optimizer_is_the_plain_one_with_that_schedule():
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, run(SGD(fading, 0.9))[0], run(ox.sgd(fading, 0.9))[0])


def scheduled_numbers(case):
    """The arguments that are numbers and may be schedules, as such that never change."""
    bound = inspect.signature(case.make).bind(*case.args, **case.kwargs)
    bound.apply_defaults()
    return {
        name: ox.constant_schedule(bound.arguments[name])
        for name, domain in _checks.domains(case.make).items()
        if domain.or_schedule and isinstance(bound.arguments[name], float)
    }


@pytest.mark.parametrize(
    "case", [catalogue.timed(c) for c in catalogue.ONE_EACH if scheduled_numbers(c)]
)
def test_a_schedule_that_never_changes_is_its_number(case):
    tx = case.make(*case.args, **{**case.kwargs, **scheduled_numbers(case)})
    with jax.disable_jit():
        got, want = (run(t, **case.extra)[0] for t in (case.around(tx), case()))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(same, got, want)


def test_numbers_that_take_no_schedule_by_themselves_take_one_here():
    tx = ADAM(0.1, b1=rising, eps=ox.linear_schedule(1.0, 2.0, 1))
    _, state = run(tx)
    there = ox.get_hyperparams(state)
    np.testing.assert_allclose([there["b1"], there["eps"]], [0.7, 2.0], rtol=1e-6)
    limits = ox.piecewise_constant_schedule(0.5, {1: 2.0, 2: 2.0})
    clip = ox.inject_hyperparams(ox.clip)(limits)
    updates, _ = run(ox.chain(ox.scale(1e6), clip))
    np.testing.assert_allclose(jnp.abs(updates["b"]).max(axis=1), [0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"`clip\(max_delta=...\)` must lie in .* -1\.0"):
        ox.inject_hyperparams(ox.clip)(lambda step: -1.0)


CURVATURE, START = 0.7, 3.0


def descended(state, tx, steps=5):
    def step(carry, _):
        x, state = carry
        updates, state = tx.update(CURVATURE * x, state, x)
        return (ox.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (jnp.float32(START), state), length=steps)
    return x


def test_hypergradients_of_sgd_on_a_quadratic_are_those_of_the_closed_form():
    # x_5 = (1 - eta a)^5 x_0.
    tx = SGD(0.1)
    state = tx.init(jnp.float32(START))

    @jax.jit
    @jax.value_and_grad
    def end(eta):
        return descended(ox.set_hyperparams(state, learning_rate=eta), tx)

    for eta in (0.1, 0.5, 1.0):
        value, slope = end(jnp.float32(eta))
        left = 1 - eta * CURVATURE
        np.testing.assert_allclose(value, left**5 * START, rtol=2e-6)
        np.testing.assert_allclose(slope, -5 * CURVATURE * left**4 * START, rtol=2e-6)


def test_a_sweep_is_a_run_for_each_value():
    tx = ox.chain(SGD(0.1))
    state = tx.init(jnp.float32(START))
    rates = jnp.array([0.0, 0.1, 0.5, 1.0])

    def sweep(eta):
        return descended(ox.set_hyperparams(state, learning_rate=eta), tx)

    want = (1 - np.float64(rates) * CURVATURE) ** 5 * START
    np.testing.assert_allclose(jax.jit(jax.vmap(sweep))(rates), want, rtol=2e-6)
    # States that are batched already can be set: all alike, or each to its own.
    states = jax.vmap(lambda _: tx.init(jnp.float32(START)))(rates)
    each = ox.set_hyperparams(states, learning_rate=rates)
    got = jax.vmap(lambda s: descended(s, tx))(each)
    np.testing.assert_allclose(got, want, rtol=2e-6)
    alike = ox.get_hyperparams(ox.set_hyperparams(states, learning_rate=0.5))
    np.testing.assert_array_equal(alike["learning_rate"], [0.5] * 4)


def test_hyperparameters_are_set_inside_of_a_scan():
    tx = SGD(0.1)

    def step(state, eta):
        state = ox.set_hyperparams(state, learning_rate=eta)
        updates, state = tx.update(jnp.ones(()), state)
        return state, updates

    rates = jnp.array([1.0, 2.0, 4.0])
    _, updates = jax.lax.scan(step, tx.init(jnp.zeros(())), rates)
    np.testing.assert_array_equal(updates, -rates)


def test_a_state_can_be_donated_with_one_value_in_many_places():
    tx, eta = ADAM(0.1), jnp.float32(0.5)
    state = ox.set_hyperparams(tx.init(PARAMS), b1=eta, b2=eta)
    step = jax.jit(tx.update, donate_argnums=1)
    _, state = step(PARAMS, state)
    step(PARAMS, state)
    assert eta == 0.5


TWO = ox.partition({"**/b": ADAM(0.1), "**": ox.chain(ADAM(fading, 0.5), SGD(1.0))})


def test_where_there_are_several_of_a_name_the_names_tell_them_apart():
    state = TWO.init(PARAMS)
    there = ox.get_hyperparams(state)
    assert {k: float(x) for k, x in there.items() if "learning_rate" in k} == {
        "adam/learning_rate": 1.0,
        "sgd/learning_rate": 1.0,
        "**/b/learning_rate": pytest.approx(0.1),
    }
    by_name = ox.get_hyperparams(ox.set_hyperparams(state, learning_rate=0.25))
    assert all(x == 0.25 for k, x in by_name.items() if "learning_rate" in k)
    assert {k: x for k, x in by_name.items() if "learning_rate" not in k} == {
        k: x for k, x in there.items() if "learning_rate" not in k
    }
    pattern = ox.get_hyperparams(ox.set_hyperparams(state, {"**/sgd/*": 3.0}, b1=0.0))
    assert pattern["sgd/learning_rate"] == 3.0
    assert pattern["adam/learning_rate"] == 1.0
    assert pattern["adam/b1"] == pattern["**/b/b1"] == 0.0


def test_what_was_read_can_be_set_again_though_labels_are_patterns():
    # As a pattern, this name of one would mean the other as well.
    tx = ox.partition({"**/b": SGD(0.1), "**": SGD(0.2)})
    one = ox.set_hyperparams(tx.init(PARAMS), {"inner_states/**/learning_rate": 5.0})
    there = ox.get_hyperparams(one)
    assert list(there.values()) == [5.0, jnp.float32(0.1)]
    for state in (one, TWO.init(PARAMS), ox.chain(ADAM(0.3)).init(PARAMS)):
        there = ox.get_hyperparams(state)
        zeros = ox.set_hyperparams(state, dict.fromkeys(there, 0.0))
        assert not any(ox.get_hyperparams(zeros).values())
        assert ox.get_hyperparams(ox.set_hyperparams(zeros, there)) == there


def test_a_hyperparameter_of_a_hyperparameter_is_found():
    inner = ox.inject_hyperparams(lambda factor: ox.chain(SGD(factor)))(0.5)
    names = set(ox.get_hyperparams(inner.init(PARAMS)))
    assert names == {"factor", "learning_rate"}


def test_functions_of_ones_own_and_chains_are_factories():
    def recipe(learning_rate, clipping=1, nesterov=True, decay=0.5, size=3):
        assert isinstance(size, int)
        assert isinstance(nesterov, bool)
        return ox.chain(
            ox.clip(clipping), ox.sgd(learning_rate, decay, nesterov), ox.scale(size)
        )

    tx = ox.inject_hyperparams(recipe)(fading, clipping=1.0)
    updates, state = run(tx)
    assert set(ox.get_hyperparams(state)) == {"learning_rate", "clipping", "decay"}
    want, _ = run(recipe(fading, 1.0))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, updates, want)
    assert repr(tx).startswith("inject_hyperparams(recipe)(linear_schedule(")
    static = ox.inject_hyperparams(recipe, static_args="decay")(0.1)
    assert set(ox.get_hyperparams(static.init(PARAMS))) == {"learning_rate"}


def test_a_factory_may_have_some_arguments_already():
    tx = ox.inject_hyperparams(functools.partial(ox.adam, b1=0.8))(learning_rate=0.1)
    there = ox.get_hyperparams(tx.init(PARAMS))
    assert set(there) == {"learning_rate", "b1", "b2", "eps", "eps_root"}
    assert there["b1"] == jnp.float32(0.8)
    assert list(ox.chain(tx).init(PARAMS)) == ["adam"]


def test_plain_numbers_flags_masks_and_counts_stay_what_they_are():
    clip = ox.inject_hyperparams(ox.clip_by_global_norm)(0.5, ord=3)
    assert set(ox.get_hyperparams(clip.init(PARAMS))) == {"max_norm", "eps"}
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, run(clip)[0], run(ox.clip_by_global_norm(0.5, ord=3))[0])
    decayed = ox.inject_hyperparams(ox.adamw)(
        0.1, mask=lambda path, leaf: leaf.ndim > 1, mu_dtype=jnp.bfloat16, nesterov=True
    )
    assert "mask" not in ox.get_hyperparams(decayed.init(PARAMS))
    state = ox.set_hyperparams(decayed.init(PARAMS), weight_decay=1.0, learning_rate=1.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = decayed.update(zeros, state, PARAMS)
    np.testing.assert_array_equal(updates["w"], -PARAMS["w"])
    np.testing.assert_array_equal(updates["b"], zeros["b"])


OPTAX = {
    "sgd": ({"learning_rate": fading, "momentum": 0.9, "nesterov": True}, set()),
    "adamw": (
        {"learning_rate": 0.1, "mask": lambda p: jax.tree.map(lambda x: x.ndim > 1, p)},
        {"b1", "b2", "eps", "eps_root", "weight_decay"},
    ),
    "adafactor": (
        {"learning_rate": 0.1, "min_dim_size_to_factor": 2},
        {"decay_rate", "clipping_threshold", "eps"},
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_factories_of_optax_have_their_numbers_in_the_state(name):
    optax = pytest.importorskip("optax")
    kwargs, others = OPTAX[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        make = getattr(optax, name)
        got, state = run(ox.inject_hyperparams(make)(**kwargs))
        others = others | ({"momentum"} if name == "sgd" else set())
        assert set(ox.get_hyperparams(state)) == {"learning_rate"} | others
        same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(same, got, run(make(**kwargs))[0])


def test_a_stored_state_goes_on_bit_for_bit():
    _, state = run(TWO)
    state = ox.set_hyperparams(state, {"**/adam/learning_rate": 0.3})
    restored = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))
    got, want = run(TWO, restored), run(TWO, state)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert jax.tree.structure(got) == jax.tree.structure(want)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: ox.inject_hyperparams(ox.adam(0.1)),
            TypeError,
            r"takes a factory, such as `adam`, but got adam\(0\.1\)\. The arguments come",
        ),
        (
            lambda: ox.inject_hyperparams(ox.adam, static_args=["b3"]),
            TypeError,
            r"static_args=...\)`: there is no argument \['b3'\] of `adam\(learning_rate, ",
        ),
        (
            lambda: ADAM(0.1, beta1=0.5),
            TypeError,
            r"`adam` has no argument `beta1`.*`b1`\?",
        ),
        (lambda: ADAM(0.1, b1=1.5), ValueError, r"`adam\(b1=...\)` must lie in \[0, 1\)"),
        (lambda: ADAM("fast"), TypeError, r"`adam\(learning_rate=...\)` must be a number"),
        (
            lambda: ox.get_hyperparams(ox.adam(0.1).init(PARAMS)),
            ValueError,
            "`get_hyperparams` found no hyperparameters",
        ),
        (
            lambda: ox.set_hyperparams(ADAM(0.1).init(PARAMS), lr=0.1),
            ValueError,
            "no hyperparameter 'lr'; there are: b1, b2, eps, eps_root, learning_rate",
        ),
        (
            lambda: ox.set_hyperparams(ADAM(0.1).init(PARAMS), {"head/**": 0.1}),
            ValueError,
            r"no hyperparameter 'head/\*\*'; there are: b1",
        ),
        (
            lambda: ox.set_hyperparams(ADAM(0.1).init(PARAMS), b1=None),
            ValueError,
            "b1 has no schedule to be given back to",
        ),
        *(
            (
                lambda bad=bad: ox.set_hyperparams(ADAM(0.1).init(PARAMS), b1=bad),
                ValueError,
                "`set_hyperparams`: b1 must be a number, but got ",
            )
            for bad in (True, "0.5", jnp.ones(2), [0.5, 0.6], float("nan"), jnp.nan)
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_there_is(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
