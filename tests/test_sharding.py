"""States on many devices: where they lie, what that costs, and that it changes nothing."""

import collections
import math
import re
import warnings
from typing import Any, NamedTuple

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import optimjax as ox

MESH = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
LINE = Mesh(np.array(jax.devices()[:8]), ("data",))
# XLA as it came with JAX 0.6 does not join reductions, and divides some results further.
NEW = jax.__version_info__ >= (0, 7)
SPECS = {
    "both": ((16, 12), P("x", "y")),
    "square": ((16, 16), P("x")),
    "joint": ((8,), P(("x", "y"))),
    "three": ((4, 6, 8), P(None, "y", "x")),
    "whole": ((5, 3), P()),
    "scalar": ((), P()),
}
SHAPES = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(MESH, spec))
    for name, (shape, spec) in SPECS.items()
}


def named(tree):
    """Leaves by key paths."""
    return {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(tree)}


def specs(tx, params=SHAPES, of=named):
    return {k: tuple(s.spec) for k, s in of(ox.state_sharding(tx, params)).items()}


def normal(shape, sharding, seed=0):
    x = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jax.device_put(jnp.asarray(x, jnp.float32), sharding)


def arrays():
    return {name: normal(x.shape, x.sharding) for name, x in SHAPES.items()}


def stepped(tx):
    """Update and apply."""

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return ox.apply_updates(params, updates), state

    return jax.jit(step)


def collectives(compiled):
    """The collectives of a program: for each the kind, and the sizes of its arrays."""
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
    found = []
    for line in compiled.as_text().splitlines():
        match = re.search(rf" = (.*?) ({kinds})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
            found.append((match[2], sorted(sizes)))
    sums = [size for kind, sizes in found if kind == "all-reduce" for size in sizes]
    if not NEW and set(sums) == {1}:
        return [x for x in found if x[0] != "all-reduce"] + [("all-reduce", sums)]
    return found


# Where a state lies.


def test_what_is_like_a_parameter_lies_as_it_does():
    """In every transformation; what cannot be derived is named, and only there."""
    missed = set()
    for case in catalogue.ONE_EACH:
        if case.make is ox.zero1:  # Which has a mesh of its own: see below.
            continue
        tx = case()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            shardings = named(ox.state_sharding(tx, SHAPES))
        if caught:
            missed.add(case.make)
        for path, x in named(jax.eval_shape(tx.init, SHAPES)).items():
            assert shardings[path].mesh == MESH
            shardings[path].shard_shape(x.shape)  # Divides.
            for name, p in SHAPES.items():
                if f"['{name}']" in path and x.shape == p.shape:
                    assert shardings[path].is_equivalent_to(p.sharding, x.ndim), (tx, path)
    # They ask whether the two sides of a matrix are equal.
    assert missed == {ox.in_low_rank, ox.galore}


def test_statistics_follow_the_dimensions_that_they_are_of():
    factored = specs(ox.scale_by_factored_rms(min_dim_size_to_factor=4))
    assert factored[".nu['both'].row"] == ("y",)  # The longest is the column.
    assert factored[".nu['both'].col"] == ("x",)
    assert factored[".nu['square'].row"] == ("x",)
    assert factored[".nu['square'].col"] == ()
    assert factored[".nu['three'].row"] == (None, "y")
    assert factored[".nu['three'].col"] == (None, "x")
    assert specs(ox.sm3(0.1))["['scale_by_sm3'].mu['three'][1]"] == ("y",)
    memory = specs(ox.scale_by_lbfgs(memory_size=4))
    assert memory[".diff_params_memory['both']"] == (None, "x", "y")
    assert memory[".weights_memory"] == ()
    # One axis of the mesh divides one dimension.
    sides = specs(ox.on_matrices(ox.scale_by_shampoo(), ox.identity()))
    assert sides[".inner_states['matrices'].factors['both'][0].left"] == (None, "x")


NESTED = [
    ox.sgd(0.1, momentum=0.9),
    ox.adafactor(0.1, min_dim_size_to_factor=4),
    ox.accumulate(
        ox.average_params(
            ox.partition({"b*": ox.adam(0.1), "**": ox.chain(ox.sm3(0.1), ox.clip(1.0))})
        ),
        2,
    ),
    ox.master_weights(ox.chain(ox.zero_nans(), optax.adamw(0.1))),
    optax.MultiSteps(optax.adafactor(0.1, min_dim_size_to_factor=4), 2),
]


@pytest.mark.skipif(not NEW, reason="It divides what nothing divides.")
@pytest.mark.parametrize("tx", NESTED, ids=range(len(NESTED)))
def test_they_are_where_the_compiler_leaves_them(tx):
    """Which has been told where the params and gradients are, and nothing of the state."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = jax.eval_shape(tx.init, SHAPES)
        compiled = jax.jit(tx.update).lower(SHAPES, state, SHAPES).compile()
        got = named(ox.state_sharding(tx, SHAPES))
    want = named(compiled.output_shardings[1])
    for path, x in named(state).items():
        assert got[path].is_equivalent_to(want[path], x.ndim), path


class Foreign(NamedTuple):
    """Transformations that nobody has seen, by their states alone."""

    init: Any
    update: Any = None


def rows_and_columns(params):
    def of(p):
        if len(p.shape) < 2 or min(p.shape) < 8:
            return jnp.zeros_like(p)
        short, long = np.argsort(p.shape, kind="stable")[-2:]
        return {
            "short": jnp.zeros(np.delete(p.shape, long)),
            "long": jnp.zeros(np.delete(p.shape, short)),
        }

    return jax.tree.map(of, params)


def stacks(params):
    by_shape = collections.defaultdict(list)
    for p in jax.tree.leaves(params):
        by_shape[p.shape].append(p)
    return {f"{len(s)}": jnp.stack(ps) for s, ps in by_shape.items() if len(ps) > 1}


def flat(params):
    return jax.tree.map(lambda p: jnp.zeros((3, p.size)), params)


def thirds(params):
    assert all(n % 3 == 0 for p in jax.tree.leaves(params) for n in p.shape)
    return jax.tree.map(jnp.zeros_like, params)


def alike(params):
    """The bias must have the length of the kernel."""
    assert params["kernel"].shape[-1] == params["bias"].shape[0]
    return jax.tree.map(jnp.zeros_like, params)


def struct(spec, *shape, mesh=MESH):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))


def test_transformations_that_it_has_never_seen():
    got = specs(Foreign(rows_and_columns))
    assert [got[f"['both']['{k}']"] for k in ("short", "long")] == [("y",), ("x",)]
    assert [got[f"['square']['{k}']"] for k in ("short", "long")] == [("x",), ()]
    assert [got["['joint']"], got["['three']"]] == [(("x", "y"),), (None, "y", "x")]
    layers = [struct(P("x", None, "y"), 8, 5, 8) for _ in range(3)]
    got = specs(Foreign(stacks), [*layers, struct(P(), 8, 8)])
    assert got == {"['3']": (None, "x", None, "y")}
    # The outermost dimension stays together when numbers are put into a row.
    rows = {
        "w": struct(P("x"), 8, 6),
        "all": struct(P("x", "y"), 4, 6),
        "b": struct(P(), 7),
    }
    got = specs(Foreign(flat), rows)
    # Of two that are equal, `min` gives the first, which most other lengths would not tell.
    first = specs(Foreign(lambda p: jnp.zeros(min(p.shape))), struct(P("x", "y"), 16, 16))
    assert first == {"": ("x",)}
    assert got == {"['w']": (None, "x"), "['all']": (None, ("x", "y")), "['b']": ()}


def test_lengths_that_are_refused_are_asked_otherwise():
    of = {"w": struct(P("y", "x"), 6, 12), "b": struct(P("x"), 12)}
    assert specs(Foreign(thirds), of) == {"['w']": ("y", "x"), "['b']": ("x",)}
    assert specs(Foreign(thirds), struct(P("y", "x"), 12, 12)) == {"": ("y", "x")}
    of = {"kernel": struct(P("y", "x"), 6, 12), "bias": struct(P("x"), 12)}
    assert specs(Foreign(alike), of) == {"['kernel']": ("y", "x"), "['bias']": ("x",)}


@pytest.mark.parametrize(
    ("init", "params"),
    [
        (flat, struct(P(None, "x"), 6, 8)),  # Columns lie here and there.
        (lambda p: jnp.zeros(p["a"].size + p["b"].size), {"a": SHAPES["joint"]} | {
            "b": SHAPES["whole"]}),
        (lambda p: jnp.zeros(p.shape[0] // 2), struct(P("x"), 16)),
        (lambda p: jnp.zeros(p.shape[0]) if p.shape[0] == 16 else {}, struct(P("x"), 16)),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_whole_and_named(init, params):
    with pytest.warns(UserWarning, match=r"what it cannot derive.* of shape \("):
        sharding = ox.state_sharding(Foreign(init), params)
    assert jax.tree.leaves(sharding)[0].is_fully_replicated


def test_what_nothing_divides_is_whole_without_a_word():
    params = {"w": SHAPES["whole"], "b": SHAPES["both"]}
    assert specs(Foreign(lambda p: jnp.zeros(p["w"].size)), params) == {"": ()}
    assert specs(ox.adam(0.1), {"w": SHAPES["whole"]})["['scale_by_rms'].nu['w']"] == ()


def test_shardings_may_be_given_as_a_prefix():
    rows = NamedSharding(MESH, P("x"))
    params = {"a": {"w": jnp.ones((4, 3)), "b": jnp.ones(8)}, "n": None}
    got = ox.state_sharding(optax.trace(0.9), params, {"a": rows, "n": rows})
    assert [s.spec for s in jax.tree.leaves(got)] == [P("x"), P("x")]


def test_a_state_is_made_where_it_lies():
    tx, params = ox.lookahead(ox.adam(0.1), 3, 0.5), arrays()
    state, shardings = ox.sharded_init(tx, params), ox.state_sharding(tx, params)
    jax.tree.map(np.testing.assert_array_equal, state, tx.init(params))
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert x.sharding == s
        assert all(
            part.data.shape == s.shard_shape(x.shape) for part in x.addressable_shards
        )
    alone = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, params))
    again = ox.sharded_init(tx, alone, jax.tree.map(lambda x: x.sharding, params))
    assert jax.tree.map(lambda x: x.sharding, again) == shardings


def test_wrong_shardings_are_refused_by_name():
    w = struct(P("x"), 8, 2)
    tx = ox.adam(0.1)
    with pytest.raises(
        ValueError, match=r"^`state_sharding` needs to know.*param_shardings"
    ):
        ox.state_sharding(tx, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="needs params on one mesh"):
        ox.state_sharding(tx, {"w": w, "v": struct(P("data"), 8, mesh=LINE)})
    sharding = NamedSharding(MESH, P("x", "y"))
    with pytest.raises(ValueError, match=r"2 dimensions for the leaf \['w'\], which has 1"):
        ox.state_sharding(tx, {"w": jnp.ones(8)}, sharding)
    with pytest.raises(TypeError, match=r"`NamedSharding` for every .* \['w'\]"):
        ox.state_sharding(tx, {"w": w}, {"w": P("x")})
    with pytest.raises(TypeError, match=r"^`sharded_init` needs arrays"):
        ox.sharded_init(tx, {"w": w})
    with pytest.raises(TypeError, match=r"^`state_sharding` takes transformations"):
        ox.state_sharding(ox.adam, {"w": w})


# What a sharded step costs.


def compiled_on_a_line(tx, shapes=((64, 48), (32, 32), (16,))):
    params = [struct(P("data"), *shape, mesh=LINE) for shape in shapes]
    shardings = ox.state_sharding(tx, params)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(tx.init, params),
        shardings,
    )
    return stepped(tx).lower(params, state, params).compile()


ELEMENTWISE = [
    ox.sgd(0.1, momentum=0.9), ox.adamw(0.1), ox.lion(0.1), ox.rmsprop(0.1),
]  # fmt: skip


@pytest.mark.parametrize("tx", ELEMENTWISE, ids=repr)
def test_element_wise_rules_need_nothing_of_other_devices(tx):
    assert collectives(compiled_on_a_line(tx)) == []


def test_a_global_norm_is_one_reduction_of_scalars():
    tx = ox.chain(ox.clip_by_global_norm(1.0), ox.sgd(0.1, momentum=0.9))
    assert collectives(compiled_on_a_line(tx)) == [("all-reduce", [1, 1, 1])]


def test_what_the_rules_of_leaves_sum_is_all_that_travels():
    """LAMB two norms of each leaf; Adafactor the columns, and a few numbers of each."""
    found = collectives(compiled_on_a_line(ox.lamb(0.1)))
    assert found == [("all-reduce", [1] * 6)]
    if not NEW:
        return
    factored = ox.adafactor(0.1, min_dim_size_to_factor=4)
    found = collectives(compiled_on_a_line(factored))
    assert {kind for kind, _ in found} == {"all-reduce"}
    sizes = sorted(size for _, each in found for size in each)
    assert sizes[-2:] == [32, 48]
    assert set(sizes[:-2]) == {1}


# ZeRO.


WHOLE = {
    "w": (64, 48),
    "odd": (13, 77),
    "bias": (48,),
    "few": (3,),
    "scalar": (),
    "s": (32, 32),
}
INNER = {
    "adam": ox.adam(0.01),
    "clipped": ox.chain(ox.clip_by_global_norm(1.0), ox.sgd(1.0, 0.9)),
    "factored": ox.scale_by_factored_rms(min_dim_size_to_factor=4),
    "averaged": ox.average_params(ox.sgd(0.01, 0.9), 0.9),
    "packed": ox.pack_small_leaves(ox.sgd(0.01, momentum=0.9)),
    "foreign": optax.trace(0.9),
    "adafactor": ox.adafactor(0.01, min_dim_size_to_factor=4),
    "muon": ox.muon(0.01),
}
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("adafactor", "muon", "packed")]
FAST = [name for name in INNER if name not in ("adam", "adafactor", "muon", "packed")]


def whole(mesh=LINE):
    return {k: normal(shape, NamedSharding(mesh, P())) for k, shape in WHOLE.items()}


def kept(state):
    """Bytes of all that is more than a number: in all, and on the first device."""
    many = [x for x in jax.tree.leaves(state) if x.size > 1]
    return sum(x.nbytes for x in many), sum(
        x.addressable_shards[0].data.nbytes for x in many
    )


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_zero1_keeps_a_part_and_steps_the_same(name):
    inner = INNER[name]
    tx, params = ox.zero1(inner, LINE), whole()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state, alone = tx.init(params), inner.init(params)
        total, _ = kept(alone)
        got, want, step, step_alone = params, params, stepped(tx), stepped(inner)
        for seed in range(3):
            grads = {k: normal(x.shape, x.sharding, seed) for k, x in params.items()}
            got, state = step(grads, state, got)
            want, alone = step_alone(grads, alone, want)
            assert kept(state)[1] <= 1.05 * total / 8
        derived = ox.state_sharding(tx, params)
    for k, x in got.items():
        np.testing.assert_allclose(x, want[k], rtol=1e-5, atol=1e-6)
        assert x.sharding.is_fully_replicated
    for s, x in zip(jax.tree.leaves(derived), jax.tree.leaves(state), strict=True):
        assert s.is_equivalent_to(x.sharding, x.ndim)
    if name == "factored":  # What does not divide is padded, and nothing else.
        nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ox.Padded))
        padded = [x.shape for x in nodes if isinstance(x, ox.Padded)]
        assert padded == [(3,), (13,), (77,)]
    if name == "averaged":
        averages = ox.eval_params(state, got), ox.eval_params(alone, want)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), *averages)


def test_zero1_gathers_updates_and_sums_norms():
    """A leaf of one number, and one of three, stay whole and do not travel."""
    params = whole()
    sizes = [48, 8 * 126, 32 * 32, 64 * 48]
    for name, reduced in (("adam", []), ("clipped", [("all-reduce", 1)])):
        tx = ox.zero1(INNER[name], LINE)
        found = collectives(stepped(tx).lower(params, tx.init(params), params).compile())
        gathered = sorted(size for kind, (size,) in [
            (k, s) for k, s in found if k == "all-gather"])  # fmt: skip
        assert gathered == sizes
        rest = [(kind, max(s)) for kind, s in found if kind != "all-gather"]
        assert rest == reduced


def test_zero1_beside_another_axis():
    """What is divided by one axis is divided once more by the other."""
    mesh = Mesh(MESH.devices, ("data", "model"))
    shardings = {"w": P(None, "model"), "b": P("model"), "odd": P("model")}
    lengths = {"w": (8, 16), "b": (8,), "odd": (2, 3)}
    placed = {k: NamedSharding(mesh, s) for k, s in shardings.items()}
    params = {k: normal(lengths[k], s) for k, s in placed.items()}
    for given in (shardings, placed):
        tx = ox.zero1(ox.sgd(0.1, momentum=0.9), mesh, param_shardings=given)
        state = tx.init(params)
        momentum = state.inner_state["scale_by_momentum"].momentum
        want = {"w": P("data", "model"), "b": P(("model", "data")), "odd": P("model")}
        assert {k: m.sharding.spec for k, m in momentum.items()} == want
        updates, state = tx.update(params, state, params)
        for k, u in updates.items():
            assert u.sharding.is_equivalent_to(placed[k], u.ndim)
            np.testing.assert_allclose(u, -0.1 * params[k], rtol=1e-6)


def test_zero1_takes_no_gradients_bfloat16_and_a_compiled_step():
    params = {k: x.astype(jnp.bfloat16) for k, x in whole().items()}
    inner = ox.adam(0.1)
    tx = ox.zero1(inner, LINE)
    state, alone = tx.init(params), inner.init(params)
    grads = {**params, "odd": None, "w": None}
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        want, alone = inner.update(grads, alone, params)
    assert updates["odd"] is None
    assert updates["bias"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, updates, want)
    copies = jax.tree.map(jnp.copy, params)
    lowered = ox.compiled_step(tx).lower(params, state, copies)
    aliased = lowered.compile().memory_analysis().alias_size_in_bytes
    assert aliased >= kept(state)[1]


def line(n):
    return Mesh(np.array(jax.devices()[:n]), ("data",))


def small(mesh):
    shapes = {"w": (16, 8), "thirds": (12, 9), "odd": (13, 7), "b": (5,)}
    return {k: normal(shape, NamedSharding(mesh, P())) for k, shape in shapes.items()}


def test_a_state_goes_on_with_other_devices():
    """Moments and rings of them, padded in another way on 1, on 8 and on 3 devices."""
    inner = ox.chain(ox.delay(2), ox.sgd(0.1, momentum=0.9))
    fresh = {n: ox.zero1(inner, line(n)).init(small(line(n))) for n in (1, 8, 3)}
    fresh = jax.tree.map(lambda x: jax.device_put(np.ones_like(x), x.sharding), fresh)
    rng = np.random.default_rng(0)
    want = jax.tree.map(
        lambda x: jnp.asarray(rng.integers(99, size=x.shape)).astype(x.dtype), fresh[1]
    )
    state = want
    for n in (8, 3, 1):
        state = ox.change_devices(state, fresh[n])
        assert jax.tree.structure(state) == jax.tree.structure(fresh[n])
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(fresh[n]), strict=True):
            assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)
        nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ox.Padded))
        whole = [x.whole() if isinstance(x, ox.Padded) else x for x in nodes]
        jax.tree.map(np.testing.assert_array_equal, whole, jax.tree.leaves(want))
        padded = [x for x in nodes if isinstance(x, ox.Padded)]
        assert {x.rows.shape[-2] for x in padded} == {1: set(), 8: {8}, 3: {3}}[n]
        for x in padded:
            flat = x.rows.reshape(*x.rows.shape[:-2], -1)
            assert np.all(flat[..., math.prod(x.shape) :] == 1)


def test_several_arrays_of_a_padded_leaf_are_cut_anew():
    old = ox.Padded(np.arange(8).reshape(2, 2, 2), (3,))
    new = ox.change_devices(old, ox.Padded(np.full((2, 4, 1), 9), (3,)))
    assert new.rows.tolist() == [[[0], [1], [2], [9]], [[4], [5], [6], [9]]]
    assert ox.change_devices(new, np.zeros((2, 3), int)).tolist() == [[0, 1, 2], [4, 5, 6]]


MOMENTUM = ox.sgd(0.1, momentum=0.9)
# Two of them and eight; three, which do not divide it; and a rule that sees leaves whole.
SHAPED = [
    (ox.chain(ox.clip_by_global_norm(1.0), MOMENTUM), 2),
    (ox.chain(ox.clip_by_global_norm(1.0), MOMENTUM), 3),
    (ox.chain(ox.centralize(), MOMENTUM), 3),
]


@pytest.mark.parametrize(("inner", "n"), SHAPED, ids=["2", "3", "3, whole"])
def test_a_state_may_be_shaped_for_eight_devices_on_fewer(inner, n):
    tx, params = ox.zero1(inner, line(n), devices=8), small(line(n))
    state, alone = tx.init(params), inner.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        want, alone = inner.update(params, alone, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5), updates, want)
    of_eight = jax.eval_shape(ox.zero1(inner, line(8)).init, small(line(8)))
    assert jax.tree.structure(state) == jax.tree.structure(of_eight)
    derived = jax.tree.leaves(ox.state_sharding(tx, params))
    leaves = zip(*map(jax.tree.leaves, (state, of_eight)), derived, strict=True)
    for x, y, sharding in leaves:
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert sharding.is_equivalent_to(x.sharding, x.ndim)
        if x.shape == (8, 12):  # Eight rows, and what else may be divided.
            assert x.sharding.spec == (P("data") if n == 2 else P(None, "data"))
    if n == 2:
        assert kept(state)[1] <= 1.05 * kept(state)[0] / 2


def test_states_that_are_not_the_same_do_not_change_devices():
    params = {"a": jnp.ones(3), "b": jnp.ones(5)}

    def state(inner, params=params, devices=8):
        return ox.zero1(inner, line(1), devices=devices).init(params)

    like = state(MOMENTUM)
    with pytest.raises(
        ValueError, match=r"^`change_devices` needs states of one .* only one .*bias_"
    ):
        ox.change_devices(state(ox.adam(0.1)), like)
    other = state(MOMENTUM, {"a": jnp.ones(4), "b": jnp.ones(5)})
    with pytest.raises(ValueError, match=r"float32\[4\] and float32\[3\] .*'a'"):
        ox.change_devices(other, like)
    packed = ox.pack_small_leaves(MOMENTUM)
    with pytest.raises(ValueError, match=r"`pack_small_leaves` has put .*'a'"):
        ox.change_devices(state(packed), state(packed, devices=2))


def test_what_zero1_cannot_do_is_named():
    tx = ox.zero1(ox.adam(0.1), LINE)
    with pytest.raises(ValueError, match=r"^`zero1` would gather the leaf \['w'\]"):
        tx.init({"w": normal((8, 2), NamedSharding(LINE, P("data")))})
    with pytest.raises(ValueError, match=r"`zero1\(axis=...\)` must be an axis"):
        ox.zero1(ox.adam(0.1), LINE, "rows")
    with pytest.raises(TypeError, match=r"`zero1\(mesh=...\)` must be a `Mesh`"):
        ox.zero1(ox.adam(0.1), 8)
    explicit = (jax.sharding.AxisType.Explicit,)
    with pytest.raises(ValueError, match=r"AxisType.Auto"):
        ox.zero1(ox.adam(0.1), Mesh(LINE.devices, ("data",), axis_types=explicit))
    other = ox.zero1(ox.adam(0.1), LINE, param_shardings=NamedSharding(MESH, P()))
    with pytest.raises(ValueError, match=r"on its mesh, but got .* for the leaf \['w'\]"):
        other.init({"w": jnp.ones(2)})
    with pytest.raises(TypeError, match="`pack_small_leaves` is for rules"):
        ox.pack_small_leaves(tx)
