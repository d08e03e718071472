"""A run goes on from a file, in another process, or version, as if never stopped."""

import io
import json
import pickle
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_states
from recorded_states import PARAMS, gradients, made, run

import optimjax as ox
from optimjax import states

RECORDED = {
    int(path.stem.removeprefix("layout_")): dict(np.load(path))
    for path in recorded_states.FOLDER.glob("layout_*.npz")
}
GOLDEN = sorted(
    {(version, key.split("|")[0]) for version, keys in RECORDED.items() for key in keys}
)


def recorded(version, expression):
    """What was written of one optimizer: its state as a dict, and updates by step/leaf."""
    mine = {
        key.removeprefix(f"{expression}|"): x
        for key, x in RECORDED[version].items()
        if key.startswith(f"{expression}|")
    }
    stored = {key: x for key, x in mine.items() if not key.startswith("=>")}
    after = {key.removeprefix("=>"): x for key, x in mine.items() if key.startswith("=>")}
    return stored, after


QUICK = [
    "adafactor(0.1)",
    "chain(clip_by_global_norm(1.0), adamw(0.01, weight_decay=0.1))",
    "apply_if_finite(partition({'w': muon(0.01), '**': sgd(0.1, 0.9)}), 3)",
    "average_params(accumulate(adam(0.01), 2), 0.9)",
    "in_eigenbasis(scale_by_lion())",
    "inject_hyperparams(nadam)(0.01)",
]


def test_what_any_version_wrote_can_be_read():
    """If this fails, the layout of a state has changed: see `states.LAYOUT`."""
    for version, expression in GOLDEN:
        stored, _ = recorded(version, expression)
        like = jax.eval_shape(made(expression).init, PARAMS)
        state = ox.state_from_dict(stored, like)
        assert jax.tree.structure(state) == jax.tree.structure(like)


@pytest.mark.parametrize(
    ("version", "expression"),
    [
        pytest.param(*one, marks=() if one[1] in QUICK else pytest.mark.slow)
        for one in GOLDEN
    ],
)
def test_what_any_version_wrote_goes_on_as_it_did(version, expression):
    tx = made(expression)
    stored, after = recorded(version, expression)
    state = ox.state_from_dict(stored, jax.eval_shape(tx.init, PARAMS))
    assert len(after) == 4
    for step, updates in zip((2, 3), run(tx, state, (2, 3))[1], strict=True):
        for leaf, u in updates.items():
            want = after[f"{step}/{leaf}"]
            # Matrix rules amplify roundings, which differ between machines.
            atol = 2e-4 * max(np.abs(want).max(), 1e-30)
            np.testing.assert_allclose(u, want, rtol=2e-5, atol=atol)


def test_there_is_a_record_of_this_layout_with_all_that_is_there():
    missing = set(recorded_states.expressions()) - {
        e for v, e in GOLDEN if v == states.LAYOUT
    }
    new = {e.split("(")[0] for e in missing}
    old = {e.split("(")[0] for _, e in GOLDEN}
    assert not new & old, f"settings of {sorted(new & old)} have changed"


def test_the_dict_gives_back_the_state_bit_for_bit():
    tx = made("average_params(accumulate(adam(0.01), 2), 0.9)")
    state, _ = run(tx, tx.init(PARAMS), (0, 1, 2))
    again = ox.state_from_dict(ox.state_to_dict(state), tx.init(PARAMS))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(str(a)), again, state)


def test_numpy_files_keep_bfloat16():
    """`np.load` gives back bits without a dtype."""
    tx = ox.ema(0.9, dtype="bfloat16")
    state, _ = run(tx, tx.init(PARAMS), (0, 1))
    file = io.BytesIO()
    np.savez(file, **ox.state_to_dict(state))
    file.seek(0)
    again = ox.state_from_dict(np.load(file), jax.eval_shape(tx.init, PARAMS))
    assert again.ema["w"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_arrays_go_where_they_shall_lie():
    tx = ox.momentum(0.1)
    mesh = jax.sharding.Mesh(jax.devices(), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {"w": jax.device_put(jnp.ones((16, 2)), rows)}
    like = ox.sharded_init(tx, params)
    again = ox.state_from_dict(ox.state_to_dict(tx.init({"w": jnp.ones((16, 2))})), like)
    assert again["scale_by_momentum"].momentum["w"].sharding == rows


def broken(change):
    stored = dict(ox.state_to_dict(ox.adam(0.1).init(PARAMS)))
    change(stored)
    return stored


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda d: d.pop("scale_by_rms/nu/w"),
            "there is no scale_by_rms/nu/w",
        ),
        (lambda d: d.update(mine=np.ones(2)), "the state has no mine"),
        (
            lambda d: d.update({"scale_by_rms/nu/w": np.ones((2, 3), np.float32)}),
            r"scale_by_rms/nu/w is float32\[2, 3\] where float32\[3, 2\] is wanted",
        ),
        (
            lambda d: d.update({"scale_by_rms/nu/w": np.ones((3, 2), np.float16)}),
            r"is float16\[3, 2\] where float32",
        ),
        (
            lambda d: d.pop(states.LAYOUT_KEY),
            "needs the version of the layout.*read it as it was written",
        ),
        (
            lambda d: d.update({states.LAYOUT_KEY: np.int32(10**6)}),
            "layout 1000000.*a newer version of optimjax wrote it",
        ),
        (
            lambda d: d.update({states.LAYOUT_KEY: np.int32(0)}),
            "layout 0.*an older version",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_leaf_by_leaf(change, match):
    stored = broken(change)
    before = dict(stored)
    with pytest.raises(ValueError, match=match):
        ox.state_from_dict(stored, jax.eval_shape(ox.adam(0.1).init, PARAMS))
    assert list(stored) == list(before)


def test_an_older_layout_is_renewed_on_the_way(monkeypatch):
    """As a later version would, that calls `nu` by another name."""
    monkeypatch.setattr(states, "LAYOUT", 2)
    rename = {"scale_by_rms/square": "scale_by_rms/nu"}
    monkeypatch.setitem(
        states._RENEWALS,
        1,
        lambda leaves, like: {
            next((p.replace(a, b) for a, b in rename.items() if a in p), p): x
            for p, x in leaves.items()
        },
    )
    tx = ox.rmsprop(0.1)
    stored = {
        p.replace("/nu", "/square"): x for p, x in ox.state_to_dict(tx.init(PARAMS)).items()
    }
    stored[states.LAYOUT_KEY] = np.int32(1)
    jax.tree.map(
        np.testing.assert_array_equal,
        ox.state_from_dict(stored, tx.init(PARAMS)),
        tx.init(PARAMS),
    )


# What another process does: reads everything, takes two steps, writes what came of them.
GO_ON = """
    import json, pathlib, pickle, sys
    import jax, numpy as np
    sys.path[:0] = sys.argv[2:]
    import conftest
    import optimjax as ox
    import orbax.checkpoint as ocp
    from flax import serialization
    from recorded_states import PARAMS, made, run

    folder = pathlib.Path(sys.argv[1])
    expressions = json.loads((folder / "expressions.json").read_text())
    likes = {e: jax.eval_shape(made(e).init, PARAMS) for e in expressions}
    dicts = {e: ox.state_to_dict(like) for e, like in likes.items()}
    found = {}
    with ocp.StandardCheckpointer() as checkpointer:
        found["orbax"] = checkpointer.restore(folder / "orbax", likes)
        stored = checkpointer.restore(folder / "orbax_dicts")
    found["orbax_dicts"] = {e: ox.state_from_dict(stored[e], likes[e]) for e in expressions}
    for e in expressions:  # Flax wants a state to fill in, not shapes.
        fresh = made(e).init(PARAMS)
        blob = (folder / "msgpack.pkl").read_bytes()
        msgpack = serialization.from_bytes(fresh, pickle.loads(blob)[e])
        found.setdefault("msgpack", {})[e] = jax.tree.map(jax.numpy.asarray, msgpack)
    found["pickle"] = pickle.loads((folder / "states.pkl").read_bytes())
    out = {
        f"{how}|{e}|{i}|{leaf}": np.asarray(u)
        for how, states in found.items()
        for e, state in states.items()
        for i, updates in enumerate(run(made(e), state, (2, 3))[1])
        for leaf, u in updates.items()
    }
    np.savez(folder / "out.npz", **out)
"""


@pytest.mark.parametrize(
    "expressions",
    [QUICK, pytest.param(recorded_states.expressions, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_another_process_goes_on_bit_for_bit(tmp_path, expressions):
    ocp = pytest.importorskip("orbax.checkpoint")
    serialization = pytest.importorskip("flax.serialization")
    expressions = expressions() if callable(expressions) else expressions
    held, want = {}, {}
    for e in expressions:
        tx = made(e)
        held[e], _ = run(tx, tx.init(PARAMS), (0, 1))
        want[e] = run(tx, held[e], (2, 3))[1]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", held)
        checkpointer.save(
            tmp_path / "orbax_dicts", {e: ox.state_to_dict(s) for e, s in held.items()}
        )
    (tmp_path / "states.pkl").write_bytes(pickle.dumps(held))
    blobs = {e: serialization.to_bytes(state) for e, state in held.items()}
    (tmp_path / "msgpack.pkl").write_bytes(pickle.dumps(blobs))
    (tmp_path / "expressions.json").write_text(json.dumps(expressions))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GO_ON), str(tmp_path), *sys.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got = dict(np.load(tmp_path / "out.npz"))
    assert len(got) == 4 * 2 * 2 * len(expressions)
    for key, u in got.items():
        _, e, i, leaf = key.split("|")
        np.testing.assert_array_equal(u, want[e][int(i)][leaf], err_msg=key)


def test_gradients_of_the_record_are_what_they_were():
    """They are part of it, and made by a formula."""
    np.testing.assert_allclose(gradients(0)["b"], np.cos([1.5, -0.75]), rtol=1e-6)
