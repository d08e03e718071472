"""The whole of a minimization as one program: steps, stopping tests, and a report."""

import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from . import _checks, _dtypes, base
from .base import GradientTransformation, OptState, Params
from .transforms.searching import evaluated_at, searches_in
from .tree import conj, norm, sub
from .typing import NonNegative, PositiveCount


class StopReason(enum.IntEnum):
    """Why `minimize` stopped.

    Attributes:
        GRADIENT_SMALL: No entry of the gradient is above `gtol`.
        VALUE_SETTLED: The last step changed the value by no more than `ftol` allows.
        STEP_SMALL: The last step changed the params by no more than `xtol` allows.
        MAX_STEPS: There were `max_steps` steps.
        LINESEARCH_FAILED: Two line searches in a row found nothing better.
        NOT_FINITE: The value or the gradient was not finite.
    """

    GRADIENT_SMALL = 0
    VALUE_SETTLED = 1
    STEP_SMALL = 2
    MAX_STEPS = 3
    LINESEARCH_FAILED = 4
    NOT_FINITE = 5

    def __str__(self) -> str:
        return self.name


RUNNING = -1


class MinimizeResult(NamedTuple):
    """Where `minimize` ended, and why."""

    params: Params  # The last at which value and gradient are finite, if any are.
    state: OptState  # Of the transformation, there.
    value: jax.Array  # Of the function, there.
    gradient_norm: jax.Array  # The largest absolute value in the gradient there.
    steps: jax.Array  # (), int32: the steps taken.
    evaluations: jax.Array  # (), int32: how often value, gradient or both were computed.
    code: jax.Array  # (), int32: a `StopReason`.

    @property
    def reason(self) -> StopReason:
        """Why it stopped; of a single run, outside of `jit` and `vmap`."""
        if not self._known or jnp.shape(self.code) != ():
            raise TypeError(
                "`reason` is that of one run whose end is known; within `jit`, and of many "
                "runs of a `vmap`, there is `code`, and `StopReason(int(code[i]))`."
            )
        return StopReason(int(self.code))

    @property
    def _known(self) -> bool:
        """Whether it is the end of something that has run."""
        code = self.code
        return isinstance(code, jax.Array | np.ndarray) and not isinstance(
            code, jax.core.Tracer
        )

    def __repr__(self) -> str:
        if not self._known:
            return f"MinimizeResult(code={self.code!r}, ...)"
        if jnp.shape(self.code) != ():
            found = zip(*np.unique(np.asarray(self.code), return_counts=True), strict=True)
            ends = ", ".join(
                f"{times} {StopReason(int(code)).name}" for code, times in found
            )
            return f"MinimizeResult({self.code.size} runs: {ends})"
        name = self.reason.name
        return (
            f"MinimizeResult({name} after {self.steps} steps and {self.evaluations} "
            f"evaluations: value {self.value:.6g}, largest entry of the gradient "
            f"{self.gradient_norm:.2g})"
        )


@_checks.checked
def minimize(
    fun: Callable[..., Any],
    params: Params,
    tx: GradientTransformation,
    args: tuple[Any, ...] = (),
    *,
    max_steps: PositiveCount = 15_000,
    gtol: NonNegative = 1e-5,
    ftol: NonNegative = 2.220446049250313e-09,
    xtol: NonNegative = 0.0,
) -> MinimizeResult:
    r"""Takes steps until a test says stop: a whole minimization, compiled as one loop.

    It stops at the first of these, by name in `result.reason` (see `StopReason`):

    - `GRADIENT_SMALL`: no entry of the gradient has a modulus above `gtol`;
    - `VALUE_SETTLED`: a step that moved the params changed the value by little,

      $$ f_k - f_{k+1} \le \mathrm{ftol} \cdot \max(|f_k|, |f_{k+1}|, 1), $$

      of the absolute difference where no line search sees to it that values fall;
    - `STEP_SMALL`: no entry of the params changed by more than
      $\mathrm{xtol} \cdot \max(1, \max|p|)$, though one did;
    - `MAX_STEPS`; `LINESEARCH_FAILED`: two line searches in a row found nothing better,
      the second, in `lbfgs`, along the gradient itself;
    - `NOT_FINITE`: the value or the gradient is not; what is returned is what was before.

    Any transformation will do. Every one is offered `value`, `grad` and `value_fn`, and
    what a line search has evaluated last is not evaluated again. A stage behind the search
    that changes its step costs an evaluation a step.

    Args:
        fun: `fun(params, *args)`, the function to minimize, one real number. Its loop is
            compiled once for the same `fun`, `tx` and shapes: what changes from call to
            call belongs into `args`.
        params: Where to begin: a tree of arrays.
        tx: The transformation that makes the steps: `lbfgs()`, or any other.
        args: What else `fun` takes.
        max_steps: The most steps, an integer from 1.
        gtol: $\ge 0$, as that of SciPy's `L-BFGS-B`, as is `ftol`.
        ftol: $\ge 0$, relative. In float32 the default allows no change at all of values
            above 0.02. With 0 a step that does not lower the value still stops a search.
        xtol: $\ge 0$, relative to the largest parameter; 0 leaves the test out.

    Returns:
        A `MinimizeResult`. Under `vmap` each run stops by itself, and the loop with the
        last of them. Through the loop only forward-mode derivatives go (`jax.jvp`).

    Raises:
        TypeError: If `fun` is not a function, `tx` no transformation, `args` no tuple, or
            a leaf of `params` no floating or complex array.
        ValueError: If an argument lies outside of its range.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> def rosenbrock(p):
        ...     return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2
        >>> start = jnp.array([-1.2, 1.0])
        >>> result = ox.minimize(rosenbrock, start, ox.lbfgs(), gtol=1e-3, ftol=0.0)
        >>> print(result.reason.name, jnp.abs(result.params - 1).max() < 1e-2)
        GRADIENT_SMALL True
    """
    base.check_stages("minimize", [tx], "`tx`")
    if not callable(fun):
        raise TypeError(f"`minimize(fun=...)` must be a function, but got {fun!r}.")
    _dtypes.check_inexact(params, "the params")
    if not isinstance(args, tuple | list):  # An array would go in row by row.
        raise TypeError(
            f"`minimize(args=...)` must be a tuple, such as `(batch,)`, but got "
            f"{type(args).__name__}."
        )
    try:
        hash(fun)
    except TypeError:  # A module that is a tree, say.
        fun = functools.partial(fun)
    return _run(fun, tx, params, args, (max_steps, gtol, ftol, xtol))


class _Loop(NamedTuple):
    """A minimization under way; the fields as in the result."""

    params: Params
    state: OptState
    value: jax.Array
    grad: Any
    steps: jax.Array
    evaluations: jax.Array
    failed: jax.Array  # Whether the last step was refused by a line search.
    code: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(fun: Any, tx: Any, params: Params, args: Any, limits: Any) -> MinimizeResult:
    max_steps, gtol, ftol, xtol = limits
    params = jax.tree.map(lambda p: _dtypes.cast(p, _dtypes.dtype_of(p)), params)

    def value_fn(params: Params) -> jax.Array:
        value = fun(params, *args)
        _dtypes.check_real(value, "a value of `fun`")
        return _dtypes.wide(value) if isinstance(value, float) else value

    def evaluate(params: Params) -> tuple[jax.Array, Any]:
        value, grad = jax.value_and_grad(value_fn)(params)
        return _dtypes.cast(value, value.dtype), grad

    def stopped(loop: _Loop) -> _Loop:
        """With the reason to stop that can be seen at a point."""
        size = norm(loop.grad, "inf")
        code = jnp.where(loop.steps >= max_steps, StopReason.MAX_STEPS, loop.code)
        code = jnp.where(size <= gtol, StopReason.GRADIENT_SMALL, code)
        finite = jnp.isfinite(loop.value) & jnp.isfinite(size)
        code = jnp.where(finite, code, StopReason.NOT_FINITE)
        return loop._replace(code=_dtypes.cast(code, jnp.int32))

    def step(loop: _Loop) -> _Loop:
        gradient = conj(loop.grad)
        extra = {"value": loop.value, "grad": gradient, "value_fn": value_fn}
        wide, _ = _dtypes.widen(gradient, loop.params)
        updates, _, state = base.advance(tx, wide, wide, loop.state, loop.params, extra)
        params = base.apply_updates(loop.params, updates)
        known = evaluated_at(params, state)
        if known is None:
            same, (value, grad) = jnp.array(False), evaluate(params)
        else:
            same, *there = known
            there[0] = _dtypes.cast(there[0], loop.value.dtype)
            value, grad = jax.lax.cond(same, lambda: tuple(there), lambda: evaluate(params))
        infos = [search.info for search in searches_in(state)]
        spent = sum((info.num_linesearch_steps for info in infos), jnp.int32(0))
        failed = functools.reduce(
            jnp.logical_or, [info.failed for info in infos], jnp.array(False)
        )
        moved = norm(sub(params, loop.params), "inf")
        went = ~failed & (moved > 0)
        larger = jnp.maximum(jnp.abs(value), jnp.abs(loop.value))
        # A search may end a little higher, at the floor of rounding; others wander.
        drop = loop.value - value
        drop = drop if infos else jnp.abs(drop)
        settled = drop <= ftol * jnp.maximum(larger, 1)
        small = (moved <= xtol * jnp.maximum(norm(params, "inf"), 1)) & (xtol > 0)
        code: Any = jnp.where(went & small, StopReason.STEP_SMALL, RUNNING)
        code = jnp.where(went & settled, StopReason.VALUE_SETTLED, code)
        code = jnp.where(failed & loop.failed, StopReason.LINESEARCH_FAILED, code)
        new = stopped(
            _Loop(
                params,
                state,
                value,
                grad,
                loop.steps + 1,
                loop.evaluations + spent + jnp.where(same, 0, 1),
                failed,
                code,
            )
        )
        bad = new.code == StopReason.NOT_FINITE
        before = new._replace(
            params=loop.params, state=loop.state, value=loop.value, grad=loop.grad
        )
        return jax.tree.map(lambda b, n: jnp.where(bad, b, n), before, new)

    value, grad = evaluate(params)
    count = jnp.zeros((), jnp.int32)
    start = _Loop(
        params,
        tx.init(params),
        value,
        grad,
        count,
        count + 1,
        jnp.array(False),
        count + RUNNING,
    )
    end = jax.lax.while_loop(lambda loop: loop.code == RUNNING, step, stopped(start))
    return MinimizeResult(
        end.params,
        end.state,
        end.value,
        norm(end.grad, "inf"),
        end.steps,
        end.evaluations,
        end.code,
    )
