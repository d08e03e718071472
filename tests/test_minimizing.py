"""The loop around an optimizer: where it ends, why, and after how many evaluations.

The comparison with SciPy in full is `python -m tests.benchmarks.curvature`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox
from optimjax import StopReason
from tests.benchmarks import curvature


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def bowl(params):
    return jnp.sum((params - 1) ** 2)


@pytest.mark.parametrize("name", curvature.QUICK)
def test_it_needs_no_more_evaluations_than_scipy(name):
    row = curvature.compared(name, peers=("scipy",))
    assert row.ours.reached
    assert row.ours.evaluations <= 1.2 * row.scipy.evaluations
    np.testing.assert_allclose(row.ours.params, row.scipy.params, rtol=1e-4, atol=1e-4)


def test_evaluations_are_counted_one_by_one():
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x)

    result = ox.minimize(counted, jnp.array([-1.2, 1.0]), ox.lbfgs(), gtol=1e-3, ftol=0.0)
    jax.effects_barrier()
    assert result.reason == StopReason.GRADIENT_SMALL
    assert result.evaluations == len(calls)
    assert result.evaluations < 2 * result.steps  # None but the search's own, and one.


@pytest.mark.parametrize(
    ("tx", "evaluations"),
    [
        (ox.adam(0.1), lambda r: r.steps + 1),
        # The search's and one of its own at each step, which ends elsewhere.
        (ox.chain(ox.lbfgs(), ox.scale(0.5)), lambda r: 2 * r.steps + 1),
        (ox.accumulate(ox.sgd(0.3), 3), lambda r: r.steps + 1),
    ],
    ids=["adam", "half of lbfgs", "accumulate"],
)
def test_any_transformation_will_do(tx, evaluations):
    result = ox.minimize(bowl, jnp.zeros(3), tx)
    assert result.reason in (StopReason.GRADIENT_SMALL, StopReason.VALUE_SETTLED)
    np.testing.assert_allclose(result.params, 1.0, atol=1e-3)
    assert result.evaluations == evaluations(result)
    np.testing.assert_allclose(result.value, bowl(result.params))
    np.testing.assert_allclose(result.gradient_norm, abs(2 * (result.params - 1)).max())


def test_one_of_another_library_will_do():
    optax = pytest.importorskip("optax")
    for tx in (
        optax.adam(0.1),
        optax.GradientTransformation(*optax.sgd(0.3)),
        optax.lbfgs(),
    ):
        with jax.numpy_dtype_promotion("standard"):
            result = ox.minimize(bowl, jnp.zeros(3), tx)
        np.testing.assert_allclose(result.params, 1.0, atol=1e-3)


def stopped(fun, start, tx=None, **kwargs):
    return ox.minimize(fun, jnp.asarray(start), ox.lbfgs() if tx is None else tx, **kwargs)


def test_at_the_optimum_there_is_nothing_to_do():
    result = stopped(bowl, [1.0, 1.0])
    assert (result.steps, result.evaluations) == (0, 1)
    assert result.reason == StopReason.GRADIENT_SMALL
    flat = stopped(lambda x: 3.0 + 0 * jnp.sum(x), [1.0, 1.0], ox.sgd(0.1))
    assert flat.steps == 0


def test_it_stops_where_the_value_settles():
    # SciPy's ftol: the first step that changes the value by less, relative to at least 1.
    values, x = [4.0], 2.0
    while len(values) < 2 or values[-2] - values[-1] > 0.01 * max(values[-2], 1.0):
        x = x - 0.2 * x
        values.append(x * x)
    result = stopped(lambda x: x**2, 2.0, ox.sgd(0.1), ftol=0.01, gtol=0.0)
    assert result.reason == StopReason.VALUE_SETTLED
    assert result.steps == len(values) - 1
    np.testing.assert_allclose(result.value, values[-1], rtol=1e-5)


def test_it_stops_where_steps_are_small():
    result = stopped(lambda x: x**2, 2.0, ox.sgd(0.1), xtol=0.1, ftol=0.0, gtol=0.0)
    # Steps are 0.2 x: below 0.1 of max(1, x) first where x < 0.5, after seven of them.
    assert (result.reason, result.steps) == (StopReason.STEP_SMALL, 8)


def test_it_stops_after_the_most_steps():
    result = stopped(rosenbrock, [-1.2, 1.0], max_steps=3)
    assert (result.reason, result.steps) == (StopReason.MAX_STEPS, 3)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_it_stops_before_what_is_not_finite(bad):
    falls = lambda x: jnp.where(x < 1.0, -x, bad)
    result = stopped(falls, 0.0, ox.sgd(0.4))
    assert (result.reason, result.steps) == (StopReason.NOT_FINITE, 3)
    np.testing.assert_allclose([result.params, result.value], [0.8, -0.8], rtol=1e-6)
    at_once = stopped(falls, 2.0)
    assert (at_once.reason, at_once.steps) == (StopReason.NOT_FINITE, 0)


def test_it_stops_where_two_searches_in_a_row_fail():
    # Lower only at the corner itself, which no step hits.
    corner = lambda x: jnp.where(x == 0.0, 0.0, 1.0) + 0.1 * x
    result = stopped(corner, 0.0)
    assert (result.reason, result.steps) == (StopReason.LINESEARCH_FAILED, 2)
    assert result.params == 0.0


def test_in_float32_it_ends_at_the_floor_and_says_so():
    for start in (np.zeros(10), np.tile([-1.2, 1.0], 5)):
        result = stopped(rosenbrock, start.astype(np.float32), gtol=0.0, ftol=0.0)
        assert result.steps < 200  # Not stepping on the spot.
        assert result.value < 1e-10


def test_it_says_how_it_went():
    text = repr(stopped(rosenbrock, [-1.2, 1.0], gtol=1e-3, ftol=0.0))
    assert text.startswith("MinimizeResult(GRADIENT_SMALL after 3")
    assert "evaluations: value " in text
    assert "code=" in repr(jax.eval_shape(lambda: stopped(bowl, [0.0])))


def test_it_is_the_same_in_jit_and_for_each_of_a_batch():
    starts = jnp.array([[-1.2, 1.0], [0.0, 0.0], [1.0, 1.0]])
    together = jax.jit(jax.vmap(lambda x: stopped(rosenbrock, x)))(starts)
    alone = [stopped(rosenbrock, x) for x in starts]
    assert len({int(r.steps) for r in alone}) == 3
    np.testing.assert_allclose(together.params, [r.params for r in alone], atol=2e-3)
    np.testing.assert_array_equal(together.code, [r.code for r in alone])


def test_arguments_reach_the_function_without_compiling_anew():
    traces, seen = [], []

    def loss(x, target, scale):
        traces.append(1)
        return scale * jnp.sum((x["w"] - target) ** 2)

    tx = ox.lbfgs()
    for target in (1.0, -2.0):
        result = ox.minimize(loss, {"w": jnp.zeros(2)}, tx, (jnp.float32(target), 2.0))
        np.testing.assert_allclose(result.params["w"], target, rtol=1e-5)
        seen.append(len(traces))
    assert seen[0] == seen[1]


def test_a_derivative_goes_forward_through_the_loop():
    def found(target):
        return ox.minimize(
            lambda x: (x - target) ** 2, jnp.float32(0.0), ox.sgd(0.3)
        ).params

    _, slope = jax.jvp(found, (jnp.float32(2.0),), (jnp.float32(1.0),))
    np.testing.assert_allclose(slope, 1.0, rtol=1e-3)


def test_trees_of_any_kind_are_minimized():
    def loss(params):
        gap = params["z"] - (1 + 2j)
        return jnp.sum(jnp.abs(gap) ** 2) + (params["b"].astype(jnp.float32) - 0.5) ** 2

    start = {"z": jnp.zeros(2, jnp.complex64), "b": jnp.bfloat16(3.0), "none": None}
    result = ox.minimize(loss, start, ox.lbfgs())
    np.testing.assert_allclose(result.params["z"], 1 + 2j, atol=1e-2)
    np.testing.assert_allclose(np.float32(result.params["b"]), 0.5, atol=1e-2)
    assert result.params["b"].dtype == jnp.bfloat16
    assert ox.minimize(lambda p: jnp.float32(0.0), {}, ox.lbfgs()).steps == 0


def test_parts_may_have_optimizers_of_their_own():
    def loss(params):
        return rosenbrock(params["x"]) + jnp.sum((params["y"] - params["x"]) ** 2)

    start = {"x": jnp.array([-1.2, 1.0]), "y": jnp.zeros(2)}
    tx = ox.partition({"x": ox.lbfgs(), "y": ox.sgd(0.4)})
    result = ox.minimize(loss, start, tx, ftol=0.0)
    np.testing.assert_allclose(result.params["y"], 1.0, atol=1e-3)


def test_float64_is_minimized_to_its_own_precision():
    with enable_x64():
        result = stopped(rosenbrock, np.array([-1.2, 1.0]), gtol=1e-10, ftol=0.0)
        np.testing.assert_allclose(np.asarray(result.params), 1.0, rtol=1e-10)


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def eggholder(x):
    first = (x[1] + 47) * jnp.sin(jnp.sqrt(jnp.abs(x[0] / 2 + x[1] + 47)))
    return -first - x[0] * jnp.sin(jnp.sqrt(jnp.abs(x[0] - x[1] - 47)))


def zakharov(x):
    weighted = jnp.sum(jnp.arange(1, len(x) + 1, dtype=x.dtype) * x) / 2
    return jnp.sum(x**2) + weighted**2 + weighted**4


def matyas(x):
    return 0.26 * jnp.sum(x**2) - 0.48 * x[0] * x[1]


# Functions, starts and minima of the tests of Optax, and of JAXopt before.
CLASSICS = {
    "rosenbrock": (rosenbrock, [0.0, 0.0], 0.0),
    "himmelblau": (himmelblau, [1.0, 1.0], 0.0),
    "himmelblau, from afar": (himmelblau, [92.0, 0.001], 0.0),
    "matyas": (matyas, [6.0, 6.0], 0.0),
    "eggholder": (eggholder, [6.0, 6.0], -66.8437173),  # The nearest of many; SciPy's.
    "zakharov": (zakharov, [600.0, 700.0, 200.0, 100.0, 90.0, 1000.0], 0.0),
    "steep": (lambda x: jnp.mean((1e4 * x) ** 2), [1.0, 1.0], 0.0),
}


@pytest.mark.parametrize("name", CLASSICS)
def test_it_finds_the_minima_of_the_classics(name):
    fun, start, minimum = CLASSICS[name]
    result = stopped(fun, np.float32(start), ftol=0.0)
    # Where the minimum is not 0, float32 may know no smaller gradient.
    assert result.reason == StopReason.GRADIENT_SMALL or minimum != 0.0
    np.testing.assert_allclose(result.value, minimum, rtol=1e-6, atol=1e-9)
    assert result.gradient_norm < 1e-3
    assert result.evaluations < 100


SEARCHES = {
    "backtracking": ox.scale_by_backtracking_linesearch(20),
    "zoom": ox.scale_by_zoom_linesearch(20, initial_guess_strategy="one"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_complex_params_are_minimized_as_pairs_of_real_ones(name):
    """A sum of moduli to the power 3/2: no curvature at the minimum, but infinite."""
    rows = np.array([[1, -2], [3, 4], [-4 + 2j, 5 - 3j], [-2 - 2j, 6]])
    tx = ox.lbfgs(linesearch=SEARCHES[name])

    def loss(z):
        return jnp.sum(jnp.abs(rows @ z) ** 1.5)

    def of_pairs(x):
        return loss(jax.lax.complex(x[0], x[1]))

    with enable_x64():
        z = jnp.array([1 - 1j, 1j])
        x = jnp.stack([z.real, z.imag])
        # Farther on roundings have grown: they are multiplied at every step.
        got = stopped(loss, z, tx, max_steps=15, ftol=0.0)
        want = stopped(of_pairs, x, tx, max_steps=15, ftol=0.0)
        np.testing.assert_allclose(got.params, jax.lax.complex(*want.params), 1e-6)
        assert got.evaluations == want.evaluations
        end = stopped(loss, z, tx, ftol=0.0)
        assert end.reason == StopReason.GRADIENT_SMALL
        np.testing.assert_allclose(np.asarray(end.params), 0.0, atol=1e-10)


def test_leaves_are_minimized_as_one_vector():
    tx = ox.lbfgs(memory_size=3)
    start = np.linspace(-1.0, 1.0, 8)

    def of_parts(parts):
        return rosenbrock(jnp.concatenate([parts["a"].ravel(), parts["b"][0]]))

    with enable_x64():
        whole = stopped(rosenbrock, start, tx, max_steps=12)
        parts = {"a": jnp.asarray(start[:4].reshape(2, 2)), "b": [jnp.asarray(start[4:])]}
        cut = ox.minimize(of_parts, parts, tx, max_steps=12)
        np.testing.assert_allclose(cut.params["a"].ravel(), whole.params[:4], rtol=1e-8)
        np.testing.assert_allclose(cut.params["b"][0], whole.params[4:], rtol=1e-8)
        assert cut.evaluations == whole.evaluations


def test_what_it_refuses():
    with pytest.raises(TypeError, match=r"Did you mean `lbfgs\(...\)`"):
        ox.minimize(bowl, jnp.zeros(2), ox.lbfgs)
    with pytest.raises(TypeError, match=r"^`minimize` takes .* but `tx` is 'lbfgs'"):
        ox.minimize(bowl, jnp.zeros(2), "lbfgs")  # type: ignore
    with pytest.raises(TypeError, match=r"`minimize\(fun=...\)` must be a function"):
        ox.minimize(1.0, jnp.zeros(2), ox.lbfgs())
    with pytest.raises(TypeError, match=r"`minimize` needs floating .* int32"):
        ox.minimize(bowl, jnp.zeros(2, jnp.int32), ox.lbfgs())
    with pytest.raises(TypeError, match=r"value of `fun` .* real .* float32\[2\]\.$"):
        ox.minimize(jnp.square, jnp.zeros(2), ox.lbfgs())
    with pytest.raises(TypeError, match=r"value of `fun` .* complex64\[\]"):
        ox.minimize(lambda p: jax.lax.complex(p[0], p[1]), jnp.zeros(2), ox.lbfgs())
    with pytest.raises(ValueError, match=r"`minimize\(gtol=...\)` must lie in \[0, inf\)"):
        ox.minimize(bowl, jnp.zeros(2), ox.lbfgs(), gtol=-1.0)
    with pytest.raises(TypeError, match=r"`minimize\(args=...\)` must be a tuple"):
        ox.minimize(lambda p, a: bowl(p - a), jnp.zeros(2), ox.lbfgs(), jnp.zeros(1))


def test_a_reason_prints_as_its_name():
    assert f"{StopReason.VALUE_SETTLED} {StopReason(3)!s}" == "VALUE_SETTLED MAX_STEPS"


def test_a_result_of_many_runs_tells_how_often_each_reason_was():
    def ended(start):
        return ox.minimize(bowl, start, ox.sgd(0.2), max_steps=20)

    ends = jax.vmap(ended)(jnp.array([[1.0, 1.0], [1e3, 0.0], [2e3, 0.0]]))
    reasons = [StopReason(int(code)).name for code in ends.code]
    once, twice = reasons[0], reasons[1]
    assert once != twice == reasons[2]
    assert f"1 {once}" in repr(ends)
    assert f"2 {twice}" in repr(ends)
    with pytest.raises(TypeError, match="`reason` is that of one run"):
        _ = ends.reason
    with pytest.raises(TypeError, match="`reason` is that of one run"):
        jax.jit(lambda start: ended(start).reason)(jnp.zeros(2))


def test_a_search_whose_steps_are_too_short_for_the_params_has_failed():
    def wall(p):
        return jnp.where(p > 1.0, jnp.nan, (p - 2) ** 2)

    tx = ox.chain(ox.scale(-1.0), ox.scale_by_backtracking_linesearch(60))
    result = ox.minimize(wall, jnp.float32(0.0), tx, max_steps=500)
    assert result.reason is ox.StopReason.LINESEARCH_FAILED
    assert float(result.params) > 0.99
    assert int(result.steps) < 100
