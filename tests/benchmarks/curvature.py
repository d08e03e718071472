"""How many evaluations L-BFGS needs: `python -m tests.benchmarks.curvature`.

`minimize(fun, x0, lbfgs())` against `scipy.optimize.minimize(method="L-BFGS-B")` without
bounds and Optax's `lbfgs()` with its own search, in float64; ours in float32 as well. All
keep ten pairs and stop where no entry of the gradient is above `gtol`, by no other test
(`ftol=0`, no limit in reach). An evaluation is one of the value with the gradient. SciPy
counts its own (`nfev`); Optax's are those of its searches, and the first.

Logistic regression is on standardized features, the mean loss plus `|w|^2 / 2000`, the
intercept left out of it.
"""

import functools
import platform
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import optimjax as ox
from tests.benchmarks.tables import table
from tests.precision import enable_x64


class Problem(NamedTuple):
    """A function of a vector, where to begin, and how far to go."""

    make: Any  # () -> (function, x0)
    gtol: float = 1e-5


class Run(NamedTuple):
    evaluations: int
    params: Any
    value: float
    size: float  # The largest entry of the gradient.
    reached: bool


class Row(NamedTuple):
    ours: Run
    scipy: Run | None
    optax: Run | None
    single: Run | None


def rosenbrock(n):
    def function(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return function, np.tile([-1.2, 1.0], n // 2)


def beale():
    def function(x):
        a, b = x
        return sum((c - a + a * b**k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))

    return function, np.ones(2)


def quadratic(condition):
    curvature = np.geomspace(1, condition, 100)
    return lambda x: 0.5 * jnp.sum(jnp.asarray(curvature, x.dtype) * x * x), np.ones(100)


def logistic(name):
    import sklearn.datasets

    data = getattr(sklearn.datasets, f"load_{name}")()
    spread = data.data.std(axis=0)
    features = (data.data - data.data.mean(axis=0)) / np.where(spread > 0, spread, 1)
    classes = data.target.max() + 1
    hot = np.eye(classes)[data.target]

    def function(x):
        x = x.reshape(-1, classes)
        weights, intercept = x[:-1], x[-1:]
        scores = jnp.asarray(features, x.dtype) @ weights + intercept
        chosen = jnp.sum(jnp.asarray(hot, x.dtype) * scores, axis=1)
        loss = jnp.mean(jax.nn.logsumexp(scores, axis=1) - chosen)
        return loss + jnp.sum(weights**2) / 2000

    return function, np.zeros((features.shape[1] + 1) * classes)


PROBLEMS = {
    **{f"rosenbrock {n}": Problem(functools.partial(rosenbrock, n)) for n in (2, 10)},
    **{f"rosenbrock {n}": Problem(functools.partial(rosenbrock, n)) for n in (100, 1000)},
    "beale": Problem(beale),
    "quadratic 1e2": Problem(functools.partial(quadratic, 1e2)),
    "quadratic 1e4": Problem(functools.partial(quadratic, 1e4)),
    "quadratic 1e6": Problem(functools.partial(quadratic, 1e6)),
    "breast cancer": Problem(functools.partial(logistic, "breast_cancer")),
    "digits": Problem(functools.partial(logistic, "digits")),
}
# For the tests.
QUICK = ["rosenbrock 100", "beale", "quadratic 1e4", "breast cancer"]
OPTIMIZER = ox.lbfgs()


def of_ours(function, x0, gtol):
    result = ox.minimize(function, x0, OPTIMIZER, gtol=gtol, ftol=0.0)
    return Run(
        int(result.evaluations),
        np.asarray(result.params),
        float(result.value),
        float(result.gradient_norm),
        result.reason == ox.StopReason.GRADIENT_SMALL,
    )


def of_scipy(function, x0, gtol):
    value_and_grad = jax.jit(jax.value_and_grad(function))
    result = scipy.optimize.minimize(
        lambda x: [np.asarray(y, np.float64) for y in value_and_grad(x)],
        x0,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxcor": 10,
            "gtol": gtol,
            "ftol": 0.0,
            "maxiter": 10**5,
            "maxfun": 10**6,
        },
    )
    size = float(np.abs(result.jac).max())
    return Run(result.nfev, result.x, float(result.fun), size, size <= gtol)


def of_optax(function, x0, gtol, most=10_000):
    import optax

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(function)

    @jax.jit
    def run(x):
        def going(carry):
            _, _, _, grad, steps, _ = carry
            return (jnp.max(jnp.abs(grad)) > gtol) & (steps < most)

        def step(carry):
            x, state, value, grad, steps, count = carry
            updates, state = optimizer.update(
                grad, state, x, value=value, grad=grad, value_fn=function
            )
            x = optax.apply_updates(x, updates)
            value, grad = value_and_grad(x, state=state)
            spent = jnp.asarray(state[-1].info.num_linesearch_steps, count.dtype)
            return x, state, value, grad, steps + 1, count + spent

        value, grad = jax.value_and_grad(function)(x)
        zero = jnp.zeros((), jnp.int32)
        start = x, optimizer.init(x), value, grad, zero, zero + 1
        return jax.lax.while_loop(going, step, start)

    x, _, value, grad, _, count = run(x0)
    size = float(jnp.max(jnp.abs(grad)))
    return Run(int(count), np.asarray(x), float(value), size, size <= gtol)


def compared(name, peers=("scipy", "optax", "single")):
    """One row of the table."""
    problem = PROBLEMS[name]
    with enable_x64():
        function, x0 = problem.make()
        x = jnp.asarray(x0)
        ours = of_ours(function, x, problem.gtol)
        scipys = of_scipy(function, x0, problem.gtol) if "scipy" in peers else None
        optaxs = of_optax(function, x, problem.gtol) if "optax" in peers else None
        single = None
        if "single" in peers:
            single = of_ours(function, jnp.asarray(x0, jnp.float32), problem.gtol)
    return Row(ours, scipys, optaxs, single)


def shown(run, count):
    """The evaluations, over those of SciPy, and where it ended if not where it should."""
    ratio = f"{run.evaluations} ({run.evaluations / count:.2f})"
    return ratio if run.reached else f"{ratio}, stuck at {run.size:.0e}"


def main():
    print(f"jax {jax.__version__}, scipy {scipy.__version__}, {platform.machine()}")
    rows = []
    for name in PROBLEMS:
        row = compared(name)
        count = row.scipy.evaluations
        apart = np.abs(row.ours.params - row.scipy.params).max()
        optax, single = shown(row.optax, count), shown(row.single, count)
        ours = shown(row.ours, count)
        rows.append([name, str(count), ours, optax, single, f"{apart:.0e}"])
    header = ["problem", "SciPy", "ours", "Optax", "ours, float32", "|x - SciPy's|"]
    table("evaluations until no entry of the gradient is above 1e-5", header, rows)


if __name__ == "__main__":
    main()
