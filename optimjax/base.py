"""The interface: a pair of pure functions, and what every such pair is promised.

A transformation is written as two plain functions over trees and returned from a factory
that carries the decorator `transformation`. The decorator draws the boundary around it,
once for the whole library: arguments are checked by name, trees by key path, states by
kind; the call is compiled if nothing around it is; the dtype rule is kept; and the
`repr` is the expression that made it.
"""

import contextlib
import functools
import inspect
import textwrap
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeAlias, cast, overload

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _checks, _dtypes, _reports, numerics

Params: TypeAlias = Any  # A pytree of arrays; None where there is nothing to train.
Updates: TypeAlias = Any  # A pytree with the structure and the shapes of the params.
OptState: TypeAlias = Any  # A pytree; each transformation documents its own.
# A tree of booleans, a prefix of one, or a function from the params to either.
Mask: TypeAlias = Any
P = ParamSpec("P")
# Always or never, or whether it is so with these arguments of the factory.
Packable: TypeAlias = bool | Callable[[dict[str, Any]], bool]


class GradientTransformation(NamedTuple):
    """A rule for turning gradients into updates, as two pure functions.

    It is the protocol of the JAX ecosystem: what Optax, Flax and Equinox code takes, and
    a pair made by any of them is taken here.

    Attributes:
        init: `init(params) -> state`.
        update: `update(updates, state, params=None, **extra) -> (updates, state)`. Any
            extra keyword is accepted; what a rule does not need, it ignores.
    """

    init: Callable[[Params], OptState]
    update: Callable[..., Any]

    def __repr__(self) -> str:
        expression = getattr(self.update, "expression", None)
        if expression is not None:
            return expression
        return f"GradientTransformation(init={self.init!r}, update={self.update!r})"


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


# Both lanes in, both lanes out: (updates, gradient, state, params, extra) ->
# (updates, gradient, state). See `chain`.
Advance: TypeAlias = Callable[..., tuple[Updates, Updates, OptState]]


class _Lanes(NamedTuple):
    """What `combinator` puts in the place of `update`, for the decorator to replace."""

    advance: Advance
    stages: tuple[GradientTransformation, ...]
    reads: frozenset[str] | None


def combinator(
    init: Callable[[Params], OptState],
    advance: Advance,
    stages: tuple[GradientTransformation, ...],
    reads: Iterable[str] | None = (),
) -> GradientTransformation:
    """What a factory of a combinator returns, in the place of a plain pair.

    Args:
        init: As ever.
        advance: `advance(updates, gradient, state, params, extra)`, which returns
            `(updates, gradient, state)`: it hands on both what the updates have become and
            the gradient that later stages shall see. `extra` is a dict.
        stages: The transformations that are combined.
        reads: The extra arguments that `advance` reads itself; `None` means perhaps any.
    """
    lanes = _Lanes(advance, stages, None if reads is None else frozenset(reads))
    return GradientTransformation(init, cast(Any, lanes))


class _Update:
    """The `update` of a transformation that the library built, behind its boundary."""

    def __init__(
        self,
        advance: Advance,
        name: str,
        expression: str,
        reads: frozenset[str] | None,
        stateless: bool,
        composed: bool,
        reads_grad: bool,
        by_leaf: tuple[str, ...],
        made_by: Callable[[], inspect.BoundArguments],
    ):
        self.advance = advance
        self.name = name
        self.expression = expression
        self.reads = reads  # The extra arguments it has a use for; None: perhaps any.
        self.stateless = stateless
        self.composed = composed  # Whether it holds a stage that reads `grad`,
        self.reads_grad = reads_grad  # or reads it itself.
        # The stages to which it matters how the numbers are divided among leaves.
        self.by_leaf = by_leaf
        self.made_by = made_by  # The call of its factory, defaults included.
        self.__name__ = self.__qualname__ = f"{name}.update"

    def __repr__(self) -> str:
        return f"{self.expression}.update"

    def __call__(
        self,
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        gradient: Updates | None = None,
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        if self.reads is not None:
            extra = {k: v for k, v in extra.items() if k in self.reads}
        call = (updates, state, params, gradient, extra)
        if not _compilable(call):
            return self._run(*call)
        try:
            return self._compiled(*call)
        except TypeError:
            # Perhaps `jit` refused a leaf that is no array. Where there is no gradient
            # for it, nobody needs it (Equinox modules hold functions); else say where.
            with _checks.named(self.name):
                _dtypes.check_inexact(updates, "the updates")
                _dtypes.check_arrays(state, "the state")
                if params is None:
                    raise
                leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
                matching = _dtypes.match(treedef, leaves, params, "the params")
                needed = where_updated(treedef, leaves, matching)
                _dtypes.check_inexact(needed, "the params")
            if jax.tree.structure(needed) == jax.tree.structure(params):
                raise  # It was something else, and would be again.
            return self._compiled(updates, state, needed, gradient, extra)

    @functools.cached_property
    def _compiled(self) -> Callable[..., tuple[Updates, OptState]]:
        return jax.jit(self._run)

    def _run(
        self,
        updates: Updates,
        state: OptState,
        params: Params | None,
        gradient: Updates | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, OptState]:
        with _checks.within(self.expression):
            with _checks.named(self.name):
                _check_order(updates, state, params)
                wide, dtypes = _dtypes.widen(updates, params)
                lane = wide if gradient is None else _dtypes.widen(gradient, params)[0]
            # A stage by itself, perhaps in a chain of Optax's, does not know the gradient.
            if self.composed:
                extra = {"grad": wide, **extra}
            with _reports.listening(None):  # Foreign code may call from another trace.
                wide, _, state = self.advance(wide, lane, state, params, extra)
            return _dtypes.narrow(wide, dtypes), state


def _check_order(updates: Updates, state: OptState, params: Params | None) -> None:
    """Refuses params in the place of the state, where structures tell that it is so."""
    if params is None or (isinstance(state, tuple) and hasattr(state, "_fields")):
        return
    first, second, third = map(jax.tree.structure, (updates, state, params))
    if len({first, third}) == 2 and second in (first, third):
        like = "updates, and params" if second == first else "params, and updates"
        raise _checks.Refusal(
            ValueError,
            f"got a state that is like the {like} that are not: the order is "
            "`update(updates, state, params)`.",
        )


def where_updated(treedef: Any, leaves: list[Any], matching: list[Any]) -> Params:
    """What matches the leaves of the updates, but None where they are None."""
    return treedef.unflatten(
        None if u is None else p for u, p in zip(leaves, matching, strict=True)
    )


def _compilable(call: Any) -> bool:
    """Whether to run `call` as one compiled program.

    Inside of a trace there is one already, and an extra argument that is a function, or
    anything else that is no array, has to stay Python.
    """
    for leaf in jax.tree.leaves(call[-1]):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float):
            return False  # Integers and booleans too: Python may branch on them.
    return not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(call))


@overload
def transformation(
    factory: Callable[P, GradientTransformation], /
) -> Callable[P, GradientTransformation]: ...


@overload
def transformation(
    *,
    state: type = EmptyState,
    smooths: bool = False,
    real: bool = False,
    packable: Packable = False,
) -> Callable[
    [Callable[P, GradientTransformation]], Callable[P, GradientTransformation]
]: ...


def transformation(
    factory: Any = None,
    /,
    *,
    state: type = EmptyState,
    smooths: bool = False,
    real: bool = False,
    packable: Packable = False,
) -> Any:
    """Makes a factory of plain `(init, update)` pairs a member of the library.

    The factory returns `GradientTransformation(init, update)` with two plain functions
    over trees, `init(params)` and `update(updates, state, params=None, **extra)`, or
    simply a `chain` of other transformations. What it says by its signature is kept:

    - An argument annotated with a range (`Decay`, `NonNegative`, ... in
      `optimjax.typing`) is refused outside of it, by name, NaN included.
    - What may be a schedule is annotated so (`NonNegativeOrSchedule`), and read in `update`
      by `optimjax.numerics.at_step(argument, state.count)`: the number itself, or what the
      schedule gives there, with its errors told.
    - `params` without a default in `update` are required, and so is every keyword-only
      argument without one; what is missing is named. `**extra` takes all the rest.
    - A keyword-only argument `gradient` is given the gradient that `updates` came from,
      whatever the stages between have made of it (see `chain`); one of the name `grad`
      is given what the outermost `update` was called with, if that is of a `chain` or
      another combinator.

    Inside, updates are in at least float32 (see the dtype rule in `chain`), and a call
    with concrete arrays runs as one compiled program.

    Args:
        factory: The function to decorate.
        state: The `NamedTuple` class of the state; `EmptyState` if there is none. A
            state of another kind is refused. (A combinator whose state is no class of its
            own, such as the dict of `chain`, leaves it out.)
        smooths: Whether the transformation only smooths: later stages then still take
            the same `gradient`. Otherwise they take what comes out of this one.
        real: Whether complex arrays are refused.
        packable: Whether it is all the same to it how numbers are divided among leaves,
            but for the rounding of sums: arithmetic on single numbers, and on what is
            gathered over all leaves, such as a global norm. Then `pack_small_leaves` may
            put leaves into one. A function of the arguments, where it depends on them.

    Returns:
        The factory, with checks; its transformations know the expression that made them.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> @ox.transformation
        ... def flip():
        ...     def init(params):
        ...         return ox.EmptyState()
        ...     def update(updates, state, params=None, **extra):
        ...         return ox.tree.leafwise(lambda g: -g, updates), state
        ...     return ox.GradientTransformation(init, update)
        >>> ox.chain(flip(), ox.scale(2.0))
        chain(flip(), scale(2.0))
    """
    how = {"state": state, "smooths": smooths, "real": real, "packable": packable}
    if factory is None:
        return functools.partial(_member, **how)
    return _member(factory, **how)


def _member(
    factory: Callable[..., GradientTransformation],
    *,
    state: type,
    smooths: bool,
    real: bool,
    packable: Packable,
) -> Callable[..., GradientTransformation]:
    name = factory.__name__

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        call = _checks.bound(factory, args, kwargs)
        with _checks.within(call.expression):
            made = factory(*call.args, **call.kwargs)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(
                f"`{name}` must return `GradientTransformation(init, update)`, but "
                f"returned {made!r}."
            )
        init, update = made
        by_leaf = () if _holds(packable, factory, call) else (name,)
        if isinstance(update, _Update):  # An alias: an expression of other members.
            if smooths or real or state is not EmptyState:
                raise TypeError(
                    f"`{name}` returns a transformation of the library, which brings its "
                    "own: `@transformation` takes no options there."
                )
            advance, reads, stateless = update.advance, update.reads, update.stateless
            composed, reads_grad = update.composed, update.reads_grad
            by_leaf = update.by_leaf
        elif isinstance(update, _Lanes):
            if state is not EmptyState:
                init = _checked_init(init, name, state, real)
            advance = _in_name_of(name, update.advance, state)
            reads, own = _reads_of(update.stages), update.reads
            reads = None if reads is None or own is None else reads | own
            stateless, composed = False, any(map(_reads_grad, update.stages))
            reads_grad = composed
            by_leaf += sum(map(_by_leaf, update.stages), ())
        else:
            advance, reads = _rule(update, name, state, smooths), _keywords(update)
            init = _checked_init(init, name, state, real)
            stateless, composed = state is EmptyState, False
            reads_grad = "grad" in inspect.signature(update).parameters
        maker = _Update(
            advance,
            name,
            call.expression,
            reads,
            stateless,
            composed,
            reads_grad,
            by_leaf,
            functools.partial(_with_defaults, factory, call),
        )
        return GradientTransformation(_watchable(init, maker), maker)

    # By `setattr`: to a type checker, a function has no attribute of that name.
    setattr(make, "__signature__", _checks.legible(inspect.signature(factory)))  # noqa: B010
    return make


def _in_name_of(name: str, advance: Advance, state_type: type) -> Advance:
    """A combinator's own refusals, by its name, and those of a state not its own."""

    def named(
        updates: Updates, gradient: Updates, state: OptState, *rest: Any
    ) -> tuple[Updates, Updates, OptState]:
        if state_type is not EmptyState:
            _check_own(state, state_type, name)
        with _checks.named(name):
            return advance(updates, gradient, state, *rest)

    return named


def _checked_init(
    init: Callable[[Params], OptState], name: str, state_type: type, real: bool
) -> Callable[[Params], OptState]:
    @functools.wraps(init)
    def checked(params: Params) -> OptState:
        with _checks.named(name):
            _dtypes.check_inexact(params, "the params", real=real)
            state = init(params)
        _check_made(state, state_type, f"the `init` of `{name}` returned")
        return state

    return checked


def _check_made(state: OptState, state_type: type, who: str) -> None:
    if not isinstance(state, state_type):
        raise TypeError(
            f"{who} a `{type(state).__name__}` for its state, where a "
            f"`{state_type.__name__}` was declared. Declare what it returns: "
            "`@transformation(state=...)`."
        )


def _check_own(state: OptState, state_type: type, name: str) -> None:
    if not isinstance(state, state_type):
        raise TypeError(
            f"`{name}` needs a state of its own kind, `{state_type.__name__}`, but got a "
            f"`{type(state).__name__}`. Was it made by the `init` of another optimizer?"
        )


def check_slot(name: str, slot: Any, used: bool, updates: Updates) -> None:
    """Refuses a state that a rule with other arguments has left.

    Args:
        name: The field of the state.
        slot: What is in it.
        used: Whether there has to be something; else it has to be None.
        updates: Where there are none, neither is there anything in the state.

    Raises:
        Refusal: If it is otherwise.
    """
    if used == (slot is not None) or (used and not jax.tree.leaves(updates)):
        return
    wants, has = ("needs", "without") if used else ("keeps no", "with")
    raise _checks.Refusal(
        ValueError,
        f"{wants} `{name}` in its state, but got one {has} it. Was it made by the `init` "
        "of another optimizer, or with other arguments or params?",
    )


def needs(params: Params | None) -> Params:
    """`params`; for combinators that cannot do without.

    Raises:
        Refusal: If they are missing.
    """
    if params is None:
        raise _checks.Refusal(
            ValueError,
            "needs the current parameters: call `update(updates, state, params)`.",
        )
    return params


def needs_extra(argument: str, extra: dict[str, Any]) -> Any:
    """The extra argument of this name.

    Raises:
        Refusal: If it is missing.
    """
    if argument not in extra:
        raise _checks.Refusal(
            TypeError,
            f"needs the argument `{argument}`: call `update(updates, state, params, "
            f"{argument}=...)`. (Wrappers of Optax hand it on only to what is an "
            "`optax.GradientTransformationExtraArgs(*transformation)`.)",
        )
    return extra[argument]


def _rule(
    update: Callable[..., tuple[Updates, OptState]],
    name: str,
    state_type: type,
    smooths: bool,
) -> Advance:
    needs_params, needed = _needs(update)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: OptState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, OptState]:
        if state_type is EmptyState:
            state = EmptyState()  # Whatever it was: there is nothing in it to read.
        else:
            _check_own(state, state_type, name)
        with _checks.named(name):
            if needs_params:
                needs(params)
            for argument in needed:
                needs_extra(argument, extra)
            taken = _taken(update, {"gradient": gradient, **extra})
            made = update(updates, state, params, **taken)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"the `update` of `{name}` must return `(updates, state)`.")
        out, state = made
        _check_made(state, state_type, f"the `update` of `{name}` returned")
        return out, gradient if smooths else out, state

    return advance


def _keywords(update: Callable[..., Any]) -> frozenset[str] | None:
    """The names of the extra arguments that a rule reads; `**extra` is to be ignored.

    But beside a `value_fn` the rest may be for that function: `None`, perhaps any.
    """
    parameters = inspect.signature(update).parameters.values()
    names = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return None if "value_fn" in names else names


def _reads_of(stages: tuple[GradientTransformation, ...]) -> frozenset[str] | None:
    """The extra arguments that any of `stages` reads; None if they might read anything."""
    names: frozenset[str] = frozenset()
    for stage in stages:
        if isinstance(stage.update, _Update):
            reads = stage.update.reads
        elif _takes_any(stage.update):
            reads = None
        else:
            reads = frozenset(inspect.signature(stage.update).parameters)
        if reads is None:
            return None
        names |= reads
    return names


def _reads_grad(stage: GradientTransformation) -> bool:
    """Whether it reads the extra argument `grad`, or holds a stage that does."""
    update = stage.update
    if isinstance(update, _Update):
        return update.reads_grad
    return "grad" in inspect.signature(update).parameters


def _by_leaf(stage: GradientTransformation) -> tuple[str, ...]:
    """The stages within it to which the division into leaves matters, or may matter."""
    return getattr(stage.update, "by_leaf", (stage_name(stage),))


def _holds(packable: Packable, factory: Callable[..., Any], call: _checks.Bound) -> bool:
    if not callable(packable):
        return packable
    return packable(_with_defaults(factory, call).arguments)


def _with_defaults(
    factory: Callable[..., Any], call: _checks.Bound
) -> inspect.BoundArguments:
    arguments = inspect.signature(factory).bind(*call.args, **call.kwargs)
    arguments.apply_defaults()
    return arguments


class Start(NamedTuple):
    """A call of `init`, as `starts` saw it."""

    depth: int  # 0 for the outermost; one more for those that it called.
    update: Any  # That of the same transformation: it knows the call of its factory.
    params: Params  # What `init` was given: of a combinator's part, that part.
    state: OptState  # What it returned.


class _Watching(threading.local):
    """The calls of `init` in this thread, while somebody looks on; their depth."""

    seen: list[Start | None] | None = None
    depth: int = 0


_watching = _Watching()


@contextlib.contextmanager
def starts() -> Iterator[list[Start]]:
    """Looks on while `init` is called, and lists the calls: callers before the called."""
    before = _watching.seen, _watching.depth
    seen: list[Any] = []
    _watching.seen, _watching.depth = seen, 0
    try:
        yield seen
    finally:
        _watching.seen, _watching.depth = before


def _watchable(
    init: Callable[[Params], OptState], update: _Update
) -> Callable[[Params], OptState]:
    @functools.wraps(init)
    def watched(params: Params) -> OptState:
        seen, depth = _watching.seen, _watching.depth
        if seen is None:
            with _checks.within(update.expression):
                return init(params)
        place = len(seen)
        seen.append(None)
        _watching.depth += 1
        try:
            state = init(params)
        finally:
            _watching.depth = depth
        seen[place] = Start(depth, update, params, state)
        return state

    return watched


def is_packable(stage: GradientTransformation) -> bool:
    """Whether it is known to be all the same to it how numbers are divided among leaves."""
    return not _by_leaf(stage)


def check_packable(
    who: str, stage: GradientTransformation, but: Container[str] = ()
) -> None:
    """Refuses a transformation to which the division into leaves matters, or may matter.

    Stages of the names `but` are let pass.
    """
    names = [name for name in _by_leaf(stage) if name not in but]
    if names:
        listed = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
        raise TypeError(
            f"`{who}` is for rules that treat all numbers alike, whichever leaf they are "
            f"in, but {listed} may look at leaves, at their shapes or their paths. Pack "
            "what stands beside it in the chain, or inside of it."
        )


def _takes_any(update: Callable[..., Any]) -> bool:
    parameters = inspect.signature(update).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _needs(update: Callable[..., Any]) -> tuple[bool, list[str]]:
    """Whether `update` needs the params, and which extra arguments it needs."""
    parameters = list(inspect.signature(update).parameters.values())
    if len([p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]) < 3:
        raise TypeError(
            f"`update{inspect.signature(update)}` must take `(updates, state, params=None, "
            "**extra)`."
        )
    _, _, params, *rest = parameters
    needed = [
        p.name
        for p in rest
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "gradient"
    ]
    return params.default is params.empty, needed


def advance(
    stage: GradientTransformation,
    updates: Updates,
    gradient: Updates,
    state: OptState,
    params: Params | None,
    extra: dict[str, Any],
) -> tuple[Updates, Updates, OptState]:
    """Runs one stage on both lanes; for combinators. The arrays are wide already."""
    if isinstance(stage.update, _Update):
        return stage.update.advance(updates, gradient, state, params, extra)
    taken = _taken(stage.update, extra)
    if "gradient" in inspect.signature(stage.update).parameters:
        taken = {**taken, "gradient": gradient}  # Never by `**extra`: it may be strict.
    updates, new_state = stage.update(updates, state, params, **taken)
    return updates, updates, _in_dtypes_of(state, new_state)


def is_transformation(x: Any) -> bool:
    """Whether `x` has what a transformation has, whoever made it."""
    return hasattr(x, "init") and hasattr(x, "update")


def check_stages(who: str, transforms: Iterable[Any], *places: str) -> None:
    """Refuses, by name and place, what is no transformation.

    Args:
        who: What was given them.
        transforms: What it was given.
        *places: What to call the place of each, if not by its number, `argument 2`.
    """
    for i, stage in enumerate(transforms):
        if is_transformation(stage):
            continue
        name = getattr(stage, "__name__", None)
        hint = f" Did you mean `{name}(...)`?" if name else ""
        if hasattr(stage, "expression"):
            hint = " A schedule goes into `scale_by_learning_rate`, or another stage."
        elif isinstance(stage, list | tuple):
            hint = " Put a `*` before it, to give its items one by one."
        where = places[i] if places else f"argument {i}"
        got = textwrap.shorten(_checks.shown(stage), 300)
        raise TypeError(f"`{who}` takes transformations, but {where} is {got}.{hint}")


def stage_name(stage: GradientTransformation) -> str:
    """The name of the factory that made `stage`, foreign ones included."""
    name = getattr(stage.update, "name", None)
    return name or getattr(stage.update, "__qualname__", "stage").split(".")[0]


def is_stateless(stage: GradientTransformation) -> bool:
    """Whether `stage` is known to keep an `EmptyState`."""
    return getattr(stage.update, "stateless", False)


def _taken(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that a foreign `update` takes."""
    if _takes_any(update):
        return extra
    names = inspect.signature(update).parameters
    return {k: v for k, v in extra.items() if k in names}


def _in_dtypes_of(old: OptState, new: OptState) -> OptState:
    """A foreign state, held to its dtypes: it was given wider updates than `init` saw."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return new

    def held(o: Any, n: Any) -> Any:
        if not (hasattr(o, "dtype") and hasattr(n, "dtype")) or o.dtype == n.dtype:
            return n
        return n.astype(o.dtype)

    return jax.tree.map(held, old, new)


def memoryless(f: Callable[..., Updates]) -> GradientTransformation:
    """The plain pair of a rule that keeps no state; for factories.

    Args:
        f: `f(updates) -> updates` over whole trees, or `f(updates, params)` if it needs the
            params.
    """

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        del params, extra
        return f(updates), state

    def update_with(
        updates: Updates, state: EmptyState, params: Params, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        del extra
        return f(updates, params), state

    one = len(inspect.signature(f).parameters) == 1
    return GradientTransformation(init, update if one else update_with)


def counting(
    state_type: Callable[[jax.Array], OptState], f: Callable[..., Updates]
) -> GradientTransformation:
    """The plain pair of a rule that remembers the step and nothing else; for factories.

    Args:
        state_type: The class of the state, with one field, `count`.
        f: `f(updates, count) -> updates` over whole trees, where `count` is 0 at the first
            step, or `f(updates, params, count)` if it needs the params.
    """

    def init(params: Params) -> OptState:
        del params
        return state_type(jnp.zeros((), jnp.int32))

    def update(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        del params, extra
        return f(updates, state.count), state_type(numerics.increment(state.count))

    def update_with(
        updates: Updates, state: Any, params: Params, **extra: Any
    ) -> tuple[Updates, OptState]:
        del extra
        count = numerics.increment(state.count)
        return f(updates, params, state.count), state_type(count)

    two = len(inspect.signature(f).parameters) == 2
    return GradientTransformation(init, update if two else update_with)


@transformation(smooths=True, packable=True)
def identity() -> GradientTransformation:
    """Passes updates through unchanged; the unit of `chain`.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.identity()
        >>> updates, _ = t.update(jnp.array([1.0, -2.0]), t.init(jnp.zeros(2)))
        >>> print(updates)
        [ 1. -2.]
    """
    return memoryless(lambda updates: updates)


@transformation
def stateless(
    f: Callable[[Updates, Params | None], Updates],
) -> GradientTransformation:
    """Makes a transformation of a function that remembers nothing.

    Args:
        f: `f(updates, params) -> updates`, over whole trees. `params` is `None` unless
            the caller of `update` gives them.

    Returns:
        A `GradientTransformation` with an `EmptyState`.

    Raises:
        TypeError: If `f` is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> double = ox.stateless(lambda updates, params: jax.tree.map(
        ...     lambda u: 2 * u, updates))
        >>> updates, _ = double.update(jnp.array([1.0, 2.0]), double.init(jnp.zeros(2)))
        >>> print(updates)
        [2. 4.]
    """
    if not callable(f):
        raise TypeError(f"`stateless(f=...)` must be a function, but got {f!r}.")

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, EmptyState]:
        del extra
        out = f(updates, params)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        _dtypes.match(treedef, leaves, out, "what its function returned")
        return out, state

    return GradientTransformation(init, update)


def apply_updates(
    params: Params, updates: Updates, *, key: jax.Array | None = None
) -> Params:
    r"""Adds `updates` to `params`, in the dtype of each parameter.

    The sum is taken in the wider of the two dtypes, and rounded once: to nearest, or, given
    a `key`, at random to one of the two neighbours $a < b$ of the sum,

    $$ \Pr[b] = \frac{s - a}{b - a}, \qquad \Pr[a] = \frac{b - s}{b - a}, \qquad
       \mathbb E[p_{t+1}] = s = p_t + u_t. $$

    Steps too small to move a parameter of low precision then move it in the mean, where
    rounding to nearest would swallow every one of them. With a key, the sum is taken in
    float32 at least; what needs no rounding, such as float32 parameters with float32
    updates, is the same as without. What overflows, and what is no number, is as without.

    Args:
        params: A tree of arrays.
        updates: A tree of the same structure and shapes. Where it has `None`, the
            parameter stays what it is.
        key: A random key of `jax.random.key` (or of `jax.random.PRNGKey`), another one at
            every step; `None` rounds to nearest. A leaf's random numbers depend on the key
            and on the leaf's place among `params`, not on which leaves have updates, nor,
            with JAX's default kind of key, on how arrays are sharded.

    Returns:
        The new params, with the structure, shapes and dtypes of `params`. Derivatives are
        those of the sum, however it is rounded.

    Raises:
        ValueError: If the trees differ, by the key path of the leaf.
        TypeError: If `key` is not one random key.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> params = ox.apply_updates(
        ...     {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.5, -0.5])}
        ... )
        >>> print(params["w"])
        [1.5 1.5]
        >>> ones = jnp.ones(10_000, jnp.bfloat16)
        >>> up = jnp.full(10_000, 0.001)
        >>> print(ox.apply_updates(ones, up).max())  # The next number is 1.0078.
        1
        >>> new = ox.apply_updates(ones, up, key=jax.random.key(0))
        >>> print(f"{new.astype(jnp.float32).mean():.4f}")
        1.0010

    References:
        P. Zamirai et al., [Revisiting bfloat16 training](https://arxiv.org/abs/2010.06192),
        2020.
    """
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
    with _checks.named("apply_updates"):
        old = _dtypes.match(treedef, leaves, params, "the params")
        _dtypes.check_inexact(where_updated(treedef, leaves, old), "the params")
    if key is None:
        keys: Any = [None] * len(leaves)
    else:
        # By the places of the params: there may be a whole subtree without updates.
        sizes = [jax.tree.structure(p).num_leaves for p in old]
        one = _checks.typed_key(key, "`apply_updates(key=...)`", seeds=False)
        of_all = jax.random.split(one, max(sum(sizes), 1))
        keys = [of_all[place] for place in np.cumsum([0, *sizes])[:-1]]

    def add(p: Any, u: Any, key: Any) -> Any:
        if u is None or p is None:
            return p
        dtype = _dtypes.dtype_of(p)
        wide = _dtypes.promote(dtype, _dtypes.dtype_of(u))
        if key is not None:
            wide = _dtypes.with_real(wide, _dtypes.real_dtype(p, u))
            if wide != dtype:
                return _sum_rounded_at_random(p, u, key, wide)
        # Not `+`, which is slow to trace.
        return _dtypes.cast(
            jax.lax.add(_dtypes.cast(p, wide), _dtypes.cast(u, wide)), dtype
        )

    return treedef.unflatten(map(add, old, leaves, keys))


@functools.partial(jax.jit, static_argnums=3)
def _sum_rounded_at_random(p: Any, u: Any, key: jax.Array, wide: Any) -> jax.Array:
    dtype, total = _dtypes.dtype_of(p), _dtypes.cast(p, wide) + _dtypes.cast(u, wide)
    real = jnp.finfo(wide).dtype
    if jnp.iscomplexobj(total):
        re, im = (jax.random.uniform(k, total.shape, real) for k in jax.random.split(key))
        uniform = jax.lax.complex(re, im)
    else:
        uniform = jax.random.uniform(key, total.shape, real)
    return _dtypes.cast(numerics.rounded_at_random(total, dtype, uniform), dtype)
