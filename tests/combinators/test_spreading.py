"""Matrices on eight devices: the same numbers, each matrix worked on once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from precision import enable_x64

import optimjax as ox

AXES = {"layers": "bio"}
# Square: from one gradient, the axes of a longer side are not all known.
SHAPES = {f"w{i}": (6, 6) for i in range(9)} | {
    "layers": (3, 6, 6),
    "head": (5, 5),
    "bias": (8,),
}


def shampoo():
    descent = ox.chain(ox.scale_by_shampoo(axes=AXES), ox.scale_by_learning_rate(0.1))
    return ox.on_matrices(descent, ox.sgd(0.1), AXES)


INNER = {
    "muon": lambda: ox.muon(0.1, axes=AXES),
    "normuon": lambda: ox.normuon(0.1, axes=AXES),
    "soap": lambda: ox.soap(0.1, axes=AXES),
    "shampoo": shampoo,
}


def mesh_of(kind):
    if kind == "explicit":
        return jax.make_mesh((8,), ("data",))
    return Mesh(np.array(jax.devices()), ("data",))


def draw(rng, sharding=None):
    return {
        k: jax.device_put(rng.normal(size=shape), sharding) for k, shape in SHAPES.items()
    }


def stepped(tx, sharding, rng, steps=4):
    """The params after some steps, the state and the compiled program."""

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return ox.apply_updates(params, updates), state

    params = draw(rng, sharding)
    state, program = tx.init(params), None
    for _ in range(steps):
        grads = draw(rng, sharding)
        if program is None:
            program = step.lower(params, state, grads).compile().as_text()
        params, state = step(params, state, grads)
    return params, state, program


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("muon", "auto"),
        pytest.param("normuon", "auto", marks=pytest.mark.slow),
        ("shampoo", "auto"),
        ("soap", "explicit"),
        pytest.param("soap", "auto", marks=pytest.mark.slow),
    ],
)
def test_the_numbers_are_the_same_and_only_updates_are_gathered(name, kind):
    mesh = mesh_of(kind)
    tx = ox.spread_matrices(INNER[name](), mesh, "data", AXES)
    everywhere = NamedSharding(mesh, PartitionSpec())
    with enable_x64():
        got, state, program = stepped(tx, everywhere, np.random.default_rng(0))
        want, _, _ = stepped(INNER[name](), None, np.random.default_rng(0))
    for k, p in want.items():
        np.testing.assert_allclose(got[k], p, rtol=0, atol=1e-9)

    sent = re.findall(
        r"= (\S+?)\{\S* (all-gather|all-reduce|all-to-all|collective-permute"
        r"|reduce-scatter)(?:-start)?\(",
        program,
    )
    # Of the updates of each size: 12 matrices, filled up to 16, and one.
    assert sorted(sent) == [("f64[16,6,6]", "all-gather"), ("f64[8,5,5]", "all-gather")]

    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if "stacks" in jax.tree_util.keystr(path) and x.ndim:
            assert x.sharding.spec[0] == "data"
            assert x.addressable_shards[0].data.shape[0] * 8 == x.shape[0]


def test_each_device_orthogonalises_its_own_matrices_alone():
    mesh = mesh_of("auto")
    tx = ox.spread_matrices(INNER["muon"](), mesh, "data", AXES)
    everywhere = NamedSharding(mesh, PartitionSpec())
    _, _, program = stepped(tx, everywhere, np.random.default_rng(0), steps=1)
    products = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", program)
    assert products
    for shape in products:  # By turns, of one matrix.
        assert np.prod([int(n) for n in shape.split(",")]) <= 6 * 6


def test_matrices_without_a_gradient_stay_what_they_are(rng):
    mesh = mesh_of("auto")
    tx = ox.spread_matrices(ox.soap(0.1, axes=AXES), mesh, "data", AXES)
    params, before = draw(rng), draw(rng)
    state = tx.init(params)
    _, state = tx.update(before, state, params)
    updates, after = tx.update(before | {"layers": None}, state, params)
    assert updates["layers"] is None
    changed = {}
    for (path, x), old in zip(
        jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(state), strict=True
    ):
        if "factors" in jax.tree_util.keystr(path) and len(x) == 16:
            changed = [bool((a != b).any()) for a, b in zip(x, old, strict=True)]
            # In the order of paths: "layers", then w0 to w8, then what fills up.
            assert changed == [False] * 3 + [True] * 9 + [False] * 4
    assert changed


def test_what_looks_at_leaves_otherwise_is_refused_by_name():
    mesh = mesh_of("auto")
    with pytest.raises(TypeError, match=r"`spread_matrices` .*but `graft` may look"):
        ox.spread_matrices(ox.shampoo(0.1), mesh, "data")
    with pytest.raises(ValueError, match=r"axis=...\)` must be one of \['data'\].*'model'"):
        ox.spread_matrices(ox.muon(0.1), mesh, "model")
    with pytest.raises(TypeError, match=r"mesh=...\)` takes a `Mesh`, but got 8"):
        ox.spread_matrices(ox.muon(0.1), 8, "data")
    with pytest.raises(ValueError, match="has no matrix among the parameters"):
        ox.spread_matrices(ox.muon(0.1), mesh, "data").init({"b": jnp.ones(3)})


def test_params_on_the_mesh_are_traced_once(rng):
    mesh, traces = mesh_of("auto"), []
    tx = ox.spread_matrices(ox.muon(0.1, axes=AXES), mesh, "data", AXES)

    @jax.jit
    def step(params, state, grads):
        traces.append(1)
        updates, state = tx.update(grads, state, params)
        return ox.apply_updates(params, updates), state

    everywhere = NamedSharding(mesh, PartitionSpec())
    params = draw(rng, everywhere)
    state = jax.jit(tx.init)(params)
    for _ in range(3):
        params, state = step(params, state, draw(rng, everywhere))
    assert len(traces) == 1
