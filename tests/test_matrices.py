"""Which axes make a matrix: roles, stacks, and who gets what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import matrices

PARAMS = {
    "embed": jnp.ones((7, 4)),
    "layers": [
        {"qkv": jnp.ones((4, 12)), "bias": jnp.ones(12)},
        {"conv": jnp.ones((3, 2, 5))},
    ],
}


def found(axes, params=PARAMS):
    return {"/".join(p): role for p, role in matrices.roles(axes, params).items()}


def test_what_has_two_axes_is_a_matrix_unless_it_is_said_otherwise():
    none = dict.fromkeys(["embed", "layers/0/bias", "layers/0/qkv", "layers/1/conv"])
    assert found(None) == none | {"embed": "io", "layers/0/qkv": "io"}
    assert found("bio") == none | {"layers/1/conv": "bio"}
    assert found({"embed": None, "**/conv": "oii"}) == none | {
        "layers/0/qkv": "io",
        "layers/1/conv": "oii",
    }
    assert found({"**/qkv": "oi", "**": None}) == none | {"layers/0/qkv": "oi"}
    by_name = lambda path, leaf: "iio" if path.endswith("conv") else None
    assert found(by_name) == none | {"layers/1/conv": "iio"}
    empty = {"rows": jnp.ones((0, 3)), "gone": None, "function": jnp.sin}
    assert found(None, empty) == dict.fromkeys(empty)
    shapes = jax.eval_shape(lambda: PARAMS)
    assert found(None, shapes) == found(None)


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ("iq", ValueError, "the role 'iq'"),
        ("ii", ValueError, "an 'i' and an 'o' among them"),
        ("(2i)(2o)", ValueError, "the role"),
        ("(0i)o", ValueError, "the role"),
        ({"embed": "bio"}, ValueError, "3 axes, for embed, which has the shape (7, 4)"),
        ({"**/qkv": "i(5o)"}, ValueError, "5 equal parts do not make up its axis 1 of"),
        ({"qkv": "io"}, ValueError, "Did you mean '**/qkv'?"),
        ({"embed": 3}, TypeError, "got 3 for the role of embed"),
        (3, TypeError, "but got 3"),
    ],
)
def test_roles_that_make_no_sense_are_refused(axes, error, message):
    with pytest.raises(error) as caught:
        matrices.assignment(PARAMS, axes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("`assignment` ")


def test_matrices_are_the_linear_maps_that_the_axes_say():
    """Each role against the product that a layer of this kind computes."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (2, 3, 4))
    heads = jax.random.normal(key, (2, 3))
    [per_head] = matrices.split(x, "ibo")
    np.testing.assert_array_equal(per_head[1], x[:, 1])
    [together] = matrices.split(x, "ioo")
    image = jnp.einsum("i,iho->ho", heads[:, 0], x).reshape(-1)
    np.testing.assert_allclose(heads[:, 0] @ together[0], image, rtol=1e-6)
    [conv] = matrices.split(x, "iio")
    image = jnp.einsum("hi,hio->o", heads, x)
    np.testing.assert_allclose(heads.reshape(-1) @ conv[0], image, rtol=1e-6)
    [turned] = matrices.split(x[0], "oi")
    np.testing.assert_array_equal(turned[0], x[0].T)
    wide, narrow = matrices.split(x, "bi(2+1+1o)")
    np.testing.assert_array_equal(wide, x[:, :, :2])
    np.testing.assert_array_equal(narrow, jnp.concatenate([x[:, :, 2:3], x[:, :, 3:]]))
    [blocks] = matrices.split(x, "b(3i)o")
    np.testing.assert_array_equal(blocks[:, 0], x.transpose(1, 0, 2).reshape(6, 4))


@pytest.mark.parametrize(
    "role", ["bio", "oib", "iio", "o i b", "(2i)ob", "bi(2+1+1o)", "o(1+2i)b", "bb(2o)i"]
)
def test_what_was_split_is_joined_again(role):
    shape = (4, 6, 2, 4)[-len(matrices._read(role).letters) :]
    shape = (4, 3, 4) if role.startswith("bi(") else shape
    shape = (4, 3, 2) if role.startswith("o(") else shape
    x = jnp.arange(float(np.prod(shape))).reshape(shape)
    stacks = matrices.split(x, role)
    assert [s.shape for s in stacks] == matrices.shapes(x, role)
    assert sum(s.size for s in stacks) == x.size
    np.testing.assert_array_equal(matrices.join(stacks, role, x), x)


def _counted(u, seen, *, by):
    return by * u, seen + u.shape[-1]


def test_a_rule_sees_every_matrix_with_its_slots_and_nothing_else():
    axes = {"**/qkv": "i(2+1o)", "**/conv": "bio"}
    slot = matrices.slot_for(PARAMS, axes, lambda shape, dtype: jnp.zeros(shape[:1], dtype))
    # Numbers of matrices: a sum of two widths, a stack of three, the embedding itself.
    assert jax.tree.map(jnp.shape, slot) == {
        "embed": ((1,),),
        "layers": [{"qkv": ((1,), (1,)), "bias": ()}, {"conv": ((3,),)}],
    }
    updates = jax.tree.map(lambda p: None if p.shape == (7, 4) else p, PARAMS)
    out, slot = matrices.matrixwise(_counted, updates, axes, slot, by=3.0)
    assert out["embed"] is None
    assert out["layers"][0]["bias"].max() == 1
    assert out["layers"][0]["qkv"].min() == 3
    assert out["layers"][1]["conv"].min() == 3
    seen = jax.tree.map(float, jax.tree.map(jnp.max, slot))
    assert seen == {
        "embed": (0.0,),
        "layers": [{"qkv": (8.0, 4.0), "bias": ()}, {"conv": (5.0,)}],
    }


def test_a_rule_is_traced_once_for_each_role_and_shape():
    traces = []

    def rule(u):
        traces.append(u.shape)
        return u

    many = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "c": jnp.ones((3, 2))}
    matrices.matrixwise(rule, many, None)
    assert sorted(set(traces)) == [(1, 2, 3), (1, 3, 2)]
    assert len(traces) == 2


def test_matrices_and_others_are_told_apart_once():
    t = ox.on_matrices(ox.scale_by_momentum(0.5), ox.adam(0.1), {"embed": None})
    state = t.init(PARAMS)
    assert state.members == {
        "matrices": {"layers": {"0": {"qkv": None}}},
        "others": {"embed": None, "layers": {"0": {"bias": None}, "1": {"conv": None}}},
    }
    t = ox.on_matrices(ox.scale_by_momentum(0.5), ox.adam(0.1))
    t.init({"w": jnp.ones((2, 2))})  # No others is no mistake.


def test_no_matrix_is_an_error_that_says_what_there_is():
    t = ox.on_matrices(ox.identity(), ox.identity())
    with pytest.raises(ValueError, match=r"`on_matrices` has no matrix .*: b \(3,\)\. Say"):
        t.init({"b": jnp.ones(3)})
    t = ox.on_matrices(ox.identity(), ox.identity(), {"bais": None})
    with pytest.raises(ValueError, match="`on_matrices` got the pattern 'bais'"):
        t.init({"b": jnp.ones(3), "w": jnp.ones((2, 2))})
    t.init({})
