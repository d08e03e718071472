"""Who is updated by what: `masked`, `partition`, `freeze`."""

import dataclasses
import functools
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax.testing import gradients_like


class Block(NamedTuple):
    kernel: Any
    bias: Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["blocks", "head"], meta_fields=[]
)
@dataclasses.dataclass
class Model:
    blocks: list[Block]
    head: dict[str, Any]


def ones(*shape):
    return jnp.linspace(-1.0, 2.0, int(np.prod(shape))).reshape(shape)


PARAMS = Model(
    [Block(ones(2, 3), ones(3)), Block(ones(3, 3), None)],
    {"kernel": ones(3, 1), "bias": ones(1)},
)
ADAM = functools.partial(ox.adam, 0.1)


def same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert jax.tree.structure(got) == jax.tree.structure(want)


def run(tx, params=PARAMS, steps=4, **extra):
    """The updates of some steps, and the last state."""
    grads = [gradients_like(params, seed) for seed in range(steps)]
    stacked = jax.tree.map(lambda *gs: jnp.stack(gs), *grads)

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p, **extra)
        return (ox.apply_updates(p, updates), state), updates

    (_, state), updates = jax.lax.scan(step, (params, tx.init(params)), stacked)
    return updates, state


def size(state):
    return sum(x.size for x in jax.tree.leaves(state))


def test_each_part_of_a_partition_is_what_it_is_alone():
    groups = {
        "blocks/**": ox.chain(ox.clip_by_global_norm(0.5), ADAM()),
        "**/bias": ox.sgd(0.1, momentum=0.9),
        "**": ox.adamw(0.1, weight_decay=0.1),
    }
    got, state = run(ox.partition(groups))
    alone = {
        "blocks/**": PARAMS.blocks,
        "**/bias": [PARAMS.head["bias"]],
        "**": [PARAMS.head["kernel"]],
    }
    want = {}
    for label, part in alone.items():
        # The gradients of a part are those that it has in the whole.
        of_part = {
            "blocks/**": lambda g: g.blocks,
            "**/bias": lambda g: [g.head["bias"]],
            "**": lambda g: [g.head["kernel"]],
        }[label]
        tx, p = groups[label], part

        def step(carry, g, tx=tx):
            p, s = carry
            u, s = tx.update(g, s, p)
            return (ox.apply_updates(p, u), s), u

        grads = [of_part(gradients_like(PARAMS, seed)) for seed in range(4)]
        grads = jax.tree.map(lambda *gs: jnp.stack(gs), *grads)
        _, want[label] = jax.lax.scan(step, (p, tx.init(p)), grads)
    same(got.blocks, want["blocks/**"])
    same(got.head, {"bias": want["**/bias"][0], "kernel": want["**"][0]})
    # The state is that of the parts, and has no place for anything else.
    assert size(state) == sum(size(groups[k].init(part)) for k, part in alone.items())


def test_a_norm_inside_of_a_part_is_that_of_the_part():
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([30.0, 40.0])}
    tx = ox.partition({"a": ox.clip_by_global_norm(1.0), "b": ox.clip_by_global_norm(5.0)})
    updates, _ = tx.update(params, tx.init(params))
    np.testing.assert_allclose(updates["a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [3.0, 4.0], rtol=1e-6)


SAME_PARTS = {
    "patterns": (lambda a, b: {"**/bias": a, "**": b}, None),
    "labels": (
        lambda a, b: {"a": a, "b": b},
        lambda path, leaf: "a" if path.endswith("bias") else "b",
    ),
    "booleans": (
        lambda a, b: {True: a, False: b},
        lambda path, leaf: path.endswith("bias"),
    ),
    "numbers": (
        lambda a, b: {1: a, 0: b},
        lambda path, leaf: np.int64(path.endswith("bias")),
    ),
    "a tree": (
        lambda a, b: {"a": a, "b": b},
        Model([Block("b", "a"), Block("b", None)], {"kernel": "b", "bias": "a"}),
    ),
    "a function of the params": (
        lambda a, b: {"a": a, "b": b},
        lambda params: Model(
            [Block("b", "a"), Block("b", None)], {"kernel": "b", "bias": "a"}
        ),
    ),
}


@pytest.mark.parametrize("how", SAME_PARTS)
def test_however_the_parts_are_said_the_updates_are_the_same(how):
    groups, labels = SAME_PARTS[how]
    got, _ = run(ox.partition(groups(ox.sgd(0.5, 0.9), ADAM()), labels))
    biases = ox.chain(ox.masked(ox.sgd(0.5, 0.9), "**/bias"), ox.masked(ADAM(), "!**/bias"))
    same(got, run(biases)[0])


def test_masked_leaves_the_rest_as_it_is():
    updates, state = run(ox.masked(ADAM(), "head/**"))
    grads = [gradients_like(PARAMS, seed) for seed in range(4)]
    same(updates.blocks, jax.tree.map(lambda *gs: jnp.stack(gs), *grads).blocks)
    want = run(ox.chain(ADAM(), ox.scale(1.0)))[0]
    same(updates.head, want.head)
    moments = state.inner_state["scale_by_rms"].nu
    assert jax.tree.map(jnp.shape, moments) == {"head": {"bias": (1,), "kernel": (3, 1)}}


def test_what_is_chosen_from_the_updates_is_chosen_from_the_gradient_of_a_chain():
    # Smoothed where it is masked, and the raw gradient in the second moment everywhere.
    params = {"w": ones(3), "b": ones(2)}
    mixed = ox.chain(ox.masked(ox.scale_by_momentum(0.9), "w"), ox.scale_by_rms(0.99))
    got, _ = run(mixed, params)
    smoothed = ox.chain(ox.scale_by_momentum(0.9), ox.scale_by_rms(0.99))
    same(got["w"], run(smoothed, params)[0]["w"])
    same(got["b"], run(ox.scale_by_rms(0.99), params)[0]["b"])
    # After what does not smooth, the gradient is what came out of it.
    mixed = ox.chain(ox.masked(ox.scale(3.0), "w"), ox.scale_by_rms(0.99, eps=0.0))
    got, _ = run(mixed, params)
    np.testing.assert_allclose(
        got["w"], run(ox.scale_by_rms(0.99, eps=0.0), params)[0]["w"], rtol=1e-6
    )
    # And a part that reads the gradient of the chain is given its own leaves of it.
    inside = ox.chain(ox.scale_by_momentum(0.9), ox.masked(ox.scale_by_rms(0.99), "w"))
    got, _ = run(inside, params)
    same(got["w"], run(smoothed, params)[0]["w"])
    same(got["b"], run(ox.scale_by_momentum(0.9), params)[0]["b"])


def test_what_is_chosen_from_the_updates_is_chosen_from_trees_among_the_arguments():
    seen = {}

    @ox.transformation
    def spy():
        def update(updates, state, params=None, *, tree, value, grad, **extra):
            seen.update(tree=tree, value=value, grad=grad, params=params)
            return updates, state

        return ox.GradientTransformation(lambda params: ox.EmptyState(), update)

    tx = ox.chain(ox.scale(2.0), ox.partition({"head/bias": spy(), "**": ox.scale(1.0)}))
    grads = gradients_like(PARAMS)
    with jax.disable_jit():
        tx.update(grads, tx.init(PARAMS), PARAMS, tree=PARAMS, value=3.0)
    assert seen["value"] == 3.0
    for got, whole in (("tree", PARAMS), ("params", PARAMS), ("grad", grads)):
        same(seen[got], {"head": {"bias": whole.head["bias"]}})


def test_cautious_and_sparse_updates_work_within_a_part():
    cautious = ox.chain(ADAM(), ox.cautious(flip_sign=True))
    got, _ = run(ox.partition({"head/**": cautious, "**": ADAM()}))
    same(got.head, run(cautious)[0].head)
    same(got.blocks, run(ADAM())[0].blocks)
    p = jnp.array([1.0, -2.0, 0.5])
    same(run(ox.partition({"w": cautious}), {"w": p})[0]["w"], run(cautious, p)[0])
    present = {"w": jnp.array([True, False, True]), "b": jnp.array([True])}
    tx = ox.partition({"w": ox.sparsely(ADAM()), "b": ADAM()})
    updates, _ = run(tx, {"w": p, "b": p[:1]}, present=present)
    assert (updates["w"][:, 1] == 0).all()
    assert (updates["w"][:, 0] != 0).all()


def test_routing_nests():
    tx = ox.masked(
        ox.partition({"head/**": ox.masked(ADAM(), "**/bias"), "**": ox.sgd(1.0)}),
        lambda path, leaf: path.endswith("bias"),
    )
    updates, state = run(tx)
    grads = [gradients_like(PARAMS, seed) for seed in range(4)]
    grads = jax.tree.map(lambda *gs: jnp.stack(gs), *grads)
    same(updates.blocks[0].kernel, grads.blocks[0].kernel)
    same(updates.head["kernel"], grads.head["kernel"])
    same(updates.blocks[0].bias, -grads.blocks[0].bias)
    same(updates.head["bias"], run(ADAM())[0].head["bias"])
    assert size(state) == size(ADAM().init(PARAMS.head["bias"])) + 1


def test_a_mask_is_asked_at_init_alone_and_once_for_each_leaf():
    asked = []

    def mask(path, leaf):
        asked.append((path, leaf.shape))
        return leaf.ndim > 1

    tx = ox.chain(
        ox.masked(ADAM(), mask), ox.partition({True: ADAM(), False: ADAM()}, mask)
    )
    run(tx, steps=2)
    want = [
        ("blocks/0/kernel", (2, 3)),
        ("blocks/0/bias", (3,)),
        ("blocks/1/kernel", (3, 3)),
        ("head/bias", (1,)),
        ("head/kernel", (3, 1)),
    ]
    assert asked == 2 * want


def test_the_parts_are_those_of_init_whatever_the_gradients_are():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = ox.partition({True: ox.sgd(1.0), False: ox.scale(1.0)}, lambda p, x: x.ndim > 1)
    state = tx.init(params)
    # No gradient for one, for a whole part, for all.
    for missing in ({"b"}, {"w"}, {"w", "b"}):
        grads = {k: None if k in missing else 2 * p for k, p in params.items()}
        updates, state = tx.update(grads, state, params)
        assert {k for k, u in updates.items() if u is None} == missing
        if "w" not in missing:
            same(updates["w"], jnp.full((2, 2), -2.0))


def test_a_whole_branch_may_have_no_gradient():
    params = {"a": {"w": jnp.ones(2), "v": jnp.ones(1)}, "b": jnp.ones(2)}
    for tx in (
        ox.partition({"a/**": ADAM(), "b": ox.sgd(1.0)}),
        ox.chain(ox.masked(ADAM(), "a/**"), ox.masked(ox.sgd(1.0), "b")),
    ):
        grads = {"a": None, "b": jnp.ones(2)}
        updates, state = tx.update(grads, tx.init(params), params)
        assert updates["a"] is None
        same(updates["b"], -jnp.ones(2))
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
        updates, _ = tx.update(params, state, params)
        assert (updates["a"]["w"] < 0).all()


@pytest.mark.parametrize(
    "params",
    [jnp.ones(3), jnp.float32(1.0), (), {}, [], {"a": None}, {"a": {}}, jnp.ones((0, 2))],
    ids=str,
)
def test_params_may_be_one_array_or_nothing(params):
    grads = gradients_like(params)
    for tx, want in (
        (ox.masked(ADAM(), "**"), ADAM()),
        (ox.masked(ADAM(), lambda path, leaf: True), ADAM()),
        (ox.partition({"**": ADAM()}), ADAM()),
        (ox.partition({"x": ADAM()}, "x"), ADAM()),
        (ox.chain(ox.masked(ox.cautious(flip_sign=False), False)), ox.identity()),
        (ox.freeze(True), ox.set_to_zero()),
        (ox.freeze(False), ox.identity()),
    ):
        updates, state = tx.update(grads, tx.init(params), params)
        same(updates, want.update(grads, want.init(params), params)[0])
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_a_fresh_state_can_be_had_as_shapes_and_under_jit():
    tx = ox.partition({"blocks/**": ADAM(), "**": ox.masked(ADAM(), "**/bias")})
    state = tx.init(PARAMS)
    shapes = jax.eval_shape(tx.init, PARAMS)
    jitted = jax.jit(tx.init)(PARAMS)
    assert jax.tree.structure(shapes) == jax.tree.structure(jitted)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    updates, _ = jax.eval_shape(tx.update, PARAMS, shapes, PARAMS)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)


def test_freezing_at_the_end_holds_still_and_before_does_not():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = ox.chain(ox.adamw(0.1, weight_decay=0.1), ox.freeze("blocks/**"))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    same(updates.blocks, zeros.blocks)
    assert updates.head["bias"].any()
    # Frozen before, Adam itself stands still; its decay does not.
    tx = ox.chain(ox.freeze("blocks/**"), ADAM())
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    same(updates.blocks, jax.tree.map(lambda z: -z, zeros.blocks))
    tx = ox.chain(ox.freeze("blocks/**"), ox.adamw(0.1))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert updates.blocks[0].kernel.any()


def test_a_frozen_part_of_a_partition_keeps_no_state():
    tx = ox.partition({"blocks/**": ox.set_to_zero(), "**": ADAM()})
    state = tx.init(PARAMS)
    assert set(state.inner_states) == {"**"}
    assert size(state) == size(ADAM().init(PARAMS.head))


def test_what_is_frozen_can_be_thawed_while_a_compiled_step_runs():
    # By a number that is a hyperparameter, and by a condition of the step.
    frozen = ox.inject_hyperparams(lambda thaw: ox.masked(ox.scale(thaw), "blocks/**"))
    by_knob = ox.chain(ox.sgd(1.0), frozen(0.0))
    state = by_knob.init(PARAMS)
    step = jax.jit(by_knob.update)
    updates, state = step(PARAMS, state)
    assert not updates.blocks[0].kernel.any()
    updates, state = step(PARAMS, ox.set_hyperparams(state, thaw=1.0))
    same(updates.blocks, jax.tree.map(lambda p: -p, PARAMS.blocks))
    assert step._cache_size() == 1
    held = ox.conditionally_mask(ox.sgd(1.0), lambda step, **extra: step >= 2)
    by_step = ox.partition({"blocks/**": held, "**": ox.sgd(1.0)})
    updates, _ = run(by_step)
    moved = [bool(u.any()) for u in updates.blocks[0].kernel]
    assert moved == [False, False, True, True]
    assert all(u.any() for u in updates.head["bias"])


def test_layer_wise_decay_of_rates_and_decay_without_biases_are_one_line_each():
    grads = gradients_like(PARAMS)
    tx = ox.chain(ox.sgd(1.0), *(ox.masked(ox.scale(0.5**i), p) for i, p in enumerate(
        ["head/**", "blocks/1/**", "blocks/0/**"]
    )))  # fmt: skip
    updates, _ = tx.update(grads, tx.init(PARAMS))
    same(updates.head, jax.tree.map(lambda g: -g, grads.head))
    same(updates.blocks[1].kernel, -0.5 * grads.blocks[1].kernel)
    same(updates.blocks[0].bias, -0.25 * grads.blocks[0].bias)
    labelled = ox.chain(
        ox.sgd(1.0),
        ox.partition({f"blocks/{i}/**": ox.scale(0.5 ** (2 - i)) for i in range(2)}
                     | {"**": ox.identity()}),
    )  # fmt: skip
    same(labelled.update(grads, labelled.init(PARAMS))[0], updates)
    tx = ox.adamw(0.1, weight_decay=0.5, mask=["!**/bias", "!**/norm/**"])
    params = {"norm": {"scale": ones(2)}, "fc": {"kernel": ones(2), "bias": ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    same(updates["norm"], zeros["norm"])
    assert updates["fc"]["kernel"].all()
    assert not updates["fc"]["bias"].any()


PLAIN = {"encoder": {"w": jnp.ones(2)}, "bias": jnp.ones(1)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ox.masked(ADAM(), "**/kernel"),
            "`masked` got the pattern '**/kernel', which matches no parameter. There are: "
            "bias, encoder/w.",
        ),
        (
            lambda: ox.freeze("encoder"),
            "`freeze` got the pattern 'encoder', which matches no parameter. There are: "
            "bias, encoder/w. Did you mean 'encoder/**'?",
        ),
        *(
            (
                lambda mask=mask: ox.masked(ADAM(), mask),
                "`masked` got a mask that chooses no parameter. There are: bias, "
                "encoder/w.",
            )
            for mask in (
                lambda path, leaf: leaf.ndim == 2,
                lambda params: jax.tree.map(lambda p: p.ndim == 2, params),
                {"encoder": False, "bias": False},
                ["**", "!**"],
            )
        ),
        (
            lambda: ox.partition({"**/bias": ADAM()}),
            "`partition` got no label for encoder/w; there are ['**/bias']. '**' takes the "
            "rest.",
        ),
        (
            lambda: ox.partition({"**": ADAM(), "bias": ox.sgd(1.0)}),
            "`partition` has no parameter for ['bias']. The labels are: '**': bias, "
            "encoder/w. The first pattern that matches counts.",
        ),
        (
            lambda: ox.partition({"**": ADAM(), "head/*": ox.sgd(1.0)}),
            "`partition` got the pattern 'head/*', which matches no parameter. There are: "
            "bias, encoder/w.",
        ),
        (
            lambda: ox.partition({"a": ADAM(), "b": ADAM()}, lambda path, leaf: "a"),
            "`partition` has no parameter for ['b']. The labels are: 'a': bias, encoder/w.",
        ),
        (
            lambda: ox.partition({"a": ADAM()}, {"encoder": "a", "bias": "c"}),
            "`partition` has no transformation for the label 'c', which bias got; there "
            "are ['a'].",
        ),
        (lambda: ox.partition({}), "`partition` got no label for bias, encoder/w; "),
        (
            lambda: ox.partition({"a": ADAM()}, {"encoder": "a"}),
            "`partition` got a tree of labels that does not match the params: it lacks "
            "leaf ['bias'].",
        ),
    ],
)
def test_what_would_go_wrong_in_silence_is_refused_with_the_paths(make, message):
    with pytest.raises(ValueError) as error:
        make().init(PLAIN)
    assert str(error.value).startswith(message)
    if message.endswith((".", "?")):
        assert str(error.value) == message


def test_nothing_may_be_chosen_by_saying_so():
    for tx in (ox.masked(ADAM(), False), ox.freeze({"encoder": False, "bias": False})):
        updates, _ = tx.update(PLAIN, tx.init(PLAIN))
        same(updates, PLAIN)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: ox.masked(ox.adam, "**"), TypeError, "`masked` takes .* `adam"),
        (lambda: ox.partition([ADAM()]), TypeError, "must be a dict from labels"),
        (lambda: ox.partition({"a": 1.0}), TypeError, "`partition` takes .* under 'a'"),
        (lambda: ox.partition({1: ADAM()}), TypeError, "takes patterns of paths"),
        (lambda: ox.partition({1: ADAM(), "1": ADAM()}, "1"), ValueError, "same text"),
    ],
)
def test_what_is_no_transformation_or_label_is_refused_at_once(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_updates_for_what_was_no_parameter_are_refused():
    tx = ox.partition({"**": ox.sgd(1.0)})
    state = tx.init({"a": jnp.ones(1), "b": None})
    with pytest.raises(ValueError, match=r"^`partition` got updates for .*`init`: b\."):
        tx.update({"a": jnp.ones(1), "b": jnp.ones(1)}, state)


def test_the_state_of_another_is_refused():
    one = ox.partition({"encoder/**": ADAM(), "**": ADAM()})
    other = ox.partition({"**": ADAM()})
    with pytest.raises(TypeError, match=r"the labels \['\*\*'\], but got \['\*\*', 'enc"):
        other.update(PLAIN, one.init(PLAIN))
    with pytest.raises(TypeError, match="`masked` needs a state of its own kind"):
        ox.masked(ADAM(), "**").update(PLAIN, one.init(PLAIN))


def test_what_a_stage_without_state_refuses_is_refused_at_init():
    params = {"w": jnp.ones(2, jnp.complex64)}
    with pytest.raises(TypeError, match="`clip` cannot take complex"):
        ox.partition({"**": ox.clip(1.0)}).init(params)


def test_state_grows_with_the_leaves_and_not_with_groups_times_leaves():
    def measured(groups, leaves):
        params = {
            f"g{i}": {f"w{j}": jnp.zeros(2) for j in range(leaves // groups)}
            for i in range(groups)
        }
        tx = ox.partition({f"g{i}/**": ox.scale_by_rms() for i in range(groups)})
        state = jax.eval_shape(tx.init, params)
        return size(state), jax.tree.structure(state).num_nodes

    few, many = measured(2, 200), measured(50, 200)
    # Each group has its own count, and a few nodes around its leaves.
    assert many[0] - few[0] == 48
    assert many[1] - few[1] <= 48 * 8
    assert measured(50, 400)[1] - many[1] == 2 * 200


def msgpack(state, fresh):
    serialization = pytest.importorskip("flax.serialization")
    return serialization.from_bytes(fresh, serialization.to_bytes(state))


def orbax(state, fresh, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(tmp_path / "state", fresh)


@pytest.mark.parametrize("how", ["pickle", "msgpack", "orbax"])
def test_a_stored_state_goes_on_bit_for_bit(how, tmp_path):
    tx = ox.partition({
        "**/bias": ox.sgd(0.1, momentum=0.9),
        "blocks/[01]/**": ox.inject_hyperparams(ox.adam)(0.1),
        "**": ox.masked(ADAM(), "**"),
    })  # fmt: skip
    _, state = run(tx, steps=2)
    restored = {
        "pickle": lambda: pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state))),
        "msgpack": lambda: msgpack(state, tx.init(PARAMS)),
        "orbax": lambda: orbax(state, tx.init(PARAMS), tmp_path),
    }[how]()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    restored = jax.tree.map(jnp.asarray, restored)
    grads = gradients_like(PARAMS, 7)
    same(tx.update(grads, restored, PARAMS), tx.update(grads, state, PARAMS))


def test_modules_of_equinox_are_routed():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)

    def loss(model, x):
        return jnp.sum(jax.vmap(model)(x) ** 2)

    grads = eqx.filter_grad(loss)(model, jnp.ones((4, 2)))
    for tx in (
        ox.partition({"**/bias": ox.sgd(0.1), "**": ADAM()}),
        ox.partition(
            {"a": ox.sgd(0.1), "b": ADAM()},
            jax.tree.map(lambda p: "a" if p.ndim == 1 else "b", params),
        ),
    ):
        state = tx.init(params)
        # Filtered or not, and inside of a jit that carries the functions along.
        want, _ = tx.update(grads, state, params)
        same(tx.update(grads, state, model)[0], want)
        got, _ = eqx.filter_jit(lambda g, s, m, tx=tx: tx.update(g, s, m))(
            grads, state, model
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
        same(got.layers[0].bias, -0.1 * grads.layers[0].bias)
        weights = ADAM().update(
            grads.layers[1].weight, ADAM().init(params.layers[1].weight)
        )
        same(want.layers[1].weight, weights[0])


def test_transformations_of_optax_are_routed_and_ours_within_its_chain():
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"):
        params = {"w": ones(3, 4), "b": ones(4)}
        got, _ = run(ox.partition({"w": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}), params)
        labels = {"w": "w", "b": "b"}
        theirs = optax.partition({"w": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}, labels)
        same(got, run(theirs, params)[0])
        same(run(optax.chain(ox.masked(optax.adam(0.1), "w")), params)[0]["w"], got["w"])
        both, _ = run(optax.masked(ox.masked(ADAM(), "w"), {"w": True, "b": False}), params)
        same(both["w"], run(ADAM(), params)[0]["w"])
        muon = ox.partition({"w": optax.contrib.muon(0.1), "b": ox.adam(0.1)})
        assert run(muon, params)[0]["w"].all()
