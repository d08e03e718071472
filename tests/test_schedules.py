"""Schedules against their closed forms, at Python integers and under `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import optimjax as ox

STEPS = 60
# What is called, with what, and the closed form of the same name.
CASES = [
    (ox.constant_schedule, {"value": 0.3}, "constant"),
    (
        ox.linear_schedule,
        {"init_value": 0.1, "end_value": 2.0, "transition_steps": 20},
        "linear",
    ),
    (
        ox.linear_schedule,
        {"init_value": 1.0, "end_value": 0.0, "transition_steps": 7, "transition_begin": 9},
        "linear",
    ),
    (
        ox.polynomial_schedule,
        {"init_value": 1.0, "end_value": 0.2, "power": 3.0, "transition_steps": 30},
        "polynomial",
    ),
    (
        ox.exponential_decay,
        {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5},
        "exponential_decay",
    ),
    (
        ox.exponential_decay,
        {
            "init_value": 1.0,
            "transition_steps": 7,
            "decay_rate": 0.5,
            "transition_begin": 5,
            "staircase": True,
            "end_value": 0.2,
        },
        "exponential_decay",
    ),
    (
        ox.exponential_decay,
        {"init_value": 1.0, "transition_steps": 7, "decay_rate": 1.5, "end_value": 4.0},
        "exponential_decay",
    ),
    (
        ox.piecewise_constant_schedule,
        {"init_value": 1.0, "boundaries_and_scales": {30: 0.1, 10: 0.5}},
        "piecewise_constant",
    ),
    (
        ox.inverse_time_decay,
        {"init_value": 1.0, "transition_steps": 4, "decay_rate": 0.5},
        "inverse_time_decay",
    ),
    (
        ox.inverse_time_decay,
        {"init_value": 1.0, "transition_steps": 4, "decay_rate": 0.5, "staircase": True},
        "inverse_time_decay",
    ),
    (
        ox.cosine_decay_schedule,
        {"init_value": 1.0, "decay_steps": 40, "alpha": 0.1, "exponent": 2.0},
        "cosine_decay",
    ),
    (
        ox.cosine_restarts_schedule,
        {"init_value": 1.0, "first_decay_steps": 6},
        "cosine_restarts",
    ),
    (
        ox.cosine_restarts_schedule,
        {
            "init_value": 1.0,
            "first_decay_steps": 7,
            "t_mul": 1.0,
            "m_mul": 0.5,
            "alpha": 0.1,
        },
        "cosine_restarts",
    ),
    (
        ox.cosine_onecycle_schedule,
        {"transition_steps": 50, "peak_value": 2.0},
        "cosine_onecycle",
    ),
    (
        ox.linear_onecycle_schedule,
        {"transition_steps": 50, "peak_value": 2.0},
        "linear_onecycle",
    ),
]


@pytest.mark.parametrize(("make", "kwargs", "name"), CASES)
def test_is_its_closed_form(make, kwargs, name):
    oracle = getattr(oracles, f"schedule_{name}")
    want = [oracle(t, **kwargs) for t in range(STEPS)]
    schedule = make(**kwargs)
    one_by_one = [schedule(t) for t in range(STEPS)]
    np.testing.assert_allclose(one_by_one, want, rtol=2e-6, atol=1e-7)
    traced = jax.jit(schedule)
    compiled = [traced(jnp.int32(t)) for t in range(STEPS)]
    np.testing.assert_allclose(compiled, one_by_one, rtol=1e-6, atol=1e-7)
    all_at_once = schedule(jnp.arange(STEPS))
    np.testing.assert_allclose(all_at_once, one_by_one, rtol=1e-6, atol=1e-7)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in one_by_one)
    assert all_at_once.shape == (STEPS,)


@pytest.mark.parametrize(("make", "kwargs", "name"), CASES)
def test_rises_to_any_of_them(make, kwargs, name):
    after, warmup = make(**kwargs), 10
    schedule = ox.warmup_schedule(after, warmup, init_value=0.05)
    peak = float(after(0))
    want = [
        oracles.schedule_warmup_linear(t, steps=warmup, init_value=0.05, peak_value=peak)
        for t in range(warmup)
    ] + [float(after(t)) for t in range(STEPS - warmup)]
    np.testing.assert_allclose(schedule(jnp.arange(STEPS)), want, rtol=2e-6, atol=1e-7)


def test_a_warmup_of_no_steps_is_none():
    after = ox.cosine_decay_schedule(0.3, 20)
    steps = jnp.arange(STEPS)
    np.testing.assert_array_equal(ox.warmup_schedule(after, 0)(steps), after(steps))


def test_joined_schedules_start_at_their_boundaries():
    # The second cannot take a negative step, and is never given one.
    def second(t):
        return jnp.sqrt(jnp.asarray(t, jnp.float32))

    f = ox.join_schedules([0.5, second, ox.linear_schedule(1.0, 0.0, 4)], [3, 12])
    want = [0.5] * 3 + [np.sqrt(t) for t in range(9)] + [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    np.testing.assert_allclose(f(jnp.arange(18)), want, rtol=1e-6)


def test_one_schedule_joined_is_itself():
    f = ox.cosine_decay_schedule(0.3, 20)
    np.testing.assert_array_equal(
        ox.join_schedules([f], [])(jnp.arange(30)), f(jnp.arange(30))
    )


def test_restarts_fall_on_their_steps_for_long_runs():
    # By logarithms in float32 alone, some of these restarts come a step early or late.
    f = jax.jit(ox.cosine_restarts_schedule(1.0, 10, t_mul=2.0))
    starts = [10 * (2**i - 1) for i in range(1, 18)]
    np.testing.assert_allclose([f(s) for s in starts], 1.0, rtol=1e-6)
    ends = [f(s - 1) for s in starts]
    assert all(e < 0.03 for e in ends)


@pytest.mark.parametrize("t_mul", [1.1, 1.001, 1.5, 3.0])
def test_restarts_fall_on_the_first_step_of_their_cycle(t_mul):
    kwargs = {"init_value": 1.0, "first_decay_steps": 1000, "t_mul": t_mul}
    steps = range(0, 9000, 7)
    want = [oracles.schedule_cosine_restarts(t, **kwargs) for t in steps]
    f = ox.cosine_restarts_schedule(**kwargs)
    np.testing.assert_allclose(f(jnp.asarray(steps)), want, atol=2e-5)
    np.testing.assert_allclose([f(999), f(1000)], [0.0, 1.0], atol=1e-4)


def test_restarts_of_traced_or_hopeless_growth_are_refused():
    with pytest.raises(TypeError, match=r"t_mul=.*plain number"):
        jax.jit(lambda k: ox.cosine_restarts_schedule(1.0, 10, k)(5))(2.0)
    with pytest.raises(ValueError, match=r"t_mul=.*more than 100,000 cycles"):
        ox.cosine_restarts_schedule(1.0, 100, 1 + 1e-7)


def test_a_one_cycle_that_only_rises_reaches_its_peak():
    f = ox.linear_onecycle_schedule(10, 1.0, pct_start=0.5, pct_final=0.5)
    np.testing.assert_allclose(f(4), 0.04 + 0.8 * 0.96, rtol=1e-5)
    g = ox.cosine_onecycle_schedule(10, 1.0, pct_start=1.0)
    assert g(9) > 0.9
    with pytest.raises(ValueError, match=r"pct_final=.*at least `pct_start` = 0.6.*0.5"):
        ox.linear_onecycle_schedule(10, 1.0, pct_start=0.6, pct_final=0.5)


def test_long_decays_are_right_to_rounding():
    f = ox.exponential_decay(1.0, 1, 0.9999)
    np.testing.assert_allclose(f(100_000), 0.9999**100_000, rtol=2e-6)
    g = ox.cosine_decay_schedule(1.0, 10**6)
    want = np.sin(np.pi / 2 * 10 / 10**6) ** 2
    np.testing.assert_allclose(g(10**6 - 10), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int32"])
def test_steps_of_any_integer_dtype_are_the_same_steps(dtype):
    f = ox.exponential_decay(1.0, 10, 0.5, transition_begin=3)
    steps = np.arange(0, 100, 9)
    np.testing.assert_array_equal(f(jnp.asarray(steps, dtype)), f(jnp.asarray(steps)))


def test_late_steps_are_exact():
    # 2^24 + 1 is no float32: to turn the step into one too early is to be a step off.
    begin = 2**24
    f = ox.linear_schedule(0.0, 1.0, transition_steps=4, transition_begin=begin)
    np.testing.assert_array_equal(
        [f(begin + i) for i in range(5)], [0.0, 0.25, 0.5, 0.75, 1.0]
    )


def test_values_may_be_traced():
    def tenth(init):
        return ox.cosine_decay_schedule(init, 20)(10)

    np.testing.assert_allclose(jax.vmap(tenth)(jnp.arange(3.0)), [0.0, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(tenth)(1.0), 0.5, rtol=1e-6)


def test_the_first_step_uses_step_zero():
    seen = []

    def rate(step):
        seen.append(step)
        return jnp.where(step == 0, 0.1, 0.0)

    tx = ox.sgd(rate)
    grads = jnp.ones(2)
    updates, state = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(updates, -0.1)
    updates, _ = tx.update(grads, state)
    np.testing.assert_array_equal(updates, 0.0)
    assert seen[0].dtype == jnp.int32


def test_schedules_show_the_expression_that_made_them():
    f = ox.warmup_schedule(ox.cosine_decay_schedule(0.1, decay_steps=100), 10)
    assert repr(f) == "warmup_schedule(cosine_decay_schedule(0.1, decay_steps=100), 10)"
