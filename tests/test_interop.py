"""The same protocol as the rest of JAX: in and out of Optax, Flax and NNX, same numbers."""

import inspect

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox

optax = pytest.importorskip("optax")
flax = pytest.importorskip("flax")

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}


@pytest.fixture(autouse=True)
def usual_promotion():
    """Optax does not run under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def train(tx, steps=10, apply=ox.apply_updates):
    rng = np.random.default_rng(0)
    params, state = PARAMS, tx.init(PARAMS)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
        params, state = step(params, state, grads)
    return params


# Optax's Adam is off by as much, relative to a step of 0.1: its bias correction is float32.
OPTAX_ADAM = 1e-5


def assert_close(got, want, rtol=1e-6, atol=1e-7):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want
    )


@pytest.mark.parametrize(
    ("mixed", "pure"),
    [
        (
            lambda: ox.chain(optax.clip_by_global_norm(1.0), ox.adam(0.1)),
            lambda: ox.chain(ox.clip_by_global_norm(1.0), ox.adam(0.1)),
        ),
        (
            lambda: optax.chain(ox.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9)),
            lambda: ox.chain(ox.clip_by_global_norm(1.0), ox.sgd(0.1, 0.9)),
        ),
        (
            lambda: optax.chain(optax.clip(0.5), ox.chain(ox.scale_by_rms(), ox.adam(0.1))),
            lambda: ox.chain(ox.clip(0.5), ox.chain(ox.scale_by_rms(), ox.adam(0.1))),
        ),
        (
            lambda: ox.chain(ox.scale_by_rms(0.9), optax.scale_by_adam(), ox.scale(-0.1)),
            lambda: optax.chain(
                optax.scale_by_rms(0.9, eps_in_sqrt=False),
                optax.scale_by_adam(),
                optax.scale(-0.1),
            ),
        ),
        (lambda: optax.chain(ox.adamw(0.1, weight_decay=0.1)), lambda: ox.adamw(
            0.1, weight_decay=0.1
        )),
        (
            lambda: optax.MultiSteps(ox.adam(0.1), every_k_schedule=2),
            lambda: optax.MultiSteps(ox.chain(ox.adam(0.1)), every_k_schedule=2),
        ),
        (
            lambda: optax.masked(ox.adam(0.1), {"w": True, "b": False}),
            lambda: optax.masked(ox.chain(ox.adam(0.1)), {"w": True, "b": False}),
        ),
    ],
    ids=[
        "optax in ours", "ours in optax", "chain in chain", "optax stage in ours",
        "params reach ours", "in MultiSteps", "in masked",
    ],
)  # fmt: skip
def test_chains_of_both_libraries_give_the_same_numbers(mixed, pure):
    assert_close(train(mixed()), train(pure()))


SHARED = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "amsgrad", "adamax")


@pytest.mark.parametrize("name", SHARED)
def test_a_name_of_optax_has_its_arguments_defaults_and_results(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (ox, optax))
    for parameter in theirs.values():
        assert ours[parameter.name].default == parameter.default
    positional = [n for n, p in theirs.items() if p.kind is not p.KEYWORD_ONLY]
    assert list(ours)[: len(positional)] == positional
    got, want = (train(getattr(m, name)(0.01)) for m in (ox, optax))
    assert_close(got, want, rtol=2e-5)


STAGES = {
    "scale": (2.0,),
    "scale_by_sign": (),
    "scale_by_schedule": (lambda t: 0.1 / (1 + t),),
    "scale_by_learning_rate": (0.1,),
    "ema": (0.9,),
    "scale_by_rss": (),
    "add_decayed_weights": (0.1,),
    "clip": (0.5,),
    "clip_by_global_norm": (1.0,),
    "add_noise": (0.1, 0.55, 7),
    "zero_nans": (),
    "centralize": (),
    "identity": (),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_of_optax_has_its_results(name):
    args = STAGES[name]
    ours, theirs = (getattr(m, name)(*args) for m in (ox, optax))
    assert_close(train(ours), train(theirs), rtol=2e-5)


SCHEDULES = {
    "constant_schedule": (0.3,),
    "linear_schedule": (0.1, 1.0, 10, 5),
    "polynomial_schedule": (1.0, 0.1, 2.0, 20, 3),
    "exponential_decay": (1.0, 5, 0.7, 2, True, 0.1),
    "piecewise_constant_schedule": (1.0, {5: 0.5, 10: 0.1}),
    "piecewise_interpolate_schedule": ("cosine", 1.0, {5: 3.0, 15: 0.1}),
    "cosine_decay_schedule": (1.0, 20, 0.1, 2.0),
    "warmup_constant_schedule": (0.1, 1.0, 10),
    "warmup_cosine_decay_schedule": (0.1, 1.0, 5, 25, 0.01, 1.5),
    "warmup_exponential_decay_schedule": (0.1, 1.0, 5, 4, 0.8, 2, False, 0.2),
    "cosine_onecycle_schedule": (25, 2.0, 0.4, 10.0, 100.0),
    "linear_onecycle_schedule": (25, 2.0, 0.2, 0.7, 10.0, 100.0),
    "sgdr_schedule": (
        [
            {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": n}
            for n in (7, 12)
        ],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_optax_has_its_arguments_and_values(name):
    ours, theirs = (getattr(m, name)(*SCHEDULES[name]) for m in (ox, optax))
    steps = range(30)
    want = [theirs(t) for t in steps]
    np.testing.assert_allclose([ours(t) for t in steps], want, rtol=2e-6, atol=1e-7)


def test_every_schedule_of_optax_is_here_with_its_arguments():
    public = [n for n in vars(optax.schedules) if not n.startswith("_")]
    names = [n for n in public if n.endswith(("_schedule", "_decay"))]
    assert set(names) == set(SCHEDULES)
    for name in [*names, "join_schedules"]:
        ours, theirs = (
            list(inspect.signature(getattr(m, name)).parameters.values())
            for m in (ox, optax)
        )
        assert [(p.name, p.default, p.kind) for p in theirs] == [
            (p.name, p.default, p.kind) for p in ours if p.kind is not p.KEYWORD_ONLY
        ]


def test_joined_schedules_are_those_of_optax():
    parts = [optax.linear_schedule(0.0, 1.0, 5), optax.cosine_decay_schedule(1.0, 10)]
    ours, theirs = (m.join_schedules(parts, [5]) for m in (ox, optax))
    for t in range(20):
        np.testing.assert_allclose(ours(t), theirs(t), rtol=1e-6, atol=1e-7)


def test_extra_arguments_reach_a_foreign_stage_that_takes_them():
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append((value, "gradient" in extra))
        return updates, state

    def with_gradient(updates, state, params=None, *, gradient, **extra):
        seen.append((extra["value"], gradient is not None))
        return updates, state

    foreign = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    named = optax.GradientTransformationExtraArgs(optax.init_empty_state, with_gradient)
    plain = optax.GradientTransformation(
        optax.init_empty_state, lambda updates, state, params=None: (updates, state)
    )
    with jax.disable_jit():
        tx = ox.chain(plain, foreign, named, ox.scale(1.0))
        grads = jnp.ones(2)
        tx.update(grads, tx.init(grads), value=3.0)
    # The gradient lane goes to those that name it, not to whoever takes any extra: a line
    # search of Optax hands what it does not know on to the loss, and fails.
    assert seen == [(3.0, False), (3.0, True)]


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: ox.accumulate(tx, 1)])
def test_the_gradient_of_the_call_is_known_beside_a_foreign_stage(wrap):
    # Chains of Optax take any extra argument.
    tx = wrap(ox.chain(optax.sgd(1.0, momentum=0.9), ox.cautious(rescale=False)))
    state = tx.init(jnp.zeros(2))
    for g in ([1.0, 1.0], [1.0, -0.5]):
        updates, state = tx.update(jnp.array(g), state)
    np.testing.assert_allclose(updates, [-1.9, 0.0])


def test_line_searches_of_optax_run_in_our_chain():
    def loss(x):
        return jnp.sum((x - 3.0) ** 2)

    def run(tx):
        x = jnp.zeros(3)
        state = tx.init(x)
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(x)
            updates, state = tx.update(
                grads, state, x, value=value, grad=grads, value_fn=loss
            )
            x = ox.apply_updates(x, updates)
        return x

    assert_close(run(ox.chain(optax.lbfgs())), run(optax.lbfgs()))
    backtracking = optax.scale_by_backtracking_linesearch(15)
    got, want = (run(m.chain(m.sgd(1.0), backtracking)) for m in (ox, optax))
    assert_close(got, want)


def test_a_foreign_state_keeps_its_dtypes_in_mixed_precision():
    tx = ox.chain(optax.scale_by_adam(), ox.scale(-0.1))
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    state = tx.init(params)
    updates, new_state = tx.update(params, state, params)
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    assert [x.dtype for x in jax.tree.leaves(new_state)] == dtypes
    assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))


def test_where_optax_keeps_an_argument_for_itself_the_error_says_how_to_get_it():
    grads = jnp.ones(3)
    plain = optax.chain(ox.polyak_sgd())
    with pytest.raises(TypeError, match=r"`optax\.GradientTransformationExtraArgs\(\*"):
        plain.update(grads, plain.init(grads), grads, value=1.0)
    told = optax.chain(optax.GradientTransformationExtraArgs(*ox.polyak_sgd()))
    told.update(grads, told.init(grads), grads, value=1.0)


def test_flax_train_state():
    from flax.training.train_state import TrainState

    def loss(params):
        return jnp.sum((params["w"] - 3.0) ** 2) + jnp.sum(params["b"] ** 2)

    def run(tx):
        state = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
        for _ in range(5):
            state = jax.jit(lambda s: s.apply_gradients(grads=jax.grad(loss)(s.params)))(
                state
            )
        return state.params

    got = run(ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(0.1)))
    want = run(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)))
    assert_close(got, want, atol=OPTAX_ADAM)


def test_nnx_optimizer():
    from flax import nnx

    def run(tx):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        x = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)

        @nnx.jit
        def step(model, optimizer):
            grads = nnx.grad(lambda m: jnp.mean((m(x) - 1.0) ** 2))(model)
            optimizer.update(model, grads)

        for _ in range(5):
            step(model, optimizer)
        return jax.tree.map(jnp.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    assert_close(run(ox.adamw(0.1)), run(optax.adamw(0.1)), atol=OPTAX_ADAM)


# Those that keep for a parameter what is no array like it, and others for comparison.
IN_NNX = [
    ox.adam,
    ox.adafactor,
    ox.galore,
    ox.muon,
    ox.normuon,
    ox.psgd_kron,
    ox.sm3,
    ox.soap,
    ox.shampoo,
]
TRAINED_IN_NNX = [
    pytest.param(
        case, marks=() if case.make in IN_NNX else pytest.mark.slow, id=case.make.__name__
    )
    for case in catalogue.ONE_EACH
    if case.whole and not (case.extra or case.searching)
]


@pytest.mark.parametrize("case", TRAINED_IN_NNX)
def test_every_optimizer_trains_in_nnx_as_on_plain_params(case):
    """For three steps: what `init` made of boxes comes back without them."""
    from flax import nnx

    tx = case()
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = tx.init(params)
    for step in range(3):
        grads = jax.tree.map(lambda p, step=step: jnp.cos(3 * p + step), params)
        boxed = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(boxed, grads)
        optimizer.update(model, boxed)
        updates, state = tx.update(grads, state, params)
        params = ox.apply_updates(params, updates)
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), params, rtol=1e-5)


def test_nnx_optimizers_take_patterns_as_plain_params_do():
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    routed = ox.partition(
        {
            "**/bias": ox.masked(ox.sgd(1.0), lambda path, leaf: path == "bias"),
            "kernel": ox.average_params(ox.sgd(0.5), start=1),
        }
    )
    optimizer = nnx.Optimizer(model, ox.chain(routed, ox.scale(1.0)), wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)
    params = nnx.state(model, nnx.Param)
    after = nnx.to_pure_dict(params)
    assert_close(after["bias"], before["bias"] - 1.0)
    assert_close(after["kernel"], before["kernel"] - 0.5)
    as_pure = getattr(nnx, "as_pure", None) or nnx.pure  # Its name before Flax 0.12.
    averaged = ox.eval_params(as_pure(optimizer.opt_state), as_pure(params))
    assert_close(nnx.to_pure_dict(averaged), after)
    nnx.update(model, averaged)


def test_flax_msgpack_restores_bit_for_bit():
    from flax import serialization

    tx = ox.chain(ox.clip_by_global_norm(1.0), ox.amsgrad(0.1), ox.add_noise(0.1, 0.5, 0))
    grads = jax.tree.map(jnp.sin, PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    stored = serialization.to_bytes(state)
    restored = serialization.from_bytes(tx.init(PARAMS), stored)
    want = tx.update(grads, state, PARAMS)
    got = tx.update(grads, jax.tree.map(jnp.asarray, restored), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, want)


# All stages that take numbers (an alias only hands its own on), but for those that read the
# loss, to which Optax hands it only if they are of its own class: `docs/coming_from.md`.
INJECTED = [
    c
    for c in catalogue.ONE_EACH
    if not c.whole
    and not (c.extra or c.chained or c.args or c.searching)
    and c.make not in (ox.chain, ox.in_turn)
]


@pytest.mark.parametrize("case", INJECTED, ids=str)
def test_optax_injects_hyperparameters_into_every_factory(case):
    # It traces all numbers, those that are defaults included; these are lengths of axes, of
    # loops, and choices of a program.
    known = inspect.signature(case.make).parameters
    static = {
        "min_dim_size_to_factor",
        "step_size_fn",
        "memory_size",
        "max_size_triangular",
        "block_size",
        "every",
        "steps",
        "exponent",
    } & set(known)
    tx = optax.inject_hyperparams(case.make, static_args=static)(**case.kwargs)
    params = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    state = jax.eval_shape(tx.init, params)
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    assert jax.tree.map(jnp.shape, updates) == {"w": (2, 3)}


@pytest.mark.parametrize("make", [ox.polyak_sgd, ox.reduce_on_plateau])
def test_the_loss_gets_through_optax_in_a_class_of_its_own(make):
    tx = optax.MultiSteps(optax.GradientTransformationExtraArgs(*make()), 1)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0)
    assert jnp.isfinite(updates["w"]).all()


# Averages of the parameters. Their recordings are replayed, too: `test_replay.py`.


def follow(tx, params, evaluate, pick=lambda params: params):
    """The params after each of twelve steps, and those to evaluate with."""
    grads = np.random.default_rng(3).normal(size=(12, 2, 3)).astype(np.float32)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (pick(params), evaluate(state, params))

    return jax.lax.scan(step, (params, tx.init(params)), grads)[1]


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_is_that_of_optax_without_the_pairs(reset):
    p = PARAMS["w"]
    ours = ox.lookahead(ox.sgd(0.1, 0.9), 5, 0.3, on_sync="reset" if reset else "keep")
    theirs = optax.lookahead(optax.sgd(0.1, 0.9), 5, 0.3, reset_state=reset)
    pair = optax.LookaheadParams.init_synced(p)
    want = follow(theirs, pair, lambda state, params: params.slow, lambda p: p.fast)
    assert_close(follow(ours, p, ox.eval_params), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("schedule_free_sgd", {"learning_rate": 0.1, "warmup_steps": 5}),
        ("schedule_free_sgd", {"weight_decay": 0.1, "b1": 0.5}),
        ("schedule_free_adamw", {"warmup_steps": 4, "weight_lr_power": 1.0, "eps": 0.1}),
    ],
)
def test_schedule_free_is_that_of_optax(name, kwargs):
    contrib = optax.contrib
    ours, theirs = (getattr(m, name)(**kwargs) for m in (ox, contrib))
    assert_close(
        follow(ours, PARAMS["w"], ox.eval_params),
        follow(theirs, PARAMS["w"], contrib.schedule_free_eval_params),
        rtol=2e-5,
        atol=1e-6,
    )
    got, want = (inspect.signature(getattr(m, name)).parameters for m in (ox, contrib))
    assert [(p.name, p.default) for p in got.values()] == [
        (p.name, p.default) for p in want.values()
    ]


def test_steps_that_optax_holds_back_are_no_samples():
    p = PARAMS["w"]
    tx = optax.MultiSteps(ox.average_params(ox.sgd(0.1)), 4)
    path, got = follow(tx, p, ox.eval_params)
    samples = np.stack([p, path[3], path[7], path[11]])
    np.testing.assert_allclose(got[-1], samples.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("make", [ox.average_params, lambda t: ox.schedule_free(t, 1.0)])
def test_what_a_mask_of_optax_leaves_out_is_evaluated_as_it_is(make):
    tx = optax.masked(make(ox.sgd(1.0)), {"w": True, "b": False})
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = tx.update(ones, tx.init(PARAMS), PARAMS)
    params = ox.apply_updates(PARAMS, updates)
    got = ox.eval_params(state, params)
    assert (got["w"] < PARAMS["w"]).all()
    np.testing.assert_array_equal(got["b"], params["b"])
