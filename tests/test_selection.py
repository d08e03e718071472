"""Which leaves: every way to say it, and what is refused."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import selection

PARAMS = {
    "encoder": [
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    ],
    "norm": {"scale": jnp.ones(2)},
    "bias": jnp.ones(1),
}
MASK = {"encoder": True, "norm": False, "bias": False}
PATHS = {selection.text(path) for path in selection.by_path(PARAMS)}


def chosen(mask, params=PARAMS):
    found = selection.by_path(selection.chosen_by(mask, params))
    return {selection.text(path) for path, yes in found.items() if yes}


BIASES = {"bias", "encoder/0/bias", "encoder/1/bias"}


@pytest.mark.parametrize(
    ("pattern", "want"),
    {
        "**/bias": BIASES,
        "*/bias": set(),
        "bias": {"bias"},
        "encoder/*/bias": BIASES - {"bias"},
        "encoder/**/bias": BIASES - {"bias"},
        "**/encoder/**/0/**/bias": {"encoder/0/bias"},
        "encoder/**": {p for p in PATHS if p.startswith("encoder")},
        "bias/**": {"bias"},
        "**": PATHS,
        "**/**": PATHS,
        "encoder/?/k*l": {"encoder/0/kernel", "encoder/1/kernel"},
        "encoder/[!0]/*": {"encoder/1/kernel", "encoder/1/bias"},
        "encoder/[0-9]/[bx]*": {"encoder/0/bias", "encoder/1/bias"},
        "norm.scale": set(),
        "norm*scale": set(),
        "en": set(),
        "Bias": set(),
    }.items(),
)
def test_a_pattern_matches_whole_paths_part_by_part(pattern, want):
    got = {p for p in PATHS if selection.matches(pattern, tuple(p.split("/")))}
    assert got == want
    if want:
        assert chosen(pattern) == want


def test_patterns_add_up_and_those_with_a_mark_leave_out():
    assert chosen(["bias", "norm/*"]) == {"bias", "norm/scale"}
    assert chosen(["!**/bias", "!norm/**"]) == {"encoder/0/kernel", "encoder/1/kernel"}
    assert chosen(("encoder/**", "!**/bias")) == {"encoder/0/kernel", "encoder/1/kernel"}


@pytest.mark.parametrize(
    "mask",
    [
        {"encoder": True, "norm": {"scale": False}, "bias": False},
        {"encoder": [True, True], "norm": False, "bias": np.False_},
        "encoder/**",
        lambda path, leaf: path.startswith("encoder"),
        functools.partial(lambda start, path, leaf: path.startswith(start), "encoder"),
        lambda path, leaf, start="encoder": path.startswith(start),
        lambda params: {k: k == "encoder" for k in params},
    ],
    ids=["tree", "prefix", "pattern", "function", "partial", "default", "of params"],
)
def test_all_ways_to_say_one_thing(mask):
    assert chosen(mask) == {p for p in PATHS if p.startswith("encoder")}


def test_everything_and_nothing():
    assert chosen(None) == chosen(True) == PATHS
    assert chosen(False) == set()


def test_none_is_no_parameter():
    params = {"a": None, "b": jnp.ones(1)}
    for mask in (True, "**", lambda path, leaf: True, {"a": None, "b": True}):
        assert selection.chosen_by(mask, params) == {"a": None, "b": True}
    with pytest.raises(ValueError, match=r"'a', which matches no .* There are: b\.$"):
        selection.chosen_by("a", params)
    assert selection.chosen_by("anything", {}) == {}
    assert selection.chosen_by("anything", {"a": None}) == {"a": None}


def test_a_pattern_that_matches_nothing_lists_what_there_is():
    message = (
        "got the pattern 'encoder', which matches no parameter. There are: bias, "
        "encoder/0/bias, encoder/0/kernel, encoder/1/bias, encoder/1/kernel, norm/scale. "
        "Did you mean 'encoder/**'?"
    )
    with pytest.raises(ValueError) as error:
        selection.chosen_by(["**", "encoder"], PARAMS)
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"'!?gain', which matches .* norm/scale\.$"):
        selection.chosen_by(["!gain"], PARAMS)
    for pattern, meant in (("kernel", "**/kernel"), ("[0-1]", "**/[0-1]/**")):
        with pytest.raises(ValueError) as error:
            selection.chosen_by(pattern, PARAMS)
        assert str(error.value).endswith(f"norm/scale. Did you mean {meant!r}?")
    # `bia/**` matches nothing either, though it begins as `bias` does.
    with pytest.raises(ValueError, match=r"norm/scale\.$"):
        selection.chosen_by("bia", PARAMS)
    many = {f"w{i:03}": jnp.ones(1) for i in range(50)}
    with pytest.raises(ValueError, match=r"w000, .*, w019 and 30 more\.$"):
        selection.chosen_by("bias", many)


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ({"encoder": True}, ValueError, r"match the params: it lacks .*\['bias'\]"),
        ({**MASK, "head": True}, ValueError, r"it has leaf \['head'\], missing in"),
        ({**MASK, "norm": None}, ValueError, "a mask that does not match the params"),
        (
            {**MASK, "norm": 1},
            TypeError,
            r"a mask with 1 at \['norm'\]\['scale'\]; it takes",
        ),
        (lambda path: "bias" in path, TypeError, r"two: `lambda path, leaf: ...`"),
        ({**MASK, "norm": "**"}, TypeError, r"with '\*\*' at \['norm'\]\['scale'\]"),
        ({**MASK, "norm": jnp.zeros(2, bool)}, TypeError, r"\['norm'\]\['scale'\]"),
        (lambda path, leaf: leaf.sum(), TypeError, r"a mask with Array.* at \['bias'\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, kind, message):
    with pytest.raises(ValueError, match=message) as error:
        selection.chosen_by(mask, PARAMS)
    assert error.value.kind is kind


def test_a_mask_that_depends_on_values_is_refused_in_a_jit_alone():
    def positive(path, leaf):
        return (leaf > 0).all()

    assert chosen(positive) == PATHS
    tx = ox.masked(ox.scale(2.0), positive)
    with pytest.raises(TypeError, match=r"^`masked` got a mask with JitTracer|Traced"):
        jax.jit(tx.init)(PARAMS)


def test_labels_are_trees_prefixes_or_functions():
    want = {p: "a" if "encoder" in p else "b" for p in selection.by_path(PARAMS)}
    for labels in (
        {"encoder": "a", "norm": "b", "bias": "b"},
        {"encoder": ["a", "a"], "norm": {"scale": "b"}, "bias": "b"},
        lambda path, leaf: "a" if path.startswith("encoder") else "b",
        lambda params: {k: "a" if k == "encoder" else "b" for k in params},
    ):
        assert selection.labelled_by(labels, PARAMS) == want
    assert set(selection.labelled_by("a", PARAMS).values()) == {"a"}


Point = collections.namedtuple("Point", ["x", "y"])


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
@dataclasses.dataclass
class Layer:
    w: jax.Array


@jax.tree_util.register_pytree_node_class
class Bare:
    """A node that tells no names of its children."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_paths_are_what_one_would_write():
    tree = {1: [Point(1.0, Layer(2.0))], 2: Bare(3.0, None), 3: {"a/b": 4.0}}
    assert {selection.text(p): x for p, x in selection.by_path(tree).items()} == {
        "1/0/x": 1.0,
        "1/0/y/w": 2.0,
        "2/0": 3.0,
        "2/1": None,
        "3/a/b": 4.0,
    }
    assert selection.by_path(5.0) == {(): 5.0}
    assert chosen("3/**/b", tree) == {"3/a/b"}  # As Haiku names its modules.


@jax.tree_util.register_pytree_with_keys_class
class Box:
    """A node that holds one child by the name of `value`, as variables of NNX do."""

    def __init__(self, value, **others):
        self.children = {"value": value, **others}

    def tree_flatten_with_keys(self):
        named = self.children.items()
        return [(jax.tree_util.GetAttrKey(k), x) for k, x in named], tuple(self.children)

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(**dict(zip(aux, children, strict=True)))


def test_a_box_around_one_array_adds_nothing_to_its_path():
    tree = {
        "box": Box(jnp.ones(1)),
        "dict": {"value": jnp.ones(1)},
        "two": Box(jnp.ones(1), query=None),
        "deep": Box(jnp.ones(1), query={"w": jnp.ones(1)}),
    }
    paths = {"box", "dict/value", "two/value", "deep/value", "deep/query/w"}
    assert chosen("**", tree) == paths
    assert chosen(lambda path, leaf: path == "box", tree) == {"box"}
    assert chosen("box", tree) == {"box"}
    assert set(selection.by_path(Box(1.0))) == {()}


def test_a_tree_goes_by_its_paths_and_comes_back():
    tree = {"a": {"b": 1.0, "c": None}, "d": 2.0}
    assert selection.nested(selection.by_path(tree)) == tree
    assert selection.nested(selection.by_path(5.0)) == 5.0
    assert selection.nested({}) == {}


def test_the_first_pattern_that_matches_counts():
    got = selection.first_match(["norm/**", "**/bias", "encoder/**"], PARAMS)
    assert {selection.text(p): k for p, k in got.items()} == {
        "norm/scale": "norm/**",
        "bias": "**/bias",
        **{f"encoder/{i}/bias": "**/bias" for i in "01"},
        **{f"encoder/{i}/kernel": "encoder/**" for i in "01"},
    }
    with pytest.raises(ValueError, match="'head/\\*\\*', which matches no parameter"):
        selection.first_match(["**", "head/**"], PARAMS)


MODULE_MASKS = {
    "pattern": "**/bias",
    "function": lambda path, leaf: leaf.ndim == 1,
    "function of the params": lambda model: jax.tree.map(lambda p: p.ndim == 1, model),
}


@pytest.mark.parametrize("mask", MODULE_MASKS)
def test_modules_are_data_though_they_can_be_called(mask):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    want = {"layers/0/bias", "layers/1/bias"}
    assert chosen(MODULE_MASKS[mask], params) == want
    as_tree = selection.chosen_by(MODULE_MASKS[mask], params)
    assert callable(as_tree)
    assert chosen(as_tree, params) == want  # A module of booleans is a tree of them.
    labels = jax.tree.map(lambda yes: "a" if yes else "b", as_tree)
    got = selection.labelled_by(labels, params)
    assert {selection.text(p) for p, k in got.items() if k == "a"} == want
    # The functions in a module that was not filtered are nothing to train.
    if mask != "function of the params":
        assert chosen(MODULE_MASKS[mask], model) == want


@pytest.mark.parametrize("mask", ["!**/bias", ["**/kernel", "norm/*"]])
def test_masks_of_weight_decay_and_trust_ratios_are_said_in_the_same_ways(mask):
    params = PARAMS

    def decayed(tx):
        return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]

    for make in (
        lambda mask: ox.adamw(0.1, weight_decay=0.5, mask=mask),
        lambda mask: ox.chain(
            ox.add_decayed_weights(1.0), ox.scale_by_trust_ratio(mask=mask)
        ),
    ):
        got, want = decayed(make(mask)), decayed(make(selection.chosen_by(mask, params)))
        jax.tree.map(np.testing.assert_array_equal, got, want)
        moved = {selection.text(p) for p, u in selection.by_path(got).items() if u.any()}
        assert moved >= chosen(mask)
    assert {
        selection.text(p)
        for p, u in selection.by_path(
            decayed(ox.adamw(0.1, weight_decay=0.5, mask=mask))
        ).items()
        if u.any()
    } == chosen(mask)


def test_two_leaves_of_one_path_are_refused():
    @jax.tree_util.register_pytree_with_keys_class
    class Twice:
        def tree_flatten_with_keys(self):
            key = jax.tree_util.DictKey("w")
            return ((key, 1.0), (key, 2.0)), None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    with pytest.raises(ValueError, match="two leaves of one path"):
        selection.by_path(Twice())
