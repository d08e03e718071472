"""What is peculiar to working on many small leaves as on one."""

import re

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stepping import nbytes

import optimjax as ox

# Runs of one shape, a shape of its own, a scalar, a leaf too large, a hole, another dtype.
PARAMS = {
    "layers": [
        {"w": jnp.full((2, 3), 0.1 * i), "b": jnp.full(3, -0.2 * i)} for i in range(7)
    ],
    "large": jnp.linspace(-1.0, 1.0, 50),
    "scale": jnp.float32(1.5),
    "nothing": None,
    "half": [jnp.ones(4, jnp.bfloat16), jnp.full((2, 2), 2.0, jnp.bfloat16)],
}
PARAMS = jax.tree.map(lambda p: p.astype(p.dtype), PARAMS)  # Not weakly typed.
# A rounding to bfloat16 that tips is seen by all that looks at the params again.
SINGLE = {**PARAMS, "half": None}
PACKABLE = [c for c in catalogue.CASES if not getattr(c().update, "by_leaf", ("?",))]
OTHERS = [c for c in catalogue.ONE_EACH if c not in PACKABLE]


def packed(tx):
    return ox.pack_small_leaves(tx, max_size=10)


def steps(tx, params=PARAMS, number=4, extra=None, missing=()):
    """The params after each step."""
    rng = np.random.default_rng(3)
    all_grads = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        for _ in range(number)
    ]
    for grads in all_grads:
        for name in missing:
            grads[name] = jax.tree.map(lambda _: None, grads[name])

    @jax.jit
    def run(params):
        state, after = tx.init(params), []
        for grads in all_grads:
            updates, state = tx.update(grads, state, params, **(extra or {}))
            params = ox.apply_updates(params, updates)
            after.append(params)
        return after

    return run(params)


def assert_same(got, want, tolerance=2e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        size = np.abs(np.asarray(b, np.float64)).max(initial=1e-3)
        # A sum that is rounded otherwise may tip the rounding of a parameter.
        loose = 2.0**-7 if b.dtype == jnp.bfloat16 else tolerance
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=0, atol=loose * size
        )


OFTEN = (ox.adamw, ox.sgd, ox.lion, ox.rmsprop, ox.radam, ox.adopt)
WHOLE = [
    c
    for c in catalogue.ONE_EACH
    if c.make in OFTEN or (c in catalogue.PARTS and not catalogue.is_stage(c))
]


@pytest.mark.parametrize("case", catalogue.quick_for(WHOLE, PACKABLE))
def test_packing_changes_no_number(case):
    assert_same(*(steps(tx, SINGLE, extra=case.extra) for tx in (packed(case()), case())))


@pytest.mark.parametrize("make", [lambda: ox.adamw(0.1), lambda: ox.lion(0.1)])
def test_each_dtype_has_its_buffer(make):
    assert_same(*(steps(tx) for tx in (packed(make()), make())))
    state = packed(ox.sgd(1.0, momentum=0.9)).init(PARAMS)
    buffers = state.inner_state["scale_by_momentum"].momentum["packed"]
    assert {k: (x.dtype.name, x.shape) for k, x in buffers.items()} == {
        "float32": ("float32", (7 * 9 + 1,)),
        "bfloat16": ("float32", (8,)),
    }


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_what_may_look_at_leaves_is_refused_by_name(case):
    with pytest.raises(TypeError, match=r"^`pack_small_leaves` is for rules that .* but `"):
        packed(case())


@pytest.mark.parametrize(
    "looks",
    [
        lambda: ox.lars(0.1),
        ox.scale_by_novograd,
        ox.centralize,
        lambda: ox.clip_by_block_rms(0.1),
        lambda: ox.chain(ox.scale_by_momentum(0.9), ox.cautious()),
        lambda: ox.scale_by_dog(("distance", 1.0), layerwise=True),
    ],
)
def test_the_refusal_is_needed(looks):
    tx = looks()
    object.__setattr__(tx.update, "by_leaf", ())
    got, want = steps(packed(tx)), steps(looks())
    with pytest.raises(AssertionError):
        assert_same(got, want, tolerance=1e-3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ox.adamw(0.1, mask=["**/w"]), "add_decayed_weights"),
        (lambda: ox.chain(ox.clip(1.0), ox.lamb(0.1)), "scale_by_trust_ratio"),
        (lambda: ox.masked(ox.adam(0.1), "**/w"), "masked"),
        (lambda: ox.accumulate(ox.muon(0.1), 2), "on_matrices"),
        (lambda: ox.chain(optax.scale_by_adam(), ox.scale(-0.1)), "scale_by_adam"),
    ],
)
def test_the_stage_that_stands_in_the_way_is_named(make, name):
    with pytest.raises(TypeError, match=re.escape(f"`{name}`")):
        packed(make())


def test_within_a_mask_and_beside_what_looks_at_leaves():
    beside = lambda wrap: ox.chain(
        ox.adaptive_grad_clip(0.1), wrap(ox.scale_by_adam()), ox.scale_by_trust_ratio()
    )
    assert_same(steps(beside(packed)), steps(beside(lambda tx: tx)))
    within = lambda wrap: ox.masked(wrap(ox.adam(0.1)), ["**/w", "half/*"])
    assert_same(steps(within(packed)), steps(within(lambda tx: tx)))


def test_the_gradient_that_later_stages_see_is_whole():
    later = lambda wrap: ox.chain(wrap(ox.scale_by_momentum(0.9)), ox.scale_by_rms(0.9))
    assert_same(steps(later(packed)), steps(later(lambda tx: tx)))
    later = lambda wrap: ox.chain(wrap(ox.scale(3.0)), ox.scale_by_rms(0.9))
    assert_same(steps(later(packed)), steps(later(lambda tx: tx)))


@pytest.mark.parametrize(
    "make",
    [lambda: ox.adamw(0.1), pytest.param(lambda: ox.lion(0.1), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("missing", [("scale",), ("scale", "large"), ("layers",)])
def test_leaves_without_a_gradient_stay_what_they_are(make, missing):
    before = ox.add_decayed_weights(0.1), ox.clip_by_global_norm(1.0)
    want = steps(ox.chain(*before, make()), SINGLE, missing=missing)
    for tx in (ox.chain(*before, packed(make())), packed(ox.chain(*before, make()))):
        assert_same(steps(tx, SINGLE, missing=missing), want)


def test_the_moments_of_what_has_no_gradient_are_kept():
    tx, params = packed(ox.sgd(1.0, momentum=0.5)), {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    _, state = tx.update({"a": jnp.ones(2), "b": None}, state, params)
    momentum = state.inner_state["scale_by_momentum"].momentum["packed"]["float32"]
    np.testing.assert_allclose(momentum, [1.5, 1.5, 1.0, 1.0, 1.0])


def test_state_is_a_few_buffers():
    many = {str(i): jnp.ones(5) for i in range(400)} | {"large": jnp.ones(11)}
    state = packed(ox.adam(0.1)).init(many)
    # Two moments, each a buffer and the large leaf; a count of each of four stages.
    assert len(jax.tree.leaves(state.inner_state)) == 2 * 2 + 4
    assert len(state.starts["float32"]) == 20
    assert nbytes(state.inner_state) == 2 * 4 * 2011


def test_few_programs_are_compiled_for_many_leaves():
    """Of n leaves of one shape, about sqrt(n) different cuts; not n."""
    many = {str(i): jnp.ones(5) for i in range(100)}
    tx = ox.pack_small_leaves(ox.sgd(0.1))
    step = ox.compiled_step(tx)
    text = step.lower(many, tx.init(many), many).compile().as_text()
    bodies = re.findall(r"^%fused_computation\S* .*?\{\n(.*?)^\}", text, re.M | re.S)
    plain = {re.sub(r"(metadata=\{[^}]*\}|%?[\w\-]+\.\d+|%[\w\-]+)", "", b) for b in bodies}
    assert len(bodies) >= 100
    assert len(plain) < 30


def test_dtypes_of_gradients_may_differ_from_those_of_params():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
    grads = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.float16)}
    for tx in (packed(ox.adam(0.1)), ox.adam(0.1)):
        updates, _ = tx.update(grads, tx.init(params), params)
        assert (updates["a"].dtype, updates["b"].dtype) == (jnp.float32, jnp.float32)
        np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-6)


def test_it_needs_the_params():
    tx, params = packed(ox.sgd(0.1)), {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="`pack_small_leaves` needs the current"):
        tx.update(params, tx.init(params))


def test_one_leaf_and_none_at_all():
    for params in (jnp.ones(3), {}, {"a": None}, {"a": jnp.ones(2)}):
        tx = packed(ox.adam(0.1))
        updates, state = tx.update(params, tx.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert state.starts == {}


def test_params_that_something_around_it_widens_are_refused_with_the_way_out():
    """`in_turn` shows its second step the params as they are before they are rounded."""
    params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)}
    tx = ox.in_turn(ox.scale(-0.1), ox.pack_small_leaves(ox.sgd(0.1)))
    with pytest.raises(ValueError, match=r"^`pack_small_leaves` got params.*\['float32'\]"):
        tx.update(params, tx.init(params), params)
    inside = ox.pack_small_leaves(ox.in_turn(ox.scale(-0.1), ox.sgd(0.1)))
    updates, _ = inside.update(params, inside.init(params), params)
    np.testing.assert_allclose(np.float32(updates["w"]), -0.2, rtol=1e-2)
