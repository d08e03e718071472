"""Steps that are left out."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import assert_same, run

import optimjax as ox

NAN, INF = np.nan, np.inf


def column(*numbers):
    return jnp.array(numbers, jnp.float32)[:, None]


# Faults thrown in at random.

OPTIMIZERS = {
    "adamw": ox.adamw(ox.linear_schedule(0.1, 0.01, 20)),
    "nesterov": ox.chain(ox.clip_by_global_norm(1.0), ox.sgd(0.1, 0.9, nesterov=True)),
    "windows": ox.accumulate(ox.adam(0.1), 3),
    "optax": optax.adam(optax.linear_schedule(0.1, 0.01, 20)),
}
FAULTS = {"nan": NAN, "inf": INF, "-inf": -INF}


def spikes(optimizer, of):
    return ox.skip_spikes(optimizer, ox.beyond_quantile(0.5, 1e6), of=of, warmup=1)


# What guards, the numbers that are faults to it, and where they come.
GUARDS = {
    "apply_if_finite": (lambda tx: ox.apply_if_finite(tx, 3), FAULTS, "gradient"),
    "norm": (lambda tx: spikes(tx, "norm"), {**FAULTS, "huge": 1e30}, "gradient"),
    "loss": (lambda tx: spikes(tx, "value"), {**FAULTS, "huge": 1e30}, "loss"),
    "loss_scaling": (
        lambda tx: ox.dynamic_loss_scaling(tx, growth_interval=5),
        FAULTS,
        "gradient",
    ),
}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("guard", GUARDS)
def test_a_run_with_faults_is_the_run_without_them(guard, optimizer, rng):
    make, faults, where = GUARDS[guard]
    tx = make(OPTIMIZERS[optimizer])

    @jax.jit
    def step(params, state, gradient, loss):
        if guard == "loss_scaling":
            scale = ox.loss_scale(state)  # A power of two: nothing is rounded.
            gradient = jax.tree.map(lambda g: scale * g, gradient)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, params, value=loss)
        return ox.apply_updates(params, updates), state

    start = {"w": jnp.ones((2, 3)), "b": jnp.ones(())}
    good = [
        {"w": rng.normal(size=(2, 3)).astype("f4"), "b": rng.normal(size=()).astype("f4")}
        for _ in range(25)
    ]
    params, state = start, tx.init(start)
    for gradient in good:
        params, state = step(params, state, gradient, np.float32(1.0))
    wanted = params, state.inner_state

    params, state, thrown = start, tx.init(start), 0
    for i, gradient in enumerate(good):
        # The first is good, since a spike is one only beside something.
        for _ in range(rng.integers(0, 3) if i else 0):
            thrown += 1
            fault = np.float32(faults[rng.choice(list(faults))])
            loss, bad = np.float32(1.0), jax.tree.map(np.copy, gradient)
            if where == "loss":
                loss = fault
            else:
                leaf = rng.choice(list(bad))
                bad[leaf].flat[rng.integers(bad[leaf].size)] = fault
            params, state = step(params, state, bad, loss)
        if i == 8:
            params, state = pickle.loads(pickle.dumps((params, state)))
        if i == 16:
            with pytest.raises(Interrupted):
                params, state = step(params, state, interrupted(), np.float32(1.0))
        params, state = step(params, state, gradient, np.float32(1.0))
    assert_same((params, state.inner_state), wanted)
    total = getattr(state, "total_skipped", getattr(state, "total_notfinite", None))
    assert total == thrown > 10


def interrupted():
    raise Interrupted


@pytest.mark.parametrize("guard", GUARDS)
def test_an_error_inside_of_a_step_leaves_state_and_guard_as_they_were(guard):
    raising = [False]

    def may_raise(updates, params):
        if raising[0]:
            raise Interrupted
        return updates

    make, _, _ = GUARDS[guard]
    tx = ox.measure(make(ox.chain(ox.stateless(may_raise), ox.sgd(0.1))), "learning_rate")
    p = jnp.ones(2)
    before = tx.init(p)
    want = tx.update(p, before, p, value=1.0)
    raising[0] = True
    with jax.disable_jit(), pytest.raises(Interrupted):
        tx.update(p, before, p, value=1.0)
    raising[0] = False
    assert_same(tx.update(p, before, p, value=1.0), want)


def test_faults_are_left_out_of_each_run_of_a_batch_by_itself():
    tx = ox.apply_if_finite(ox.adam(0.1), 3)
    grads = jnp.array([[[1.0], [NAN], [2.0]], [[INF], [3.0], [1.0]]])
    _, states = jax.vmap(lambda g: run(tx, g, jnp.ones(1)))(grads)
    for i, good in enumerate(([0, 2], [1, 2])):
        _, want = run(ox.adam(0.1), grads[i, jnp.array(good)], jnp.ones(1))
        got = jax.tree.map(lambda x, i=i: x[i, -1], states.inner_state)
        jax.tree.map(
            lambda g, w: np.testing.assert_allclose(g, w[-1], rtol=1e-6), got, want
        )


def test_stages_behind_a_guard_see_nothing_of_the_fault():
    tx = ox.chain(ox.apply_if_finite(ox.scale(1.0), 3), ox.scale_by_rms(0.5))
    u, _ = run(tx, column(1, NAN, 1), jnp.ones(1))
    # The mean square is 1/2, 1/4, 5/8.
    np.testing.assert_allclose(u[:, 0], [2**0.5, 0, 1.6**0.5], rtol=1e-6)


# apply_if_finite.


def test_bad_steps_are_counted_and_too_many_in_a_row_are_told():
    tx = ox.apply_if_finite(ox.scale(1.0), 2)
    u, state = run(tx, column(1, NAN, 2, INF, -INF, NAN, 3, NAN), jnp.ones(1))
    np.testing.assert_array_equal(u[:, 0], [1, 0, 2, 0, 0, 0, 3, 0])
    np.testing.assert_array_equal(state.notfinite_count, [0, 1, 0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(state.total_notfinite, [0, 1, 1, 2, 3, 4, 4, 5])
    np.testing.assert_array_equal(state.last_finite, [1, 0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(state.gave_up, [0, 0, 0, 0, 1, 1, 0, 0])


def test_up_to_its_limit_it_counts_as_optax_and_beyond_takes_no_bad_step(rng):
    bad = rng.random(size=40) < 0.4
    bad[10:15] = True
    grads = jnp.where(bad[:, None], NAN, jnp.asarray(rng.normal(size=(40, 2)), "float32"))
    u, ours = run(ox.apply_if_finite(ox.sgd(0.1, 0.9), 3), grads, jnp.ones(2))
    with jax.numpy_dtype_promotion("standard"):
        v, theirs = run(optax.apply_if_finite(optax.sgd(0.1, 0.9), 100), grads, jnp.ones(2))
    np.testing.assert_allclose(u, v, rtol=1e-6, atol=1e-8)  # Sums that cancel.
    for name in ("notfinite_count", "total_notfinite", "last_finite"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.gave_up, ours.notfinite_count >= 3)
    assert ours.gave_up.any()


@pytest.mark.parametrize("bad", [NAN, INF, complex(0, NAN), complex(0, INF)])
def test_one_bad_number_anywhere_is_enough(bad):
    tx = ox.apply_if_finite(ox.scale(1.0), 2)
    g = {"a": jnp.ones((2, 2), jnp.complex64), "b": jnp.ones(()), "c": None}
    state = tx.init({**g, "c": jnp.ones(1)})
    u, state = tx.update({**g, "a": g["a"].at[1, 0].set(bad)}, state)
    assert_same(u, jax.tree.map(jnp.zeros_like, g))
    assert not state.last_finite
    u, state = tx.update(g, state)
    assert_same(u, g)


def test_nothing_is_finite():
    for nothing in ({}, {"a": None}, jnp.ones((0, 2))):
        tx = ox.apply_if_finite(ox.scale(1.0), 2)
        assert tx.update(nothing, tx.init(nothing))[1].last_finite


# skip_spikes.


def spikes_exactly(sizes, is_spike, window, warmup, most):
    """Which steps are left out, and after which of them the memory starts anew."""
    memory, skipped, in_a_row, gave_up = [], [], 0, []
    for x in sizes:
        spike = not np.isfinite(x) or (len(memory) >= warmup and is_spike(x, memory))
        in_a_row = in_a_row + 1 if spike else 0
        if not spike:
            memory = [*memory, x][-window:]
        if in_a_row >= most:
            memory = []
        skipped.append(spike)
        gave_up.append(in_a_row >= most)
    return skipped, gave_up


@pytest.mark.parametrize("of", ["norm", "value"])
@pytest.mark.parametrize(
    ("rule", "exact"),
    [
        (ox.beyond_z_score(2.0), lambda x, m: x > np.mean(m) + 2 * np.std(m)),
        (ox.beyond_quantile(0.75, 1.5), lambda x, m: x > 1.5 * np.quantile(m, 0.75)),
    ],
    ids=["z-score", "quantile"],
)
def test_spikes_are_those_of_the_definition(rule, exact, of, rng):
    sizes = rng.gamma(2.0, size=300).astype(np.float32)
    sizes[100:] *= 20  # A new level,
    sizes[rng.random(size=300) < 0.05] = NAN
    sizes[200:210] = INF  # and a long fault.
    settings = {"window": 12, "warmup": 5}
    tx = ox.skip_spikes(ox.scale(1.0), rule, of=of, max_consecutive_skips=6, **settings)
    grads = {"norm": jnp.asarray(sizes)[:, None], "value": jnp.ones((300, 1))}[of]
    u, state = run(tx, grads, jnp.ones(1), value=jnp.asarray(sizes))
    skipped, gave_up = spikes_exactly(sizes, exact, most=6, **settings)
    np.testing.assert_array_equal(state.last_skipped, skipped)
    np.testing.assert_array_equal(state.gave_up, gave_up)
    np.testing.assert_array_equal(state.total_skipped, np.cumsum(skipped))
    np.testing.assert_array_equal(u, np.where(np.array(skipped)[:, None], 0, grads))
    assert 30 < np.sum(skipped) < 150
    assert np.sum(gave_up) > 2


def test_the_norm_is_of_all_leaves():
    tx = ox.skip_spikes(ox.scale(1.0), lambda size, recent: size > 4.9, warmup=1)
    g = {"a": jnp.array([3.0]), "b": jnp.array(4.0)}
    state = tx.update(jax.tree.map(lambda x: 0.9 * x, g), tx.init(g))[1]
    assert not state.last_skipped
    assert tx.update(g, state)[1].last_skipped


def test_the_loss_is_read_and_asked_for_whatever_is_inside():
    is_spike = lambda size, recent: size > 4.0
    for tx in (
        ox.skip_spikes(ox.scale(1.0), is_spike, of="value", warmup=1),
        ox.skip_spikes(ox.polyak_sgd(1.0), is_spike, of="value", warmup=1),
    ):
        p = jnp.ones(1)
        _, state = tx.update(p, tx.init(p), p, value=3.0)
        assert tx.update(p, state, p, value=5.0)[1].last_skipped
        assert not tx.update(p, state, p, value=jnp.float16(3.5))[1].last_skipped
        with pytest.raises(TypeError, match="`skip_spikes` needs the argument `value`"):
            tx.update(p, state, p)
        with pytest.raises(ValueError, match=r"`value` of shape \(2,\)"):
            tx.update(p, state, p, value=jnp.ones(2))


def test_a_rule_that_gives_no_boolean_is_refused():
    tx = ox.skip_spikes(ox.scale(1.0), lambda size, recent: recent > size)
    with pytest.raises(TypeError, match=r"`skip_spikes` got .* must give one boolean"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


def test_a_memory_that_cannot_be_filled_is_refused():
    with pytest.raises(ValueError, match=r"`skip_spikes\(warmup=...\)` must be at most"):
        ox.skip_spikes(ox.scale(1.0), ox.beyond_z_score(3.0), window=4, warmup=5)
    for bad in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match=r"`beyond_z_score\(threshold=...\)`"):
            ox.beyond_z_score(bad)
    with pytest.raises(ValueError, match=r"`beyond_quantile\(q=...\)`"):
        ox.beyond_quantile(1.5)


# dynamic_loss_scaling.


def scales_exactly(finite, start, *, interval, up, down, low=1.0, high=2.0**24):
    """The scales after each step, as Keras and PyTorch have them, within bounds."""
    scale, row, scales = start, 0, []
    for good in finite:
        row = row + 1 if good else 0
        scale *= down if not good else up if row == interval else 1.0
        row %= interval
        scale = min(max(scale, low), high)
        scales.append(scale)
    return scales


@pytest.mark.parametrize(
    "rule",
    [
        {"interval": 5, "up": 2.0, "down": 0.5},
        {"interval": 3, "up": 4.0, "down": 0.25, "low": 8.0, "high": 2.0**10},
    ],
)
def test_scales_are_those_of_the_rule(rule, rng):
    finite = rng.random(size=120) < 0.85
    tx = ox.dynamic_loss_scaling(
        ox.scale(1.0),
        2.0**8,
        growth_interval=rule["interval"],
        growth_factor=rule["up"],
        backoff_factor=rule["down"],
        min_scale=rule.get("low", 1.0),
        max_scale=rule.get("high", 2.0**24),
    )
    u, state = run(tx, jnp.where(finite, 3.0, NAN)[:, None], jnp.ones(1))
    want = scales_exactly(finite, 2.0**8, **rule)
    np.testing.assert_array_equal(state.scale, want)
    before = np.array([2.0**8, *want[:-1]])
    np.testing.assert_allclose(u[:, 0], np.where(finite, 3.0 / before, 0.0), rtol=1e-6)
    np.testing.assert_array_equal(state.total_notfinite, np.cumsum(~finite))
    np.testing.assert_array_equal(state.last_finite, finite)


def test_gradients_too_small_and_too_large_for_float16_are_found():
    # At a scale of one the first vanishes in float16; at the scale of the start the
    # second overflows, until it has been lowered often enough.
    tx = ox.dynamic_loss_scaling(ox.sgd(1.0))
    slopes = jnp.array([1e-8, 30.0])

    def step(carry, which):
        params, state = carry

        def loss(p):
            slope = jax.nn.one_hot(which, 2) * slopes
            half = p.astype(jnp.float16).astype(jnp.float32)
            return ox.loss_scale(state) * (slope * half).sum()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (ox.apply_updates(params, updates), state), (updates, state.scale)

    start = jnp.zeros(2)
    which = jnp.array([0] + [1] * 6)
    _, (u, scales) = jax.lax.scan(step, (start, tx.init(start)), which)
    np.testing.assert_allclose(u[0, 0], -1e-8, rtol=1e-3)
    np.testing.assert_array_equal(scales, 2.0 ** np.array([15, 14, 13, 12, 11, 11, 11]))
    np.testing.assert_allclose(u[1:, 1], np.where(np.arange(6) < 4, 0, -30.0), rtol=1e-3)


@ox.transformation
def all_it_is_told():
    """The sum of its updates, of the gradient, and of what the chain was called with."""

    def update(updates, state, params=None, *, gradient, grad, **extra):
        return jax.tree.map(lambda *x: sum(x), updates, gradient, grad), state

    return ox.GradientTransformation(lambda params: ox.EmptyState(), update)


def test_inside_gradients_have_their_true_size():
    tx = ox.chain(ox.scale_by_momentum(0.5), ox.dynamic_loss_scaling(all_it_is_told(), 4.0))
    np.testing.assert_array_equal(run(tx, column(8.0), jnp.ones(1))[0], 6.0)


def test_the_scale_is_found_wherever_it_is():
    tx = ox.chain(ox.clip(1.0), ox.masked(ox.dynamic_loss_scaling(ox.adam(0.1), 8.0), "**"))
    np.testing.assert_array_equal(ox.loss_scale(tx.init(jnp.ones(1))), 8.0)
    two = ox.dynamic_loss_scaling(ox.dynamic_loss_scaling(ox.adam(0.1)))
    for tx, said in ((ox.adam(0.1), "there are 0: none"), (two, "there are 2")):
        with pytest.raises(ValueError, match=said):
            ox.loss_scale(tx.init(jnp.ones(1)))


@pytest.mark.parametrize(
    "scales",
    [(2.0**25, 1.0, 2.0**24), (0.5, 1.0, 2.0**24), (2.0, 4.0, 1.0)],
)
def test_a_scale_out_of_its_bounds_is_refused(scales):
    start, low, high = scales
    make = functools.partial(ox.dynamic_loss_scaling, ox.adam(0.1))
    with pytest.raises(ValueError, match=r"`dynamic_loss_scaling\(initial_scale=...\)`"):
        make(start, min_scale=low, max_scale=high)
