"""Hyperparameters in the state: read and set by name, while a compiled step runs."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .. import _checks, _dtypes, base, numerics, selection, states
from ..base import GradientTransformation, OptState, Params, Updates, transformation


class InjectHyperparamsState(NamedTuple):
    """State of `inject_hyperparams`."""

    count: jax.Array  # t, (), int32: the steps taken.
    hyperparams: dict[str, jax.Array]  # In force at the last step; (), float32 each.
    scheduled: dict[str, jax.Array]  # What schedules gave for it; NaN where set by hand.
    inner_state: OptState  # That of the transformation.


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[..., GradientTransformation]:
    r"""Makes of a factory one whose hyperparameters live in the state.

        optimizer = ox.inject_hyperparams(ox.adam)(learning_rate=1e-3)
        state = optimizer.init(params)
        state = ox.set_hyperparams(state, learning_rate=1e-4)  # at any time
        ox.get_hyperparams(state)["b1"]

    Every argument that is a number is one, those left at their defaults included; they can
    be set without compiling anew, be mapped over by `vmap` (a sweep), and differentiated
    (hypergradients). They are float32 whatever the params are. What is no number (flags,
    masks, counts, dtypes), or has to be a plain one (the `ord` of a norm), stays as it is.

    Every number may be a schedule, also where `inner_factory` by itself takes none. It
    gives a new value at every step, until a value is set by hand; that one then stays, and
    `None` gives it back to the schedule.

    One inside of another has numbers of its own, which begin with those that the outer one
    gives its factory by `init`: a schedule, and what is set by hand later, belongs to the
    inner one.

    Args:
        inner_factory: A factory of this library, where the ranges of the arguments tell
            what is a number; or any other function that returns a transformation, where
            floats, and functions of the step to a number, are taken for hyperparameters.
        static_args: Names of arguments that shall stay as they are.
        hyperparam_dtype: The dtype of the numbers; by default float32, or float64 where
            it is enabled.

    Returns:
        A factory with the arguments of `inner_factory`; the state of what it makes is an
        `InjectHyperparamsState`.

    Raises:
        TypeError: If `inner_factory` is no function, or has no argument of a name in
            `static_args`; what the factory refuses is refused by the name of the argument.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.inject_hyperparams(ox.sgd)(learning_rate=0.1)
        >>> state = t.init(jnp.zeros(1))
        >>> state = ox.set_hyperparams(state, learning_rate=0.5)
        >>> updates, state = t.update(jnp.array([1.0]), state)
        >>> print(updates)
        [-0.5]
    """
    if not callable(inner_factory) or hasattr(inner_factory, "init"):
        raise TypeError(
            "`inject_hyperparams` takes a factory, such as `adam`, but got "
            f"{inner_factory!r}. The arguments come after: "
            "`inject_hyperparams(adam)(learning_rate=...)`."
        )
    name = _whole(inner_factory).__name__
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    unknown = static - set(signature.parameters)
    if unknown:
        raise TypeError(
            f"`inject_hyperparams(static_args=...)`: there is no argument {sorted(unknown)}"
            f" of `{name}{_checks.legible(signature)}`."
        )

    @functools.wraps(inner_factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        arguments = _Arguments(inner_factory, args, kwargs, static)
        return _injected(arguments, hyperparam_dtype)

    make.__name__ = name
    make.__annotations__ = {}  # Ranges are the factory's to check: a schedule has none.
    member = transformation(state=InjectHyperparamsState)(make)

    @functools.wraps(member)
    def shown(*args: Any, **kwargs: Any) -> GradientTransformation:
        made = member(*args, **kwargs)
        update: Any = made.update
        rest = update.expression.removeprefix(name)
        update.expression = f"inject_hyperparams({name}){rest}"
        return made

    return shown


def _whole(factory: Any) -> Any:
    """The function that was meant, where some arguments of it are given already."""
    return _whole(factory.func) if isinstance(factory, functools.partial) else factory


class _Arguments:
    """A call of a factory: its numbers, its schedules, and the rest."""

    def __init__(self, factory: Any, args: Any, kwargs: Any, static: set[str]):
        self.factory = factory
        self.call = inspect.signature(factory).bind(*args, **kwargs)
        self.call.apply_defaults()
        self.numbers: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        ranges = _checks.domains(_whole(factory))
        plain = {name for name, number in ranges.items() if number.plain}
        for name, value in self.call.arguments.items():
            known = name in ranges or _may_be_one(factory, name, value)
            if not known or name in static | plain:
                continue
            if callable(value):
                self.schedules[name] = value
            elif value is not None:
                self.numbers[name] = value

    def made_with(self, hyperparams: Mapping[str, Any]) -> GradientTransformation:
        arguments = {**self.call.arguments, **hyperparams}
        # The stubs still ask for the `OrderedDict` that it was before Python 3.9.
        call = inspect.BoundArguments(
            self.call.signature,
            arguments,  # pyright: ignore[reportArgumentType]
        )
        return self.factory(*call.args, **call.kwargs)


def _may_be_one(factory: Any, name: str, value: Any) -> bool:
    """Whether an argument of a foreign factory is a number, or a schedule of one."""
    if getattr(_whole(factory), "__module__", "").startswith("optimjax."):
        return False  # It would have a range.
    if isinstance(value, type):
        return False  # A dtype.
    if callable(value):
        try:
            given: Any = jax.eval_shape(value, jax.ShapeDtypeStruct((), jnp.int32))
        except Exception:  # A mask, perhaps: whatever it is, no function of the step.
            return False
        return hasattr(given, "dtype") and jnp.issubdtype(given.dtype, jnp.floating)
    default = inspect.signature(factory).parameters[name].default
    if isinstance(value, int) and not isinstance(value, bool):
        return isinstance(default, float)
    return isinstance(value, float | np.floating) or (
        isinstance(value, jax.Array | np.ndarray)
        and value.shape == ()
        and jnp.issubdtype(value.dtype, jnp.floating)
    )


def _injected(arguments: _Arguments, dtype: Any) -> GradientTransformation:
    dtype = None if dtype is None else _checks.FloatDtype()(dtype, "hyperparam_dtype")

    def scalar(x: Any) -> jax.Array:
        return _dtypes.cast(x, _dtypes.scalar_dtype() if dtype is None else dtype)

    def of_schedules(count: jax.Array) -> dict[str, jax.Array]:
        schedules = arguments.schedules.items()
        return {name: scalar(numerics.at_step(f, count)) for name, f in schedules}

    def init(params: Params) -> InjectHyperparamsState:
        count = jnp.zeros((), jnp.int32)
        hyperparams = {name: scalar(x) for name, x in arguments.numbers.items()}
        hyperparams |= of_schedules(count)
        inner_state = arguments.made_with(hyperparams).init(params)
        # Copies, since nothing in a fresh state may share a buffer.
        hyperparams = {name: jnp.array(x) for name, x in hyperparams.items()}
        return InjectHyperparamsState(count, hyperparams, of_schedules(count), inner_state)

    def advance(
        updates: Updates,
        gradient: Updates,
        state: InjectHyperparamsState,
        params: Params | None,
        extra: dict[str, Any],
    ) -> tuple[Updates, Updates, InjectHyperparamsState]:
        hyperparams = {name: scalar(x) for name, x in state.hyperparams.items()}
        scheduled = of_schedules(state.count)
        for name, new in scheduled.items():
            untouched = hyperparams[name] == state.scheduled[name]
            hyperparams[name] = jnp.where(untouched, new, hyperparams[name])
            scheduled[name] = jnp.where(untouched, new, jnp.nan)
        out, lane, inner_state = base.advance(
            arguments.made_with(hyperparams),
            updates,
            gradient,
            state.inner_state,
            params,
            extra,
        )
        count = numerics.increment(state.count)
        return (
            out,
            lane,
            InjectHyperparamsState(count, hyperparams, scheduled, inner_state),
        )

    # Where the factory takes no schedule, it is given the numbers of one.
    first = arguments.made_with(of_schedules(jnp.zeros((), jnp.int32)))
    return base.combinator(init, advance, (first,))


def get_hyperparams(state: OptState) -> dict[str, jax.Array]:
    """The hyperparameters in a state, by name: those in force at its last step.

    Args:
        state: The state of an optimizer with `inject_hyperparams` anywhere in it.

    Returns:
        A dict from name to value. Where there are several of a name, as much of their
        paths is in it as tells them apart: `head/learning_rate`.

    Raises:
        ValueError: If there are none.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.inject_hyperparams(ox.momentum)(0.1)
        >>> for name, value in sorted(ox.get_hyperparams(t.init(jnp.zeros(1))).items()):
        ...     print(f"{name:13} {value:.2f}")
        dampening     0.00
        decay         0.90
        learning_rate 0.10
    """
    return states.shortest_names(_all_hyperparams("get_hyperparams", state))


def set_hyperparams(
    state: OptState, by_path: Mapping[str, Any] | None = None, /, **by_name: Any
) -> OptState:
    """A state with other hyperparameters, which hold from the next step on.

    Args:
        state: The state of an optimizer with `inject_hyperparams` anywhere in it.
        by_path: New values by the names that `get_hyperparams` gives, or by patterns of
            their paths, such as `"**/head/**/b1"` (see `optimjax.selection`), where some of
            a name shall be set and others not.
        **by_name: New values by name: numbers, or scalars, traced ones included. `None`
            gives a hyperparameter back to its schedule. They are taken on trust: the ranges
            of the factory's arguments are not in the state.

    Returns:
        A new state of the same structure, shapes and dtypes, for the same compiled step.

    Raises:
        ValueError: If there is no hyperparameter of a name, or a value is no scalar or NaN.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> state = ox.inject_hyperparams(ox.sgd)(0.1).init(jnp.zeros(1))
        >>> rates = jnp.array([0.1, 0.2, 0.3])
        >>> sweep = jax.vmap(lambda r: ox.set_hyperparams(state, learning_rate=r))(rates)
        >>> print(ox.get_hyperparams(sweep)["learning_rate"])
        [0.1 0.2 0.3]
    """
    there = _all_hyperparams("set_hyperparams", state)
    wanted: dict[Any, Any] = {}
    for name, value in {**by_name, **(by_path or {})}.items():
        # A name itself goes before what it means as a pattern: labels may be patterns.
        named = [p for p in there if f"/{selection.text(p)}".endswith(f"/{name}")]
        chosen = named or [p for p in there if selection.matches(name, p)]
        if not chosen:
            raise ValueError(
                f"`set_hyperparams`: there is no hyperparameter {name!r}; there are: "
                f"{selection.listed(there)}."
            )
        wanted.update(dict.fromkeys(chosen, value))

    def renewed(here: selection.Path, node: Any) -> Any:
        hyperparams, scheduled = dict(node.hyperparams), dict(node.scheduled)
        for name, old in hyperparams.items():
            path = (*here, name)
            if path not in wanted:
                continue
            if wanted[path] is None:
                if name not in scheduled:
                    raise ValueError(
                        f"`set_hyperparams`: {selection.text(path)} has no schedule to be "
                        "given back to."
                    )
                scheduled[name] = jnp.array(old)
            else:
                hyperparams[name] = _scalar_like(wanted[path], old, path)
                if name in scheduled:  # Set by hand, be it to what the schedule gave.
                    scheduled[name] = jnp.full_like(old, jnp.nan)
        return node._replace(hyperparams=hyperparams, scheduled=scheduled)

    return states.map_states(renewed, state, InjectHyperparamsState)


def _scalar_like(value: Any, old: jax.Array, path: Any) -> jax.Array:
    dtype = getattr(value, "dtype", None)
    number = jnp.issubdtype(dtype, jnp.number) if dtype else isinstance(value, int | float)
    if isinstance(value, bool) or not number or jnp.shape(value) not in ((), old.shape):
        fault = repr(value)
    elif not isinstance(value, jax.core.Tracer) and np.isnan(value).any():
        fault = "NaN"
    else:
        fault = None
    if fault:
        raise ValueError(
            f"`set_hyperparams`: {selection.text(path)} must be a number, but got {fault}."
        )
    # A copy: one value may be set in many places, and the state be donated.
    return jnp.array(jnp.broadcast_to(_dtypes.cast(value, old.dtype), old.shape))


def _all_hyperparams(who: str, state: OptState) -> dict[selection.Path, jax.Array]:
    found = {
        (*path, name): value
        for path, node in states.states_in(state, InjectHyperparamsState).items()
        for name, value in node.hyperparams.items()
    }
    if not found:
        raise ValueError(
            f"`{who}` found no hyperparameters in this state. Make the optimizer by "
            "`inject_hyperparams(adam)(learning_rate=...)`."
        )
    return found
