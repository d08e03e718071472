"""What arguments may be, and how every argument error is worded.

The range of an argument stands in its annotation, once: ``decay: Decay`` is a scalar in
``[0, 1)``. Every factory of the library is called through `bound`, which reads the
annotations, refuses what lies outside them by the name that the caller typed, turns
numbers into Python floats (so that ``1 - decay`` is computed in double precision before
it meets an array), and gives the call back as text for the `repr`.
"""

import difflib
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")
Schedule = Callable[[Any], Any]  # From the step, 0 the first, to a value.
Value = float | jax.Array  # A number, a NumPy scalar, a 0-d array, or a traced one.


class Number(NamedTuple):
    """A scalar in an interval, written as in mathematics: ``"[0, 1)"``."""

    interval: str
    or_schedule: bool = False
    plain: bool = False  # A part of the program, as an exponent is: never traced.

    def __call__(self, value: Any, where: str) -> Any:
        if self.or_schedule and callable(value):
            return value
        kinds = "a number" + (" or a schedule" if self.or_schedule else "")
        if isinstance(value, bool | np.bool_ | str) or not isinstance(
            value, int | float | np.number | np.ndarray | jax.Array
        ):
            hint = ""
            if callable(value):
                hint = " It takes no schedule."
            raise TypeError(f"{where} must be {kinds}, but got {shown(value)}.{hint}")
        if jnp.shape(value) != ():
            raise TypeError(
                f"{where} must be {kinds}, but got an array of shape {jnp.shape(value)}."
            )
        if isinstance(value, jax.core.Tracer):
            if self.plain:
                raise TypeError(f"{where} must be a plain number, but got {shown(value)}.")
            # Its value is not known yet: it is taken on trust.
            widest = jax.dtypes.canonicalize_dtype(np.float64)
            return jax.lax.convert_element_type(value, widest)
        if isinstance(value, jax.Array | np.ndarray | np.number) and not (
            jnp.issubdtype(value.dtype, jnp.floating)
            or jnp.issubdtype(value.dtype, jnp.integer)
        ):
            raise TypeError(f"{where} must be {kinds}, but got {value.dtype}.")
        number = float(value)
        if not self.contains(number):
            raise ValueError(f"{where} must lie in {self.interval}, but got {value}.")
        return number

    def contains(self, x: float) -> bool:
        """Whether `x` lies in the interval; NaN lies in none."""
        low, high = (float(end) for end in self.interval[1:-1].split(","))
        above = low <= x if self.interval[0] == "[" else low < x
        below = x <= high if self.interval[-1] == "]" else x < high
        return above and below


class Integer(NamedTuple):
    """A whole number, at least `low`: an integer, or a float such as 1e4."""

    low: int
    or_schedule: bool = False

    def __call__(self, value: Any, where: str) -> Any:
        if self.or_schedule and callable(value):
            return value
        if isinstance(value, float | np.floating) and float(value).is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            kinds = "an integer" + (" or a schedule" if self.or_schedule else "")
            raise TypeError(f"{where} must be {kinds}, but got {value!r}.")
        if not value >= self.low:
            raise ValueError(f"{where} must be at least {self.low}, but got {value}.")
        return int(value)


class Checked(NamedTuple):
    """What a function of the value, and of what to call it, makes of it, or refuses."""

    check: Callable[[Any, str], Any]

    def __call__(self, value: Any, where: str) -> Any:
        return self.check(value, where)


class FloatDtype(NamedTuple):
    """A real floating dtype, by any name that NumPy knows."""

    def __call__(self, value: Any, where: str) -> Any:
        try:
            dtype = jnp.dtype(value)
        except TypeError:
            dtype = None
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{where} must be a real floating dtype such as 'float32' or "
                f"'bfloat16', but got {shown(value)}."
            )
        return dtype


def _is_seed(key: Any) -> bool:
    """Whether `key` is an integer, from which a random key can be made."""
    if isinstance(key, jax.Array):  # Traced, as `optax.inject_hyperparams` does.
        return key.shape == () and jnp.issubdtype(key.dtype, jnp.integer)
    return isinstance(key, int | np.integer) and not isinstance(key, bool)


def typed_key(key: Any, where: str = "`key`", *, seeds: bool = True) -> jax.Array:
    """The random key that an argument stands for, of the old kind and integers included.

    Raises:
        TypeError: If it is none, or several; without `seeds`, if it is an integer.
    """
    if seeds and _is_seed(key):
        return jax.random.key(key)
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return key
    elif isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)  # A key of the old `jax.random.PRNGKey`.
    kinds = "one key of `jax.random.key`" + (", or an integer seed" if seeds else "")
    raise TypeError(f"{where} must be {kinds}, but got {key!r}.")


def _checked_key(key: Any, where: str) -> Any:
    # A seed is made a key when it is needed, not where a module makes an optimizer.
    return key if _is_seed(key) else typed_key(key, where)


# The ranges that arguments have, by the names that signatures use.
Scalar = Annotated[Value, Number("(-inf, inf)")]
Decay = Annotated[Value, Number("[0, 1)")]
DecayOrSchedule = Annotated[Value | Schedule, Number("[0, 1)", or_schedule=True)]
Fraction = Annotated[Value, Number("[0, 1]")]
FractionOrSchedule = Annotated[Value | Schedule, Number("[0, 1]", or_schedule=True)]
NonNegative = Annotated[Value, Number("[0, inf)")]
Positive = Annotated[Value, Number("(0, inf)")]
AtLeastOne = Annotated[Value, Number("[1, inf)")]
# A limit that switches itself off: clipping at infinity clips nothing.
Threshold = Annotated[Value, Number("[0, inf]")]
ScalarOrSchedule = Annotated[Value | Schedule, Number("(-inf, inf)", or_schedule=True)]
NonNegativeOrSchedule = Annotated[Value | Schedule, Number("[0, inf)", or_schedule=True)]
Count = Annotated[int, Integer(0)]
PositiveCount = Annotated[int, Integer(1)]
CountOrSchedule = Annotated[int | Schedule, Integer(1, or_schedule=True)]
StorageDtype = Annotated[Any, FloatDtype()]
Key = Annotated[jax.Array | int, Checked(_checked_key)]


class Refusal(ValueError):
    """What is wrong with a tree, said by code that does not know for whom it works.

    The boundary (`optimjax.base`) turns it into a `ValueError` or a `TypeError` that
    begins with the name of the transformation.
    """

    def __init__(self, kind: type[Exception], message: str):
        super().__init__(message)
        self.kind = kind


class named:
    """Turns a `Refusal` from within into an error that begins with `name`."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, Refusal):
            raise error.kind(f"`{self.name}` {error}") from None


class within:
    """Adds to an error from within what the outermost such expression was, as a note."""

    def __init__(self, expression: str):
        self.expression = expression

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not isinstance(error, TypeError | ValueError):
            return
        opening, shortened = "In `", textwrap.shorten(self.expression, 300)
        others = [n for n in getattr(error, "__notes__", ()) if not n.startswith(opening)]
        error.__notes__ = [*others, f"{opening}{shortened}`."]


class Bound(NamedTuple):
    """A checked call: its arguments, and the text that would make it again."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expression: str


def bound(function: Callable[..., Any], args: Any, kwargs: Any) -> Bound:
    """Checks the arguments of a call of `function` against its annotations.

    Raises:
        TypeError: If an argument is unknown, missing, or of the wrong kind.
        ValueError: If its value lies outside of its range.
    """
    call = _checked_call(function, args, kwargs)
    given = [*map(shown, args), *(f"{k}={shown(v)}" for k, v in kwargs.items())]
    return Bound(call.args, call.kwargs, f"{function.__name__}({', '.join(given)})")


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Gives a plain function the checks of its annotations, and its refusals its name."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        checked_call = _checked_call(function, args, kwargs)
        with named(function.__name__):
            return function(*checked_call.args, **checked_call.kwargs)

    setattr(call, "__signature__", legible(inspect.signature(function)))  # noqa: B010
    return call


def _checked_call(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> inspect.BoundArguments:
    name = function.__name__
    signature, checks = _contract(function)
    known = list(signature.parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for argument in kwargs:
        if argument not in known and not open_ended:
            raise TypeError(
                f"`{name}` has no argument `{argument}`; it takes `{_plainly(signature)}`."
                f"{suggestion(argument, known)}"
            )
    try:
        call = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"`{name}{_plainly(signature)}`: {error}.") from None
    for argument, value in call.arguments.items():
        if argument in checks:
            where = f"`{name}({argument}=...)`"
            call.arguments[argument] = checks[argument](value, where)
    return call


def suggestion(argument: str, known: Iterable[str]) -> str:
    """The sentence that asks for the name that was meant, after a space; or nothing."""
    alike = [k for k in known if k[0] == argument[0]]  # `betas` is not `eps`.
    like = difflib.get_close_matches(argument, alike, n=1, cutoff=0.5)
    return f" Did you mean `{like[0]}`?" if like else ""


def is_number(value: Any) -> bool:
    """Whether `value` is a plain number; `True` is none."""
    numbers = int | float | np.integer | np.floating
    return isinstance(value, numbers) and not isinstance(value, bool)


def domains(function: Callable[..., Any]) -> dict[str, Number]:
    """The interval of each numeric argument of a factory; for tests of refusals."""
    wrapped = inspect.unwrap(function)
    found = {}
    for name, annotation in _annotations(wrapped).items():
        for mark in _marks(annotation):
            if isinstance(mark, Number):
                found[name] = mark
    return found


def _plainly(signature: inspect.Signature) -> str:
    """A signature as people write it: names and defaults, no annotations."""
    return str(legible(signature).replace(return_annotation=inspect.Signature.empty))


def legible(signature: inspect.Signature) -> inspect.Signature:
    """`signature` for `help`: the ranges are in the docstring, and long to spell."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Those of a function, read where they are texts: the ranges are in them."""
    found = inspect.get_annotations(function)
    for argument, annotation in found.items():
        if not isinstance(annotation, str) or argument == "return":
            continue
        try:
            found[argument] = eval(annotation, getattr(function, "__globals__", {}))
        except NameError as error:
            raise TypeError(
                f"`{function.__name__}`: the annotation {annotation!r} of `{argument}`, by "
                f"which it would be checked, cannot be read: {error}. Import what is in it "
                "where the module can see it."
            ) from None
    return found


@functools.cache
def _contract(function: Callable[..., Any]) -> Any:
    annotations = _annotations(function)
    checks = {n: c for n, a in annotations.items() if (c := _check(a)) is not None}
    return inspect.signature(function), checks


def _check(annotation: Any) -> Callable[[Any, str], Any] | None:
    """How to check an argument with this annotation; `None` if it may be anything."""
    choices = _alternatives(annotation)
    marks = _marks(annotation)
    literals = [v for a in choices if get_origin(a) is Literal for v in get_args(a)]
    optional = type(None) in choices

    def check(value: Any, where: str) -> Any:
        if optional and value is None:
            return None
        if literals:
            if not isinstance(value, str) or value not in literals:
                options = ", ".join(map(repr, [*([None] if optional else []), *literals]))
                raise ValueError(
                    f"{where} must be one of {options}, but got {shown(value)}."
                )
            return value
        if annotation is bool:
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{where} must be True or False, but got {shown(value)}.")
            return bool(value)
        for mark in marks:
            value = mark(value, where)
        return value

    return check if marks or literals or annotation is bool else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _marks(annotation: Any) -> list[Any]:
    return [
        mark
        for a in _alternatives(annotation)
        if get_origin(a) is Annotated
        for mark in a.__metadata__
        if isinstance(mark, Number | Integer | Checked | FloatDtype)
    ]


def shown(value: Any) -> str:
    """The expression of an argument, where it has one, or else a short text."""
    if isinstance(value, jax.core.Tracer):
        text = f"<traced {value.dtype}{list(value.shape)}>"
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        number = value.shape == () and jnp.issubdtype(value.dtype, jnp.number)
        text = repr(value.item()) if number else f"<array {value.dtype}{list(value.shape)}>"
    elif isinstance(value, np.dtype) or hasattr(value, "dtype"):
        text = repr(jnp.dtype(value).name)  # A class such as `jnp.bfloat16`, too.
    elif isinstance(value, type) or inspect.isroutine(value):
        text = value.__name__
    elif hasattr(value, "init") and inspect.isfunction(getattr(value, "update", None)):
        maker = value.update.__qualname__.split(".")[0]  # A foreign transformation.
        text = f"<{maker} of {value.update.__module__.split('.')[0]}>"
    else:
        text = repr(value)
    return text
