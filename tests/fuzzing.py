"""Random chains on random trees, with gradients of all sizes, and with bad input.

    python -m tests.fuzzing --runs 10000 --seed 1
    python -m tests.fuzzing --only 1:372          # one run again, told by its number

What must hold of every run: a state keeps its signature, updates have the promised dtypes,
finite input gives no NaN, nothing given is changed; and what is refused is refused with a
message that names who refuses.
"""

import argparse
import collections
import dataclasses
import re
import sys
import traceback
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
from combinators.test_together import AT_WORK, INNERMOST

import optimjax as ox

SHAPES = [(), (1,), (3,), (2, 3), (4, 4), (0, 2), (2, 1, 2)]
DTYPES = ["float32", "float32", "bfloat16", "float16"]
# Squares, and sums of squares, of the largest are numbers of float32 yet.
SIZES = [0.0, 1e-42, 1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e12]
STEPS = 3
# They decide by the loss, or by a function to be given.
LEFT_OUT = {ox.scale_by_backtracking_linesearch, ox.scale_by_zoom_linesearch, ox.lbfgs}
# They say by a NaN that there is nothing to say yet.
BLANK = ("measures", "scheduled")


@dataclasses.dataclass
class Run:
    """One run: what was tried, and on what."""

    tx: Any
    params: Any
    extra: dict[str, Any]
    rng: np.random.Generator


class Broken(AssertionError):
    """What must hold does not."""


def a_tree(rng, leaf):
    """Arrays, and some leaves that are None, in dicts, lists and tuples."""

    def node(depth):
        kind = rng.integers(5) if depth < 2 else 0
        if kind <= 1:
            return None if rng.random() < 0.1 else leaf()
        inside = [node(depth + 1) for _ in range(rng.integers(1, 4))]
        if kind == 2:
            return inside
        if kind == 3:
            return tuple(inside)
        return dict(zip("abc", inside, strict=False))

    return node(0)


def numbers(rng, shape, dtype, size):
    x = rng.normal(size=shape) * size
    x = np.where(rng.random(shape) < 0.2, 0.0, x)  # Exact zeros among them.
    return jnp.asarray(np.clip(x, -6e4, 6e4) if dtype == "float16" else x, dtype)


def a_run(rng):
    cases = [case for case in catalogue.ONE_EACH if case.make not in LEFT_OUT]
    chosen = [cases[i] for i in rng.integers(len(cases), size=rng.integers(1, 4))]
    extra = {name: value for case in chosen for name, value in case.extra.items()}
    tx = ox.chain(*(case() for case in chosen))
    wraps = AT_WORK | INNERMOST
    for name in rng.choice(sorted(wraps), size=rng.integers(0, 4)):
        tx = wraps[name](tx)
    one = str(rng.choice(DTYPES))

    def leaf():
        dtype = one if rng.random() < 0.8 else str(rng.choice(DTYPES))
        return numbers(rng, SHAPES[rng.integers(len(SHAPES))], dtype, 1.0)

    return Run(tx, a_tree(rng, leaf), extra, rng)


def gradients(run):
    """Of one size at each step, in the dtype of the param or another; now and then None."""
    size = float(run.rng.choice(SIZES))

    def like(p):
        dtype = p.dtype.name if run.rng.random() < 0.8 else str(run.rng.choice(DTYPES))
        # A float16 parameter has no room for a larger step, whatever the gradient's dtype.
        least = min(size, 1e3) if p.dtype == jnp.float16 else size
        return numbers(run.rng, p.shape, dtype, least)

    return jax.tree.map(like, run.params)


def signature(tree):
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype) for x in leaves]


def wider(a, b):
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def copied(tree):
    return jax.tree.map(np.array, tree)


def same(a, b):
    return all(
        np.array_equal(x.view(np.uint8), y.view(np.uint8))
        for x, y in zip(
            map(np.ascontiguousarray, jax.tree.leaves(a)),
            map(np.ascontiguousarray, jax.tree.leaves(b)),
            strict=True,
        )
        if x.size and x.shape
    )


def nan_at(tree):
    """The path of the first NaN, if there is one."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if any(str(getattr(key, "name", "")) in BLANK for key in path):
            continue
        if (
            jnp.issubdtype(x.dtype, jnp.inexact)
            and np.isnan(np.asarray(x, np.float64)).any()
        ):
            return jax.tree_util.keystr(path)
    return None


def check_good(run):
    """What must hold where nothing is wrong with the input."""
    tx, params = run.tx, run.params
    state = tx.init(params)
    want = signature(state)
    for step in range(STEPS):
        grads = gradients(run)
        given = (grads, state, params)
        before = copied(given)
        updates, new_state = tx.update(grads, state, params, **run.extra)
        if not same(copied(given), before):
            raise Broken("what was given has been changed")
        if signature(new_state) != want:
            raise Broken(f"the state has another signature after step {step}")
        if jax.tree.structure(updates) != jax.tree.structure(grads):
            raise Broken(f"updates have another structure at step {step}")
        for u, g, p in zip(*map(jax.tree.leaves, (updates, grads, params)), strict=True):
            if u.shape != p.shape or u.dtype != wider(g.dtype, p.dtype):
                raise Broken(
                    f"an update is {u.dtype}{u.shape}, its gradient {g.dtype}{g.shape}"
                )
        for what, tree in (("updates", updates), ("the state", new_state)):
            if (path := nan_at(tree)) is not None:
                raise Broken(f"NaN in {what} at {path}, step {step}")
        state = new_state


# Each spoils (updates, state, params, extra) of a call; None, if it cannot of this one.
def _another_structure(run, call):
    if not jax.tree.leaves(run.params):
        return None  # Params that are None are none at all.
    return {**call, "updates": {"other": call["updates"], "more": jnp.ones(2)}}


def _another_shape(run, call):
    leaves, treedef = jax.tree.flatten(call["updates"])
    if not leaves:
        return None
    leaves[0] = jnp.ones((7, *leaves[0].shape))
    return {**call, "updates": treedef.unflatten(leaves)}


def _integers(run, call):
    if not jax.tree.leaves(call["updates"]):
        return None
    whole = jax.tree.map(lambda g: jnp.ones(g.shape, jnp.int32), call["updates"])
    return {**call, "updates": whole}


def _text(run, call):
    if not jax.tree.leaves(call["updates"]):
        return None
    return {**call, "updates": jax.tree.map(lambda g: "text", call["updates"])}


def _no_params(run, call):
    return {**call, "params": None}


def _no_extra(run, call):
    return {**call, "extra": {}} if call["extra"] else None


def _foreign_state(run, call):
    return {**call, "state": (jnp.ones(3),)}


SPOILS = [
    _another_structure,
    _another_shape,
    _integers,
    _text,
    _no_params,
    _no_extra,
    _foreign_state,
]


def told(error):
    """Whether an error is one that the library words: of its kinds, with a name in it."""
    return isinstance(error, ValueError | TypeError) and re.search(
        r"`[\w<>]+[(`]", str(error)
    )


def check_bad(run):
    """What is wrong is refused by name, or does not matter; nothing given is changed."""
    state = run.tx.init(run.params)
    call = {"updates": gradients(run), "state": state, "params": run.params}
    spoil = SPOILS[run.rng.integers(len(SPOILS))]
    spoiled = spoil(run, {**call, "extra": run.extra})
    if spoiled is None:
        return
    before = copied(call)
    try:
        run.tx.update(
            spoiled["updates"], spoiled["state"], spoiled["params"], **spoiled["extra"]
        )
    except Exception as error:
        if not told(error):
            raise Broken(f"{spoil.__name__}: {type(error).__name__}: {error}") from error
    if not same(copied(call), before):
        raise Broken(f"{spoil.__name__}: what was given has been changed")


def fuzz(seed, number):
    """One run. Returns what became of it: "kept", or "refused"; raises `Broken`."""
    rng = np.random.default_rng([seed, number])
    try:
        run = a_run(rng)
        with jax.disable_jit():
            run.tx.init(run.params)
    except (ValueError, TypeError) as error:
        if told(error):
            return "refused"
        raise Broken(f"{type(error).__name__}: {error}") from error
    with jax.disable_jit():
        try:
            check_good(run)
        except (ValueError, TypeError) as error:
            if told(error):
                return "refused"
            raise Broken(f"{type(error).__name__}: {error}") from error
        check_bad(run)
    return "kept"


def main():
    from rich.progress import track

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="seed:number of one run, with its traceback")
    args = parser.parse_args()
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if args.only:
        seed, number = map(int, args.only.split(":"))
        run = a_run(np.random.default_rng([seed, number]))
        print(
            run.tx,
            jax.tree.map(lambda p: f"{p.dtype}{list(p.shape)}", run.params),
            sep="\n",
        )
        print(fuzz(seed, number))
        return
    ends: collections.Counter = collections.Counter()
    for number in track(range(args.start, args.start + args.runs), "fuzzing"):
        try:
            ends[fuzz(args.seed, number)] += 1
        except Exception as error:
            ends["broken"] += 1
            tx = a_run(np.random.default_rng([args.seed, number])).tx
            print(f"{args.seed}:{number} {type(error).__name__}: {error}\n    {tx}")
            if not isinstance(error, Broken):
                traceback.print_exc(limit=-3)
    print(dict(ends))
    sys.exit(bool(ends["broken"]))


if __name__ == "__main__":
    main()
