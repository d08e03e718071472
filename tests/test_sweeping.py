"""`sweep`: who is tried, who is stopped, what is noise; and what a run is, done again."""

import dataclasses
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import optimjax as ox
from optimjax import candidates, results, sweeping

CURVATURE = jnp.array([1.0, 4.0, 9.0])


def numbers(key):
    """Three numbers in [-1, 1] of a key; `jax.random.normal` takes long to compile."""
    bits = jax.random.key_data(key)[-1] % jnp.uint32(1 << 16)
    return jnp.sin(bits.astype(jnp.float32) * jnp.array([1.0, 1.7, 2.9]))


def init(key):
    return {"a": [numbers(key), None], "b": jnp.ones((), jnp.bfloat16)}


def loss(params, noise):
    a = jnp.sum(CURVATURE * (params["a"][0] - noise) ** 2)
    return a + jnp.square(params["b"].astype(jnp.float32) - noise[0])


def draw(key):
    return 0.3 * numbers(key)


def validation(params):
    return jnp.sum(CURVATURE * params["a"][0] ** 2)


# Of float32: sums in another order, and decays such as 0.9 that are traced in the sweep.
ROUNDING = 2e-5
RATES = {"learning_rate": ox.log_uniform(1e-3, 1e-1)}
AVERAGED = ox.average_params(ox.sgd(0.03), 0.9)
run = functools.partial(
    ox.sweep, loss, init, data=draw, steps=18, candidates=4, seeds=2, progress=False
)


def alone(optimizer, of=1):
    """One training by the recipe of the docstring: of seed and steps, the params, the
    state and the mean loss of the last steps."""

    @jax.jit
    def trained(seed, steps):
        start, data = jax.random.split(jax.random.fold_in(jax.random.key(0), seed))

        def step(i, carry):
            params, state, losses = carry
            batch = draw(jax.random.fold_in(data, i))
            value, grads = jax.value_and_grad(loss)(params, batch)
            updates, state = optimizer.update(grads, state, params)
            losses = jnp.concatenate([losses[1:], value[None]])
            return ox.apply_updates(params, updates), state, losses

        params = init(start)
        carry = (params, optimizer.init(params), jnp.zeros(of))
        params, state, losses = jax.lax.fori_loop(0, steps, step, carry)
        return params, state, losses.mean()

    return trained


@pytest.fixture(scope="module")
def found():
    """Two optimizers with three rungs, one of them with what cannot be traced."""
    return run(
        {
            "adam": (ox.adam, {**RATES, "b1": [0.0, 0.9]}),
            "momentum": (ox.momentum, {**RATES, "nesterov": [False, True]}),
            "as it is": ox.sgd(0.03),
        },
        candidates=8,
        validation=validation,
    )


def asking():
    """Gradient descent, made by others; its factor is one, if the loss is that it got."""

    def update(updates, state, params, *, value, value_fn):
        factor = value_fn(params) / value
        return jax.tree.map(lambda u: -0.03 * factor.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


@pytest.fixture(scope="module")
def others():
    """Optimizers that need no tuning, or get none."""
    optimizers = {
        "still": (ox.sgd, {"learning_rate": 0.0}),
        "still, too": optax.set_to_zero(),
        "averaged": AVERAGED,
        "polyak": ox.polyak_sgd(),
        "asking": asking(),
        "sam": ox.sam(ox.sgd(0.03)),
        "diverging": ox.scale(-1e30),
    }
    return run(optimizers, validation=validation, seeds=3)


@pytest.fixture(scope="module")
def plain():
    return run({"sgd": (ox.sgd, RATES)}, rungs=1)


# Noise.


def test_quantiles_of_student_are_those_of_scipy():
    for degrees in [*range(1, 12), 31, 100, 999]:
        for tail in (0.5, 0.3, 0.025, 1e-3, 1e-5, 1e-7):
            ours = results.student_quantile(tail, degrees)
            # 1 - (1 - tail) has lost as much.
            rtol = 1e-9 + 1e-14 / tail
            assert ours == pytest.approx(stats.t.isf(tail, degrees), rel=rtol, abs=1e-12)


@pytest.mark.parametrize(("count", "seeds", "least"), [(2, 4, 0.043), (5, 4, 0.015)])
def test_false_alarms_are_as_rare_as_promised(count, seeds, least):
    rng = np.random.default_rng(0)
    sweeps = 4000
    alarms = 0
    for _ in range(sweeps):
        # What seeds have in common is large, and does not matter.
        scores = 10 * rng.normal(size=seeds) + rng.normal(size=(count, seeds))
        found = results.verdicts(list(scores), 0.95)
        alarms += any(behind > margin for behind, margin in found)
    three_sigma = 3 * math.sqrt(0.05 * 0.95 / sweeps)
    # Of two it is exactly 5 %; of more the correction is on the safe side.
    assert least - three_sigma < alarms / sweeps < 0.05 + three_sigma


def test_what_is_common_to_a_seed_hides_no_difference():
    rng = np.random.default_rng(0)
    common = 100 * rng.normal(size=6)
    best, other = common + 0.1 * rng.normal(size=(2, 6)) + np.array([[0.0], [1.0]])
    of_best, (behind, margin) = results.verdicts([best, other], 0.95)
    assert np.isnan(of_best).all()
    interval = stats.ttest_rel(other, best).confidence_interval(0.95)
    np.testing.assert_allclose([behind - margin, behind + margin], interval, rtol=1e-9)
    assert behind > margin


def test_more_candidates_make_wider_margins():
    rng = np.random.default_rng(0)
    scores = list(rng.normal(size=(6, 5)))
    both = results.verdicts(scores, 0.95)
    best = int(np.argmin(np.mean(scores, axis=1)))
    other = (best + 1) % 6
    (_, _), (_, alone) = results.verdicts([scores[best], scores[other]], 0.95)
    pairs = 15
    ratio = stats.t.isf(0.025 / pairs, 4) / stats.t.isf(0.025, 4)
    assert both[other][1] / alone == pytest.approx(ratio, rel=1e-9)


def test_what_diverged_has_no_margin_and_widens_none():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    infinite = np.array([0.0, np.inf, 0.0, 0.0, 0.0])
    with_it = results.verdicts([a, infinite, b], 0.95)
    without = results.verdicts([a, b], 0.95)
    assert np.isnan(with_it[1]).all()
    np.testing.assert_array_equal([with_it[0], with_it[2]], without)


# Who is tried.


def test_ranges_end_where_they_say_and_have_few_digits():
    rates = ox.log_uniform(1e-4, 1.0)
    assert [rates.at(x) for x in (0.0, 0.25, 0.3, 1.0)] == [1e-4, 1e-3, 0.00158, 1.0]
    assert [ox.uniform(0.9, 0.99).at(x) for x in (0.0, 0.123, 1.0)] == [0.9, 0.9111, 0.99]
    narrow = ox.log_uniform(1.0, 1.01)
    values = {narrow.at(i / 20) for i in range(21)}
    assert len(values) == 21
    assert min(values) == 1.0
    assert max(values) == 1.01


def settings(arguments, count, grid=False):
    """What is tried, if everything can be traced."""
    given = (lambda **arguments: ox.identity(), arguments)
    [entry] = candidates.entries_of({"a": given})
    groups = candidates.groups_of(entry, count, grid, lambda *setting: True)
    return [setting for group in groups for setting in group.settings]


def test_candidates_are_spread_evenly():
    axes = {"x": ox.uniform(0, 1), "y": ox.uniform(0, 1), "z": [1, 2]}
    tried = settings(axes, 24)
    x, y, z = (np.array([s[name] for s in tried]) for name in axes)
    np.testing.assert_allclose(np.sort(x), (np.arange(24) + 0.5) / 24, atol=6e-4)
    np.testing.assert_allclose(np.sort(y), (np.arange(24) + 0.5) / 24, atol=6e-4)
    assert np.sum(z == 1) == 12
    assert 4 <= np.sum(z[x < 0.5] == 1) <= 8
    distances = np.hypot(*(v[:, None] - v for v in (x, y))) + np.eye(24)
    assert distances.min() > 0.3 / math.sqrt(24)  # Of a square grid it is 1.


def test_a_grid_has_all_combinations_with_the_ends():
    axes = {"x": ox.log_uniform(0.01, 1), "y": ox.uniform(0, 2), "z": [1, 2]}
    tried = settings(axes, 20, grid=True)
    assert [tuple(s.values()) for s in tried] == [
        (x, y, z) for x in (0.01, 0.1, 1) for y in (0, 1, 2) for z in (1, 2)
    ]


def test_short_lists_are_tried_in_all_combinations():
    tried = settings({"x": [1, 2, 3], "y": [None, True]}, 16)
    assert sorted(map(str, tried)) == sorted(
        str({"x": x, "y": y}) for x in (1, 2, 3) for y in (None, True)
    )


def test_a_list_is_a_choice_and_a_tuple_is_one_value():
    low, high = (0.8, 0.9), (0.9, 0.99)
    assert settings({"betas": low}, 4) == [{"betas": low}]
    assert settings({"betas": [low, high]}, 4) == [{"betas": low}, {"betas": high}]
    for choice in ([1, 2], range(1, 3), np.array([1, 2])):
        assert settings({"x": choice}, 4) == [{"x": 1}, {"x": 2}]


def test_what_cannot_be_traced_is_a_program_of_its_own():
    traced = []

    def factory(learning_rate, warmup, nesterov, label):
        assert label == "as it is"
        traced.append((isinstance(learning_rate, jax.core.Tracer), warmup, nesterov))
        rate = ox.warmup_schedule(learning_rate, warmup)
        return ox.sgd(rate, momentum=0.9, nesterov=nesterov)

    axes = {**RATES, "warmup": [1, 2], "nesterov": [True, False], "label": "as it is"}
    found = run({"a": (factory, axes)}, candidates=8, rungs=1, confidence=None)
    assert len(found.candidates) == 8
    programs = {(warmup, nesterov) for was_traced, warmup, nesterov in traced if was_traced}
    assert programs == {(1, True), (1, False), (2, True), (2, False)}
    assert list(found.best_settings) == ["learning_rate", "warmup", "nesterov", "label"]


# Who is stopped, and what the rest is.


def test_each_rung_keeps_its_share_of_each_optimizer(found):
    stops = {
        name: sorted(c.steps for c in found.candidates if c.optimizer == name)
        for name in found.factories
    }
    assert stops["adam"] == [2] * 5 + [6] * 2 + [18]  # 8, 3, 1
    assert stops["momentum"] == [2] * 4 + [6] * 2 + [18] * 2  # Twice 4, 2, 1.
    assert stops["as it is"] == [18]
    assert [steps for steps, _ in found.winner().search] == [2, 6, 18]
    lanes = [17, 3 + 4 + 1, 1 + 2 + 1]
    assert found.budget == {
        "search": 2 * (lanes[0] * 2 + lanes[1] * 4 + lanes[2] * 12),
        "confirmation": 2 * lanes[2] * 18,
        "without halving": 2 * lanes[0] * 18,
    }


def test_those_that_go_on_were_the_best_so_far(found):
    for steps in (2, 6):
        there = [
            (dict(c.search)[steps].mean(), c.steps > steps, c.settings.get("nesterov"))
            for c in found.candidates
            if c.optimizer != "as it is" and c.steps >= steps
        ]
        for group in (None, False, True):
            ends = [(mean, on) for mean, on, choice in there if choice is group]
            assert max(m for m, on in ends if on) < min(m for m, on in ends if not on)


def test_candidates_are_ranked_by_their_scores(found):
    means = [c.mean for c in found.finalists]
    assert means == sorted(means)
    assert found.finalists == found.candidates[: len(means)]
    steps = [c.steps for c in found.candidates]
    assert steps == sorted(steps, reverse=True)
    assert found.winner() is found.candidates[0]
    assert found.winner().verdict == "best"
    assert repr(found.best("as it is")) == "sgd(0.03)"
    assert found.best_settings == found.winner().settings


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_a_candidate_trained_alone_is_the_same(found, name):
    winner, again = found.winner(name), alone(found.best(name))
    for at, seed in ((0, 2), (1, 3)):  # Fresh seeds.
        params, _, _ = again(seed, 18)
        np.testing.assert_allclose(winner.scores[at], validation(params), rtol=ROUNDING)
    # State and params were carried on from rung to rung: it is no other run.
    for steps, scores in winner.search:
        params, _, _ = again(1, steps)
        np.testing.assert_allclose(scores[1], validation(params), rtol=ROUNDING)


def test_the_loss_is_averaged_over_the_last_tenth(plain):
    _, _, last = alone(plain.best())(1, 18)
    np.testing.assert_allclose(plain.winner().scores[1], last, rtol=1e-6)
    longer = run({"sgd": plain.best()}, steps=20, confidence=None)
    _, _, mean = alone(plain.best(), of=2)(1, 20)
    np.testing.assert_allclose(longer.winner().scores[1], mean, rtol=1e-6)
    assert "last 2 steps" in str(longer)


def test_what_is_averaged_is_what_is_scored(others):
    params, state, _ = alone(AVERAGED)(0, 18)
    score = validation(ox.eval_params(state, params))
    np.testing.assert_allclose(others.winner("averaged").scores[0], score, rtol=1e-5)
    assert abs(score - validation(params)) > 0.01 * score


def test_seeds_are_shared_by_all_candidates(others):
    # Nothing moves: the scores are those of the first params.
    a, b = others.winner("still"), others.winner("still, too")
    np.testing.assert_array_equal(a.scores, b.scores)
    assert len(set(a.scores)) == 3
    assert (a.behind, a.margin) == (b.behind, b.margin)


def test_batches_are_shared_by_all_candidates():
    found = run({"a": (ox.sgd, {"learning_rate": 0.0}), "b": optax.set_to_zero()})
    a, b = found.candidates
    np.testing.assert_array_equal(a.scores, b.scores)
    assert [a.verdict, b.verdict] == ["best", "within noise"]
    assert (b.behind, b.margin) == (0.0, 0.0)


def test_optimizers_that_ask_for_the_loss_get_it(others):
    still = others.winner("still").mean
    assert others.winner("polyak").mean < 0.5 * still
    assert others.winner("sam").mean < 0.5 * still
    params, _, _ = alone(ox.sgd(0.03))(0, 18)
    score = others.winner("asking").scores[0]
    np.testing.assert_allclose(score, validation(params), rtol=1e-5)


def test_complex_parameters_go_downhill():
    found = ox.sweep(
        lambda z: jnp.abs(z - (2 + 1j)) ** 2,
        lambda key: jnp.zeros((), jnp.complex64),
        {"sgd": ox.sgd(0.1)},
        steps=40,
        seeds=2,
        progress=False,
    )
    assert found.winner().mean < 1e-3


def test_the_key_decides_everything(plain):
    again = run({"sgd": (ox.sgd, RATES)}, rungs=1, key=jax.random.key(0))
    for one, other in zip(plain.candidates, again.candidates, strict=True):
        assert one.settings == other.settings
        np.testing.assert_array_equal(one.scores, other.scores)
    other = run({"sgd": (ox.sgd, RATES)}, rungs=1, key=4)
    assert set(other.winner().scores).isdisjoint(plain.winner().scores)


def test_what_diverges_is_last_and_hurts_nobody(plain):
    rates = [c.settings["learning_rate"] for c in plain.candidates]
    wild = {"learning_rate": [1e30, *rates, 1e35]}
    found = run({"sgd": (ox.sgd, wild)}, candidates=6, rungs=1)
    for c, same in zip(found.candidates, plain.candidates, strict=False):
        assert c.settings == same.settings
        np.testing.assert_allclose(c.scores, same.scores, rtol=1e-6)
        assert c.margin == pytest.approx(same.margin, rel=1e-3, nan_ok=True)
    assert [c.diverged for c in found.candidates] == [0, 0, 0, 0, 2, 2]
    assert [c.verdict for c in found.candidates[4:]] == ["diverged", "diverged"]
    assert all(np.isposinf(c.scores).all() for c in found.candidates[4:])
    assert "diverged: 2 of 2 seeds" in str(found)


def test_without_a_sound_candidate_there_is_no_best(others):
    assert others.candidates[-1].optimizer == "diverging"
    with pytest.raises(ValueError, match="every candidate"):
        others.best("diverging")
    with pytest.raises(ValueError, match=r"no optimizer 'adam'.*'polyak'"):
        others.best("adam")
    nothing = dataclasses.replace(others, candidates=others.candidates[-1:])
    with pytest.raises(ValueError, match="every candidate"):
        nothing.best()
    assert "diverged" in str(nothing)


def test_the_best_at_the_end_of_what_was_tried_is_marked(plain):
    rates = [c.settings["learning_rate"] for c in plain.candidates]
    for c in plain.candidates:
        at_end = c.settings["learning_rate"] in (min(rates), max(rates))
        assert c.at_edge == (("learning_rate",) if at_end else ())
        assert (f"learning_rate={c.settings['learning_rate']:g}*" in str(plain)) == at_end
    assert "a better one may lie beyond" in str(plain)


def test_gradients_of_some_at_once_are_the_same(plain):
    parts = run({"sgd": (ox.sgd, RATES)}, rungs=1, at_once=3)
    for one, other in zip(plain.candidates, parts.candidates, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)


def test_every_pass_takes_every_example_once():
    feed = sweeping._feed({"x": np.arange(10.0), "y": np.arange(20).reshape(10, 2)}, 4)
    order = jax.jit(feed.order, static_argnums=1)(jax.random.key(0), 5)
    assert order.shape == (5, 4)
    passes = np.reshape(order, (2, 10))
    np.testing.assert_array_equal(np.sort(passes), [np.arange(10)] * 2)
    assert (passes[0] != passes[1]).any()
    seed = sweeping._Seed(jax.random.key(0), jax.random.key(0), order)
    batch = feed.batch(feed.examples, seed, 3)
    np.testing.assert_array_equal(batch["x"], order[3].astype(jnp.float32))
    np.testing.assert_array_equal(batch["y"][:, 0], 2 * order[3])


def test_examples_are_trained_and_validated_on():
    x = jnp.linspace(-1.0, 1.0, 20)

    def fit(params, data):
        return jnp.mean((data[0] * params - data[1]) ** 2)

    found = ox.sweep(
        fit,
        lambda key: draw(key)[0],
        {"sgd": (ox.sgd, {"learning_rate": ox.log_uniform(1e-2, 1.0)})},
        data=(x, 3 * x),
        validation=(x, 4 * x),
        steps=60,
        rungs=1,
        candidates=4,
        seeds=2,
        progress=False,
    )
    # At 3, where the training leads, the held out examples are (4 - 3)^2 x^2 off.
    assert found.winner().mean == pytest.approx(float(jnp.mean(x**2)), rel=0.01)


# What is shown.


def test_the_table_is_aligned_and_complete(found):
    lines = str(found).splitlines()
    head = lines[0]
    column = head.index("verdict")
    for line, c in zip(lines[1:], found.finalists, strict=False):
        assert line[column:] == c.verdict
        assert line[head.index("optimizer") :].startswith(c.optimizer)
        assert f"{c.settings.get('learning_rate', 0):g}" in line
    text = " ".join(str(found).split())
    assert "2 seeds that had no part in the choice" in text
    assert "the 6 pairs that 4 candidates make" in text
    assert "stopped after 2 of 18 steps: 9" in text
    assert f"{found.budget['search']:,} for the search" in text


def test_records_have_a_row_for_each_candidate(found):
    records = found.records()
    assert [r["rank"] for r in records] == list(range(1, 18))
    assert records[0]["optimizer"] == found.winner().optimizer
    assert all(
        set(c.settings) < set(r) for c, r in zip(found.candidates, records, strict=True)
    )


def test_the_picture_is_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`decay`"):
        found.plot(tmp_path / "b.png", argument="decay")
    assert not (tmp_path / "b.png").exists()


def test_a_missing_matplotlib_is_named(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"optimjax\[plots\]"):
        found.plot("a.png")


# Refusals.


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ox.log_uniform(0.0, 1.0), ValueError, "`log_uniform.low"),
        (lambda: ox.log_uniform(1.0, 0.1), ValueError, "`log_uniform` needs `low` below"),
        (lambda: ox.uniform(1.0, 1.0), ValueError, "`uniform` needs `low` below"),
        (lambda: run({}), ValueError, "no optimizer"),
        (lambda: run([ox.sgd]), TypeError, "dict"),
        (lambda: run({"a": 3}), TypeError, "'a'.*pair"),
        (lambda: run({"a": (ox.sgd, {"lr": [1]})}), TypeError, "'a'.*`lr`.*learning_rate"),
        (lambda: run({"a": (ox.adam, {"learning_rat": 1})}), TypeError, "Did you mean"),
        (lambda: run({"a": ox.sgd}), TypeError, "'a'.*learning_rate"),
        (lambda: run({"a": (ox.sgd, {"learning_rate": []})}), ValueError, "nothing to cho"),
        (
            lambda: run({"a": (ox.sgd, {**RATES, "momentum": [0.5, 1.5]})}),
            ValueError,
            "momentum=.*1.5",
        ),
        (
            lambda: run({"a": (ox.lookahead, {"inner": ox.sgd(1.0), "slow_step_size": 0.5,
                                              "sync_period": ox.uniform(1, 9)})}),
            TypeError,
            "`sync_period` of 'a'.*list",
        ),
        (lambda: run({"a": (ox.sgd, RATES)}, seeds=1), ValueError, "2 seeds"),
        (lambda: run({"a": (ox.sgd, RATES)}, steps=4), ValueError, "4 steps for 3 rungs"),
        (lambda: run({"a": (ox.sgd, RATES)}, halving=1), ValueError, "halving"),
        (lambda: run({"a": (ox.sgd, RATES)}, batch_size=3), ValueError, "batch_size=3"),
        (lambda: run({"a": (ox.sgd, RATES)}, key="a"), TypeError, "key="),
        (
            lambda: run({"a": (ox.sgd, RATES)}, candidates=1, grid=True),
            ValueError,
            "2 points",
        ),
        (
            lambda: run({"a": (ox.sgd, RATES)}, validation=lambda p: p["a"][0]),
            TypeError,
            "validation that is one real number.*float32",
        ),
        (
            lambda: ox.sweep(loss, {"w": 1.0}, {"a": ox.sgd(1.0)}, steps=1),
            TypeError,
            "`init`",
        ),
        (
            lambda: ox.sweep(jnp.sin, draw, {"a": ox.sgd(1.0)}, steps=1),
            TypeError,
            "loss that is one real number",
        ),
        (
            lambda: ox.sweep(
                lambda p, b: p, init, {"a": ox.sgd(1.0)}, steps=1,
                data=np.ones((4, 2)), batch_size=5,
            ),
            ValueError,
            "batch_size=5",
        ),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
