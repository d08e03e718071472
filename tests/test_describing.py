"""A description says what is there: every stage once, and the bytes that JAX counts."""

import pathlib
import re

import catalogue
import jax
import jax.numpy as jnp
import pytest

import optimjax as ox

PARAMS = {
    "dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4, jnp.bfloat16)},
    "head": jnp.ones((4, 4)),
}
SHAPES = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)


def bytes_of(state):
    """What JAX reports of the buffers themselves."""
    total = 0
    for x in jax.tree.leaves(state):
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        data = jax.random.key_data(x) if key else x
        total += sum(shard.data.nbytes for shard in data.addressable_shards)
    return total


def rows(tx, params=SHAPES):
    stages = ox.describe(tx, params).stages
    return [(s.depth, s.name, [slot.name for slot in s.slots]) for s in stages]


@pytest.mark.parametrize("case", catalogue.ONE_EACH, ids=str)
def test_the_bytes_are_those_of_the_buffers(case):
    tx = case()
    described = ox.describe(tx, SHAPES)
    assert described.state_bytes == bytes_of(tx.init(PARAMS))
    assert described.params.bytes == 24 * 4 + 4 * 2 + 16 * 4
    assert case.make.__name__ in [stage.name for stage in described.stages] or (
        case.make is ox.identity
    )


def test_an_alias_shows_its_stages_and_each_what_it_keeps():
    assert rows(ox.chain(ox.clip(1.0), ox.momentum(0.1))) == [
        (0, "chain", []),
        (1, "clip", []),
        (1, "momentum", []),
        (2, "scale_by_momentum", ["count", "momentum"]),
        (2, "scale_by_learning_rate", ["count"]),
    ]


def test_what_is_kept_for_each_leaf_has_the_name_of_its_field():
    """Not one slot for each leaf, be it kept in states of its own."""
    (soap,) = [s for s in ox.describe(ox.soap(0.1), SHAPES).stages if len(s.slots) > 2]
    assert [(slot.name, slot.bytes) for slot in soap.slots] == [
        ("count", 4),
        ("factors", 4 * (6 * 6 + 4 * 4 + 2 * 4 * 4)),
        ("bases", 4 * (6 * 6 + 4 * 4 + 2 * 4 * 4)),
    ]


def test_leaves_are_those_that_a_stage_is_given():
    tx = ox.chain(
        ox.partition({"**/bias": ox.sgd(0.1), "**": ox.ema(0.9)}),
        ox.add_decayed_weights(0.1, mask=["!**/bias"]),
    )
    touches = {s.name: s.touches for s in ox.describe(tx, SHAPES).stages}
    assert touches == {
        "chain": ("dense/bias", "dense/kernel", "head"),
        "partition": ("dense/bias", "dense/kernel", "head"),
        "sgd": ("dense/bias",),
        "scale_by_learning_rate": ("dense/bias",),
        "ema": ("dense/kernel", "head"),
        "add_decayed_weights": ("dense/kernel", "head"),
    }


def test_hyperparameters_are_those_in_effect():
    """Every number, and of options those that were chosen; a schedule by its expression."""
    rate = ox.exponential_decay(0.1, 10, 0.5)
    stages = ox.describe(ox.rmsprop(rate, eps_in_sqrt=False), SHAPES).stages
    said = {stage.name: stage.hyperparameters for stage in stages}
    assert said["rmsprop"]["learning_rate"] == repr(rate)
    assert said["rmsprop"]["eps_in_sqrt"] == "False"
    assert said["rmsprop"]["decay"] == "0.9"
    assert "eps_in_sqrt" not in said["scale_by_rms"]
    assert "centered" not in said["rmsprop"]


def test_arrays_made_of_those_of_another_belong_to_who_made_them():
    tx = ox.accumulate(ox.master_weights(ox.sgd(0.1, momentum=0.9)), 4)
    described = ox.describe(tx, SHAPES)
    slots = {s.name: {x.name: x.dtypes for x in s.slots} for s in described.stages}
    assert slots["scale_by_momentum"]["momentum"] == ("float32",)
    assert slots["master_weights"] == {"master": ("float32",)}
    assert described.state_bytes == bytes_of(tx.init(PARAMS))


def test_other_libraries_are_described_too():
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"):
        described = ox.describe(ox.chain(ox.clip(1.0), optax.adam(0.1)), PARAMS)
        alone = ox.describe(optax.adam(0.1), PARAMS)
    assert [slot.name for slot in alone.stages[0].slots] == ["0/count", "0/mu", "0/nu"]
    assert alone.state_bytes == described.state_bytes == 4 + 2 * (24 * 4 + 4 * 2 + 16 * 4)


def test_nothing_is_allocated_and_totals_are_written_out():
    """A model of 10^12 parameters, which is on no machine."""
    params = {"w": jax.ShapeDtypeStruct((1_000_000, 1_000_000), jnp.bfloat16)}
    described = ox.describe(ox.adam(0.1), params)
    assert described.bytes_per_param == pytest.approx(8.0)
    text = str(described)
    assert "state      8 TB: 8 bytes a parameter" in text
    assert "params     2 TB: 1,000,000,000,000 numbers in 1 leaf, bfloat16" in text
    assert "together   12 TB" in text


def test_columns_line_up():
    lines = str(ox.describe(ox.adafactor(0.1), SHAPES)).splitlines()
    table = lines[: lines.index("")]
    stops = [i for i, c in enumerate(table[1]) if c == " " and table[1][i - 1] == "-"]
    assert len(stops) == 5
    assert all(line[i : i + 2].strip() == "" for line in table for i in stops)


def test_what_is_no_transformation_is_refused():
    with pytest.raises(TypeError, match=r"ShapeDtypeStruct.* the leaf \['w'\]\[0\] .* 2"):
        ox.describe(ox.adam(1e-3), {"w": (2, 3)})
    with pytest.raises(TypeError, match=r"`describe` takes transformations.*`adam\(...\)`"):
        ox.describe(ox.adam, SHAPES)


def test_the_table_of_the_readme_is_what_is_printed():
    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    found = re.search(r"```\n>>> print\((ox\.describe[^\n]*)\)\n(.*?)```", text, re.S)
    call, printed = found.groups()
    shapes = {
        "w": jax.ShapeDtypeStruct((100_000, 8192), jnp.bfloat16),
        "b": jax.ShapeDtypeStruct((8192,), jnp.bfloat16),
    }
    assert f"{eval(call, {'ox': ox, 'shapes': shapes})}\n" == printed


def test_what_keeps_nothing_may_stand_in_two_places():
    half = ox.scale(0.5)
    in_a_row = ox.describe(ox.chain(half, half), SHAPES)
    assert [stage.name for stage in in_a_row.stages] == ["chain", "scale", "scale"]
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    parts = ox.describe(ox.partition({"a": half, "**": half}), params)
    assert str(parts).count("1 of 2: ") == 2
