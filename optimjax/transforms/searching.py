"""How far to go along a direction: line searches, which evaluate the loss themselves.

A search stands last in a chain, behind a direction that points downhill: what it is given
is the whole step, and it multiplies that by a number. What it has evaluated at the end of
the step stays in its state, for `value_and_grad_from_state`.
"""

import enum
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, _reports, base
from .._checks import Refusal
from ..base import GradientTransformation, OptState, Params, Updates, transformation
from ..selection import by_path
from ..states import states_in
from ..tree import conj, leafwise, slot_like, vdot
from ..typing import Count, Decay, NonNegative, Number, Positive, PositiveCount

# A value that is higher by no more than these machine epsilons may be as low, in truth.
ROUNDINGS = 10
RUNNING = -1  # Beside the outcomes: there is none yet.


class LinesearchOutcome(enum.IntEnum):
    """How a line search has ended. Above `DECREASED`, no step was taken."""

    SATISFIED = 0  # All that was asked of the step holds.
    DECREASED = 1  # The value is low enough; no step was found where the slope is, too.
    NO_DECREASE = 2  # No step that was tried has a value low enough.
    NO_DESCENT = 3  # The direction does not point downhill.
    NOT_FINITE = 4  # The value, or the slope, where the search began is not finite.


class LinesearchInfo(NamedTuple):
    """What the last line search did; in the state of one."""

    num_linesearch_steps: jax.Array  # (), int32: how often it evaluated `value_fn`.
    outcome: jax.Array  # (), int32: a `LinesearchOutcome`; -1 before the first search.

    @property
    def failed(self) -> jax.Array:
        """Whether no step was taken, because none was found to be better."""
        return self.outcome > LinesearchOutcome.DECREASED


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """State of `scale_by_backtracking_linesearch`. Floats are float32 or wider."""

    learning_rate: jax.Array  # (): what the last updates were multiplied by; 1 at first.
    value: jax.Array  # (): the value where the last step ended; infinite at first.
    grad: Updates  # The gradient there, as `jax.grad` gives it; None if not stored.
    params: Params  # Where that is; None if the gradient is not stored.
    info: LinesearchInfo  # How the last search went.


class ScaleByZoomLinesearchState(NamedTuple):
    """State of `scale_by_zoom_linesearch`. Floats are float32 or wider."""

    learning_rate: jax.Array  # (): what the last updates were multiplied by; 1 at first.
    value: jax.Array  # (): the value where the last step ended; infinite at first.
    grad: Updates  # The gradient there, as `jax.grad` gives it.
    params: Params  # Where that is.
    info: LinesearchInfo  # How the last search went.


class _Found(NamedTuple):
    """The best step so far; none, where the step is 0."""

    step: jax.Array
    move: Any  # The updates times the step.
    value: jax.Array
    grad: Any


class _Line:
    """The loss along a direction, for one search."""

    def __init__(
        self,
        updates: Updates,
        params: Params,
        value: Any,
        grad: Updates,
        value_fn: Callable[..., Any],
        extra: dict[str, Any],
    ):
        # A search is no function to differentiate: the step counts as a constant.
        updates, params, value, grad = jax.lax.stop_gradient((updates, params, value, grad))
        self.updates, self.params, self.grad = updates, params, grad
        self.value_fn = value_fn
        self.extra = _those_read(value_fn, extra)
        self.dtype = _dtypes.real_dtype(*jax.tree.leaves(params))
        self.leaves, self.treedef = jax.tree.flatten(updates, is_leaf=_dtypes.is_none)
        self.value = _scalar(value, "`value`", self.dtype)
        self.slope = self.inner(grad, "`grad`")

    def inner(self, grad: Any, what: str = "what `value_fn` gives") -> jax.Array:
        """The slope along the direction, given the direction of steepest ascent."""
        grads = _dtypes.match(self.treedef, self.leaves, grad, what)
        pairs = [(g, u) for g, u in zip(grads, self.leaves, strict=True) if u is not None]
        product = vdot([g for g, _ in pairs], [u for _, u in pairs])
        return _dtypes.cast(jnp.real(product), self.dtype)

    def moved(self, step: jax.Array) -> Updates:
        """The updates times `step`.

        They go from one turn of the loop to the next, and out of it, so that the product is
        rounded by itself wherever it is added. Fused with the sum, as compilers like to,
        it would end at other params here than in the caller's program.
        """
        return leafwise(_by, self.updates, factor=step)

    def at(self, move: Updates) -> Params:
        return base.apply_updates(self.params, move)

    def leaves_its_place(self, point: Params) -> jax.Array:
        """Whether a point is another one than that of the params."""
        changed = jax.tree.map(lambda p, q: jnp.any(p != q), self.params, point)
        return functools.reduce(jnp.logical_or, jax.tree.leaves(changed), jnp.array(False))

    def value_at(self, params: Params) -> jax.Array:
        value = self.value_fn(params, **self.extra)
        return _scalar(value, "the result of `value_fn`", self.dtype)

    def start(self, slot: Any) -> _Found:
        """No step; for the state, the gradient is as `jax.grad` gives it."""
        grad = None if slot is None else _like(conj(self.grad), slot)
        zero = jnp.zeros((), self.dtype)
        return _Found(zero, self.moved(zero), self.value, grad)

    def began(self) -> jax.Array:
        """The outcome, where it is known before the first step is tried."""
        finite = jnp.isfinite(self.value) & jnp.isfinite(self.slope)
        uphill = jnp.where(self.slope < 0, RUNNING, LinesearchOutcome.NO_DESCENT)
        known = jnp.where(finite, uphill, LinesearchOutcome.NOT_FINITE)
        return _dtypes.cast(known, jnp.int32)


def _scalar(value: Any, what: str, dtype: Any) -> jax.Array:
    real = hasattr(value, "dtype") or isinstance(value, int | float)
    if not real or jnp.shape(value) != () or jnp.iscomplexobj(value):
        raise Refusal(TypeError, f"needs {what} to be one real number, but got {value!r}.")
    return _dtypes.cast(value, dtype)


def _those_read(value_fn: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """The extra arguments that `value_fn` has by name."""
    if not callable(value_fn):
        raise Refusal(
            TypeError,
            "needs the argument `value_fn`, a function from the params to the loss, but "
            f"got {value_fn!r}.",
        )
    if not extra:
        return {}
    names = list(inspect.signature(value_fn).parameters)[1:]
    return {name: extra[name] for name in names if name in extra}


def _by(u: jax.Array, *, factor: jax.Array) -> jax.Array:
    return jnp.where(factor == 0, 0, factor * u)


@jax.custom_jvp
def _taken(move: Any, updates: Updates, step: jax.Array) -> Any:
    """`move`, with the derivative of `updates` times a step that is constant."""
    del updates, step
    return move


@_taken.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return primals[0], leafwise(_by, tangents[1], factor=primals[2])


def _fresh(state_type: Any, params: Params, *, stored: bool = True) -> Any:
    """The state before the first search."""
    dtype = _dtypes.real_dtype(*jax.tree.leaves(params))
    return state_type(
        learning_rate=jnp.ones((), dtype),
        value=jnp.full((), jnp.inf, dtype),
        grad=slot_like(params) if stored else None,
        params=slot_like(params) if stored else None,
        info=LinesearchInfo(jnp.zeros((), jnp.int32), jnp.full((), RUNNING, jnp.int32)),
    )


def _like(tree: Any, slot: Any) -> Any:
    """`tree` in the dtypes of a slot, which stays what it is where `tree` has None."""
    return jax.tree.map(
        lambda s, x: s if x is None else _dtypes.cast(x, s.dtype), slot, tree
    )


def _noise(line: _Line, rtol: Any) -> jax.Array:
    """How much higher a value may be, and still be no worse."""
    if rtol is None:
        rtol = ROUNDINGS * float(jnp.finfo(line.dtype).eps)
    return _dtypes.cast(rtol, line.dtype) * jnp.abs(line.value)


def _ended(line: _Line, updates: Updates, state: Any, end: Any) -> tuple[Updates, OptState]:
    """The updates, and the state, after a search."""
    found = end.found
    _reports.report("step_size", found.step)
    return _taken(found.move, updates, found.step), state._replace(
        learning_rate=found.step,
        value=found.value,
        grad=found.grad,
        params=None if found.grad is None else _like(line.at(found.move), state.params),
        info=LinesearchInfo(end.count, end.outcome),
    )


def _if(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)


def _outcome(*cases: tuple[jax.Array, LinesearchOutcome]) -> jax.Array:
    """That of the first case that holds, or none yet."""
    code: Any = RUNNING
    for holds, outcome in reversed(cases):
        code = jnp.where(holds, outcome, code)
    return _dtypes.cast(code, jnp.int32)


class _Backtracking(NamedTuple):
    """A backtracking search under way."""

    count: jax.Array
    trial: jax.Array  # The step to try next.
    move: Any  # The updates times that.
    found: _Found
    outcome: jax.Array


@transformation(state=ScaleByBacktrackingLinesearchState)
def scale_by_backtracking_linesearch(
    max_backtracking_steps: Count,
    slope_rtol: Decay = 1e-4,
    decrease_factor: Annotated[float, Number("(0, 1)")] = 0.8,
    increase_factor: Annotated[float, Number("[1, inf]")] = 1.5,
    max_learning_rate: Positive = 1.0,
    atol: NonNegative = 0.0,
    rtol: NonNegative | None = None,
    store_grad: bool = False,
) -> GradientTransformation:
    r"""Shortens the step until the loss falls by enough: Armijo's condition.

    The step is $\eta u$ for the largest of $\eta_0, d\,\eta_0, d^2 \eta_0, \dots$ with

    $$ f(p + \eta u) \le f(p) + c\, \eta\, \langle g, u \rangle
       + r\, |f(p)| + a. $$

    $\eta_0$ is the last $\eta$ times `increase_factor`, but no more than
    `max_learning_rate`, and that itself after a search that failed.

    A search takes `value=f(p)`, `value_fn=f` and `grad=g` in `update`; a chain tells it
    `grad` by itself. What else `update` is given, and `value_fn` has an argument for by
    name, goes to `value_fn`, such as a batch. Functions cannot go through `jit`: make the
    step a function that is compiled, and `value_fn` a part of it.

    Where no $\eta$ will do, where $u$ does not point downhill, or where the loss is not
    finite to begin with, the update is zero, and `state.info` says so (see
    `LinesearchOutcome`).

    Args:
        max_backtracking_steps: How often the step may be shortened, an integer from 0. It
            takes at most one evaluation more.
        slope_rtol: $c$, in [0, 1).
        decrease_factor: $d$, in (0, 1).
        increase_factor: In $[1, \infty]$; infinity begins every search at
            `max_learning_rate`.
        max_learning_rate: The largest $\eta$, positive.
        atol: $a \ge 0$, a loss of decrease that is allowed.
        rtol: $r \ge 0$, likewise; `None` means ten times the machine epsilon, by which
            the value may be higher where differences drown in rounding.
        store_grad: Whether to compute the gradient where the step ends, for
            `value_and_grad_from_state`. It costs the memory of two copies of the params.

    Returns:
        A `GradientTransformation` with a `ScaleByBacktrackingLinesearchState`. It needs the
        params. Derivatives take $\eta$ for a constant, which it is nearly everywhere.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: In `update`, if `value`, `grad` or `value_fn` is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> loss = lambda p: jnp.sum(p**4)
        >>> t = ox.chain(ox.scale(-1.0), ox.scale_by_backtracking_linesearch(20))
        >>> p = jnp.array([1.0])
        >>> value, grad = jax.value_and_grad(loss)(p)
        >>> updates, state = t.update(grad, t.init(p), p, value=value, value_fn=loss)
        >>> search = state["scale_by_backtracking_linesearch"]
        >>> print(updates, search.learning_rate, search.info.num_linesearch_steps)
        [-1.6384] 0.4096 5

    Unlike in Optax, a search that fails takes no step (there it takes its last one, unless
    that is not finite), the next one begins anew (there with 0, for good), and `rtol` is
    relative to $|f|$ (there to $f$, which is stricter where $f$ is negative).

    References:
        S. Vaswani et al., [Painless stochastic
        gradient](https://arxiv.org/abs/1905.09997), 2019.
    """

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        return _fresh(ScaleByBacktrackingLinesearchState, params, stored=store_grad)

    def update(
        updates: Updates,
        state: ScaleByBacktrackingLinesearchState,
        params: Params,
        *,
        value: Any,
        grad: Updates,
        value_fn: Callable[..., Any],
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        line = _Line(updates, params, value, grad, value_fn, extra)
        allowed = _noise(line, rtol) + atol

        def search(b: _Backtracking) -> _Backtracking:
            point, grads, back = line.at(b.move), b.found.grad, None
            if store_grad:
                new, back = jax.vjp(line.value_at, point)
            else:
                new = line.value_at(point)
            bound = line.value + slope_rtol * b.trial * line.slope + allowed
            # Shorter than a rounding of the params is no step, and shorter ones neither.
            stuck = ~line.leaves_its_place(point)
            done = jnp.isfinite(new) & (new <= bound) & ~stuck
            if back is not None:
                fresh = functools.partial(back, jnp.ones_like(new))
                grads = jax.lax.cond(
                    done, lambda: _like(fresh()[0], b.found.grad), lambda: b.found.grad
                )
            best = _if(done, (b.trial, b.move, new), b.found[:3])
            found = _Found(best[0], best[1], best[2], grads)
            last = stuck | (b.count >= max_backtracking_steps)
            outcome = _outcome(
                (done, LinesearchOutcome.SATISFIED), (last, LinesearchOutcome.NO_DECREASE)
            )
            trial = _dtypes.cast(decrease_factor * b.trial, b.trial.dtype)
            return _Backtracking(b.count + 1, trial, line.moved(trial), found, outcome)

        last = state.learning_rate
        longer = jnp.minimum(increase_factor * last, max_learning_rate)
        guess = jnp.where(last > 0, longer, max_learning_rate)
        guess = _dtypes.cast(guess, line.dtype)
        start = _Backtracking(
            jnp.zeros((), jnp.int32),
            guess,
            line.moved(guess),
            line.start(state.grad),
            line.began(),
        )
        end = jax.lax.while_loop(lambda b: b.outcome == RUNNING, search, start)
        return _ended(line, updates, state, end)

    return GradientTransformation(init, update)


class _Point(NamedTuple):
    """What is known of the loss after one step."""

    step: jax.Array
    value: jax.Array
    slope: jax.Array


class _Zoom(NamedTuple):
    """A zoom search under way. Between `low` and `high` lies a step that will do."""

    count: jax.Array
    trial: jax.Array  # The step to try next.
    move: Any  # The updates times that.
    low: _Point  # The lowest value so far, of the steps that lower it by enough.
    high: _Point  # The other end, which may be the shorter step; infinite at first.
    found: _Found
    outcome: jax.Array


def _between(low: _Point, high: _Point) -> jax.Array:
    """Where the parabola through both values and the lower slope has its minimum."""
    width = high.step - low.step
    rise = low.slope * width
    share = -rise / (2 * (high.value - low.value - rise))
    # Halved, where that is no number, or too near to an end to get on.
    return low.step + width * jnp.where((share >= 0.1) & (share <= 0.9), share, 0.5)


@transformation(state=ScaleByZoomLinesearchState)
def scale_by_zoom_linesearch(
    max_linesearch_steps: PositiveCount = 20,
    max_learning_rate: Positive | None = None,
    tol: NonNegative = 0.0,
    increase_factor: Annotated[float, Number("(1, inf)")] = 2.0,
    slope_rtol: Decay = 1e-4,
    curv_rtol: Annotated[float, Number("[0, inf]")] = 0.9,
    approx_dec_rtol: NonNegative | None = None,
    stepsize_precision: Decay = 1e-5,
    initial_guess_strategy: Literal["keep", "one"] = "keep",
) -> GradientTransformation:
    r"""Finds a step after which the loss is lower and flatter: the strong Wolfe conditions.

    The step is $\eta u$ with

    $$ f(p + \eta u) \le f(p) + c_1 \eta\, \langle g, u \rangle + \tau, \qquad
       |\langle g(p + \eta u), u \rangle| \le c_2 |\langle g, u \rangle| + \tau. $$

    The second condition keeps it from being too short, and is what `scale_by_lbfgs` needs.
    Near an optimum the difference of two values is nothing but rounding, while slopes still
    tell. In the place of the first condition may therefore stand

    $$ \langle g(p + \eta u), u \rangle \le (2 c_1 - 1) \langle g, u \rangle + \tau, \qquad
       f(p + \eta u) \le f(p) + c_3 |f(p)|. $$

    Steps grow by `increase_factor` until they span one that will do; then the minimum of a
    parabola is tried, or the middle if that is too near to an end. Where no step is found
    that meets both conditions, the lowest of those that meet the first is taken, if its
    value is lower at all; else the update is zero. `state.info` says which (see
    `LinesearchOutcome`).

    What `update` takes is said in `scale_by_backtracking_linesearch`. Every evaluation is
    of the value and the gradient, and those at the end are kept for
    `value_and_grad_from_state`.

    Args:
        max_linesearch_steps: The most evaluations in one search, an integer from 1.
        max_learning_rate: The largest $\eta$, positive; `None` for no limit.
        tol: $\tau \ge 0$.
        increase_factor: In $(1, \infty)$.
        slope_rtol: $c_1$, in [0, 1); less than one half, if a parabola's minimum shall do.
        curv_rtol: $c_2$, in $[0, \infty]$; infinity leaves the second condition out.
        approx_dec_rtol: $c_3 \ge 0$; `None` means ten times the machine epsilon. With 0 no
            value may be higher than the last.
        stepsize_precision: When to give the second condition up: both ends of the interval
            agree to this, relatively. In [0, 1).
        initial_guess_strategy: Where to begin: at 1 ("one"), as is right behind
            quasi-Newton directions, or at the last $\eta$ ("keep").

    Returns:
        A `GradientTransformation` with a `ScaleByZoomLinesearchState`, which holds two
        copies of the params. It needs the params. Derivatives take $\eta$ for a constant.

    Raises:
        ValueError: If an argument lies outside of its range; in `update`, if params are
            missing.
        TypeError: In `update`, if `value`, `grad` or `value_fn` is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> loss = lambda p: jnp.sum(p**4)
        >>> t = ox.chain(ox.scale(-1.0), ox.scale_by_zoom_linesearch())
        >>> p = jnp.array([0.05])
        >>> value, grad = jax.value_and_grad(loss)(p)
        >>> updates, state = t.update(grad, t.init(p), p, value=value, value_fn=loss)
        >>> search = state["scale_by_zoom_linesearch"]
        >>> print(search.learning_rate, search.info.num_linesearch_steps)
        4.0 3

    Unlike in Optax, a search that fails takes no step (there perhaps one that is worse),
    $c_3$ is by default what rounding explains (there 1e-6, by which values may rise in
    float64, too), and `stepsize_precision` is relative (there absolute).

    References:
        J. Nocedal and S. Wright, Numerical optimization, 2006, algorithms 3.5 and 3.6;
        W. Hager and H. Zhang, [Algorithm 851:
        CG_DESCENT](https://doi.org/10.1145/1132973.1132979), 2006, for the approximate
        conditions.
    """

    def init(params: Params) -> ScaleByZoomLinesearchState:
        return _fresh(ScaleByZoomLinesearchState, params)

    def update(
        updates: Updates,
        state: ScaleByZoomLinesearchState,
        params: Params,
        *,
        value: Any,
        grad: Updates,
        value_fn: Callable[..., Any],
        **extra: Any,
    ) -> tuple[Updates, OptState]:
        line = _Line(updates, params, value, grad, value_fn, extra)
        noise, zero = _noise(line, approx_dec_rtol), jnp.zeros((), line.dtype)
        limit = jnp.inf if max_learning_rate is None else max_learning_rate
        largest = _dtypes.cast(limit, line.dtype)

        def search(z: _Zoom) -> _Zoom:
            value, grads = jax.value_and_grad(line.value_at)(line.at(z.move))
            here = _Point(z.trial, value, line.inner(conj(grads)))
            lower = value <= line.value + slope_rtol * here.step * line.slope + tol
            nearly = here.slope <= (2 * slope_rtol - 1) * line.slope + tol
            nearly &= value <= line.value + noise
            enough = jnp.isfinite(value) & jnp.isfinite(here.slope) & (lower | nearly)
            done = enough & (jnp.abs(here.slope) <= tol - curv_rtol * line.slope)
            better = done | enough & (value < z.found.value)
            found = _if(
                better, _Found(here.step, z.move, value, _like(grads, state.grad)), z.found
            )
            # Too far; or past the minimum, seen from `low`.
            worse = ~enough | (value > z.low.value + noise)
            past = ~worse & (here.slope * (z.high.step - z.low.step) >= 0)
            high = _if(worse, here, _if(past, z.low, z.high))
            low = _if(worse, z.low, here)
            spanned = jnp.isfinite(high.step)
            width = jnp.abs(high.step - low.step)
            end = jnp.maximum(high.step, low.step)
            narrow = spanned & (width <= stepsize_precision * end)
            last = z.count + 1 >= max_linesearch_steps
            at_limit = ~spanned & (here.step >= largest)
            over = (last | narrow | at_limit) & (found.step > 0)
            outcome = _outcome(
                (done, LinesearchOutcome.SATISFIED),
                (over, LinesearchOutcome.DECREASED),
                (last | at_limit, LinesearchOutcome.NO_DECREASE),
            )
            longer = jnp.minimum(increase_factor * here.step, largest)
            trial = jnp.where(spanned, _between(low, high), longer)
            trial = _dtypes.cast(trial, line.dtype)
            move = line.moved(trial)
            return _Zoom(z.count + 1, trial, move, low, high, found, outcome)

        guess = jnp.ones_like(zero)
        if initial_guess_strategy == "keep":
            guess = jnp.where(state.learning_rate > 0, state.learning_rate, guess)
        guess, nowhere = jnp.minimum(guess, largest), zero + jnp.inf
        start = _Zoom(
            jnp.zeros((), jnp.int32),
            guess,
            line.moved(guess),
            _Point(zero, line.value, line.slope),
            _Point(nowhere, nowhere, nowhere),
            line.start(state.grad),
            line.began(),
        )
        end = jax.lax.while_loop(lambda z: z.outcome == RUNNING, search, start)
        return _ended(line, updates, state, end)

    return GradientTransformation(init, update)


# What searches leave in a state.

SEARCHES = (ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState)


def searches_in(state: OptState) -> list[Any]:
    """The states of line searches, anywhere in `state`."""
    return [found for kind in SEARCHES for found in states_in(state, kind).values()]


def evaluated_at(
    params: Params, state: OptState
) -> tuple[jax.Array, jax.Array, Updates] | None:
    """Whether a search ended at `params`, and the value and the gradient there.

    None, if none could have: the one that keeps a gradient of all of them.
    """
    leaves = {path: p for path, p in by_path(params).items() if p is not None}
    known = None
    for search in searches_in(state):
        there, grads = by_path(search.params), by_path(search.grad)
        if search.grad is None or not leaves.keys() <= there.keys():
            continue
        same = jnp.isfinite(search.value)
        for path, p in leaves.items():
            same &= jnp.all(_dtypes.cast(p, there[path].dtype) == there[path])
        kept = (_dtypes.cast(grads[k], _dtypes.dtype_of(p)) for k, p in leaves.items())
        treedef = jax.tree.structure(params)
        known = same, search.value, treedef.unflatten(kept)
    return known


def value_and_grad_from_state(
    value_fn: Callable[..., Any],
) -> Callable[..., tuple[jax.Array, Updates]]:
    """Makes a `jax.value_and_grad` that takes from the state what is there already.

    A line search ends with the value and the gradient that the next step begins with. The
    function returned here looks for one in `state`, however deep, that ended at the very
    `params` it is given, and evaluates `value_fn` where there is none: at the first step,
    or where a stage behind the search has changed its step.

    Args:
        value_fn: A function from the params, and perhaps more, to the loss. What a search
            ended with is of the function that it was given: of another batch, evaluate.

    Returns:
        A function `(params, *args, state=state, **kwargs)` to the value and the gradient,
        as `jax.value_and_grad(value_fn)(params, *args, **kwargs)` gives them. Under `vmap`
        it always evaluates, and then chooses. Derivatives do not go through what it takes
        from the state.

    Raises:
        TypeError: If `value_fn` is not a function.
        ValueError: When called, if no line search in `state` keeps the gradient of all
            params: `scale_by_backtracking_linesearch` does so with `store_grad=True`.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> loss = lambda p: jnp.sum((p - 1) ** 2)
        >>> t, p = ox.lbfgs(), jnp.zeros(2)
        >>> state, value_and_grad = t.init(p), ox.value_and_grad_from_state(loss)
        >>> for _ in range(3):
        ...     value, grad = value_and_grad(p, state=state)
        ...     updates, state = t.update(grad, state, p, value=value, value_fn=loss)
        ...     p = ox.apply_updates(p, updates)
        >>> print(p)
        [1. 1.]
    """
    if not callable(value_fn):
        raise TypeError(
            "`value_and_grad_from_state(value_fn=...)` must be a function, but got "
            f"{value_fn!r}."
        )

    def value_and_grad(
        params: Params, *args: Any, state: OptState, **kwargs: Any
    ) -> tuple[jax.Array, Updates]:
        def evaluate() -> tuple[jax.Array, Updates]:
            return jax.value_and_grad(value_fn)(params, *args, **kwargs)

        known = evaluated_at(params, state)
        if known is None:
            raise ValueError(
                "`value_and_grad_from_state` found no line search in the state that keeps "
                "the gradient of all params. `scale_by_backtracking_linesearch` does so "
                "with `store_grad=True`."
            )
        same, value, grad = known
        dtype = jax.eval_shape(evaluate)[0].dtype
        value = _dtypes.cast(value, dtype)
        return jax.lax.cond(same, lambda: (value, grad), evaluate)

    return value_and_grad
