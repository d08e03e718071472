"""States as a version of the library wrote them, for every later one to read.

    python -m tests.recorded_states    # after `LAYOUT` of `optimjax.states` has risen

One file for each layout, `golden/states/layout_1.npz`. For every expression, the state
after two steps and the updates of the next two. A file that is there is not written again.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import optimjax as ox

FOLDER = pathlib.Path(__file__).parent / "golden" / "states"
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.array([0.5, -0.25])}
NESTED = [
    "chain(clip_by_global_norm(1.0), adamw(0.01, weight_decay=0.1))",
    "average_params(accumulate(adam(0.01), 2), 0.9)",
    "apply_if_finite(partition({'w': muon(0.01), '**': sgd(0.1, 0.9)}), 3)",
    "masked(lookahead(lion(0.01), 2, 0.5), 'w')",
    "inject_hyperparams(nadam)(0.01)",
    "measure(schedule_free(sgd(0.1), 0.1), 'update_norm')",
    "pack_small_leaves(rmsprop(0.01))",
    "master_weights(momentum(0.01))",
    "in_eigenbasis(scale_by_lion())",
    "skip_spikes(adam(0.01), beyond_z_score(6.0))",
    "dynamic_loss_scaling(adam(0.01))",
    "kahan_summation(sgd(0.01))",
    "freeze('b')",
]


def expressions():
    import catalogue

    plain = [case for case in catalogue.ONE_EACH if case.whole and not case.searching]
    found = [repr(case()) for case in plain if not case.extra]
    return sorted({e for e in found if "<" not in e and "Mesh" not in e} | set(NESTED))


def made(expression):
    return eval(expression, vars(ox).copy())


def gradients(step):
    return jax.tree.map(lambda p: jnp.cos(3.0 * p + step), PARAMS)


def run(tx, state, steps):
    """The state after some steps, and their updates."""
    out = []
    for step in steps:
        updates, state = tx.update(gradients(step), state, PARAMS)
        out.append(updates)
    return state, out


def main():
    path = FOLDER / f"layout_{ox.states.LAYOUT}.npz"
    if path.exists():
        raise SystemExit(f"{path} is there: raise `LAYOUT` before writing another.")
    arrays = {}
    for expression in expressions():
        tx = made(expression)
        state, _ = run(tx, tx.init(PARAMS), (0, 1))
        for name, x in ox.state_to_dict(state).items():
            arrays[f"{expression}|{name}"] = np.asarray(x)
        for step, updates in zip((2, 3), run(tx, state, (2, 3))[1], strict=True):
            for leaf, u in updates.items():
                arrays[f"{expression}|=>{step}/{leaf}"] = np.asarray(u)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(f"{len(expressions())} states, {path.stat().st_size:,} bytes: {path}")


if __name__ == "__main__":
    main()
