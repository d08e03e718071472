"""The speed benchmark: its parts, and that a tiny run goes through; no test of times."""

import argparse
import collections
import itertools
import json

import jax
import numpy as np
import pytest

from tests.benchmarks import __main__ as speed, by_hand, layouts, peers, timing


@pytest.fixture(autouse=True)
def peers_promote():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_a_tiny_run_prints_its_tables_and_writes_them(tmp_path, capsys):
    path = tmp_path / "speed.json"
    tables = ["step", "cold", "plain"]
    command = [
        "--layouts",
        "3x4",
        "--rounds",
        "3",
        "--seconds",
        "0.1",
        "--optimizers",
        "adam",
        "--triad",
        "1",
    ]
    written = ["--json", str(path), "--plots", str(tmp_path)]
    speed.main([*command, *written, "--tables", *tables])
    out = capsys.readouterr().out
    for title in ("Step: update and apply", "Cold start", "Without a jit"):
        assert title in out
    found = json.loads(path.read_text())
    assert set(found) == {"setting", *tables}
    assert {"date", "device", "cores", "jax", "optax"} <= set(found["setting"])
    (step,), (cold,), (plain,) = (found[table] for table in tables)
    for record in (step, cold, plain):
        assert (record["layout"], record["optimizer"]) == ("3x4", "adam")
        assert {"ours", "Optax"} <= set(record["peers"])
    assert {"again", "loop", "limit"} <= set(step["peers"])
    assert step["peers"]["Optax"]["ratio"]["median"] > 0
    assert step["peers"]["ours"]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert {"lower", "compile", "seconds"} <= set(cold["peers"]["Optax"])
    assert (tmp_path / "step.png").exists()
    assert (tmp_path / "cold.png").exists()


def test_matrices_and_their_memory(capsys):
    result = speed.main(
        ["--tables", "matrices", "--matrices", "2x8x8", "--rounds", "1", "--triad", "1"]
    )
    assert "Rules for matrices" in capsys.readouterr().out
    for record in result["matrices"]:
        assert {"ours", "loop", "leaf by leaf"} <= set(record["peers"])
        figures = record["peers"]["ours"]
        assert figures["peak_bytes"] >= figures["argument_bytes"]


@pytest.mark.parametrize(
    ("optimizer", "each"),
    [("sgd", 12), ("momentum", 20), ("adam", 28), ("clip_adamw", 32), ("lion", 20)],
)
def test_the_limit_counts_what_has_to_move(optimizer, each):
    given = layouts.layout("5x200")
    params, _ = layouts.leaves(given)
    moved = peers.bytes_moved(
        optimizer, params, peers.least_state(optimizer, given, params)
    )
    counts = moved - each * given.parameters
    assert 0 <= counts <= 2 * 16


@pytest.mark.parametrize("optimizer", by_hand.LOOPS)
def test_the_loops_by_hand_take_the_steps_of_optax(optimizer):
    given = layouts.layout("2x7")
    results = []
    for peer in ("loop", "Optax", "ours"):
        run = peers.JaxRun(peers.program(peer, optimizer, given), *layouts.leaves(given))
        for _ in range(3):
            run()
        results.append(run.params)
    for params in results[1:]:
        for path, p in params.items():
            np.testing.assert_allclose(p, results[0][path], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "leaves", "parameters"),
    [
        ("2000x50", 2000, 100_000),
        ("1 x 16M", 1, 16_000_000),
        ("24x16x8", 24, 24 * 128),
        ("resnet50", 161, 25_557_032),
        ("transformer:3x8", 4 + 3 * 12, 8192 * 8 + 512 * 8 + 16 + 3 * (12 * 64 + 13 * 8)),
        ("scanned:3x8", 4 + 12, 8192 * 8 + 512 * 8 + 16 + 3 * (12 * 64 + 13 * 8)),
    ],
)
def test_layouts_are_what_they_say(text, leaves, parameters):
    given = layouts.layout(text)
    assert len(given.shapes) == len(given.roles) == leaves
    assert given.parameters == parameters


@pytest.mark.parametrize("text", ["", "10", "axb", "10x", "transformer:3"])
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no layout"):
        layouts.layout(text)


def test_stacked_biases_are_no_matrices():
    roles = layouts.layout("scanned:3x8").roles
    assert roles["layers/qkv/kernel"] == "bio"
    assert roles["layers/qkv/bias"] is None
    assert roles["embedding"] == "io"


def test_a_slow_round_does_not_decide_a_ratio():
    ours, theirs = [1.0, 10.0, 1.0, 1.0, 1.0], [2.0, 20.0, 2.0, 2.0, 0.1]
    assert timing.ratios(ours, theirs)["median"] == 0.5


def test_turns_are_taken_until_the_time_is_up():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or 0.5 for name in "ab"}
    times = timing.in_turns(runs, rounds=100, seconds=0.0, pause=0.0)
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("ab", timing.FEWEST)
    assert len(calls) == 2 * (timing.FEWEST + timing.WARM_UP)
    assert timing.spread([1.0, 2.0, 3.0])["median"] == 2.0


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_each_follows_each_other_equally_often(n):
    rounds = [timing.turns(range(n), i) for i in range(2 * n)]
    assert all(sorted(order) == list(range(n)) for order in rounds)
    pairs = collections.Counter(
        pair for order in rounds for pair in itertools.pairwise(order)
    )
    assert set(pairs.values()) == {2}
    assert len(pairs) == n * (n - 1)
