"""Choosing for the user: optimizers and hyperparameters, tried against one another."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks, _dtypes, results, tree
from .base import GradientTransformation, Params, apply_updates
from .candidates import Group, entries_of, groups_of
from .combinators.averaging import eval_params
from .combinators.chaining import chain
from .results import Candidate, Setting, SweepResult
from .typing import Number, PositiveCount

# The program: all candidates with all seeds.


class _Seed(NamedTuple):
    """What candidates share that are to be compared; with a leading axis of seeds."""

    start: jax.Array  # The random key of the initial params.
    data: jax.Array  # That of the batches, if a function draws them.
    order: jax.Array | None  # Which examples each step sees, (steps, batch_size), int32.


class _Run(NamedTuple):
    """A group in training; with leading axes (candidates, seeds)."""

    params: Params
    state: Any


class _Feed(NamedTuple):
    """Where batches come from."""

    examples: Any  # A tree of arrays, or None.
    order: Callable[[jax.Array, int], Any]  # Of the key and the number of steps.
    batch: Callable[[Any, _Seed, Any], Any]  # Of the examples, the seed and the step.


class _Problem(NamedTuple):
    """What is trained."""

    loss: Callable[[Params, Any], jax.Array]
    init: Callable[[jax.Array], Params]
    feed: _Feed
    score: Callable[[Params, Any], jax.Array] | None  # Of what is held out.
    held_out: Any  # A tree of arrays, or None.
    at_once: int | None  # How many candidates to take gradients of together.

    def gradient(self, params: Params, batch: Any) -> tuple[jax.Array, Params]:
        """The loss and the direction in which it rises."""
        value, grads = jax.value_and_grad(self.loss)(params, batch)
        return value, tree.conj(grads)


def _seed(feed: _Feed, steps: int, key: jax.Array, number: Any) -> _Seed:
    """What the seed of a number stands for."""
    start, data = jax.random.split(jax.random.fold_in(key, number))
    return _Seed(start, data, feed.order(data, steps))


def _first_params(problem: _Problem, key: jax.Array) -> Params:
    params = problem.init(key)
    return jax.tree.map(lambda p: _dtypes.cast(p, _dtypes.dtype_of(p)), params)


def _start(groups: list[Group], numbers: list[jax.Array], params: Params) -> list[_Run]:
    """Every run at step 0; the same params for the same seed."""
    runs = []
    for group, rows in zip(groups, numbers, strict=True):

        def start(row: jax.Array, params: Params, group: Group = group) -> _Run:
            return _Run(params, group.made(row).init(params))

        each_seed = jax.vmap(start, in_axes=(None, 0))
        runs.append(jax.vmap(each_seed, in_axes=(0, None))(rows, params))
    return runs


def _updated(
    problem: _Problem,
    optimizer: GradientTransformation,
    run: _Run,
    value: Any,
    grads: Any,
    batch: Any,
) -> _Run:
    """One step of one run."""
    updates, state = optimizer.update(
        grads,
        run.state,
        run.params,
        value=value,
        value_fn=lambda params: problem.loss(params, batch),
        grad_fn=lambda params: problem.gradient(params, batch)[1],
    )
    return _Run(apply_updates(run.params, updates), state)


def _picked(runs: list[_Run], kept: list[Any]) -> list[_Run]:
    """Those candidates of each group."""
    pairs = zip(runs, kept, strict=True)
    return [jax.tree.map(lambda x, k=k: x[k], run) for run, k in pairs]


def _train(
    problem: _Problem,
    groups: list[Group],
    numbers: list[jax.Array],
    runs: list[_Run],
    seeds: _Seed,
    data: Any,
    first: Any,
    last: Any,
) -> tuple[list[_Run], list[jax.Array]]:
    """Takes all runs on from one step to another; also their mean loss on the way."""

    def gradients(params: Params, batch: Any) -> Any:
        # Of all groups together: a large model is compiled once, not once for each.
        def each_seed(params: Params) -> Any:
            return jax.vmap(problem.gradient)(params, batch)

        if problem.at_once is None:
            return jax.vmap(each_seed)(params)
        return jax.lax.map(each_seed, params, batch_size=problem.at_once)

    def step(i: Any, carry: Any) -> Any:
        runs, total = carry
        batch = jax.vmap(lambda seed: problem.feed.batch(data, seed, i))(seeds)
        params = jax.tree.map(lambda *ps: jnp.concatenate(ps), *(r.params for r in runs))
        values, grads = gradients(params, batch)
        done, begin = [], 0
        for group, rows, run in zip(groups, numbers, runs, strict=True):
            here = slice(begin, begin := begin + len(rows))

            def update(row: jax.Array, *rest: Any, group: Group = group) -> _Run:
                return _updated(problem, group.made(row), *rest)

            each_seed = jax.vmap(update, in_axes=(None, 0, 0, 0, 0))
            each = jax.vmap(each_seed, in_axes=(0, 0, 0, 0, None))
            of_group = jax.tree.map(lambda g, here=here: g[here], grads)
            done.append(each(rows, run, values[here], of_group, batch))
        return done, total + _dtypes.cast(values, total.dtype)

    lanes = (sum(map(len, numbers)), len(seeds.start))
    total = jnp.zeros(lanes, _dtypes.scalar_dtype())
    runs, total = jax.lax.fori_loop(first, last, step, (runs, total))
    mean = total / _dtypes.cast(last - first, total.dtype)
    return runs, jnp.split(mean, np.cumsum([len(rows) for rows in numbers])[:-1])


def _validate(problem: _Problem, runs: list[_Run], data: Any) -> list[jax.Array]:
    score = problem.score
    assert score is not None

    def one(run: _Run) -> jax.Array:
        return score(eval_params(run.state, run.params), data)

    return [jax.vmap(jax.vmap(one))(run) for run in runs]


# The search.


@_checks.checked
def sweep(
    loss: Callable[..., Any],
    init: Callable[[jax.Array], Params],
    optimizers: Mapping[str, Any],
    *,
    steps: PositiveCount,
    data: Any = None,
    batch_size: PositiveCount | None = None,
    validation: Any = None,
    candidates: PositiveCount = 16,
    seeds: PositiveCount = 4,
    rungs: PositiveCount = 3,
    halving: Annotated[int, _checks.Integer(2)] = 3,
    grid: bool = False,
    confidence: Annotated[float, Number("(0, 1)")] | None = 0.95,
    key: Any = 0,
    at_once: PositiveCount | None = None,
    progress: bool = True,
) -> SweepResult:
    r"""Trains optimizers with many settings, and says which is best, and what is noise.

    It is made for problems of which many fit into the device side by side. Every candidate,
    an optimizer with one setting of its arguments, is trained with every seed; all of them
    are lanes of one compiled program, in which their gradients are taken together.

    **Who is tried.** Each optimizer has about as many candidates as `candidates` says. They
    are spread so that each range is divided evenly, and no two settings are close, the same
    for every key; with `grid` they are all combinations. What is a number is traced. What
    cannot be (flags, names, `None`, counts) is found out by trying, and each such choice
    has its fair share of the candidates.

    **Who is stopped.** With `rungs` $R$ and `halving` $\eta$, rung $r = 1, \dots, R$ ends
    after $T \eta^{r - R}$ of $T$ steps. There, of each optimizer (and of each choice that
    cannot be traced), one in $\eta$ of the candidates goes on with params and state as they
    are: those with the lowest mean score. (Successive halving. What starts slowly loses: a
    warm-up should be over before the first rung is. Optimizers are not stopped for one
    another, so that each gets the same budget.)

    **The score** is the loss, averaged over the last tenth of the steps so far; or, with
    `validation`, that at the end, at `eval_params`. Lower is better. A run that ended in no
    finite number has diverged; whoever has such a run is behind all others.

    **What is noise.** A seed stands for the initial params and for the batches, the same
    for all candidates: scores are compared seed by seed. When some were stopped, those that
    are left are trained once more from the start, with fresh seeds, since scores that
    decided who is left flatter those. They are *within noise* of the best, or *worse*, by
    the paired t-interval of `optimjax.results.verdicts`, which is made wide enough for all
    pairs together: on a problem where all candidates are equally good, at least 95 % of
    sweeps call none of them worse. Few candidates at the end and many seeds tell small
    differences: at 95 %, the margin is, in standard deviations of the paired difference,

    | at the end | 4 seeds | 8 seeds | 16 seeds |
    | --- | --- | --- | --- |
    | 2 | 1.6 | 0.84 | 0.53 |
    | 4 | 3.1 | 1.3 | 0.76 |
    | 8 | 5.3 | 1.7 | 0.95 |

    **To repeat a run**: the seed of number $s$ has the key $k_s$ = `fold_in(key, s)`;
    `init` gets the first key of `split(k_s)`, and the batches come from the second, $d_s$:
    a function `data` gets `fold_in(d_s, step)`. The search has the seeds from 0, the
    confirmation those from `seeds`. A candidate that is trained alone has the same losses
    up to the rounding of float32: the program for many sums in another order.

    Args:
        loss: `loss(params, batch)`, one real number; without `data`, `loss(params)`. Any
            model, as long as it is JAX. The optimizer gets it as well (`value`, `value_fn`,
            `grad_fn`).
        init: `init(key)`, the initial params: any tree of arrays. Where they are always the
            same, `lambda key: params`.
        optimizers: A dict from name to one of

            - `(factory, arguments)`: any function that returns a transformation, of this
              library or not, and a dict from the names of its arguments to a range
              (`log_uniform`, `uniform`), a list of values to choose from (or a `range`, or
              an array with one axis), or anything else as it is. A tuple is one value,
              such as `betas=(0.9, 0.99)`, and a list of tuples is a choice between them;
            - a transformation, to compare with: one candidate.
        steps: $T \ge 1$, the steps of a full training.
        data: A tree of arrays with one example per row; or a function `data(key)` that
            draws a batch (or just noise: `lambda key: key`); or `None`.
        batch_size: How many examples each step takes, in shuffled passes; `None` gives all
            `data` to every step.
        validation: `validation(params)`, a number to be minimized; or a tree of arrays for
            `loss(params, validation)`; `None` scores by the training loss.
        candidates: About how many settings to try of each optimizer.
        seeds: $S \ge 2$ (1 without `confidence`), with how many seeds each.
        rungs: $R \ge 1$; 1 stops nobody.
        halving: $\eta \ge 2$.
        grid: Whether to try all combinations of evenly spaced values, ends included, as
            many as there may be.
        confidence: That of the verdicts, in (0, 1); `None` gives no verdicts and trains
            nobody twice.
        key: An integer, or a random key; the result depends on nothing else.
        at_once: Of how many candidates to take the gradients together, where memory is
            short; `None` means all. Their params and states are always kept.
        progress: Whether to show a bar, on stderr, where that is a terminal and Rich is
            installed.

    Returns:
        A `SweepResult`: `print` it; `best()` is the winner, ready to use; `plot(path)`
        draws a picture; `records()` is for pandas.

    Raises:
        TypeError: If an argument of a factory is unknown or missing, one with a range has
            to be a plain number, the loss is no scalar, or something is no factory.
        ValueError: If there is no optimizer, nothing to choose from, a value that a factory
            refuses, or fewer steps, seeds, candidates or examples than are needed.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> result = ox.sweep(
        ...     lambda p, noise: jnp.sum(jnp.array([1.0, 9.0]) * (p - noise) ** 2),
        ...     lambda key: jax.random.normal(key, 2),
        ...     {"sgd": (ox.sgd, {"learning_rate": ox.log_uniform(1e-4, 1.0)})},
        ...     data=lambda key: 0.1 * jax.random.normal(key, 2),
        ...     validation=lambda p: jnp.sum(p**2),
        ...     steps=45, candidates=9, seeds=3, progress=False,
        ... )
        >>> result.best()
        sgd(learning_rate=0.0774)
        >>> [(c.steps, c.verdict) for c in result.candidates[:3]]
        [(45, 'best'), (15, 'stopped'), (15, 'stopped')]

    References:
        K. Jamieson and A. Talwalkar, [Non-stochastic best arm identification and
        hyperparameter optimization](https://arxiv.org/abs/1502.07943), 2016.
    """
    if confidence is not None and seeds < 2:
        raise _checks.Refusal(
            ValueError,
            "needs at least 2 seeds to tell a difference from noise; give "
            "`confidence=None` for a search without verdicts.",
        )
    entries = entries_of(optimizers)
    key = _checks.typed_key(key, "`sweep(key=...)`")
    problem = _problem(loss, init, data, batch_size, validation, at_once)
    can_be_traced = _trial(problem, steps, key)
    groups = [
        group
        for entry in entries
        for group in groups_of(entry, candidates, grid, can_be_traced)
    ]
    for group in groups:
        group.check()
    if all(len(group.settings) == 1 for group in groups):
        rungs = 1  # There is nothing to choose from.
    plan = _plan(groups, steps, seeds, rungs, halving, confidence)
    with _progress(plan.budget, progress) as done:
        found = _search(_Trainer(problem, groups, plan, done), key)
    return SweepResult(
        candidates=results.judged(found, confidence),
        factories={entry.name: entry.factory for entry in entries},
        ranges={entry.name: entry.ranges for entry in entries},
        steps=steps,
        seeds=seeds,
        scored=(
            f"mean loss of the last {max(1, steps // 10)} steps"
            if validation is None
            else "validation at the end"
        ),
        confidence=confidence,
        confirmed=plan.confirms,
        budget=plan.budget,
    )


class _Plan(NamedTuple):
    """Who is trained for how long."""

    steps: int
    seeds: int
    ends: list[int]  # The step at which each rung ends.
    sizes: list[list[int]]  # The candidates in each rung, by group.
    confirms: bool  # Whether those of the last one are trained anew.
    budget: dict[str, int]  # See `SweepResult`.


def _plan(
    groups: list[Group],
    steps: int,
    seeds: int,
    rungs: int,
    halving: int,
    confidence: float | None,
) -> _Plan:
    ends = [round(steps / halving**r) for r in reversed(range(rungs))]
    if ends[0] < 1 or len(set(ends)) < rungs:
        raise _checks.Refusal(
            ValueError,
            f"needs more than {steps} steps for {rungs} rungs; give `rungs=1` to stop "
            "no candidate before the end.",
        )
    sizes = [[len(group.settings) for group in groups]]
    while len(sizes) < rungs:
        sizes.append([math.ceil(n / halving) for n in sizes[-1]])
    confirms = rungs > 1 and confidence is not None
    lengths = np.diff([0, *ends]).tolist()
    budget = {
        "search": sum(sum(n) * d for n, d in zip(sizes, lengths, strict=True)),
        "confirmation": sum(sizes[-1]) * steps if confirms else 0,
        "without halving": sum(sizes[0]) * steps,
    }
    budget = {what: n * seeds for what, n in budget.items()}
    return _Plan(steps, seeds, ends, sizes, confirms, budget)


class _Trainer:
    """The programs of a sweep; they are compiled once for each number of candidates."""

    def __init__(
        self,
        problem: _Problem,
        groups: list[Group],
        plan: _Plan,
        done: Callable[[int], None],
    ):
        self.problem, self.groups, self.plan, self.done = problem, groups, plan, done
        # Random numbers take long to compile: they have programs of their own.
        seed = functools.partial(_seed, problem.feed, plan.steps)
        self.seed = jax.jit(jax.vmap(seed, in_axes=(None, 0)))
        self.first_params = jax.jit(jax.vmap(functools.partial(_first_params, problem)))
        self.start = jax.jit(functools.partial(_start, groups))
        train = functools.partial(_train, problem, groups)
        self.train = jax.jit(train, donate_argnums=1)  # Old runs become the new ones.
        self.validate = jax.jit(functools.partial(_validate, problem))
        self.picked = jax.jit(_picked)

    def trained(
        self,
        runs: list[_Run] | None,
        alive: list[list[int]],
        shared: _Seed,
        first: int,
        last: int,
    ) -> tuple[list[_Run], list[np.ndarray]]:
        """The runs at step `last`, and their scores, (candidates, seeds) of each group.

        Without `runs`, they are started.
        """
        numbers = [g.numbers(a) for g, a in zip(self.groups, alive, strict=True)]
        if runs is None:
            runs = self.start(numbers, self.first_params(shared.start))
        # The last of the parts is the last tenth of all steps up to here.
        tenth = max(1, last // 10)
        scores: Any = None
        marks = sorted({first, *range(last, first, -tenth)})
        examples = self.problem.feed.examples
        for begin, end in itertools.pairwise(marks):
            runs, scores = self.train(numbers, runs, shared, examples, begin, end)
            scores = jax.device_get(scores)
            self.done((end - begin) * sum(map(len, alive)) * self.plan.seeds)
        assert runs is not None
        if self.problem.score is not None:
            scores = jax.device_get(self.validate(runs, self.problem.held_out))
        scores = [np.asarray(s, np.float64) for s in scores]
        return runs, [np.where(np.isfinite(s), s, np.inf) for s in scores]


def _search(trainer: _Trainer, key: jax.Array) -> list[Candidate]:
    """All candidates, in no order, with their scores."""
    groups, plan = trainer.groups, trainer.plan
    alive = [list(range(n)) for n in plan.sizes[0]]
    history: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    shared, runs, scores, first = trainer.seed(key, np.arange(plan.seeds)), None, [], 0
    for last, sizes in zip(plan.ends, [*plan.sizes[1:], None], strict=True):
        runs, scores = trainer.trained(runs, alive, shared, first, last)
        for who, score in _by_candidate(alive, scores).items():
            history.setdefault(who, []).append((last, score))
        if sizes is not None:
            pairs = zip(scores, sizes, strict=True)
            kept = [np.sort(_ranked(of_group)[:n]) for of_group, n in pairs]
            alive = [[a[i] for i in k] for a, k in zip(alive, kept, strict=True)]
            runs = trainer.picked(runs, kept)
            first = last
    if plan.confirms:
        del runs
        shared = trainer.seed(key, np.arange(plan.seeds, 2 * plan.seeds))
        _, scores = trainer.trained(None, alive, shared, 0, plan.steps)
    final = _by_candidate(alive, scores)
    return [
        Candidate(
            optimizer=groups[g].optimizer,
            settings=groups[g].settings[i],
            steps=seen[-1][0],
            scores=final.get((g, i), seen[-1][1]),
            search=tuple(seen),
            at_edge=groups[g].at_edge(i),
            verdict="" if (g, i) in final else "stopped",
        )
        for (g, i), seen in history.items()
    ]


def _by_candidate(
    alive: list[list[int]], scores: list[np.ndarray]
) -> dict[tuple[int, int], np.ndarray]:
    """The scores of each, by the numbers of its group and of itself there."""
    return {
        (g, i): score
        for g, (chosen, of_group) in enumerate(zip(alive, scores, strict=True))
        for i, score in zip(chosen, of_group, strict=True)
    }


def _ranked(scores: np.ndarray) -> np.ndarray:
    """The candidates of a group from the best to the worst; what diverged is last."""
    return np.lexsort((scores.mean(axis=1), np.isinf(scores).sum(axis=1)))


def _feed(data: Any, batch_size: int | None) -> _Feed:
    def unordered(key: jax.Array, steps: int) -> None:
        del key, steps

    def whole(examples: Any, seed: _Seed, i: Any) -> Any:
        del seed, i
        return examples

    def drawn(examples: Any, seed: _Seed, i: Any) -> Any:
        del examples
        return data(jax.random.fold_in(seed.data, i))

    def shuffled(key: jax.Array, steps: int) -> jax.Array:
        size = batch_size or 1
        keys = jax.random.split(key, math.ceil(steps * size / count))
        passes = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
        return passes.reshape(-1)[: steps * size].reshape(steps, size)

    def taken(examples: Any, seed: _Seed, i: Any) -> Any:
        order: Any = seed.order
        return jax.tree.map(lambda x: jnp.take(x, order[i], axis=0), examples)

    if batch_size is None:
        if callable(data):
            return _Feed(None, unordered, drawn)
        return _Feed(jax.tree.map(jnp.asarray, data), unordered, whole)
    counts = set()
    if not callable(data):
        counts = {x.shape[0] if jnp.ndim(x) else 0 for x in jax.tree.leaves(data)}
    if len(counts) != 1 or batch_size > max(counts):
        raise _checks.Refusal(
            ValueError,
            f"takes batches of `batch_size={batch_size}` from `data`, a tree of arrays "
            "with at least as many examples along the first axis of each, but got "
            f"{'a function' if callable(data) else f'lengths {sorted(counts)}'}.",
        )
    (count,) = counts
    return _Feed(jax.tree.map(jnp.asarray, data), shuffled, taken)


def _problem(
    loss: Any,
    init: Any,
    data: Any,
    batch_size: int | None,
    validation: Any,
    at_once: int | None,
) -> _Problem:
    feed = _feed(data, batch_size)
    for name, function, of in (("loss", loss, "params"), ("init", init, "a random key")):
        if not callable(function):
            raise _checks.Refusal(
                TypeError, f"takes a function of {of} for `{name}`, but got {function!r}."
            )

    def of_params(params: Params, batch: Any) -> Any:
        del batch
        return loss(params)

    def validated(params: Params, held_out: Any) -> Any:
        del held_out
        return validation(params)

    score = None
    if validation is not None:
        score = validated if callable(validation) else loss
    held_out = None if callable(validation) else jax.tree.map(jnp.asarray, validation)
    of_batch = of_params if data is None else loss
    return _Problem(of_batch, init, feed, score, held_out, at_once)


def _trial(problem: _Problem, steps: int, key: jax.Array) -> Callable[..., bool]:
    """Refuses losses that are no scalars; returns a test of what can be traced."""
    seed = functools.partial(_seed, problem.feed, steps)
    first = jax.eval_shape(seed, key, 0)
    params = jax.eval_shape(functools.partial(_first_params, problem), first.start)
    batch = jax.eval_shape(problem.feed.batch, problem.feed.examples, first, 0)
    losses = {"loss": jax.eval_shape(problem.loss, params, batch)}
    if problem.score is not None:
        losses["validation"] = jax.eval_shape(problem.score, params, problem.held_out)
    for name, value in losses.items():
        _dtypes.check_real(value, f"a {name}")

    def can_be_traced(factory: Any, setting: Setting, argument: str) -> bool:
        def one_step(number: Any, params: Any, batch: Any) -> Any:
            optimizer = chain(factory(**{**setting, argument: number}))
            run = _Run(params, optimizer.init(params))
            value = problem.loss(params, batch)
            return _updated(problem, optimizer, run, value, params, batch)

        number = jax.ShapeDtypeStruct((), _dtypes.scalar_dtype())
        try:
            jax.eval_shape(one_step, number, params, batch)
        except Exception:
            # Where a plain number fails as well, that is what there is to say.
            jax.eval_shape(functools.partial(one_step, setting[argument]), params, batch)
            return False
        return True

    return can_be_traced


@contextlib.contextmanager
def _progress(budget: dict[str, int], wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal and Rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda steps: None
        return
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    hidden = not (wanted and console.is_terminal)
    total = budget["search"] + budget["confirmation"]
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("Sweeping", total=total)
        yield lambda steps: bar.advance(task, steps)
