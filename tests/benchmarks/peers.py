"""Who is measured: the same optimizers by this library, Optax, hand and PyTorch.

Each peer is made of an optimizer's name and a layout. Those of JAX are compiled programs
`(params, state, grads) -> (params, state)` that donate params and state: in this order JAX
gives every result the buffer of what it replaces, where gradients in front would cost
copies.
"""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optimjax as ox
from tests.benchmarks import by_hand, timing
from tests.benchmarks.torch_peers import TORCH, Missing, TorchRun, has_torch as has_torch

RATE = 1e-3


class Program(NamedTuple):
    """A training step of JAX."""

    init: Any  # params -> state
    step: Any  # (params, state, grads) -> (params, state), compiled; donates both.
    lower: Any = None  # The same arguments, to `jax.stages.Lowered`.


def axes(layout):
    return lambda path, leaf: layout.roles[path]


def dimension_numbers(layout):
    of_role = {
        "io": optax.contrib.MuonDimensionNumbers(0, 1),
        "bio": optax.contrib.MuonDimensionNumbers(1, 2),
        None: None,
    }
    return {path: of_role[role] for path, role in layout.roles.items()}


OURS = {
    "sgd": lambda layout: ox.sgd(RATE),
    "momentum": lambda layout: ox.sgd(RATE, 0.9),
    "rmsprop": lambda layout: ox.rmsprop(RATE),
    "adam": lambda layout: ox.adam(RATE),
    "clip_adamw": lambda layout: ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(RATE)),
    "lion": lambda layout: ox.lion(RATE),
    "adafactor": lambda layout: ox.adafactor(RATE),
    "lamb": lambda layout: ox.lamb(RATE),
    "muon": lambda layout: ox.muon(RATE, axes=axes(layout)),
    "soap": lambda layout: ox.soap(RATE, axes=axes(layout)),
}
OPTAX = {
    "sgd": lambda layout: optax.sgd(RATE),
    "momentum": lambda layout: optax.sgd(RATE, 0.9),
    "rmsprop": lambda layout: optax.rmsprop(RATE),
    "adam": lambda layout: optax.adam(RATE),
    "clip_adamw": lambda layout: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(RATE)
    ),
    "lion": lambda layout: optax.lion(RATE),
    "adafactor": lambda layout: optax.adafactor(RATE),
    "lamb": lambda layout: optax.lamb(RATE),
    "muon": lambda layout: optax.contrib.muon(
        RATE, muon_weight_dimension_numbers=dimension_numbers(layout)
    ),
}
FOR_MATRICES = ("muon", "soap")
OURSELVES = {"ours", "again", "packed"}


def transformation(peer, name, layout):
    """The transformation of a library, and its way to apply updates."""
    if peer == "Optax":
        if name not in OPTAX:
            raise Missing(name)
        return OPTAX[name](layout), optax.apply_updates
    tx = OURS[name](layout)
    if peer == "packed":
        tx = ox.pack_small_leaves(tx)
    return tx, ox.apply_updates


def rule(peer, name, layout):
    """`init` and a step `(params, state, grads) -> (params, state)`, not yet compiled."""
    if peer == "loop":
        return loop(name, layout)
    if peer == "leaf by leaf":
        return leaf_by_leaf(name, layout)
    tx, apply_updates = transformation(peer, name, layout)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    return tx.init, step


def loop(name, layout):
    found = by_hand.LOOPS.get(name)
    if set(layout.roles.values()) == {"io"}:
        found = found or by_hand.LOOPS_OF_MATRICES.get(name)
    if found is None:
        raise Missing(name)
    return found()


def leaf_by_leaf(name, layout):
    """Ours, called for each leaf by itself, as if nothing could be stacked."""
    tx = OURS[name](layout)

    def init(params):
        return {k: tx.init({k: p}) for k, p in params.items()}

    def step(params, state, grads):
        params, state = dict(params), dict(state)
        for k, p in params.items():
            updates, state[k] = tx.update({k: grads[k]}, state[k], {k: p})
            params |= ox.apply_updates({k: p}, updates)
        return params, state

    return init, step


def program(peer, name, layout):
    """The peer's step, compiled as its users do."""
    if peer in OURSELVES:
        tx, _ = transformation(peer, name, layout)
        step = ox.compiled_step(tx)
        return Program(
            tx.init,
            lambda params, state, grads: step(grads, state, params),
            lambda params, state, grads: step.lower(grads, state, params),
        )
    init, step = rule(peer, name, layout)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return Program(init, jitted, jitted.lower)


class JaxRun:
    """A program with arrays of its own to run on."""

    def __init__(self, program, params, grads, turns=1):
        self.program, self.grads, self.turns = program, grads, turns
        self.params = jax.tree.map(lambda p: p + 0, params)
        self.state = program.init(self.params)

    @property
    def arguments(self):
        return self.params, self.state, self.grads

    def move(self):
        """Takes its arrays to other places of the memory."""
        self.params, self.state, self.grads = jax.block_until_ready(
            jax.tree.map(jnp.copy, self.arguments)
        )

    def __call__(self):
        seconds = 0.0
        for _ in range(self.turns):
            taken, out = timing.timed(self.program.step, *self.arguments)
            self.params, self.state = out
            seconds += taken
        return seconds / self.turns

    def compile(self):
        """The seconds to lower (traced first) and to compile, and the executable."""
        lowering, lowered = timing.timed(self.program.lower, *self.arguments)
        compiling, compiled = timing.timed(lowered.compile)
        return {"lower": lowering, "compile": compiling}, compiled


def peak_bytes(compiled):
    """What a program holds at once, arguments and results included."""
    analysis = compiled and compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def runs(names, name, layout, arrays, note, turns=1):
    """The peers that have this optimizer, ready to run; `note` is told of the others."""
    found = {}
    for peer in names:
        try:
            if peer in TORCH:
                found[peer] = TorchRun(name, layout, turns, **TORCH[peer])
                continue
            run = JaxRun(program(peer, name, layout), *arrays, turns)
            if peer == "packed":
                run()  # It may refuse what it is shown.
            found[peer] = run
        except Missing:
            continue
        except (TypeError, ValueError) as refusal:
            if peer != "packed":
                raise
            note(f"packed {name} on {layout.name}: {refusal}")
    return found


def size_of(tree):
    """The bytes of all arrays, or shapes, of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def bytes_moved(name, params, state):
    """What a step has to read and write at least, in bytes.

    It reads the gradient, and reads and writes the params and what the state holds. To
    clip by the norm of all gradients, it has to read these twice.
    """
    readings = 2 if name == "clip_adamw" else 1
    return (readings + 2) * size_of(params) + 2 * size_of(state)


def least_state(name, layout, params):
    """The state of the one that needs the smallest, in shapes."""
    states = []
    for peer in ("ours", "Optax", "loop"):
        with contextlib.suppress(Missing):
            states.append(jax.eval_shape(rule(peer, name, layout)[0], params))
    return min(states, key=size_of)
