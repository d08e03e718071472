"""The measurements: each function makes one row, as a dict of plain numbers for JSON.

Times are spreads (median, 10th and 90th percentile) in seconds. A ratio is ours over the
peer's, the spread of the ratios of rounds, in which all had their turn.
"""

import random
import time

import jax

from tests.benchmarks import layouts, peers, timing, training

STEPPING = ("ours", "again", "packed", "Optax", "loop", *peers.TORCH)
COMPILING = ("ours", "packed", "Optax", "loop")
PLAIN = ("ours", "packed", "Optax")
ON_MATRICES = ("ours", "again", "Optax", "loop", "leaf by leaf", "torch")
TRAINING = ("ours", "again", "packed", "Optax", "loop")
RENEWAL = 10  # SOAP renews its axes at every tenth step: ten are one turn.


def head(layout, optimizer):
    return {
        "layout": layout.name,
        "leaves": len(layout.shapes),
        "parameters": layout.parameters,
        "optimizer": optimizer,
    }


def compared(times):
    """The time of each peer, and the ratio of ours to it."""
    return {
        name: {"seconds": timing.spread(t), "ratio": timing.ratios(times["ours"], t)}
        for name, t in times.items()
    }


def step(layout, optimizer, plan):
    """Update and apply, as one donated program."""
    if optimizer in peers.FOR_MATRICES:
        layout = layouts.as_matrices(layout)
    arrays = layouts.leaves(layout)
    runs = peers.runs(STEPPING, optimizer, layout, arrays, plan.note)
    moved = peers.bytes_moved(
        optimizer, arrays[0], peers.least_state(optimizer, layout, arrays[0])
    )
    bandwidths = [plan.triad.bandwidth()]
    times = timing.in_turns(runs, plan.rounds, plan.seconds)
    bandwidths.append(plan.triad.bandwidth())
    bandwidth = sum(bandwidths) / 2
    times["limit"] = [moved / bandwidth] * len(times["ours"])
    return head(layout, optimizer) | {
        "rounds": len(times["ours"]),
        "bytes": moved,
        "bandwidth": bandwidth,
        "peers": compared(times),
    }


def cold(layout, optimizer, plan):
    """Trace, lower and compile, in a process that knows Python's part, but no program."""
    if optimizer in peers.FOR_MATRICES:
        layout = layouts.as_matrices(layout)

    def measured(layout, arrays):
        parts = {}
        for name in random.sample(COMPILING, len(COMPILING)):
            jax.clear_caches()
            runs = peers.runs([name], optimizer, layout, arrays, plan.note)
            jax.clear_caches()
            for run in runs.values():
                parts[name] = run.compile()[0]
        return parts

    few = layouts.of_shapes("few", dict(list(layout.shapes.items())[:2]))
    measured(few, layouts.leaves(few))
    arrays, rounds = layouts.leaves(layout), []
    end = time.perf_counter() + plan.seconds
    while not rounds or (len(rounds) < plan.rounds and time.perf_counter() < end):
        rounds.append(measured(layout, arrays))
    found = {}
    total = lambda parts: sum(parts.values())
    for name in (name for name in COMPILING if name in rounds[0]):
        mine = [r[name] for r in rounds]
        entry = {"seconds": timing.spread([total(parts) for parts in mine])}
        for part in mine[0]:
            entry[part] = timing.spread([parts[part] for parts in mine])
        ours = [r["ours"] for r in rounds]
        entry["ratio"] = timing.ratios([*map(total, ours)], [*map(total, mine)])
        entry["ratio of lower"] = timing.ratios(
            [parts["lower"] for parts in ours], [parts["lower"] for parts in mine]
        )
        found[name] = entry
    return head(layout, optimizer) | {"rounds": len(rounds), "peers": found}


def plain(layout, optimizer, plan):
    """`update` without a `jit` around it, over the same jitted."""
    if optimizer in peers.FOR_MATRICES:
        layout = layouts.as_matrices(layout)
    params, grads = layouts.leaves(layout)
    runs = {}

    def run(update, state):
        return lambda: timing.timed(update, grads, state, params)[0]

    for name in PLAIN:
        try:
            tx, _ = peers.transformation(name, optimizer, layout)
            state = tx.init(params)
        except peers.Missing:
            continue
        except (TypeError, ValueError) as refusal:
            if name != "packed":
                raise
            plan.note(f"packed {optimizer} on {layout.name}: {refusal}")
            continue
        runs[name, "plain"] = run(tx.update, state)
        runs[name, "jitted"] = run(jax.jit(tx.update), state)
    times = timing.in_turns(runs, plan.rounds, plan.seconds)
    found = {}
    for name in dict.fromkeys(name for name, _ in times):
        called, jitted = times[name, "plain"], times[name, "jitted"]
        found[name] = {
            "seconds": timing.spread(called),
            "jitted": timing.spread(jitted),
            "plain_over_jitted": timing.ratios(called, jitted),
        }
    rounds = len(times["ours", "plain"])
    return head(layout, optimizer) | {"rounds": rounds, "peers": found}


def matrices(layout, optimizer, plan):
    """Rules for matrices: time, what compiling takes, and the memory of the program."""
    layout = layouts.as_matrices(layout)
    arrays = layouts.leaves(layout)
    turns = RENEWAL if optimizer == "soap" else 1
    runs = peers.runs(ON_MATRICES, optimizer, layout, arrays, plan.note, turns)
    compiled = {}
    for name, run in runs.items():
        if isinstance(run, peers.JaxRun):
            parts, executable = run.compile()
            compiled[name] = {
                "cold": sum(parts.values()),
                "peak_bytes": peers.peak_bytes(executable),
                "argument_bytes": peers.size_of(run.arguments),
            }
    times = timing.in_turns(runs, plan.rounds, plan.seconds)
    found = compared(times)
    for name, figures in compiled.items():
        found[name] |= figures
    rounds = len(times["ours"])
    return head(layout, optimizer) | {"rounds": rounds, "peers": found}


def train(model, optimizer, plan):
    """Whole training steps, forward and backward included, and these two alone."""
    params, batch, loss = training.MODELS[model]()
    layout = layouts.of_shapes(model, {k: p.shape for k, p in params.items()})
    gradient = jax.jit(jax.grad(loss))
    runs = {"gradient": lambda: timing.timed(gradient, params, batch)[0]}

    def program(peer):
        init, advance = peers.rule(peer, optimizer, layout)

        def whole(params, state, batch):
            return advance(params, state, jax.grad(loss)(params, batch))

        return peers.Program(init, jax.jit(whole, donate_argnums=(0, 1)))

    for peer in TRAINING:
        try:
            run = peers.JaxRun(program(peer), params, batch)
            run()
            runs[peer] = run
        except peers.Missing:
            continue
        except (TypeError, ValueError) as refusal:
            if peer != "packed":
                raise
            plan.note(f"packed {optimizer} for {model}: {refusal}")
    times = timing.in_turns(runs, plan.rounds, plan.seconds)
    found = compared(times)
    for name, figures in found.items():
        pairs = zip(times["gradient"], times[name], strict=True)
        figures["share"] = timing.spread([1 - alone / whole for alone, whole in pairs])
    return head(layout, optimizer) | {"rounds": len(times["ours"]), "peers": found}
