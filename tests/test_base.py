"""The boundary: what is refused, by which words, and what is left as it was."""

import functools
import inspect
import re

import catalogue
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox
from optimjax import _checks

PARAMS = {"w": jnp.ones((2, 3)), "b": {"c": jnp.ones(3)}}


def raises(kind, *words):
    """Expects an error with all of `words` in its message."""
    pattern = "".join(f"(?=.*{re.escape(w)})" for w in words)
    return pytest.raises(kind, match="(?s)" + pattern)


# States of the same rule with other arguments, and errors that say in what they came.
OF_OTHER_ARGUMENTS = [
    (ox.rmsprop(0.1, centered=True), ox.rmsprop(0.1), "needs `mean`"),
    (ox.rmsprop(0.1), ox.rmsprop(0.1, centered=True), "keeps no `mean`"),
    (ox.adam(0.1), ox.amsgrad(0.1), "keeps no `nu_max`"),
    (ox.delay(5), ox.delay(3), "made for 5 steps, but got one made for 3"),
    (ox.delay(0), ox.delay(3), "keeps no `pending`"),
    (ox.delay_updates(ox.sgd(0.1), 2), ox.delay_updates(ox.sgd(0.1), 0), "`pending`"),
    (
        ox.compensate_delay(0.1, 3),
        ox.compensate_delay(0.1, 3, decay=0.9),
        "keeps no `mean_square`",
    ),
    (
        ox.lookahead(ox.sgd(0.1), 2, 0.5, on_sync="pull_back"),
        ox.lookahead(ox.sgd(0.1), 2, 0.5),
        "needs `slow_inner_state`",
    ),
    (ox.schedule_free(ox.sgd(0.1), 0.1, 0.0), ox.schedule_free(ox.sgd(0.1), 0.1), "`x`"),
    (ox.scale_by_dog(), ox.scale_by_dog(layerwise=True), "`layerwise=True`"),
    (
        ox.compress(ox.compressors.low_rank(1)),
        ox.compress(ox.compressors.sign()),
        "another compressor",
    ),
    (
        ox.scale_by_factored_rms(min_dim_size_to_factor=1, factored_dims="last"),
        ox.scale_by_factored_rms(min_dim_size_to_factor=1),
        "another choice of axes",
    ),
    (
        ox.compress(ox.compressors.sign(), error_feedback=False),
        ox.compress(ox.compressors.sign()),
        "keeps no `residual`",
    ),
]


@pytest.mark.parametrize(
    ("tx", "other", "words"), OF_OTHER_ARGUMENTS, ids=lambda x: repr(x)[:60]
)
def test_a_state_made_with_other_arguments_is_refused(tx, other, words):
    params = {"w": jnp.ones((4, 3))}
    tx.update(params, tx.init(params), params)
    with raises(ValueError, words):
        tx.update(params, other.init(params), params)


def test_a_state_made_without_the_params_is_refused():
    tx = ox.scale_by_adam()
    with raises(
        ValueError, "`scale_by_momentum`", "`momentum`", "other arguments or params"
    ):
        tx.update(PARAMS, tx.init(None), PARAMS)
    assert tx.update(None, tx.init(None))[0] is None


def test_errors_say_in_what_they_came():
    """By a note, the outermost expression alone, however deep the refusal was."""
    tx = ox.average_params(ox.chain(ox.clip(1.0), ox.adamw(0.1)), 0.9)
    said = ["In `average_params(chain(clip(1.0), adamw(0.1)), 0.9)`."]
    state = tx.init(PARAMS)

    def notes(error):
        return [n for n in error.value.__notes__ if n.startswith("In `")]

    for update in (tx.update, jax.jit(tx.update)):
        with raises(TypeError, "needs a state of its own kind") as error:
            update(PARAMS, state.inner_state, PARAMS)
        assert notes(error) == said
    with raises(TypeError, "`average_params`", "int32") as error:
        tx.init({"w": jnp.ones(2, jnp.int32)})
    assert notes(error) == said
    with raises(ValueError, "scale_by_dowg") as error:
        ox.dowg(eps=0)
    assert notes(error) == ["In `dowg(eps=0)`."]
    long = ox.chain(*[ox.clip(1.0) for _ in range(100)], ox.muon(0.1))
    with raises(ValueError, "no matrix") as error:
        long.init(PARAMS["b"])
    assert len(notes(error)[0]) < 320


def test_what_is_given_in_another_order_is_told_the_order():
    tx = ox.adam(0.1)
    with raises(
        ValueError, "`adam` got a state that is like the updates", "(updates, state"
    ):
        tx.update(PARAMS, PARAMS, tx.init(PARAMS))
    # A state may well be like the updates.
    total = ox.chain(ox.identity())
    assert total.update({}, total.init({}), {}) == ({}, {})

    with raises(
        ValueError, "`adam` got a state that is like the params", "(updates, state"
    ):
        tx.update(tx.init(PARAMS), PARAMS, PARAMS)


def test_ranges_that_are_texts_are_ranges_all_the_same():
    """As `from __future__ import annotations` makes them."""

    def rule(strength="NonNegative"):
        def made(b=0.9):
            return ox.scale(b)

        made.__annotations__ = {"b": strength, "return": "Nobody.Knows"}
        made.__globals__["NonNegative"] = ox.typing.NonNegative
        return ox.transformation(made)

    assert repr(rule()(0.5)) == "made(0.5)"
    with raises(ValueError, "`made(b=...)` must lie in [0, inf)"):
        rule()(-1.0)
    with raises(TypeError, "`made`", "'NonNegativ' of `b`", "cannot be read"):
        rule("NonNegativ")(0.5)


def test_a_shape_that_would_broadcast_is_refused_at_its_leaf():
    tx = ox.adam(0.1)
    with raises(ValueError, "shape (1, 3) for an array of shape (3,)", "leaf ['b']['c']"):
        wrong = {**PARAMS, "b": {"c": jnp.ones((1, 3))}}
        with jax.numpy_rank_promotion("allow"):  # As it is for most people.
            tx.update(wrong, tx.init(PARAMS))


def test_what_is_no_state_is_refused():
    tx = ox.adam(0.1)
    with raises(TypeError, "`eval_params(state, params)` takes a state", "adam(0.1)"):
        ox.eval_params(tx, PARAMS)
    with raises(TypeError, "`state_to_dict` needs arrays", ".init"):
        ox.state_to_dict(tx)
    state = jax.tree.map(lambda x: x.astype(jnp.float32), tx.init(PARAMS))
    with raises(TypeError, "`scale_by_momentum`", "count is an int32, but it is a float32"):
        tx.update(PARAMS, state, PARAMS)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (ox.constant_schedule, "Did you mean `constant_schedule(...)`?"),
        (lambda step: "fast", "got 'fast' from the schedule"),
    ],
)
def test_what_is_no_schedule_is_told_so(schedule, words):
    tx = ox.sgd(schedule)
    with raises(TypeError, "`scale_by_learning_rate` got", words):
        tx.update(PARAMS, tx.init(PARAMS))


def test_a_state_of_other_things_is_named_by_its_leaf():
    with raises(
        TypeError, "`adam` needs arrays, but the leaf [0] of the state is 'scale_by"
    ):
        ox.adam(0.1).update(PARAMS, list(ox.adam(0.1).init(PARAMS)), PARAMS)


def test_a_tensor_of_another_library_is_no_array():
    class Tensor:
        dtype = "torch.float32"
        shape = (3,)

    with raises(TypeError, "needs arrays, but the leaf ['w'] of the params is a Tensor"):
        ox.adam(0.1).init({"w": Tensor()})


# Every numeric argument of every factory, just outside of its interval and at NaN.


def outside(number):
    low, high = number.interval[1:-1].split(",")
    yield float("nan")
    if low.strip() != "-inf":
        yield float(low) - 1e-6
        if number.interval[0] == "(":
            yield float(low)
    else:
        yield float("-inf")
    if high.strip() not in ("inf", "inf]"):
        yield float(high) + 1e-6
        if number.interval[-1] == ")":
            yield float(high)
    elif number.interval[-1] == ")":
        yield float("inf")


def given(case):
    by_position = inspect.signature(case.make).bind_partial(*case.args).arguments
    return {**by_position, **case.kwargs}


FACTORIES = {case.make: case for case in catalogue.CASES}
SCHEDULE_ARGUMENTS = {
    ox.constant_schedule: {"value": 1.0},
    ox.polynomial_schedule: {
        "init_value": 1.0,
        "end_value": 0.0,
        "power": 2.0,
        "transition_steps": 10,
    },
    ox.linear_schedule: {"init_value": 1.0, "end_value": 0.0, "transition_steps": 10},
    ox.exponential_decay: {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5},
    ox.inverse_time_decay: {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5},
    ox.piecewise_constant_schedule: {"init_value": 1.0},
    ox.cosine_decay_schedule: {"init_value": 1.0, "decay_steps": 10},
    ox.cosine_restarts_schedule: {"init_value": 1.0, "first_decay_steps": 10},
    ox.warmup_schedule: {"schedule": 1.0, "warmup_steps": 10},
    ox.warmup_constant_schedule: {
        "init_value": 0.0,
        "peak_value": 1.0,
        "warmup_steps": 10,
    },
    ox.warmup_cosine_decay_schedule: {
        "init_value": 0.0,
        "peak_value": 1.0,
        "warmup_steps": 5,
        "decay_steps": 10,
    },
    ox.warmup_exponential_decay_schedule: {
        "init_value": 0.0,
        "peak_value": 1.0,
        "warmup_steps": 5,
        "transition_steps": 10,
        "decay_rate": 0.5,
    },
    ox.piecewise_interpolate_schedule: {"interpolate_type": "linear", "init_value": 1.0},
    ox.cosine_onecycle_schedule: {"transition_steps": 10, "peak_value": 1.0},
    ox.linear_onecycle_schedule: {"transition_steps": 10, "peak_value": 1.0},
}


REFUSED = [
    (make, arguments, name, value)
    for make, arguments in (
        *((make, given(case)) for make, case in FACTORIES.items()),
        *SCHEDULE_ARGUMENTS.items(),
    )
    for name, number in _checks.domains(make).items()
    for value in outside(number)
]


@pytest.mark.parametrize(
    ("make", "arguments", "name", "value"),
    REFUSED,
    ids=[f"{make.__name__}({name}={value})" for make, _, name, value in REFUSED],
)
def test_numbers_outside_of_their_interval_are_refused_by_name(
    make, arguments, name, value
):
    where = f"`{make.__name__}({name}=...)` must lie in "
    with raises(ValueError, where, f", but got {value}"):
        make(**{**arguments, name: value})


def test_messages_read_as_they_should():
    message = "`scale_by_momentum(decay=...)` must lie in [0, 1], but got 1.5."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ox.scale_by_momentum(1.5)
    message = "`adam(b1=...)` must lie in [0, 1), but got nan."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ox.adam(1e-3, b1=float("nan"))
    message = "`adam(eps=...)` must lie in [0, inf), but got -1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ox.adam(1e-3, eps=-1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ox.adam("fast"), ["`adam(learning_rate=...)`", "a number", "'fast'"]),
        (lambda: ox.adam(1e-3, b1=True), ["`adam(b1=...)`", "a number", "True"]),
        (lambda: ox.adam(1e-3, b1=None), ["`adam(b1=...)`", "a number", "None"]),
        (lambda: ox.adam(1e-3, b1=jnp.ones(3)), ["`adam(b1=...)`", "shape (3,)"]),
        (lambda: ox.adam(1e-3, b1=1j), ["`adam(b1=...)`", "a number", "1j"]),
        (lambda: ox.adam(1e-3, b1=lambda t: t), ["`adam(b1=...)`", "takes no schedule"]),
        (lambda: ox.adam(1e-3, beta1=0.9), ["no argument `beta1`", "mean `b1`?"]),
        (
            lambda: ox.adam(lr=1e-3),
            ["`adam` has no argument `lr`", "learning_rate, b1=0.9"],
        ),
        (
            lambda: ox.scale_by_rms(0.9, 1e-8, 0.0, True),
            ["`scale_by_rms(", "*, eps_in_sqrt"],
        ),
        (ox.adam, ["`adam(", "missing", "'learning_rate'"]),
        (lambda: ox.adam(1e-3, nesterov=1), ["`adam(nesterov=...)`", "True or False", "1"]),
        (lambda: ox.adam(1e-3, mu_dtype="int8"), ["`adam(mu_dtype=...)`", "float", "int8"]),
        (lambda: ox.adam(1e-3, mu_dtype="complex64"), ["mu_dtype", "real", "complex64"]),
        (lambda: ox.adam(1e-3, mu_dtype="nope"), ["`adam(mu_dtype=...)`", "'nope'"]),
        (lambda: ox.chain(ox.adam), ["`chain`", "argument 0", "mean `adam(...)`"]),
        (lambda: ox.chain([ox.scale(1.0)]), ["`chain`", "argument 0", "Put a `*`"]),
        (lambda: ox.stateless(3), ["`stateless(f=...)`", "function", "3"]),
        (lambda: ox.scale_by_schedule(0.1), ["step_size_fn", "function", "`scale`"]),
        (lambda: ox.add_noise(0.1, 0.1, "a"), ["`add_noise(key=...)`", "'a'"]),
        (lambda: ox.linear_schedule(1, 0, 2.5), ["transition_steps", "integer", "2.5"]),
    ],
    ids=lambda x: "" if callable(x) else " ".join(x),
)
def test_other_kinds_are_type_errors_that_say_what_was_wanted(call, words):
    with raises(TypeError, *words):
        call()


def test_no_other_argument_is_suggested_than_one_that_begins_alike():
    with raises(TypeError, "no argument `betas`") as error:
        ox.adam(1e-3, betas=(0.9, 0.999))
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: ox.scale_by_rms(amsgrad="max"),
            ["`scale_by_rms(amsgrad=...)`", "None, 'raw', 'corrected'", "'max'"],
        ),
        (
            lambda: ox.piecewise_interpolate_schedule("square", 1.0),
            ["`piecewise_interpolate_schedule(interpolate_type=...)`", "'linear'"],
        ),
        (
            lambda: ox.piecewise_constant_schedule(1.0, {-3: 0.5}),
            ["each step", "boundaries_and_scales", "at least 0", "-3"],
        ),
        (
            lambda: ox.piecewise_constant_schedule(1.0, {3: -0.5}),
            ["each scale", "boundaries_and_scales", "[0, inf)", "-0.5"],
        ),
        (lambda: ox.join_schedules([1.0], [3]), ["boundaries", "one fewer", "1 for 1"]),
        (lambda: ox.join_schedules([], []), ["boundaries", "one fewer", "0 for 0"]),
        (
            lambda: ox.join_schedules([1.0, 2.0, 3.0], [5, 3]),
            ["boundaries", "ascending", "[5, 3]"],
        ),
        (
            lambda: ox.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10),
            ["decay_steps", "exceed `warmup_steps` = 10", "10"],
        ),
        (
            lambda: ox.linear_schedule(1.0, 0.0, -1),
            ["transition_steps", "at least 0", "-1"],
        ),
        (lambda: ox.cosine_decay_schedule(1.0, 0), ["decay_steps", "at least 1", "0"]),
    ],
    ids=lambda x: "" if callable(x) else " ".join(x),
)
def test_other_values_are_value_errors_that_say_what_was_wanted(call, words):
    with raises(ValueError, *words):
        call()


# Trees.


def test_a_missing_leaf_is_named():
    tx = ox.adam(1e-3)
    with raises(ValueError, "`adam`", "lack leaf ['b']['c']"):
        tx.update({"w": PARAMS["w"], "b": {}}, tx.init(PARAMS), PARAMS)


def test_a_missing_leaf_is_named_also_without_params():
    tx = ox.adam(1e-3)
    with raises(ValueError, "`scale_by_momentum`", "the state", "lack leaf ['w']"):
        tx.update({"b": PARAMS["b"]}, tx.init(PARAMS))


def test_a_leaf_too_many_is_named():
    tx = ox.sgd(0.1)
    grads = {**PARAMS, "extra": jnp.ones(1)}
    with raises(ValueError, "`sgd`", "have leaf ['extra']", "missing in the params"):
        tx.update(grads, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("params", [PARAMS, None], ids=["params", "no params"])
def test_a_leaf_of_another_shape_is_named_with_both_shapes(params):
    tx = ox.adam(1e-3)
    grads = {**PARAMS, "w": jnp.ones((3, 2))}
    with raises(ValueError, "['w']", "(3, 2)", "(2, 3)"):
        tx.update(grads, tx.init(PARAMS), params)


def test_other_containers_are_described():
    tx = ox.sgd(0.1)
    with raises(ValueError, "`sgd`", "structure"):
        tx.update([jnp.ones(1)], tx.init((jnp.ones(1),)), (jnp.ones(1),))


def test_many_missing_leaves_are_counted():
    many = {f"p{i}": jnp.ones(1) for i in range(9)}
    tx = ox.sgd(0.1)
    with raises(ValueError, "['p1']", "and 3 more"):
        tx.update({"p0": many["p0"]}, tx.init(many), many)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (jnp.ones(3, jnp.int32), ["['n']", "int32", "replace them by None"]),
        (jnp.ones(3, bool), ["['n']", "bool"]),
        ("text", ["['n']", "a str"]),
        (print, ["['n']", "builtin_function"]),
    ],
    ids=["int32", "bool", "str", "function"],
)
def test_parameters_that_cannot_be_trained_are_named_at_init(leaf, words):
    for make in (ox.sgd, ox.adam):
        with raises(TypeError, *words, "the params"):
            make(0.1).init({"w": jnp.ones(3), "n": leaf})


@pytest.mark.parametrize("leaf", [jnp.ones(3, jnp.int32), "text"], ids=["int32", "str"])
def test_gradients_that_are_none_are_named(leaf):
    tx = ox.sgd(0.1)
    state = tx.init({"n": jnp.ones(3)})
    with raises(TypeError, "`sgd`", "the updates", "['n']"):
        tx.update({"n": leaf}, state)


def test_params_that_are_no_arrays_are_named_at_update():
    tx = ox.sgd(0.1)
    grads = {"w": jnp.ones(3), "f": jnp.ones(3)}
    with raises(TypeError, "`sgd`", "['f']", "the params", "builtin_function"):
        tx.update(grads, tx.init(grads), {"w": jnp.ones(3), "f": print})


def test_params_that_get_no_gradient_may_be_anything():
    # As in an Equinox module that was not filtered: its functions have no gradient.
    tx = ox.adamw(0.1)
    grads = {"w": jnp.ones(3), "f": None}
    updates, _ = tx.update(grads, tx.init(grads), {"w": jnp.ones(3), "f": print})
    assert updates["f"] is None
    assert ox.apply_updates({"w": jnp.ones(3), "f": print}, updates)["f"] is print


def test_float0_gradients_are_named():
    tx = ox.sgd(0.1)
    state = tx.init({"n": jnp.ones(3)})
    zero = np.zeros(3, jax.dtypes.float0)
    with raises(TypeError, "`sgd`", "['n']", "float0"):
        tx.update({"n": zero}, state)


# States, params and extra arguments.


def test_the_state_of_another_optimizer_is_recognised():
    grads = jnp.ones(3)
    with raises(TypeError, "`chain`", "scale_by_momentum", "another optimizer"):
        ox.adam(1e-3).update(grads, ox.sgd(0.1).init(grads))
    with raises(TypeError, "`chain`", "tuple", "another optimizer"):
        ox.adam(1e-3).update(grads, ())
    with raises(TypeError, "`scale_by_rms`", "`ScaleByRmsState`", "`EmaState`"):
        ox.scale_by_rms().update(grads, ox.ema(0.9).init(grads))


def test_the_state_of_other_params_is_recognised():
    tx = ox.adam(1e-3)
    with raises(ValueError, "`scale_by_momentum`", "(2,)", "the state", "(3,)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(3)))


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(ox.add_decayed_weights, 0.1),
        functools.partial(ox.add_l1_decay, 0.1),
        functools.partial(ox.soft_threshold, 0.1),
        functools.partial(ox.adamw, 0.1),
    ],
)
def test_missing_params_are_asked_for(make):
    tx = make()
    with raises(ValueError, "needs the current parameters", "state, params)"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_a_missing_extra_argument_is_asked_for():
    @ox.transformation
    def by_value():
        def update(updates, state, params=None, *, value, **extra):
            return ox.tree.leafwise(lambda u, *, v: u * v, updates, v=value), state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(ox.scale(1.0), by_value())
    grads = jnp.ones(3)
    with raises(TypeError, "`by_value` needs the argument `value`", "value=...)"):
        tx.update(grads, tx.init(grads))
    updates, _ = tx.update(grads, tx.init(grads), value=jnp.float32(3.0), other="text")
    np.testing.assert_array_equal(updates, [3.0, 3.0, 3.0])


def test_a_mask_that_does_not_fit_is_refused():
    tx = ox.adamw(1e-3, mask={"w": True})
    with raises(ValueError, "`add_decayed_weights`", "mask", "does not match"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_apply_updates_names_the_leaf():
    with raises(ValueError, "`apply_updates`", "['w']", "(6,)", "(2, 3)"):
        ox.apply_updates(PARAMS, {**PARAMS, "w": jnp.ones(6)})
    with raises(ValueError, "`apply_updates`", "lack leaf ['w']"):
        ox.apply_updates(PARAMS, {"b": PARAMS["b"]})


def test_integer_params_cannot_be_updated():
    with raises(TypeError, "`apply_updates`", "['n']", "int32"):
        ox.apply_updates({"n": jnp.ones(2, jnp.int32)}, {"n": jnp.ones(2)})


@pytest.mark.parametrize("make", [ox.sgd, ox.adam])
def test_a_subtree_in_the_place_of_a_leaf_is_described(make):
    grads, params = {"w": jnp.ones(3)}, {"w": {"a": jnp.ones(3)}}
    tx = make(0.1)
    with raises(ValueError, "for the leaf ['w']", "PyTreeDef", "in the params"):
        tx.update(grads, tx.init(params), params)
    with raises(ValueError, "`apply_updates`", "for the leaf ['w']"):
        ox.apply_updates(params, grads)


@pytest.mark.parametrize("make", [ox.sgd, ox.adam])
def test_a_gradient_for_nothing_is_named(make):
    tx, params = make(0.1), {"w": jnp.ones(3), "b": None}
    grads = {"w": jnp.ones(3), "b": jnp.ones(2)}
    with raises(ValueError, "for the leaf ['b']", "nothing (None)"):
        tx.update(grads, tx.init(params), params)


def test_a_schedule_that_gives_no_number_is_named():
    for bad in (lambda t: jnp.ones(3), lambda t: None, lambda t: [0.1]):
        tx = ox.sgd(bad)
        grads = jnp.ones(3)
        with raises(TypeError, "`scale_by_learning_rate`", "must give a number"):
            tx.update(grads, tx.init(grads))


def test_a_function_that_changes_shapes_is_no_transformation():
    tx = ox.stateless(lambda updates, params: jnp.ones(7))
    with raises(ValueError, "`stateless`", "(3,)", "(7,)"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_complex_gradients_of_real_params_are_refused():
    tx = ox.sgd(0.1)
    grads, params = {"w": jnp.ones(2, jnp.complex64)}, {"w": jnp.ones(2)}
    with raises(TypeError, "`sgd`", "complex updates", "['w']", "the params are real"):
        tx.update(grads, tx.init(params), params)
    momentum = ox.scale_by_momentum(0.9)
    with raises(TypeError, "`scale_by_momentum`", "complex", "float32"):
        momentum.update(grads, momentum.init(params))


def test_real_gradients_of_complex_params_keep_the_decay_whole():
    tx = ox.add_decayed_weights(0.1)
    params = jnp.asarray([1 + 10j], jnp.complex64)
    updates, _ = tx.update(jnp.ones(1), tx.init(params), params)
    np.testing.assert_allclose(updates, [1.1 + 1j], rtol=1e-6)


def test_integers_and_booleans_stay_python_for_rules_that_branch_on_them():
    @ox.transformation
    def flipping():
        def update(updates, state, params=None, *, flip=False, **extra):
            return (ox.tree.leafwise(jnp.negative, updates) if flip else updates), state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(flipping())
    g = jnp.ones(1)
    assert tx.update(g, tx.init(g), flip=True)[0] == -1
    assert tx.update(g, tx.init(g))[0] == 1
    assert tx.update(g, tx.init(g), step=2**40)[0] == 1


def test_a_rule_with_the_plain_signature_of_others_is_taken():
    @ox.transformation
    def negative():
        def update(updates, state, params=None):
            return ox.tree.leafwise(jnp.negative, updates), state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(negative())
    g = jnp.ones(1)
    assert tx.update(g, tx.init(g), value=1.0)[0] == -1


def wrong_rules():
    good_init, good_update = (lambda p: ox.EmaState(p, p)), (lambda u, s, p=None: (u, s))

    @ox.transformation(state=ox.EmaState)
    def mine(init, update):
        return ox.GradientTransformation(init, update)

    @ox.transformation
    def undeclared():
        return ox.GradientTransformation(good_init, good_update)

    @ox.transformation
    def nothing():
        pass

    g = jnp.ones(2)

    def step(init=good_init, update=good_update):
        tx = mine(init, update)
        return tx.update(g, tx.init(g))

    yield lambda: step(init=lambda p: (p,)), ["`init` of `mine`", "`tuple`", "`EmaState`"]
    yield (
        lambda: step(update=lambda u, s, p=None: (u, (s,))),
        ["`update` of `mine`", "`tuple`", "`EmaState`"],
    )
    yield lambda: step(update=lambda u, s, p=None: u), ["`update` of `mine`", "must return"]
    yield lambda: step(update=lambda u, s: (u, s)), ["must take `(updates, state, params"]
    yield lambda: undeclared().init(g), ["`init` of `undeclared`", "`EmaState`", "Declare"]
    yield nothing, ["`nothing` must return", "None"]
    yield (
        lambda: ox.tree.leafwise(lambda u, s: u, g, g),
        ["must return `(u, ...)` with 1 slots", "one"],
    )


@pytest.mark.parametrize("case", range(7))
def test_mistakes_in_a_rule_of_ones_own_are_named_at_once(case):
    call, words = list(wrong_rules())[case]
    with raises((TypeError, ValueError), *words):
        call()


def test_help_shows_a_legible_signature():
    import inspect

    text = str(inspect.signature(ox.adam)).replace("optimjax.base.", "")
    assert text == (
        "(learning_rate, b1=0.9, b2=0.999, eps=1e-08, eps_root=0.0, mu_dtype=None, *, "
        "nesterov=False) -> GradientTransformation"
    )
    text = str(inspect.signature(ox.exponential_decay))
    assert text.startswith("(init_value, transition_steps, decay_rate, ")


def test_options_on_an_alias_are_refused():
    @ox.transformation(smooths=True)
    def alias():
        return ox.chain(ox.scale(2.0))

    with raises(TypeError, "`alias`", "takes no options"):
        alias()


def test_apply_updates_adds_in_the_dtype_of_the_parameter():
    params = {"half": jnp.ones(1, jnp.bfloat16), "single": jnp.ones(1), "held": jnp.ones(1)}
    updates = {
        "half": jnp.full(1, 2.0**-7 + 2.0**-9),
        "single": jnp.ones(1, jnp.bfloat16),
        "held": None,
    }
    got = ox.apply_updates(params, updates)
    chex.assert_trees_all_equal_dtypes(got, params)
    # Rounded once: 1 + 2^-7 + 2^-9 is nearer to 1 + 2^-7.
    assert got["half"] == jnp.bfloat16(1 + 2.0**-7)
    assert got["single"] == 2
    assert got["held"] is params["held"]


# What a call costs, counted and not timed.


def test_a_plain_call_is_one_compiled_program_traced_once():
    traces = []

    @ox.transformation
    def counting():
        def update(updates, state, params=None, **extra):
            traces.append(1)
            return updates, state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(ox.scale(2.0), counting())
    grads = {"a": jnp.ones(3)}
    for _ in range(3):
        tx.update(grads, tx.init(grads))
    assert len(traces) == 1


def test_a_function_that_is_read_stays_python():
    seen = []

    @ox.transformation
    def reading():
        def update(updates, state, params=None, *, value_fn, **extra):
            seen.append(value_fn(2.0))
            return updates, state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(reading())
    grads = jnp.ones(3)
    for factor in (3.0, 5.0):  # Another function each time: nothing is cached.
        tx.update(grads, tx.init(grads), value_fn=lambda x, f=factor: x * f)
    assert seen == [6.0, 10.0]


def test_a_rule_is_traced_once_for_each_distinct_shape():
    shapes = []

    def rule(u):
        shapes.append(u.shape)
        return -u

    updates = {f"p{i}": jnp.ones(2 + i % 3) for i in range(30)}
    jax.jit(lambda u: ox.tree.leafwise(rule, u))(updates)
    assert sorted(shapes) == [(2,), (3,), (4,)]


@pytest.mark.parametrize("make", [ox.adam, functools.partial(ox.sgd, momentum=0.9)])
def test_hyperparameters_may_be_traced(make):
    grads, rates = jnp.asarray([1.0, -2.0]), jnp.asarray([0.1, 0.2, 0.4])

    def two_steps(rate):
        tx = make(rate)
        state = tx.init(grads)
        _, state = tx.update(grads, state)
        return tx.update(grads, state)[0]

    got = jax.vmap(two_steps)(rates)
    want = jnp.stack([two_steps(float(r)) for r in rates])
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_rate_has_a_derivative_through_many_steps():
    def loss_after(rate):
        tx, x = ox.adam(rate), jnp.asarray(3.0, rate.dtype)

        def step(carry, _):
            x, state = carry
            updates, state = tx.update(2 * x, state, x)
            return (ox.apply_updates(x, updates), state), None

        (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), None, length=10)
        return x**2

    with enable_x64():
        h = 1e-5
        want = (loss_after(jnp.float64(0.1 + h)) - loss_after(jnp.float64(0.1 - h))) / (
            2 * h
        )
        got = jax.grad(loss_after)(jnp.float64(0.1))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_every_decay_may_be_traced_and_be_zero():
    def total(b):
        tx = ox.adam(0.1, b1=b, b2=b)
        grads = jnp.asarray([1.0, -2.0])
        updates, _ = tx.update(grads, tx.init(grads))
        return jnp.sum(updates**2)

    value, slope = jax.value_and_grad(total)(0.0)
    np.testing.assert_allclose(value, total(0.0), rtol=1e-5)
    assert jnp.isfinite(slope)


# What is shown.


@pytest.mark.parametrize(
    ("tx", "text"),
    [
        (ox.adam(1e-3), "adam(0.001)"),
        (ox.adam(learning_rate=0.1, b2=0.99), "adam(learning_rate=0.1, b2=0.99)"),
        (ox.muon(0.1, axes="oi"), "muon(0.1, axes='oi')"),
        (ox.chain(), "chain()"),
        (
            ox.chain(
                ox.clip(1.0), ox.sgd(ox.cosine_decay_schedule(0.1, 100), momentum=0.9)
            ),
            "chain(clip(1.0), sgd(cosine_decay_schedule(0.1, 100), momentum=0.9))",
        ),
        (ox.scale_by_momentum(dtype=jnp.bfloat16), "scale_by_momentum(dtype='bfloat16')"),
        (ox.scale_by_schedule(jnp.sin), "scale_by_schedule(sin)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_repr_is_the_expression_that_made_it(tx, text):
    assert repr(tx) == text


def test_a_pair_made_by_hand_shows_its_functions():
    assert "init=" in repr(ox.GradientTransformation(lambda p: (), lambda u, s: (u, s)))


def test_numpy_params_in_double_precision_are_taken_in_single():
    p = np.ones(3)  # float64, which JAX has only where it is enabled.
    for make in (ox.adam, ox.adafactor, ox.sm3, ox.novograd, ox.madgrad):
        tx = make(0.1)
        u, _ = tx.update(jnp.ones(3), tx.init(p), p)
        assert u.dtype == jnp.float32


def test_a_schedule_with_an_if_of_python_is_named():
    def rate(step):
        return 0.1 if step < 3 else 0.01

    tx = ox.sgd(rate)
    with raises(TypeError, "cannot compile the schedule", "rate", "jnp.where"):
        tx.update(PARAMS, tx.init(PARAMS))
