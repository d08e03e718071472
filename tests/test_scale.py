"""The cost model of `docs/scale.md` against compiled programs, on eight devices."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from workers import AXIS, bytes_of, on_devices, traffic

import optimjax as ox
from tests.benchmarks import scale

# XLA as it came with JAX 0.6 divides some results further.
NEW = jax.__version_info__ >= (0, 7)
N = 8
SMALL = scale.Model(width=128, layers=1, words=256)
# What XLA makes of a step when it is told to save memory: see `test_memory.py`.
OPTIONS: dict[str, str | bool] = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
}
CASES = [
    (name, way)
    for name in scale.RULES
    for way in scale.WAYS
    if way != "spread" or name in scale.SPREAD
]


def laid(name, way, model, axes=(N, 1)):
    """The transformation, and the shapes of params and state as they lie."""
    rule = scale.RULES[name]
    mesh = Mesh(np.array(jax.devices()[:N]).reshape(axes), ("data", "more"))
    tx = rule.make()
    if way == "zero1":
        tx = ox.zero1(tx, mesh, "data")
    if way == "spread":
        tx = ox.spread_matrices(tx, mesh, "data", scale.AXES)

    def placed(x):
        spec = P()
        if way == "full":
            parts = scale.divided(scale.Leaf(x.shape), *axes).parts[: x.ndim]
            along = ("data", "more") if parts[0] == axes[0] else ("more", "data")
            spec = P(*along[: x.ndim])
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    params = jax.tree.map(placed, model.tree(rule.dtype))
    with warnings.catch_warnings():
        # The blocks of Shampoo: left whole, as the model says.
        warnings.filterwarnings("ignore", message="`state_sharding` leaves whole")
        shardings = ox.state_sharding(tx, params)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(tx.init, params),
        shardings,
    )
    return tx, params, state


def on_one(tree):
    """The bytes of a tree that are on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def cost_of(name, way, model):
    return scale.WAYS[way](scale.RULES[name], model, N)


def test_the_document_holds_what_is_computed():
    document = scale.DOCUMENT.read_text()
    renew = "renew it: python -m tests.benchmarks.scale --write"
    assert document == scale.renewed(document), renew
    assert document.count("| `muon` |") > 3


# Counts of steps are left out, and there are some in every state.
COUNTS = 64


@pytest.mark.parametrize(("name", "way"), CASES)
def test_bytes_of_the_state(name, way):
    """Two layers: with eight square matrices, and two of the others."""
    model = SMALL._replace(layers=2)
    _, params, state = laid(name, way, model)
    cost = cost_of(name, way, model)
    # Leaves that are small stay whole under ZeRO-1, within 5 percent.
    slack = 0.05 * cost.state if way == "zero1" else 0
    assert 0 <= on_one(state) - cost.state <= COUNTS + slack
    assert on_one(params) == cost.params


@pytest.mark.parametrize("name", ["adafactor", "sm3", "soap", "shampoo", "adamw, bf16"])
def test_bytes_of_a_state_that_is_divided_along_both_sides(name, monkeypatch):
    monkeypatch.setattr(scale, "FIRST_AXIS", 4)
    model = scale.Model(width=4096, layers=1, words=256)
    _, params, state = laid(name, "full", model, axes=(4, 2))
    cost = cost_of(name, "full", model)
    assert 0 <= on_one(state) - cost.state <= COUNTS
    assert on_one(params) == cost.params


@pytest.mark.parametrize("name", scale.RULES)
def test_bytes_of_whole_states_at_size(name):
    """Of the real sizes, which grow by the same with every layer."""
    rule = scale.RULES[name]
    for model in scale.MODELS.values():
        one, two = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
            for shapes in (
                jax.eval_shape(rule.make().init, model._replace(layers=k).tree(rule.dtype))
                for k in (1, 2)
            )
        )
        want = scale.replicated(rule, model, N).state
        assert 0 <= one + (model.layers - 1) * (two - one) - want <= COUNTS


def program(name, way, model=SMALL):
    tx, params, state = laid(name, way, model)
    lowered = ox.compiled_step(tx).lower(params, state, params)
    return lowered.compile(OPTIONS if NEW else None), on_one(state)


QUICK = {
    ("adam, adamw", "zero1"),
    ("adam, adamw", "full"),
    ("adafactor", "full"),
    ("muon", "full"),
    ("muon", "spread"),
}
# Decompositions of divided matrices: no formula, but some bytes for each number.
MEASURED = {"soap": 96, "shampoo": 45}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_a_compiled_step(name, way):
    """What it takes, what it sends, and what it holds."""
    compiled, state = program(name, way)
    cost, rule = cost_of(name, way, SMALL), scale.RULES[name]
    memory, sent = compiled.memory_analysis(), traffic(compiled.as_text(), N)
    assert memory.argument_size_in_bytes == cost.params + cost.gradients + state
    matrices = sum(count * x.size for count, x in SMALL.leaves() if x.matrix)
    if not NEW:
        return
    if math.isnan(cost.own):
        measured = scale.all_gather(MEASURED[name] * matrices, N)
        updates = scale.all_gather(4 * SMALL.size(), N) if way == "zero1" else 0
        assert sent == pytest.approx(measured + updates, rel=0.15)
        return
    # A few numbers of each leaf beside; statistics are sometimes gathered as well.
    leaves = sum(count for count, _ in SMALL.leaves())
    lines = sum(count * scale.lines(x) for count, x in SMALL.leaves() if len(x.sides) > 1)
    slack = 16 * leaves + (lines / 2 if way == "zero1" and rule.state in STATISTICS else 0)
    assert sent == pytest.approx(cost.own, abs=slack)
    most = scale.held(rule, SMALL, N, way)
    # Of a sum of two dtypes, and of a branch, XLA for CPUs makes arrays.
    if "bf16" not in name and name != "soap" and not math.isnan(most):
        held = memory.temp_size_in_bytes
        # The partials of sums, and for Muon a few matrices in part.
        more = 8 * 128 * 128 * 4 if "muon" in name else 4 * 128 * 128
        assert most / 2 <= held + 1 <= 1.1 * most + more


STATISTICS = (scale.lines, scale.sm3)


@pytest.mark.skipif(not NEW, reason="An older XLA divides it otherwise.")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam, adamw", "lamb", "sm3"])
def test_leaves_without_a_side_that_divides(name):
    """Under ZeRO-1: padded, or worked on whole, with their state gathered."""
    model = scale.Model(width=132, layers=1, words=256)
    compiled, _ = program(name, "zero1", model)
    cost = cost_of(name, "zero1", model)
    assert traffic(compiled.as_text(), N) == pytest.approx(cost.own, rel=0.02)


# Gradients, and params that are gathered.


def loss(params, batch):
    for w in params:
        batch = jnp.tanh(batch @ w)
    return jnp.sum(batch**2)


@pytest.mark.parametrize("way", ["replicated", "full"])
def test_gradients_and_params_on_the_wire(way):
    """XLA for CPUs sums gradients in all-reduces, where others scatter the sums.

    And it keeps what has been gathered for the pass forwards until the pass backwards, so
    that one gather is here, where the model has two.
    """
    mesh = Mesh(np.array(jax.devices()[:N]), ("data",))
    over, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    lying = everywhere if way == "replicated" else over
    params = [jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=lying)] * 3
    batch = jax.ShapeDtypeStruct((4096, 64), jnp.float32, sharding=over)

    def gathered(params, batch):
        whole = [jax.lax.with_sharding_constraint(w, everywhere) for w in params]
        return loss(whole, batch)

    grad = jax.jit(jax.grad(gathered), out_shardings=[lying] * 3)
    size = 3 * 64 * 64 * 4
    want = scale.all_reduce(size, N)
    want += scale.all_gather(size, N) if way == "full" else 0
    sent = traffic(grad.lower(params, batch).compile().as_text(), N)
    assert sent == pytest.approx(want, rel=0.01)


# Slow links.


LINKS = [(code, every) for code in scale.CODES for every in (None, 5)]
FEW = {("plain", None), ("int8()", None), ("low_rank(2)", None), ("sign()", 5)}


@pytest.mark.parametrize(
    ("code", "every"),
    [x if x in FEW else pytest.param(*x, marks=pytest.mark.slow) for x in LINKS],
)
def test_what_workers_exchange(code, every):
    """As it is, and in the branch of `local_updates`."""
    model = scale.Model(width=32, layers=1, words=64)
    chosen = scale.CODES[code]
    params = jax.tree.map(lambda x: jnp.ones(x.shape), model.tree(jnp.float32))
    if chosen.make is None:
        mean = lambda u, p: jax.tree.map(lambda x: jax.lax.pmean(x, AXIS), u)
        link = ox.stateless(mean)
    else:
        link = ox.compress(chosen.make(), AXIS)
    tx = link if every is None else ox.local_updates(ox.sgd(0.1), link, every)
    state = jax.vmap(tx.init)(jax.tree.map(lambda x: jnp.ones((N, *x.shape)), params))
    grads = jax.tree.map(lambda x: jnp.ones((N, *x.shape)), params)
    step = on_devices(lambda g, s: tx.update(g, s, params))
    text = step.lower(grads, state).compile().as_text()
    assert traffic(text, N) == pytest.approx(scale.exchanged(chosen, model, N), rel=1e-6)


# The reader of programs.


def test_loops_count_as_often_as_they_run():
    mesh = Mesh(np.array(jax.devices()[:N]), (AXIS,))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS))
    def f(x):
        body = lambda x, _: (jnp.sin(jax.lax.ppermute(x, AXIS, [(0, 1), (1, 0)])), None)
        return jax.lax.scan(body, x, length=7)[0]

    text = f.lower(jnp.ones(8 * 16)).compile().as_text()
    assert traffic(text, N) == 7 * 16 * 4
    assert bytes_of("(f32[2,3]{1,0}, u8[5]{0}, f32[])") == 24 + 5 + 4
