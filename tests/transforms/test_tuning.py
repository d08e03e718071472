"""What is peculiar to rates that tune themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from precision import enable_x64
from trajectories import assert_same, run, trajectory

import optimjax as ox

PARAMS = {"w": jnp.array([[3.0, -2.0], [0.5, 1.0]]), "b": jnp.array([0.3, -4.0])}
# Each with a first guess that is not as small as the default, so that a few steps tell.
MADE = {
    "dog": ox.dog(init_step=("distance", 0.01), eps=0.0),
    "ldog": ox.dog(init_step=("distance", 0.01), eps=0.0, layerwise=True),
    "dowg": ox.dowg(init_estim_sq_dist=1e-4, eps=0.0),
    "cocob": ox.cocob(eps=0.0),
    "dadapt_adamw": ox.dadapt_adamw(estim_lr0=0.01, eps=0.0),
    "prodigy": ox.prodigy(estim_lr0=0.01, eps=0.0),
}


def gradients(rng, steps=12):
    def draw(p):
        return jnp.float32(rng.normal(size=(steps, *p.shape)) + 1.0)

    return jax.tree.map(draw, PARAMS)


@pytest.mark.parametrize("name", MADE)
def test_the_unit_of_the_loss_does_not_matter(name, rng):
    grads = gradients(rng)
    larger = jax.tree.map(lambda g: 2.0**12 * g, grads)
    # Powers of two leave no trace, but in sums and roots of D-Adaptation and Prodigy.
    for a, b in zip(
        jax.tree.leaves(trajectory(MADE[name], PARAMS, grads)),
        jax.tree.leaves(trajectory(MADE[name], PARAMS, larger)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", ["dog", "ldog", "dowg"])
def test_the_unit_of_the_parameters_does_not_matter(name, rng):
    grads = gradients(rng)
    made = {
        "dog": ox.dog(init_step=("distance", 0.08), eps=0.0),
        "ldog": ox.dog(init_step=("distance", 0.08), eps=0.0, layerwise=True),
        "dowg": ox.dowg(init_estim_sq_dist=64e-4, eps=0.0),
    }
    small = trajectory(MADE[name], PARAMS, grads)
    large = trajectory(made[name], jax.tree.map(lambda p: 8.0 * p, PARAMS), grads)
    for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
        np.testing.assert_allclose(8.0 * a, b, rtol=1e-5)


def test_layerwise_is_each_leaf_by_itself(rng):
    grads = gradients(rng)
    alone = ox.dog(init_step=("heuristic", 0.01))
    whole = trajectory(ox.dog(init_step=("heuristic", 0.01), layerwise=True), PARAMS, grads)
    apart = trajectory(ox.partition({"w": alone, "b": alone}), PARAMS, grads)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    together = trajectory(alone, PARAMS, grads)
    assert not np.allclose(together["w"], apart["w"], rtol=1e-3)


@pytest.mark.parametrize("name", ["dog", "dowg", "dadapt_adamw", "prodigy"])
def test_the_leaves_count_together(name, rng):
    grads = gradients(rng)
    flat = jnp.concatenate([p.ravel() for p in jax.tree.leaves(PARAMS)])
    grad = jnp.concatenate([g.reshape(12, -1) for g in jax.tree.leaves(grads)], axis=1)
    apart = trajectory(MADE[name], PARAMS, grads)
    whole = trajectory(MADE[name], flat, grad)
    apart = np.concatenate([x.reshape(12, -1) for x in jax.tree.leaves(apart)], axis=1)
    np.testing.assert_allclose(apart, whole, rtol=1e-5)


@pytest.mark.parametrize("name", ["dog", "dowg", "dadapt_adamw", "prodigy"])
def test_a_part_has_a_distance_of_its_own(name, rng):
    grads = gradients(rng)
    masked = trajectory(ox.chain(ox.masked(MADE[name], "w")), PARAMS, grads)
    alone = trajectory(MADE[name], PARAMS["w"], grads["w"])
    np.testing.assert_allclose(masked["w"], alone, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in MADE if n != "cocob"])
def test_the_distance_is_measured_and_in_the_state(name, rng):
    tx = ox.measure(MADE[name], "distance")
    _, state = run(tx, gradients(rng), PARAMS)
    distances = ox.get_measures(state)["distance"]
    assert distances.dtype == jnp.float32
    assert (np.diff(distances) >= 0).all()
    assert distances[-1] > 0.02
    inner = state.inner_state
    if name in ("dadapt_adamw", "prodigy"):
        np.testing.assert_array_equal(inner.distance, distances)
    elif name == "dog":
        np.testing.assert_array_equal(inner["scale_by_dog"].max_distance, distances)
    elif name == "ldog":
        each = inner["scale_by_dog"].max_distance
        np.testing.assert_allclose(np.hypot(each["w"], each["b"]), distances, rtol=1e-6)


def test_a_schedule_multiplies_what_is_found(rng):
    grads = gradients(rng)
    rate = ox.linear_schedule(0.5, 0.1, 12)
    for plain, scheduled in (
        (ox.scale_by_dog(("distance", 0.1)), ox.dog(rate, ("distance", 0.1))),
        (ox.scale_by_dowg(0.1), ox.dowg(rate, 0.1)),
    ):
        behind = ox.chain(plain, ox.scale_by_schedule(rate), ox.scale(-1.0))
        a, b = (trajectory(tx, PARAMS, grads) for tx in (behind, scheduled))
        np.testing.assert_allclose(a["w"], b["w"], rtol=1e-6)


def test_a_number_for_the_rate_of_cocob_changes_nothing_and_a_schedule_does(rng):
    grads = gradients(rng)
    one, half, fading = (
        trajectory(ox.cocob(rate), PARAMS, grads)
        for rate in (1.0, 0.5, ox.exponential_decay(1.0, 1, 0.5))
    )
    assert_same(one, half)
    assert not np.allclose(one["w"], fading["w"], rtol=1e-3)


@pytest.mark.parametrize("name", MADE)
def test_a_step_without_a_gradient_at_the_start_is_no_loss(name, rng):
    grads = gradients(rng)
    late = jax.tree.map(lambda g: jnp.concatenate([0 * g[:1], g]), grads)
    plain = ox.prodigy(estim_lr0=0.01, bias_correction=False)
    made = plain if name == "prodigy" else MADE[name]
    if name == "dadapt_adamw":
        made = ox.dadapt_adamw(estim_lr0=0.01, bias_correction=False)
    want = trajectory(made, PARAMS, grads)
    got = trajectory(made, PARAMS, late)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a[1:], b)


def test_a_first_rate_holds_until_the_parameters_move():
    tx = ox.dog(init_step=("learning_rate", 0.5), eps=0.0)
    params, state = jnp.ones(2), tx.init(jnp.ones(2))
    for g in (0.0, 4.0):
        u, state = tx.update(jnp.full(2, g), state, params)
        np.testing.assert_array_equal(u, -0.5 * g)
    # From then on it is the distance over gradients, as ever.
    u, _ = tx.update(jnp.full(2, 4.0), state, params + u)
    np.testing.assert_allclose(u, -(8**0.5) / 64**0.5 * 4.0, rtol=1e-6)


def test_gradients_whose_squares_would_overflow_in_float16_do_not():
    params = jnp.zeros(1000, jnp.float16)

    @jax.jit
    def first_steps():
        grads = jnp.full(1000, 6e4, jnp.float16)
        return [tx.update(grads, tx.init(params), params) for tx in MADE.values()]

    for u, state in first_steps():
        assert u.dtype == jnp.float16
        assert bool((u < 0).all())
        for x in jax.tree.leaves(state):
            assert x.dtype in (jnp.float32, jnp.int32)
            assert bool(jnp.isfinite(x).all())


@pytest.mark.parametrize("make", [ox.dog, ox.prodigy])
def test_in_bfloat16_small_steps_count_in_master_weights(make):
    params = jnp.array([3.0, -2.0], jnp.bfloat16)

    def end(tx):
        def step(carry, _):
            p, state = carry
            u, state = tx.update(p, state, p)
            return (ox.apply_updates(p, u), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=400)[0][0]

    np.testing.assert_array_equal(end(make()), params)  # They stand still.
    assert (jnp.abs(end(ox.master_weights(make()))) < 0.1).all()


def test_a_leaf_that_misses_a_gradient_is_still_a_part_of_the_way(rng):
    grads = {k: g[0] for k, g in gradients(rng).items()}
    tx = MADE["dog"]
    u, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    # As if something else had moved both.
    params = jax.tree.map(lambda p: p + 1.0, PARAMS)
    u, state = tx.update({"w": grads["w"], "b": None}, state, params)
    assert u["b"] is None
    np.testing.assert_allclose(state["scale_by_dog"].max_distance, 6**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "most"),
    {
        "dog": 4,
        "ldog": 4,
        "dowg": 4,
        "cocob": 20,
        "dadapt_adamw": 12,
        "prodigy": 16,
    }.items(),
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_state_takes_the_bytes_that_the_documentation_says(name, most, dtype):
    params = jnp.zeros(10_000, dtype)
    state = jax.eval_shape(MADE[name].init, params)
    taken = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert most * 10_000 <= taken <= most * 10_000 + 32


def test_hyperparameters_may_be_traced():
    def first(value):
        made = (
            ox.dog(init_step=("distance", value), eps=value),
            ox.dowg(init_estim_sq_dist=value, eps=value),
            ox.cocob(alpha=100 * value, eps=value),
            ox.dadapt_adamw(value, (value, value), value, value, value),
            ox.prodigy(value, (value, value), value, value, value, value, value),
        )
        grads = jnp.ones(3)
        return [tx.update(grads, tx.init(grads), grads)[0] for tx in made]

    plain, traced = jax.jit(lambda: first(0.25))(), jax.jit(first)(0.25)
    for a, b in zip(plain, traced, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@functools.cache
def long_run(safeguard):
    """The distance that Prodigy finds behind a long warm-up, on a parabola."""
    rate = ox.warmup_schedule(1.0, 200)
    tx = ox.prodigy(rate, safeguard_warmup=safeguard)

    def step(carry, _):
        p, state = carry
        u, state = tx.update(p, state, p)
        return (ox.apply_updates(p, u), state), None

    params = jnp.array([3.0, -2.0, 1.0])
    return jax.lax.scan(step, (params, tx.init(params)), length=400)[0][1].distance


def test_the_safeguard_holds_the_distance_down_during_a_warm_up():
    assert long_run(True) < 0.5 * long_run(False)


GROWING = [
    (ox.dadapt_adamw, {}),
    (ox.dadapt_adamw, {"bias_correction": False, "variant": "paper", "eps": 0.1}),
    (ox.prodigy, {"eps": 0.1, "weight_decay": 0.1}),
    (ox.prodigy, {"bias_correction": False, "variant": "paper", "eps": 0.1}),
    (ox.prodigy, {"estim_lr_coef": 3.0, "beta3": 0.9, "safeguard_warmup": True}),
]


@pytest.mark.parametrize(("make", "how"), GROWING)
def test_as_the_distance_grows_it_is_the_papers(make, how, rng):
    # The oracle tests of the catalogue turn this way and that, and so never go far.
    grads, start = rng.normal(size=(20, 6)) + 1.0, rng.normal(size=6)
    oracle = getattr(oracles, make.__name__)
    want = oracle(grads, start, estim_lr0=0.01, **how)
    with enable_x64():
        tx = make(estim_lr0=0.01, **how)
        updates, state = run(tx, jnp.asarray(grads), jnp.asarray(start))
        path = start + np.cumsum(np.asarray(updates), axis=0)
        assert state.distance[-1] > 0.03
    np.testing.assert_allclose(path, want, rtol=1e-11)


@pytest.mark.parametrize("make", [ox.dadapt_adamw, ox.prodigy])
def test_the_variants_of_the_papers_differ_from_the_code(make, rng):
    grads = gradients(rng)["w"]
    code, paper = (
        trajectory(make(estim_lr0=0.01, eps=0.1, variant=v), PARAMS["w"], grads)
        for v in ("code", "paper")
    )
    assert not np.allclose(code, paper, rtol=1e-4)


@pytest.mark.parametrize("make", [ox.dadapt_adamw, ox.prodigy])
def test_a_mask_says_what_decays(make):
    def first(**how):
        tx = make(estim_lr0=0.01, **how)
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]

    plain, decayed = first(), first(weight_decay=10.0, mask="w")
    np.testing.assert_array_equal(plain["b"], decayed["b"])
    # The rate of the first step is d times a bias correction of 0.316.
    shrunk = plain["w"] - 10.0 * 0.01 * 0.001**0.5 / 0.1 * PARAMS["w"]
    np.testing.assert_allclose(decayed["w"], shrunk, rtol=1e-5)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r'must be a pair such as \("heuristic", 1e-6\)'):
        ox.dog(init_step=1e-6)
    with pytest.raises(ValueError, match="must begin with one of 'distance', 'learning_r"):
        ox.scale_by_dog(("step", 0.1))
    with pytest.raises(
        ValueError, match=r"`scale_by_dog\(init_step=...\)` must lie in \(0"
    ):
        ox.scale_by_dog(("distance", 0.0))
    with pytest.raises(ValueError, match=r"^`dog\(init_step=...\)` must begin with"):
        ox.dog(init_step=("step", 0.1))  # type: ignore
    with pytest.raises(ValueError, match="must be given where `eps` is 0"):
        ox.dowg(eps=0.0)
    with pytest.raises(TypeError, match=r"`prodigy\(betas=...\)` must be a pair"):
        ox.prodigy(betas=0.9)
    with pytest.raises(
        ValueError, match=r"`dadapt_adamw\(betas=...\)` must lie in \[0, 1\)"
    ):
        ox.dadapt_adamw(betas=(0.9, 1.0))
    for make in (ox.dog, ox.dowg, ox.cocob, ox.dadapt_adamw, ox.prodigy):
        tx = make()
        with pytest.raises(ValueError, match="needs the current parameters"):
            tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
