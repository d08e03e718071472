"""What a sweep found: a table, what is noise in it, and a picture."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _pictures
from ._checks import is_number
from .base import GradientTransformation

Setting = dict[str, Any]  # The arguments of a factory.


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One optimizer with one setting, and how it did.

    Attributes:
        optimizer: Its name in the sweep.
        settings: The arguments of its factory.
        steps: The steps after which it was scored: all, unless it was stopped before.
        scores: By seed, NumPy, (seeds,), float64; infinite where it diverged.
        search: For each rung that it took part in, the steps and the scores there, by
            seed of the search.
        at_edge: The arguments whose value is the lowest or the highest that was tried.
        verdict: `"best"`, `"within noise"`, `"worse"`, `"diverged"`, `"stopped"`; empty
            where no verdict was asked for.
        behind: The mean over seeds of the difference to the best one; NaN if none is known.
        margin: Half of the width of the interval around it.
    """

    optimizer: str
    settings: Setting
    steps: int
    scores: np.ndarray
    search: tuple[tuple[int, np.ndarray], ...]
    at_edge: tuple[str, ...]
    verdict: str
    behind: float = math.nan
    margin: float = math.nan

    @property
    def mean(self) -> float:
        """The mean of the scores; infinite if any seed diverged."""
        return float(np.mean(self.scores))

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; NaN of one seed, and if any diverged."""
        if len(self.scores) < 2 or self.diverged:
            return math.nan
        return float(np.std(self.scores, ddof=1))

    @property
    def diverged(self) -> int:
        """How many of its seeds ended in what is no finite number."""
        return int(np.sum(~np.isfinite(self.scores)))


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What `sweep` found; `print` shows it as a table.

    Attributes:
        candidates: All, the best first: those that were trained to the end, then those
            that were stopped, the last ones to be stopped first.
        factories: The factories, by name of the optimizer.
        ranges: The ranges, by name of the optimizer and of the argument.
        steps: The steps of a full training.
        seeds: How many seeds each score is of.
        scored: What the score is, in words.
        confidence: That of the verdicts; `None` if there are none.
        confirmed: Whether those at the end were trained anew with fresh seeds.
        budget: Steps of training, over all candidates and seeds: `"search"`,
            `"confirmation"`, and `"without halving"`, had all been trained to the end.
    """

    candidates: tuple[Candidate, ...]
    factories: dict[str, Callable[..., GradientTransformation]]
    ranges: dict[str, dict[str, Any]]
    steps: int
    seeds: int
    scored: str
    confidence: float | None
    confirmed: bool
    budget: dict[str, int]

    @property
    def finalists(self) -> tuple[Candidate, ...]:
        """The candidates that were trained to the end, the best first."""
        return tuple(c for c in self.candidates if c.verdict != "stopped")

    def winner(self, optimizer: str | None = None) -> Candidate:
        """The candidate with the lowest mean score.

        Args:
            optimizer: The name of the one to look at; `None` looks at all.

        Raises:
            ValueError: If none of the name ended without diverging.
        """
        for c in self.finalists:
            if optimizer in (None, c.optimizer) and not c.diverged:
                return c
        if optimizer is not None and optimizer not in self.factories:
            raise ValueError(
                f"there is no optimizer {optimizer!r} in this sweep; there are "
                f"{', '.join(map(repr, self.factories))}."
            )
        raise ValueError(
            "every candidate that was trained to the end diverged with some seed; try "
            "lower learning rates."
        )

    def best(self, optimizer: str | None = None) -> GradientTransformation:
        """The winner, ready to use.

        Args:
            optimizer: The name of the one whose best setting is wanted; `None` is any.

        Raises:
            ValueError: As `winner`.
        """
        found = self.winner(optimizer)
        return self.factories[found.optimizer](**found.settings)

    @property
    def best_settings(self) -> Setting:
        """The arguments of the winner."""
        return dict(self.winner().settings)

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each candidate, in order of rank: for `pandas.DataFrame`."""
        return [
            {
                "rank": rank,
                "optimizer": c.optimizer,
                "verdict": c.verdict,
                "steps": c.steps,
                "mean": c.mean,
                "spread": c.spread,
                "diverged": c.diverged,
                "behind": c.behind,
                "margin": c.margin,
                **c.settings,
            }
            for rank, c in enumerate(self.candidates, 1)
        ]

    def __str__(self) -> str:
        return f"{_table(self.finalists)}\n\n{_notes(self)}"

    __repr__ = __str__

    def plot(self, path: Any, *, argument: str | None = None) -> None:
        """Draws the sweep: scores against the rate, and what is noise among the last.

        One panel for each optimizer shows the mean score of every candidate at every rung
        against one argument, with a shade, or a bar, from the lowest seed to the highest.
        Below, each finalist's difference to the best, with its interval.

        Args:
            path: Where to write it; the ending says in which format, `.png` or any other
                that Matplotlib knows.
            argument: What to draw the scores against; `None` takes, of each optimizer, the
                first argument with a range.

        Raises:
            ImportError: If Matplotlib is not installed.
            ValueError: If no optimizer has numbers to draw against.
        """
        try:
            _pictures.draw(self, path, argument)
        except ImportError as error:
            raise ImportError(
                f"`SweepResult.plot` draws with Matplotlib ({error}); get it with "
                "`pip install 'optimjax[plots]'`."
            ) from None


def _table(candidates: Sequence[Candidate]) -> str:
    head = ("", "optimizer", "settings", "score", "behind the best", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for rank, c in enumerate(candidates, 1):
        verdict = c.verdict
        if c.diverged:
            verdict = f"diverged: {c.diverged} of {len(c.scores)} seeds"
        behind = "" if math.isnan(c.behind) else _plus_minus(c.behind, c.margin)
        score = "" if c.diverged else _plus_minus(c.mean, c.spread)
        rows.append((str(rank), c.optimizer, _settings_text(c), score, behind, verdict))
    shown = [k for k in range(len(head)) if any(row[k] for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in shown}
    lines = ["  ".join(row[k].ljust(widths[k]) for k in shown).rstrip() for row in rows]
    return "\n".join(lines)


def _settings_text(candidate: Candidate) -> str:
    def text(argument: str, value: Any) -> str:
        shown = f"{value:g}" if is_number(value) else str(value)
        return f"{argument}={shown}{'*' if argument in candidate.at_edge else ''}"

    return ", ".join(text(*item) for item in candidate.settings.items())


def _plus_minus(mean: float, spread: float) -> str:
    """Both to two digits of the spread; the mean alone if there is none."""
    if not spread > 0 or not math.isfinite(spread):
        return f"{mean:.4g}"
    decimals = 1 - math.floor(math.log10(spread))
    largest = max(abs(mean), spread)
    if 1e-4 <= largest < 1e6 and decimals <= 7:
        decimals = max(decimals, 0)
        return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"
    digits = max(math.floor(math.log10(largest)) + decimals, 1)
    return f"{mean:.{digits}e} ± {spread:.1e}"


def _notes(result: SweepResult) -> str:
    """What stands below the table: what its numbers mean."""
    seeds = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
    spread = "" if result.seeds == 1 else "mean ± standard deviation over "
    fresh = " that had no part in the choice" if result.confirmed else ""
    lines = [f"score: {result.scored}, {spread}{seeds}{fresh}; lower is better"]
    compared = [c for c in result.finalists if not c.diverged]
    if result.confidence is not None and len(compared) > 1:
        pairs = math.comb(len(compared), 2)
        corrected = (
            f", made wider for the {pairs} pairs that {len(compared)} candidates make"
            if pairs > 1
            else ""
        )
        lines.append(
            "behind the best: mean over seeds of the difference with the same seed, and "
            f"its {100 * result.confidence:g} % interval{corrected}; within noise: the "
            "interval holds 0"
        )
        if all(c.spread == 0 for c in compared):
            lines.append(
                "all seeds gave the same: there is no noise in this problem, and "
                "`seeds=1, confidence=None` finds as much"
            )
    if any(c.at_edge for c in result.finalists):
        lines.append("*: the lowest or highest value tried; a better one may lie beyond")
    stopped = [c for c in result.candidates if c.verdict == "stopped"]
    for steps in sorted({c.steps for c in stopped}):
        gone = [c for c in stopped if c.steps == steps]
        bad = sum(c.diverged > 0 for c in gone)
        diverged = f" ({bad} of them diverged)" if bad else ""
        lines.append(
            f"stopped after {steps} of {result.steps} steps: {len(gone)}{diverged}"
        )
    spent = [f"{n:,} for the {what}" for what, n in result.budget.items() if n][:-1]
    lines.append(
        f"budget: {' and '.join(spent)}, in steps of training; without halving "
        f"{result.budget['without halving']:,}"
    )
    return "\n".join(lines)


# Noise.


@functools.cache
def student_quantile(tail: float, degrees: int) -> float:
    r"""The $t$ that Student's distribution exceeds with a probability of `tail`.

    For a whole number of degrees of freedom the distribution function is a finite sum of
    powers of $\cos\theta$, $\theta = \arctan(t / \sqrt\nu)$, and rises with $\theta$: it is
    inverted by halving $[0, \pi / 2]$.

    Args:
        tail: The probability, in (0, 1/2].
        degrees: $\nu \ge 1$.

    Example:
        >>> from optimjax.results import student_quantile
        >>> round(student_quantile(0.025, 3), 3)
        3.182

    References:
        M. Abramowitz and I. A. Stegun, Handbook of mathematical functions, 26.7.3 and
        26.7.4.
    """
    odd = degrees % 2

    def inside(theta: float) -> float:
        """The probability of (-t, t)."""
        total, term = 0.0, math.cos(theta) if odd else 1.0
        for m in range(1, degrees // 2 + 1):
            total += term
            term *= math.cos(theta) ** 2 * (2 * m - 1 + odd) / (2 * m + odd)
        total *= math.sin(theta)
        return 2 / math.pi * (theta + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if 1 - inside(middle) > 2 * tail:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def verdicts(scores: Sequence[np.ndarray], confidence: float) -> list[tuple[float, float]]:
    r"""How far each of several is behind the best, and the margin around that.

    Of $K$ that did not diverge, each with the scores $x_{is}$ for seeds $s = 1, \dots, S$,
    the best one, $b$, has the lowest mean. With $d_{is} = x_{is} - x_{bs}$, the margin is

    $$ m_i = t \, \frac{\mathrm{sd}_s(d_{is})}{\sqrt S}, \qquad
       \Pr[T_{S-1} > t] = \frac{1 - c}{K (K - 1)}, $$

    with Student's distribution of $S - 1$ degrees of freedom. Since these very scores say
    which one is the best, the pair that is looked at may be any of $K (K - 1) / 2$: each
    has its share of what may be missed (Bonferroni, two-sided). If all are equal in truth,
    any of them is called worse (behind by more than its margin) in at most $1 - c$ of all
    sweeps; for two of them it is the usual paired t-test.

    Args:
        scores: For each, those by seed, (seeds,); the lowest is best.
        confidence: $c$, in (0, 1).

    Returns:
        For each, `(behind, margin)`; NaN for the best, and for what is not finite.

    Example:
        >>> import numpy as np
        >>> from optimjax.results import verdicts
        >>> a, b = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.6, 3.4])
        >>> [round(x, 2) for x in verdicts([a, b], 0.95)[1]]
        [0.5, 0.25]
    """
    unknown = (math.nan, math.nan)
    sound = [i for i, s in enumerate(scores) if np.all(np.isfinite(s))]
    found = [unknown] * len(scores)
    if len(sound) < 2:
        return found
    best = min(sound, key=lambda i: np.mean(scores[i]))
    count = len(scores[best])
    t = student_quantile((1 - confidence) / (len(sound) * (len(sound) - 1)), count - 1)
    for i in sound:
        if i != best:
            difference = scores[i] - scores[best]
            margin = t * np.std(difference, ddof=1) / math.sqrt(count)
            found[i] = (float(np.mean(difference)), float(margin))
    return found


def judged(
    candidates: Sequence[Candidate], confidence: float | None
) -> tuple[Candidate, ...]:
    """The candidates in order of rank, with their verdicts; for `sweep`.

    Args:
        candidates: Those that were stopped say so.
        confidence: That of the verdicts; `None` for none.

    Example:
        >>> import numpy as np
        >>> from optimjax.results import Candidate, judged
        >>> a, b = (Candidate(name, {}, 9, np.array(scores), (), (), "")
        ...         for name, scores in (("a", [2.0, 3.0]), ("b", [1.0, 2.1])))
        >>> [(c.optimizer, c.verdict) for c in judged([a, b], 0.95)]
        [('b', 'best'), ('a', 'worse')]
    """
    stopped = [c for c in candidates if c.verdict == "stopped"]
    final = [c for c in candidates if c.verdict != "stopped"]
    behind = [(math.nan, math.nan)] * len(final)
    if confidence is not None:
        behind = verdicts([c.scores for c in final], confidence)
    told = []
    for c, (difference, margin) in zip(final, behind, strict=True):
        verdict = "diverged" if c.diverged else ""
        if not math.isnan(difference):
            verdict = "within noise" if difference <= margin else "worse"
        told.append(
            dataclasses.replace(c, verdict=verdict, behind=difference, margin=margin)
        )
    told.sort(key=lambda c: (c.diverged, c.mean))
    if not told[0].diverged:
        told[0] = dataclasses.replace(told[0], verdict="best")
    stopped.sort(key=lambda c: (-c.steps, c.diverged, c.mean))
    return (*told, *stopped)
