"""The laws of every transformation, over every case of the catalogue.

Each law is a function of `optimjax.testing`, where it says what it asks for.
"""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import optimjax as ox
from optimjax.testing import LAWS, check_transformation

# One tree with something of everything: a matrix, a vector, a scalar, no parameter.
RICH = {
    "w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3),
    "b": (jnp.linspace(0.5, 2.0, 3), None, jnp.float32(-1.5)),
}
TREES = {
    "scalar": jnp.float32(2.0),
    "empty": {},
    "no numbers and mixed dtypes": [
        jnp.ones((0, 2)),
        jnp.ones((2, 1), jnp.bfloat16),
        jnp.ones(2),
        jnp.ones(2, jnp.float16),
    ],
}
COMPLEX = {"w": jnp.asarray([[1 + 2j, -1j], [0.5, 3]], jnp.complex64), "b": jnp.ones(2)}
QUICK = [
    "updates_keep_structure_shapes_and_dtypes",
    "state_keeps_its_signature",
    "nothing_given_is_changed",
    "zero_gradients_give_finite_updates",
]


OTHERS = [case for case in catalogue.CASES if case not in catalogue.ONE_EACH]
PARTS = catalogue.PARTS
# What takes long, and holds of a chain if it does of its parts.
OF_PARTS = {
    "derivatives_at_zero_are_finite",
    "compiling_changes_nothing",
    "batching_is_a_loop",
    "state_passes_through_control_flow",
    "the_second_step_does_not_compile",
    "identities_change_nothing",
    "missing_gradients_are_left_out",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_quick_laws_hold_for_other_settings(case):
    with jax.disable_jit():  # There are many, and their like is compiled below.
        check_transformation(case(), RICH, laws=QUICK, **case.extra)


# What arithmetic on arrays keeps by itself: asked of stages only when all tests are run.
OF_COMBINATORS = {
    "batching_is_a_loop",
    "compiling_changes_nothing",
    "identities_change_nothing",
    "state_passes_through_control_flow",
    "the_second_step_does_not_compile",
}


# And what the lift keeps for stages, and their arithmetic for combinators.
OF_THE_LIFT = {"missing_gradients_are_left_out"}
OF_STAGES = {"derivatives_at_zero_are_finite"}


def law_of(case, law):
    """An alias keeps them all if its parts do: that is asked when there is time."""
    stage = catalogue.is_stage(case)
    slow = case not in PARTS or (law in OF_PARTS and case in catalogue.HEAVY)
    slow |= law in (OF_COMBINATORS | OF_THE_LIFT if stage else OF_STAGES)
    return pytest.param(
        case, law, id=f"{case}-{law}", marks=[pytest.mark.slow] if slow else []
    )


def tree_of(case, tree):
    """A tree for a case; parts see other trees in their oracles, too."""
    slow = case in catalogue.HEAVY or tree != "empty"
    return pytest.param(
        case, tree, id=f"{tree}-{case}", marks=[pytest.mark.slow] if slow else []
    )


# Of params that are not on the mesh yet, the first step makes ones that are.
NOT_ASKED = {(ox.spread_matrices, "the_second_step_does_not_compile")}
DERIVED = {"derivatives_at_zero_are_finite"}
MADE = {}  # Once for all laws, so that what they have in common is compiled once.


CASES = [
    law_of(case, law)
    for case in catalogue.ONE_EACH
    for law in LAWS
    if (law not in OF_PARTS or case in PARTS) and (case.make, law) not in NOT_ASKED
]


@pytest.mark.parametrize(("case", "law"), CASES)
def test_law(case, law):
    if id(case) not in MADE:
        MADE[id(case)] = case()
    # Derivatives take long to compile, and of a stage no leaf knows of the others.
    params = {"w": RICH["w"]} if law in DERIVED and catalogue.is_stage(case) else RICH
    LAWS[law](MADE[id(case)], params, **case.extra)


@pytest.mark.parametrize(
    ("case", "tree"), [tree_of(case, tree) for tree in TREES for case in catalogue.ONE_EACH]
)
def test_laws_of_structure_hold_for_other_trees(case, tree):
    if case.matrix and tree == "scalar":
        with pytest.raises(ValueError, match="has no matrix"):
            case().init(TREES[tree])
        return
    with jax.disable_jit():
        check_transformation(case(), TREES[tree], laws=QUICK, **case.extra)


@pytest.mark.parametrize("case", [*map(catalogue.timed, PARTS)])
def test_complex_leaves_work_or_are_refused_at_init(case):
    if case.supports_complex:
        with jax.disable_jit():
            check_transformation(case(), COMPLEX, laws=QUICK, **case.extra)
    else:
        with pytest.raises(TypeError, match=r"cannot take complex .*\['w'\].*complex64"):
            case().init(COMPLEX)


# Those of combinators are of what is inside.
@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in PARTS if c.supports_complex and not c.whole])
def test_derivatives_at_zero_of_complex_leaves_are_finite(case):
    laws = ["derivatives_at_zero_are_finite"]
    check_transformation(case(), COMPLEX, laws=laws, **case.extra)


RANDOM = catalogue.NOISY | catalogue.ESTIMATING


@pytest.mark.slow  # Their oracles take complex numbers, too.
@pytest.mark.parametrize(
    "case",
    [catalogue.timed(c) for c in PARTS if c.supports_complex and c.make not in RANDOM],
)
def test_complex_rules_prefer_no_direction(case):
    """Turning gradients and parameters by a phase turns the updates by it."""
    rng = np.random.default_rng(5)
    grads, params = rng.normal(size=(2, 6, 2, 3)) + 1j * rng.normal(size=(2, 6, 2, 3))
    tx = case()

    @jax.jit
    def run(grads, params):
        def step(state, x):
            updates, state = tx.update(x[0], state, x[1], **case.extra)
            return state, updates

        return jax.lax.scan(step, tx.init(params[0]), (grads, params))[1]

    turn = np.exp(1j)
    got = run(np.complex64(turn * grads), np.complex64(turn * params))
    want = turn * run(np.complex64(grads), np.complex64(params))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


AROUND = [c for c in PARTS if not catalogue.is_stage(c) and c not in catalogue.HEAVY]


@pytest.mark.parametrize("case", catalogue.quick_for(AROUND, PARTS))
def test_float64_leaves_keep_float64_state_where_enabled(case):
    with enable_x64(), jax.disable_jit():
        params = {"w": jnp.ones((2, 3), jnp.float64), "b": jnp.ones(3, jnp.float32)}
        check_transformation(case(), params, laws=QUICK, **case.extra)
        floats = [
            x
            for x in jax.tree.leaves(case().init(params))
            if jnp.ndim(x) > 0 and x.size == 6
        ]
        assert all(x.dtype == jnp.float64 for x in floats)


class Broken:
    """Transformations that break one law each; the check has to find it."""

    @staticmethod
    def of(update, init=lambda params: jax.tree.map(jnp.zeros_like, params)):
        return ox.GradientTransformation(init, update)


def half_precision_drift(updates, state, params=None, **extra):
    state = jax.tree.map(lambda s, u: s.astype(u.dtype) + u, state, updates)
    return updates, state


def undefined_at_zero(updates, state, params=None, **extra):
    return jax.tree.map(lambda u: u / jnp.abs(u), updates), state


def refuses_extras(updates, state, params=None):
    return updates, state


def returns_weak_types(updates, state, params=None, **extra):
    return updates, jax.tree.map(lambda s: 1.0, state)


BROKEN = {
    "dtypes_hold_whatever_the_precisions": Broken.of(half_precision_drift),
    "zero_gradients_give_finite_updates": Broken.of(undefined_at_zero),
    "unknown_extras_are_ignored": Broken.of(refuses_extras),
    "state_keeps_its_signature": Broken.of(returns_weak_types),
    "a_fresh_state_can_be_donated": Broken.of(
        lambda u, s, p=None, **extra: (u, s), init=lambda params: (params, params)
    ),
    "missing_gradients_are_left_out": Broken.of(
        lambda u, s, p=None, **extra: (jax.tree.map(lambda a, b: a, u, p), s)
    ),
    "init_needs_no_values": Broken.of(
        lambda u, s, p=None, **extra: (u, s),
        init=lambda params: float(jax.tree.leaves(params)[0].sum()),
    ),
}


# Those in whose arithmetic infinity meets zero, or infinity, unless they see to it.
OVERFLOWING = {
    ox.scale_by_yogi,
    ox.compensate_delay,
    ox.scale_by_shampoo,
    ox.in_eigenbasis,
    ox.ftrl,
    ox.momo,
    ox.mechanize,
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=str(case), marks=[] if case.make in OVERFLOWING else [pytest.mark.slow]
        )
        for case in catalogue.CASES
        if not case.searching
    ],
)
def test_finite_gradients_whose_squares_are_not_give_no_nan(case):
    tx = case()
    rng = np.random.default_rng(0)
    params = {k: jnp.float32(rng.normal(size=(n, 3))) for k, n in (("w", 4), ("v", 3))}
    state = tx.init(params)
    for size in (1e20, 1e20, 1.0, 1.0):
        grads = jax.tree.map(
            lambda p, size=size: jnp.float32(size * rng.uniform(-1, 1, p.shape)), params
        )
        updates, state = tx.update(grads, state, params, **case.extra)
        floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
        for x in [*jax.tree.leaves(updates), *floats]:
            assert not np.isnan(x).any()
        if case.whole:
            params = ox.apply_updates(params, updates)


@pytest.mark.parametrize("law", BROKEN)
def test_the_check_finds_a_broken_law_and_names_it(law):
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    with pytest.raises(AssertionError, match=rf"breaks .*law.*\n(.|\n)*- {law}: "):
        check_transformation(BROKEN[law], params)


def test_the_check_passes_a_transformation_from_outside():
    @ox.transformation
    def flip():
        def update(updates, state, params=None, **extra):
            return jax.tree.map(lambda u: -u, updates), state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    check_transformation(flip(), {"w": jnp.ones(3)})


def test_the_check_folds_what_has_one_cause():
    broken = Broken.of(lambda u, s, p=None, **extra: (u, s), init=lambda params: 1 / 0)
    with pytest.raises(
        AssertionError, match="For the same reason as updates_keep"
    ) as error:
        check_transformation(broken, {"w": jnp.ones(3)})
    assert str(error.value).count("division by zero") == 1


def test_the_check_says_what_it_takes():
    with pytest.raises(TypeError, match=r"Did you mean `adam\(\.\.\.\)`\?"):
        check_transformation(ox.adam, jnp.ones(3))
    with pytest.raises(ValueError, match=r"no law \['donate'\]; there are \['updates_keep"):
        check_transformation(ox.adam(0.1), jnp.ones(3), laws=["donate"])


def test_the_check_can_be_asked_for_single_laws():
    check_transformation(
        BROKEN["unknown_extras_are_ignored"],
        {"w": jnp.ones(3)},
        laws=["updates_keep_structure_shapes_and_dtypes"],
    )
    with pytest.raises(AssertionError, match="breaks 1 law"):
        check_transformation(
            BROKEN["unknown_extras_are_ignored"],
            {"w": jnp.ones(3)},
            laws="unknown_extras_are_ignored",
        )
