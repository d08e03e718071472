"""Line searches: what holds at the step they take, and when they take none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from precision import enable_x64

import optimjax as ox

Outcome = ox.LinesearchOutcome


def searched(search, value_fn, params, state=None, direction=None, **extra):
    """One step along the gradient, or `direction`: updates and the search's state."""
    value, grad = jax.value_and_grad(value_fn)(params, **extra)
    state = search.init(params) if state is None else state
    u = jax.tree.map(lambda g: -g, grad) if direction is None else direction
    return search.update(
        u, state, params, value=value, grad=grad, value_fn=value_fn, **extra
    )


def outcome(state):
    return Outcome(int(state.info.outcome))


def wavy(params, shape):
    """A function of many valleys, by its coefficients."""
    power, waves, phases = shape
    return jnp.sum(power * params**4 + waves * jnp.sin(5 * params + phases))


@functools.cache
def wavy_search(rtol):
    search = ox.scale_by_zoom_linesearch(30, curv_rtol=rtol)
    return jax.jit(lambda params, shape: searched(search, wavy, params, shape=shape))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.9]))
def test_the_wolfe_conditions_hold_at_every_step(seed, rtol):
    rng = np.random.default_rng(seed)
    with enable_x64():
        shape = rng.uniform(0, 2, 3), rng.normal(size=3) * 3, rng.uniform(0, 6, 3)
        params = jnp.asarray(rng.normal(size=3) * 10.0 ** rng.uniform(-2, 1))
        u, state = wavy_search(rtol)(params, shape)
        before, grad = jax.value_and_grad(wavy)(params, shape)
        after, there = jax.value_and_grad(wavy)(params + u, shape)
        before, grad, u, after, there, state = jax.tree.map(
            np.asarray, (before, grad, u, after, there, state)
        )
    assert outcome(state) == Outcome.SATISFIED
    np.testing.assert_allclose(u, -state.learning_rate * grad, rtol=1e-12)
    assert after <= before + 1e-4 * u @ grad
    assert abs(u @ there) <= rtol * abs(u @ grad) * (1 + 1e-9)
    # What is kept is what is there.
    np.testing.assert_allclose(state.value, after, rtol=1e-12)
    np.testing.assert_allclose(state.grad, there, rtol=1e-9)


@pytest.mark.parametrize("start", [0.05, 3.0])
def test_backtracking_takes_the_first_step_that_is_low_enough(start):
    search = ox.scale_by_backtracking_linesearch(50, 0.1, 0.7, rtol=0.0)
    loss = lambda p: p**4
    u, state = searched(search, loss, jnp.float32(start))
    g, step, count = 4 * start**3, 1.0, 1
    while (start - step * g) ** 4 > start**4 - 0.1 * step * g**2:
        step, count = 0.7 * step, count + 1
    np.testing.assert_allclose(u, -step * g, rtol=1e-5)
    assert state.info.num_linesearch_steps == count
    assert outcome(state) == Outcome.SATISFIED
    np.testing.assert_allclose(state.value, (start - step * g) ** 4, rtol=1e-4)


def test_the_next_guess_is_a_little_longer_but_bounded():
    search = ox.scale_by_backtracking_linesearch(50, decrease_factor=0.5, increase_factor=3)
    curved = lambda p: 10 * p**2
    _, state = searched(search, curved, jnp.float32(1.0))
    assert state.learning_rate == 2.0**-4  # The first below 1 / 10.
    _, state = searched(search, lambda p: -p, jnp.float32(1.0), state)
    assert state.learning_rate == 3 * 2.0**-4
    for _ in range(3):
        _, state = searched(search, lambda p: -p, jnp.float32(1.0), state)
    assert state.learning_rate == 1.0


# Of the functions that Optax and SciPy search, and where: around zero, at random.
LANDSCAPES = {
    "quartic": (lambda p: jnp.sum(p**4 - p**3 - p), 1),
    "exponential": (lambda p: jnp.sum(jnp.exp(-4 * p) + p**2), 1),
    "sine": (lambda p: -jnp.sum(jnp.sin(10 * p)), 1),
    "rosenbrock": (
        lambda p: jnp.sum(100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2),
        16,
    ),
    "himmelblau": (
        lambda p: (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2,
        2,
    ),
    "matyas": (lambda p: 0.26 * jnp.sum(p**2) - 0.48 * p[0] * p[1], 2),
    "eggholder": (  # Below zero.
        lambda p: (
            -(p[1] + 47) * jnp.sin(jnp.sqrt(jnp.abs(p[0] / 2 + p[1] + 47)))
            - p[0] * jnp.sin(jnp.sqrt(jnp.abs(p[0] - p[1] - 47)))
        ),
        2,
    ),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def from_many_places(make, name, count, **settings):
    """One search from each of `count` places along a direction that leads down."""
    loss, size = LANDSCAPES[name]
    rng = np.random.default_rng(0)
    starts, bends = rng.normal(size=(count, size)), rng.uniform(size=(count, size))

    def one(p, bend):
        value, grad = jax.value_and_grad(loss)(p)
        u = -bend * grad
        _, state = searched(make(**settings), loss, p, direction=u)
        after, there = jax.value_and_grad(loss)(p + state.learning_rate * u)
        slopes = jnp.vdot(u, grad), jnp.vdot(u, there)
        return state, (value, after), slopes, (p, u)

    return jax.vmap(one)(jnp.asarray(starts), jnp.asarray(bends))


def backtracking(**settings):
    return ox.scale_by_backtracking_linesearch(80, decrease_factor=0.7, **settings)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_backtracking_finds_the_longest_step_of_enough_decrease(name):
    for slope_rtol, atol, rtol in (
        (1e-4, 0.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.4, 0.3, 0.0),
        (0.4, 0.0, 0.1),
    ):
        with enable_x64():
            settings = {"slope_rtol": slope_rtol, "atol": atol, "rtol": rtol}
            found = from_many_places(backtracking, name, 40, **settings)
            longer = found[0].learning_rate / 0.7
            p, u = found[3]
            missed = jax.vmap(LANDSCAPES[name][0])(p + longer[:, None] * u)
            state, (before, after), (slope, _), _ = jax.tree.map(np.asarray, found)
            longer, missed = np.asarray(longer), np.asarray(missed)
        assert (state.info.outcome == Outcome.SATISFIED).all()
        bound = before + rtol * np.abs(before) + atol
        room = 1e-12 * np.abs(before)
        assert (after <= bound + slope_rtol * state.learning_rate * slope + room).all()
        whole = state.learning_rate == 1.0
        assert (whole | (missed > bound + slope_rtol * longer * slope - room)).all()
        np.testing.assert_allclose(state.value, after, rtol=1e-9)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_zoom_finds_a_step_where_scipy_finds_one_in_about_as_many_evaluations(name):
    from scipy.optimize import line_search

    with enable_x64():
        found = from_many_places(ox.scale_by_zoom_linesearch, name, 25)
        state, (before, after), (slope, there), (ps, us) = jax.tree.map(np.asarray, found)
        value, grad = jax.jit(LANDSCAPES[name][0]), jax.jit(jax.grad(LANDSCAPES[name][0]))
        theirs = [
            line_search(lambda p: float(value(p)), lambda p: np.asarray(grad(p)), p, u)
            for p, u in zip(ps, us, strict=True)
        ]
    assert (state.info.outcome == Outcome.SATISFIED).all()
    room = 1e-12 * np.abs(before)
    assert (after <= before + 1e-4 * state.learning_rate * slope + room).all()
    assert (np.abs(there) <= 0.9 * np.abs(slope) * (1 + 1e-9)).all()
    # Theirs counts the value at the start, too.
    steps, counts = np.array([[step, count - 1] for step, count, *_ in theirs]).T
    assert state.info.num_linesearch_steps.sum() <= 1.25 * counts.sum()
    # Both try 1, 2, 4, ..., and agree where one of these will do.
    first = np.isin(steps, 2.0 ** np.arange(8))
    np.testing.assert_array_equal(state.learning_rate[first], steps[first])


def parabola(p):
    return jnp.vdot(p, p)


ALONG = jnp.array([1.0, 0.0])
# Of |60 - s|^2, of which the shortest step of half the slope is 30.
ENDS = {
    "in time": ({}, parabola, -60 * ALONG, ALONG, Outcome.SATISFIED, 32.0),
    "one step too early": (
        {"max_linesearch_steps": 5},
        parabola,
        -60 * ALONG,
        ALONG,
        Outcome.DECREASED,
        16.0,
    ),
    "at a limit": (
        {"max_learning_rate": 10.0},
        parabola,
        -60 * ALONG,
        ALONG,
        Outcome.DECREASED,
        10.0,
    ),
    # The end of the first interval lies before its beginning.
    "past the minimum": (
        {},
        lambda p: p**2,
        jnp.float32(-1.0),
        jnp.float32(1.95),
        Outcome.SATISFIED,
        1 / 1.95,
    ),
    # Towards minus infinity: there is no flatter place.
    "into a pit": (
        {},
        jnp.log,
        jnp.float32(1.0),
        jnp.float32(-2.0),
        Outcome.DECREASED,
        0.5,
    ),
    # So flat that the first steps change no digit: 1.4e-11 in the beginning.
    "on a plain": (
        {"max_linesearch_steps": 30},
        lambda p: jnp.exp(-1 / p**2),
        jnp.float32(-0.2),
        jnp.float32(3.5e-9),
        Outcome.SATISFIED,
        None,
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_zoom_search_ends_as_it_should(name):
    how, loss, p, direction, expected, step = ENDS[name]
    search = ox.scale_by_zoom_linesearch(**{"curv_rtol": 0.5, **how})
    _, state = searched(search, loss, p, direction=direction)
    assert outcome(state) == expected
    if step is not None:
        np.testing.assert_allclose(state.learning_rate, step, rtol=1e-4)
    assert state.value < loss(p)


SEARCHES = {
    "backtracking": ox.scale_by_backtracking_linesearch(30, store_grad=True),
    "zoom": ox.scale_by_zoom_linesearch(30),
}


@pytest.fixture(params=SEARCHES)
def search(request):
    return SEARCHES[request.param]


@pytest.mark.parametrize("beyond", [jnp.nan, jnp.inf, -jnp.inf])
def test_no_step_ends_behind_a_wall(search, beyond):
    loss = lambda p: jnp.where(p < 0.3, -p, beyond)
    u, state = searched(search, loss, jnp.float32(0.0))
    assert 0 < u < 0.3
    assert jnp.isfinite(state.value)
    assert not state.info.failed


def test_at_a_wall_there_is_no_step(search):
    loss = lambda p: jnp.where(p <= 0.0, -p, jnp.nan)
    u, state = searched(search, loss, jnp.float32(0.0))
    assert (u, state.learning_rate, state.value) == (0.0, 0.0, 0.0)
    assert outcome(state) == Outcome.NO_DECREASE
    assert state.info.failed
    # And the next search begins anew.
    u, state = searched(search, lambda p: -p, jnp.float32(0.0), state)
    assert u >= 1.0


def test_uphill_and_flat_are_refused_without_an_evaluation(search):
    loss = lambda p: jnp.sum(p**2)
    for p, direction in ((jnp.ones(2), jnp.ones(2)), (jnp.zeros(2), jnp.zeros(2))):
        u, state = searched(search, loss, p, direction=direction)
        np.testing.assert_array_equal(u, 0.0)
        assert outcome(state) == Outcome.NO_DESCENT
        assert state.info.num_linesearch_steps == 0
        np.testing.assert_array_equal(state.grad, 2 * p)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_start_gives_zero_updates(search, bad):
    p = jnp.ones(2)
    u, state = search.update(
        jnp.full(2, jnp.nan), search.init(p), p, value=bad, grad=p, value_fn=jnp.sum
    )
    np.testing.assert_array_equal(u, 0.0)
    assert outcome(state) == Outcome.NOT_FINITE


def test_a_linear_function_is_followed_to_the_limit():
    search = ox.scale_by_zoom_linesearch(max_learning_rate=5.0)
    u, state = searched(search, lambda p: -p, jnp.float32(0.0))
    assert u == 5.0
    assert outcome(state) == Outcome.DECREASED
    assert state.info.num_linesearch_steps == 4  # 1, 2, 4, 5
    u, state = searched(ox.scale_by_zoom_linesearch(6), lambda p: -p, jnp.float32(0.0))
    assert (u, outcome(state)) == (32.0, Outcome.DECREASED)


@pytest.mark.parametrize("offset", [0.0, 1.0, -1e4])
def test_at_the_floor_of_precision_slopes_decide(offset):
    # The whole decrease, 1e-9, is lost beside the offset; the slope is not.
    loss = lambda p: jnp.float32(offset) + p**2
    u, state = searched(ox.scale_by_zoom_linesearch(), loss, jnp.float32(3e-5))
    assert outcome(state) == Outcome.SATISFIED
    np.testing.assert_allclose(u, -3e-5, rtol=1e-3)


def test_without_tolerance_no_value_rises():
    loss = lambda p: jnp.where(p == 1.0, 1.0, jnp.float32(1 + 2e-7)) + 0 * p
    slope = {"value": 1.0, "grad": jnp.float32(1.0), "value_fn": loss}
    for rtol, expected in ((0.0, Outcome.NO_DECREASE), (None, Outcome.SATISFIED)):
        search = ox.scale_by_zoom_linesearch(5, approx_dec_rtol=rtol)
        p = jnp.float32(1.0)
        _, state = search.update(-p, search.init(p), p, **slope)
        assert outcome(state) == expected


def test_the_first_guess_is_one_or_the_last():
    loss = lambda p: jnp.sum(p**2) / 200
    for strategy, evaluations in (("one", 6), ("keep", 1)):
        search = ox.scale_by_zoom_linesearch(curv_rtol=0.5, initial_guess_strategy=strategy)
        _, state = searched(search, loss, jnp.ones(2))
        assert state.info.num_linesearch_steps > 5
        _, state = searched(search, loss, jnp.ones(2), state)
        assert (state.info.num_linesearch_steps == 1) == (evaluations == 1)


def test_what_else_the_function_takes_goes_to_it():
    def loss(params, batch, *, power=2):
        return jnp.sum((params - batch) ** power)

    search = ox.chain(ox.scale(-1.0), ox.scale_by_zoom_linesearch())
    p, batch = jnp.zeros(2), jnp.array([1.0, 2.0])
    value, grad = jax.value_and_grad(loss)(p, batch)
    u, _ = search.update(
        grad,
        search.init(p),
        p,
        value=value,
        value_fn=loss,
        batch=batch,
        power=2,
        nobody_reads_this=3,
    )
    np.testing.assert_allclose(u, batch, rtol=1e-6)


def test_a_batch_for_each_step_leads_to_what_all_agree_on(search, rng):
    """Least squares without noise, the batch an argument of the loss."""
    target = jnp.array([0.5, -2.0, 1.0])
    xs = jnp.asarray(rng.normal(size=(30, 8, 3)), jnp.float32)

    def loss(params, x, y):
        return jnp.sum((x @ params - y) ** 2)

    tx = ox.chain(ox.sgd(1.0), search)  # A rate some ten times too large.

    def step(carry, x):
        params, state = carry
        batch = {"x": x, "y": x @ target}
        value, grad = jax.value_and_grad(loss)(params, **batch)
        updates, state = tx.update(grad, state, params, value=value, value_fn=loss, **batch)
        return (ox.apply_updates(params, updates), state), value

    params = jnp.zeros(3)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), xs)
    np.testing.assert_allclose(params, target, atol=1e-2)


def test_the_leaves_are_one_vector(search):
    loss, size = LANDSCAPES["rosenbrock"]
    p = jnp.linspace(-1.0, 1.0, size)

    def whole(parts):
        return loss(jnp.concatenate([parts["a"].ravel(), parts["b"][0]]))

    parts = {"a": p[:6].reshape(2, 3), "b": [p[6:]]}
    u, state = searched(search, loss, p)
    got, there = searched(search, whole, parts)
    got = jnp.concatenate([got["a"].ravel(), got["b"][0]])
    np.testing.assert_allclose(got, u, rtol=1e-5)
    assert there.info.num_linesearch_steps == state.info.num_linesearch_steps


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (
            functools.partial(ox.scale_by_backtracking_linesearch, 5, store_grad=True),
            ("slope_rtol", "decrease_factor", "max_learning_rate", "atol", "rtol"),
        ),
        (
            functools.partial(ox.scale_by_zoom_linesearch, 5),
            ("tol", "slope_rtol", "curv_rtol", "approx_dec_rtol", "stepsize_precision"),
        ),
    ],
)
def test_numbers_and_losses_of_another_precision_change_no_dtype(make, numbers, low):
    search = make(**{name: jnp.asarray(0.25, low) for name in numbers})
    for dtype in (low, jnp.float32):
        p = jnp.array([1.0, 2.0], dtype)
        value_fn = lambda p: jnp.sum(p**2).astype(low)
        state = search.init(p)
        u, new = jax.jit(functools.partial(search.update, value_fn=value_fn))(
            -p, state, p, value=jnp.asarray(5.0, low), grad=2 * p
        )
        assert u.dtype == dtype
        assert [x.dtype for x in jax.tree.leaves(new)] == [
            x.dtype for x in jax.tree.leaves(state)
        ]
        assert new.value < 5.0


def test_what_is_missing_is_named(search):
    p = jnp.ones(2)
    given = {"value": 1.0, "grad": p, "value_fn": jnp.sum}
    for name in given:
        rest = {k: v for k, v in given.items() if k != name}
        with pytest.raises(TypeError, match=rf"linesearch` needs the argument `{name}`"):
            search.update(-p, search.init(p), p, **rest)
    with pytest.raises(ValueError, match="needs the current parameters"):
        search.update(-p, search.init(p), **given)
    for name, bad in (("value_fn", 1.0), ("value", p), ("value_fn", lambda p: p)):
        with pytest.raises(TypeError, match="linesearch` needs"):
            search.update(-p, search.init(p), p, **{**given, name: bad})
    with pytest.raises(ValueError, match=r"updates of shape \(2,\) .* `grad` is \(3,\)"):
        search.update(-p, search.init(p), p, **{**given, "grad": jnp.ones(3)})


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (ox.scale_by_zoom_linesearch, {"max_linesearch_steps": 0}),
        (ox.scale_by_zoom_linesearch, {"increase_factor": 1.0}),
        (ox.scale_by_zoom_linesearch, {"initial_guess_strategy": "two"}),
        (ox.scale_by_backtracking_linesearch, {"max_backtracking_steps": -1}),
        (
            ox.scale_by_backtracking_linesearch,
            {"max_backtracking_steps": 1, "decrease_factor": 1.0},
        ),
    ],
)
def test_bad_settings_are_refused(make, kwargs):
    with pytest.raises(ValueError, match=list(kwargs)[-1]):
        make(**kwargs)


def test_a_derivative_takes_the_step_for_a_constant(search):
    def length(scale):
        p = jnp.float32(1.0)
        u, _ = search.update(
            -3 * scale * p,
            search.init(p),
            p,
            value=1.0,
            grad=2 * p,
            value_fn=lambda p: p**2,
        )
        return u

    u, slope = jax.value_and_grad(length)(1.0)
    np.testing.assert_allclose(slope, u, rtol=1e-6)


def test_complex_params_move_as_pairs_of_real_ones():
    loss = lambda z: jnp.sum(jnp.abs(z - (1 + 2j)) ** 4)
    z = jnp.array([0.5 + 0.5j, 2.0 - 1j], jnp.complex64)
    x = jnp.stack([z.real, z.imag])
    search = ox.scale_by_zoom_linesearch()
    value, g = jax.value_and_grad(loss)(z)
    up = jnp.conj(g)
    u, state = search.update(-up, search.init(z), z, value=value, grad=up, value_fn=loss)
    real, there = searched(search, lambda x: loss(jax.lax.complex(x[0], x[1])), x)
    complex_of = jax.lax.complex
    np.testing.assert_allclose(u, complex_of(*real), rtol=1e-5)
    np.testing.assert_allclose(
        state.grad, complex_of(there.grad[0], -there.grad[1]), rtol=1e-4
    )
    _, refused = search.update(up, state, z, value=value, grad=up, value_fn=loss)
    assert outcome(refused) == Outcome.NO_DESCENT
    np.testing.assert_array_equal(refused.grad, g)


# What is kept of it.


def bowl(params):
    leaves = jax.tree.leaves(params)
    return sum(jnp.sum((p - 1) ** 4 + (p - 1) ** 2) for p in leaves)


def evaluations_outside(tx, params, steps=4):
    """How often a loop evaluates the loss outside of the search."""
    value_and_grad = ox.value_and_grad_from_state(bowl)
    count = []

    def counted(params):
        jax.debug.callback(lambda: count.append(1))
        return bowl(params)

    @jax.jit
    def step(params, state):
        value, grad = ox.value_and_grad_from_state(counted)(params, state=state)
        want = value_and_grad(params, state=tx.init(params))
        updates, state = tx.update(grad, state, params, value=value, value_fn=bowl)
        return ox.apply_updates(params, updates), state, (value, grad), want

    state = tx.init(params)
    for _ in range(steps):
        params, state, got, want = step(params, state)
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 1e-5, 1e-6), got, want)
    jax.effects_barrier()
    return len(count)


TREE = {"a": jnp.array([3.0, -2.0]), "b": (jnp.float32(0.5), None)}


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (ox.lbfgs(), 1),
        (ox.chain(ox.clip_by_global_norm(1.0), ox.lbfgs()), 1),
        (ox.apply_if_finite(ox.lbfgs(), 3), 1),
        (ox.masked(ox.lbfgs(), "**"), 1),
        (ox.chain(ox.sgd(1.0), SEARCHES["backtracking"]), 1),
        # A stage behind the search goes elsewhere.
        (ox.chain(ox.lbfgs(), ox.scale(0.5)), 4),
    ],
    ids=str,
)
def test_what_the_search_evaluated_is_not_evaluated_again(tx, expected):
    assert evaluations_outside(tx, TREE) == expected


def test_it_ends_where_the_caller_goes_to_the_last_bit():
    # Compiled together or apart: fused with the sum, the product would not be rounded.
    tx = ox.chain(ox.scale(-1.0), ox.scale_by_zoom_linesearch())
    seen = set()

    def valley(x):
        jax.debug.callback(lambda x: seen.add(np.asarray(x).tobytes()), x)
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def update(params, state):
        value, grad = jax.value_and_grad(valley)(params)
        updates, state = tx.update(grad, state, params, value=value, value_fn=valley)
        return updates, state, ox.apply_updates(params, updates)

    step = jax.jit(update)
    p = jnp.tile(jnp.array([-1.212, 1.01]), 50)
    state = tx.init(p)
    for _ in range(20):
        seen.clear()
        updates, state, together = step(p, state)
        p = ox.apply_updates(p, updates)
        jax.effects_barrier()
        for reached in (p, together, state["scale_by_zoom_linesearch"].params):
            assert np.asarray(reached).tobytes() in seen


def test_a_state_without_a_gradient_is_refused():
    value_and_grad = ox.value_and_grad_from_state(bowl)
    part = ox.masked(ox.lbfgs(), "a")
    for tx in (ox.adam(0.1), ox.scale_by_backtracking_linesearch(3), part):
        with pytest.raises(
            ValueError, match="found no line search in the state that keeps"
        ):
            value_and_grad(TREE, state=tx.init(TREE))
    with pytest.raises(TypeError, match=r"`value_and_grad_from_state\(value_fn=...\)`"):
        ox.value_and_grad_from_state(1.0)


def test_a_search_of_a_part_sees_the_whole_function():
    def loss(params):
        return (params["a"] - params["b"][0]) ** 2 + params["b"][0] ** 2

    params = {"a": jnp.float32(5.0), "b": [jnp.float32(1.0)]}
    zoom = ox.chain(ox.scale(-1.0), ox.scale_by_zoom_linesearch())
    for tx in (
        ox.masked(zoom, "a"),
        ox.partition({"a": ox.masked(zoom, "**"), "b/**": ox.set_to_zero()}),
    ):
        value, grad = jax.value_and_grad(loss)(params)
        u, state = tx.update(grad, tx.init(params), params, value=value, value_fn=loss)
        np.testing.assert_allclose(u["a"], -4.0)  # To where "b" is now.
        search = ox.states.states_in(state, ox.ScaleByZoomLinesearchState).values()
        assert next(iter(search)).value == 1.0


def test_each_of_a_batch_is_searched_by_itself(search):
    p = jnp.array([0.01, 1.0, 30.0])
    loss = lambda p: p**4
    together = jax.vmap(lambda p: searched(search, loss, p))(p)
    for i in range(3):
        alone = searched(search, loss, p[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5),
            together,
            alone,
        )


def test_a_search_tells_its_step_to_measure():
    tx = ox.measure(ox.lbfgs(), "step_size")
    p = jnp.ones(2)
    value, grad = jax.value_and_grad(bowl)(p * 3)
    _, state = tx.update(grad, tx.init(p * 3), p * 3, value=value, value_fn=bowl)
    assert ox.get_measures(state)["step_size"] == 1.0
