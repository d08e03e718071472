"""The laws that every transformation keeps, as checks to run on your own.

    from optimjax.testing import check_transformation

    check_transformation(my_rule(0.9), params)

Each law is a function `law(tx, params, **extra)` that raises `AssertionError` and says by
its name and docstring what it asks for; `LAWS` lists them all. They can be run on anything
with `init` and `update`, whoever wrote it. What helps to keep them: slots of state made by
`optimjax.tree.slot_like`, rules brought to trees by `optimjax.tree.leafwise`, divisions and
roots of `optimjax.numerics`.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes, base, selection
from ._checks import shown
from .base import GradientTransformation, Params
from .combinators.chaining import chain
from .optimizers import identity

Law = Callable[..., None]  # law(tx, params, **extra)
LAWS: dict[str, Law] = {}  # All of them, by name.


def check_transformation(
    tx: GradientTransformation,
    params: Params,
    *,
    laws: Sequence[str] | None = None,
    **extra: Any,
) -> None:
    """Runs the laws of the library on a transformation.

    Where a law is broken, it is tried on ever smaller params, as long as it breaks in the
    same way, and the message says on which it still does: usually a single number.

    Args:
        tx: Anything with `init` and `update`.
        params: The parameters to try it on: any tree that it should take.
        laws: The names of the laws to run; `None` runs all of `LAWS`.
        **extra: What `update` needs besides, such as `value=...`.

    Raises:
        AssertionError: If a law is broken; the message lists all that are, each with what
            it asks for, what happened, and the smallest params that show it.
        TypeError: If `tx` is no transformation.
        ValueError: If there is no law of a name in `laws`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> from optimjax.testing import check_transformation
        >>> check_transformation(ox.adam(1e-3), {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    """
    if not base.is_transformation(tx):
        name = getattr(tx, "__name__", None)
        hint = f" Did you mean `{name}(...)`?" if name else ""
        raise TypeError(f"`check_transformation` takes a transformation, not {tx!r}.{hint}")
    laws = [laws] if isinstance(laws, str) else laws
    unknown = set(laws or ()) - set(LAWS)
    if unknown:
        raise ValueError(f"There is no law {sorted(unknown)}; there are {list(LAWS)}.")
    broken, causes = [], {}
    for name in LAWS if laws is None else laws:
        law = LAWS[name]
        try:
            law(tx, params, **extra)
        except Exception as error:
            asked = (law.__doc__ or "").strip().splitlines()[0]
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            cause = kind + str(error).strip()
            same = causes.setdefault(cause, name)
            if same != name:
                cause = f"For the same reason as {same}."
            elif (smallest := _smallest(law, tx, params, extra, type(error))) is not params:
                cause += f"\n    The same with params {_written(smallest)}."
            broken.append(f"- {name}: {asked}\n    {cause}")
    if broken:
        count = "1 law" if len(broken) == 1 else f"{len(broken)} laws"
        raise AssertionError(f"{shown(tx)} breaks {count}:\n" + "\n".join(broken))


def _smallest(
    law: Law, tx: Any, params: Params, extra: dict[str, Any], kind: type[Exception]
) -> Params:
    """Params as small as they can be while the law breaks by an error of this kind."""

    def breaks(candidate: Params) -> bool:
        try:
            law(tx, candidate, **extra)
        except Exception as error:
            return type(error) is kind
        return False

    def smaller(current: Params) -> Iterator[Params]:
        leaves = {p: x for p, x in selection.by_path(current).items() if x is not None}
        if len(leaves) > 1:  # Without the one half, the other, or any one.
            paths = list(leaves)
            half = len(paths) // 2
            for kept in (paths[:half], paths[half:], *([path] for path in paths)):
                yield selection.nested({path: leaves[path] for path in kept})
            return
        for path, x in leaves.items():
            if jnp.size(x) > 1:  # One number: as a scalar, or of as many axes.
                yield selection.nested({path: x[(0,) * x.ndim]})
                yield selection.nested({path: x[(slice(0, 1),) * x.ndim]})

    for _ in range(20):  # Each time a half, or all but one: no params have more leaves.
        found = next(filter(breaks, smaller(params)), None)
        if found is None:
            break
        params = found
    return params


def _written(params: Params) -> str:
    def one(x: Any) -> str:
        return f"{_dtypes.dtype_of(x)}{list(jnp.shape(x))}"

    leaves = {p: x for p, x in selection.by_path(params).items() if x is not None}
    if list(leaves) == [()]:
        return one(leaves[()])
    items = (f"{selection.text(path)}: {one(x)}" for path, x in leaves.items())
    return "{" + ", ".join(items) + "}"


def gradients_like(params: Params, seed: int = 0) -> Params:
    """A tree of standard normal numbers like `params`, the same for the same seed.

    Args:
        params: A tree of arrays.
        seed: Any integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimjax.testing import gradients_like
        >>> gradients_like({"w": jnp.zeros((2, 3), jnp.bfloat16)})["w"].dtype.name
        'bfloat16'
    """
    rng = np.random.default_rng(seed)

    def like(p: Any) -> jax.Array:
        shape, dtype = jnp.shape(p), _dtypes.dtype_of(p)
        x = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.normal(size=shape)
        return jnp.asarray(x).astype(dtype)

    return jax.tree.map(like, params)


def _law(law: Law) -> Law:
    LAWS[law.__name__] = law
    return law


def _signature(tree: Any) -> Any:
    """All that `jit` looks at: the structure, and each leaf's shape, dtype, weakness."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [
        (np.shape(x), _dtypes.dtype_of(x), getattr(x, "weak_type", False)) for x in leaves
    ]


def _same_signature(got: Any, want: Any, what: str) -> None:
    (got_def, got_leaves), (want_def, want_leaves) = _signature(got), _signature(want)
    if got_def != want_def:
        raise AssertionError(f"{what}: structure {got_def}, where {want_def} was wanted.")
    paths = [_dtypes.name_of(p) for p, _ in jax.tree.leaves_with_path(want)]
    wrong = [
        f"{path}: {g}, where {w} was wanted"
        for path, g, w in zip(paths, got_leaves, want_leaves, strict=True)
        if g != w
    ]
    if wrong:
        raise AssertionError(f"{what} (shape, dtype, weak): " + "; ".join(wrong))


def _close(got: Any, want: Any, rtol: float = 1e-5) -> None:
    """Equal but for rounding, which compiling in another way may change."""

    def low(tree: Any) -> Any:  # NumPy compares neither bfloat16 nor float16 sensibly.
        return jax.tree.map(
            lambda x: np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64),
            tree,
        )

    floor = max((_eps(x) for x in jax.tree.leaves(want)), default=0.0)
    chex.assert_trees_all_close(
        low(got), low(want), rtol=max(rtol, 2 * floor), atol=max(1e-6, 2 * floor)
    )


def _eps(x: Any) -> float:
    dtype = _dtypes.dtype_of(x)
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def _promised(grads: Any, params: Any) -> Any:
    """What the dtype rule promises of updates, as zeros."""
    return jax.tree.map(
        lambda g, p: jnp.zeros(jnp.shape(g), _dtypes.promote(g.dtype, p.dtype)),
        grads,
        params,
    )


@_law
def updates_keep_structure_shapes_and_dtypes(tx: Any, params: Any, **extra: Any) -> None:
    """Updates look as the gradients do."""
    grads = gradients_like(params)
    updates, _ = tx.update(grads, tx.init(params), params, **extra)
    _same_signature(updates, grads, "updates")


@_law
def state_keeps_its_signature(tx: Any, params: Any, **extra: Any) -> None:
    """State looks after every step as `init` made it."""
    state = tx.init(params)
    for seed in range(2):
        _, new_state = tx.update(gradients_like(params, seed), state, params, **extra)
        _same_signature(new_state, state, "the state")
        state = new_state


@_law
def dtypes_hold_whatever_the_precisions(tx: Any, params: Any, **extra: Any) -> None:
    """State keeps its dtypes, and updates have the promised ones, in mixed precision."""

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(
            lambda x: (
                x.astype(_dtypes.with_real(_dtypes.dtype_of(x), dtype))
                if not jnp.iscomplexobj(x)
                else x
            ),
            tree,
        )

    half, single = jnp.bfloat16, jnp.float32
    for p_dtype, g_dtype in ((half, single), (single, half), (half, half), (half, "f2")):
        p, g = cast(params, p_dtype), cast(gradients_like(params), g_dtype)
        state = jax.eval_shape(tx.init, p)
        updates, new_state = jax.eval_shape(
            lambda g, s, p: tx.update(g, s, p, **extra), g, state, p
        )
        where = f"with {jnp.dtype(p_dtype)} params and {jnp.dtype(g_dtype)} gradients"
        _same_signature(new_state, state, f"the state {where}")
        _same_signature(updates, _promised(g, p), f"updates {where}")


@_law
def init_needs_no_values(tx: Any, params: Any, **extra: Any) -> None:
    """`jax.eval_shape` of `init` tells the state before it is allocated."""
    del extra
    shapes = jax.eval_shape(tx.init, params)
    _same_signature(
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
        tx.init(params),
        "the state by `eval_shape`",
    )


@_law
def compiling_changes_nothing(tx: Any, params: Any, **extra: Any) -> None:
    """Inside of a `jit`, as called plainly, and with `disable_jit`: the same numbers."""
    grads, state = gradients_like(params), tx.init(params)
    plain = tx.update(grads, state, params, **extra)
    jitted = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))(grads, state, params)
    with jax.disable_jit():
        python = tx.update(grads, state, params, **extra)
    _close(plain, jitted)
    _close(python, jitted)


@_law
def batching_is_a_loop(tx: Any, params: Any, **extra: Any) -> None:
    """Under `vmap`, every member of a batch is treated as if it were alone."""
    members = [gradients_like(params, seed) for seed in range(2)]
    states = [tx.init(params), tx.update(members[1], tx.init(params), params, **extra)[1]]
    alone = [tx.update(g, s, params, **extra) for g, s in zip(members, states, strict=True)]
    batched = jax.vmap(lambda g, s: tx.update(g, s, params, **extra))(
        _stacked(members), _stacked(states)
    )
    _close(batched, _stacked(alone))


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


@_law
def the_second_step_does_not_compile(tx: Any, params: Any, **extra: Any) -> None:
    """A jitted step is traced once, and never again."""
    traces = 0

    @jax.jit
    def step(grads: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.update(grads, state, params, **extra)

    state = tx.init(params)
    for seed in range(3):
        _, state = step(gradients_like(params, seed), state)
    assert traces == 1, f"three steps were traced {traces} times."


@_law
def state_passes_through_control_flow(tx: Any, params: Any, **extra: Any) -> None:
    """State goes through `lax.scan` and `lax.cond`, and a scan is a loop."""
    grads = [gradients_like(params, seed) for seed in range(3)]

    def step(state: Any, g: Any) -> Any:
        updates, new_state = tx.update(g, state, params, **extra)
        return jax.lax.cond(jnp.array(True), lambda: new_state, lambda: state), updates

    scanned, all_updates = jax.lax.scan(step, tx.init(params), _stacked(grads), length=3)
    state, looped = tx.init(params), []
    for g in grads:
        updates, state = tx.update(g, state, params, **extra)
        looped.append(updates)
    _close(scanned, state)
    _close(all_updates, _stacked(looped))


@_law
def state_survives_storage(tx: Any, params: Any, **extra: Any) -> None:
    """Flattened and rebuilt, or pickled, a state goes on bit for bit."""
    grads = gradients_like(params)
    _, state = tx.update(grads, tx.init(params), params, **extra)
    leaves, treedef = jax.tree.flatten(state)
    rebuilt = jax.tree.unflatten(treedef, leaves)
    stored = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))
    want = tx.update(grads, state, params, **extra)
    for again in (rebuilt, jax.tree.map(jnp.asarray, stored)):
        chex.assert_trees_all_equal(tx.update(grads, again, params, **extra), want)


@_law
def a_fresh_state_can_be_donated(tx: Any, params: Any, **extra: Any) -> None:
    """A fresh state shares no buffer, neither with the params nor within itself."""
    del extra

    def buffers(tree: Any) -> list[int]:
        arrays = (x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array) and x.size)
        return [
            s.data.unsafe_buffer_pointer() for x in arrays for s in x.addressable_shards
        ]

    own, given = buffers(tx.init(params)), set(buffers(params))
    assert len(own) == len(set(own)), "two leaves of the state share one buffer."
    assert not given & set(own), "the state shares a buffer with the params."


@_law
def unknown_extras_are_ignored(tx: Any, params: Any, **extra: Any) -> None:
    """An extra keyword argument that nobody reads changes nothing, whatever it is."""
    grads, state = gradients_like(params), tx.init(params)
    want = tx.update(grads, state, params, **extra)
    for stranger in (1.0, "text", lambda x: x, None):
        got = tx.update(grads, state, params, **extra, nobody_reads_this=stranger)
        _close(got, want)


@_law
def identities_change_nothing(tx: Any, params: Any, **extra: Any) -> None:
    """Between two identities in a chain, it is what it is alone."""
    grads = gradients_like(params)
    alone, state = tx.update(grads, tx.init(params), params, **extra)
    between = chain(identity(), tx, identity())
    got, states = between.update(grads, between.init(params), params, **extra)
    _close(got, alone)
    _close(list(states.values()), [state] if states else [])


@_law
def nothing_given_is_changed(tx: Any, params: Any, **extra: Any) -> None:
    """Gradients, state and params are after a step what they were before."""
    grads, state = gradients_like(params), tx.init(params)
    before = jax.tree.map(np.array, (grads, state, params))
    tx.update(grads, state, params, **extra)
    chex.assert_trees_all_equal((grads, state, params), before)


@_law
def zero_gradients_give_finite_updates(tx: Any, params: Any, **extra: Any) -> None:
    """Where all gradients are zero, updates and state stay finite, for several steps."""
    zeros, state = jax.tree.map(jnp.zeros_like, params), tx.init(params)
    for _ in range(3):
        updates, state = tx.update(zeros, state, params, **extra)
        chex.assert_tree_all_finite(_floats((updates, state)))


def _floats(tree: Any) -> Any:
    return [
        x for x in jax.tree.leaves(tree) if jnp.issubdtype(_dtypes.dtype_of(x), jnp.inexact)
    ]


@_law
def derivatives_at_zero_are_finite(tx: Any, params: Any, **extra: Any) -> None:
    """Reverse mode through five steps from zero gradients gives finite numbers."""

    def loss(grads: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            updates, state = tx.update(grads, state, params, **extra)
            sums = [jnp.sum(jnp.real(u)) for u in jax.tree.leaves(updates)]
            return state, sum((x.astype(jnp.float32) for x in sums), jnp.zeros(()))

        return jnp.sum(jax.lax.scan(step, tx.init(params), None, length=5)[1])

    zeros = jax.tree.map(jnp.zeros_like, params)
    chex.assert_tree_all_finite(_floats(jax.jit(jax.grad(loss))(zeros)))


@_law
def missing_gradients_are_left_out(tx: Any, params: Any, **extra: Any) -> None:
    """A leaf without a gradient (None) gets no update, and changes no other leaf."""
    pair = {"here": params, "missing": params}
    grads = {"here": gradients_like(params), "missing": None}
    grads["missing"] = jax.tree.map(lambda p: None, params)
    state = tx.init(pair)
    updates, new_state = tx.update(grads, state, pair, **extra)
    _same_signature(new_state, state, "the state")
    assert not jax.tree.leaves(updates["missing"]), "an update came from no gradient."
    assert jax.tree.structure(updates["here"]) == jax.tree.structure(grads["here"])
