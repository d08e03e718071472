"""How far each update is from the exact one: `python -m tests.benchmarks.accuracy`.

Every row is one rule with one set of numbers, as this library, Optax and PyTorch compute
it in float32, held against the same rule in float64 (`tests/oracles.py`) after 1, 10, 1000
and 100,000 steps. What is measured, and what is not:

- All see the same float32 gradients, and the oracle sees those. The hyperparameters of the
  oracle are the decimal numbers as typed: that float32 has no 0.999 is part of the error.
- The parameters are given, not followed, so that neither the rounding of `p + u` nor a
  trajectory that drifts apart counts: a rule that reads them is handed the same float32
  sequence as its oracle. PyTorch steps in place: its parameter is set to zero before each
  step, and what it holds afterwards is the update, exactly. Where the rule reads the
  parameter that cannot be, and the column has a dash, as it has where a library lacks the
  rule or means another by the name.
- The unit is the ulp, the spacing of float32 at the size of the exact update. An update
  that happens to cross zero has no size of its own, whoever computes it, so that size is
  taken as no less than the root mean square of that entry's exact updates over the second
  half of the steps so far. An entry that is exactly zero all that time has the smallest
  subnormal as its ulp: zero is right, and anything else is off without bounds.
- At N steps the figures are taken over all entries of up to 16 steps before N (as many as
  half of N, and N itself), so that no single lucky rounding decides. The median says what
  to expect; the worst is the largest of them all.

Half an ulp is the most that rounding the exact update could cost, a quarter what it costs
on average.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimjax as ox
from tests import oracles
from tests.benchmarks.torch_peers import has_torch

STEPS = (1, 10, 1000, 100_000)
LIBRARIES = ("ours", "Optax", "torch")
ENTRIES = 64
WINDOW = 16


def sequences(steps, shape=(ENTRIES,)):
    """Gradients of six orders of magnitude, and parameters that wander around one.

    Half of the gradients have mean one and deviation 0.3, half have mean zero and
    deviation one, each times its scale. The first steps do not depend on how many follow.
    """
    scale = np.tile(10.0 ** np.linspace(-3, 2, ENTRIES // 2), 2)
    noise = np.random.default_rng(0).normal(size=(steps, ENTRIES))
    noise[:, : ENTRIES // 2] = 1 + 0.3 * noise[:, : ENTRIES // 2]
    rng = np.random.default_rng(1)
    params = rng.normal(size=ENTRIES) + 0.1 * rng.normal(size=(steps, ENTRIES))
    return tuple(x.astype(np.float32).reshape(-1, *shape) for x in (scale * noise, params))


@dataclasses.dataclass(frozen=True)
class Row:
    """One rule, one set of numbers.

    Attributes:
        name: The optimizer and, behind a comma, which of its variants.
        exact: The updates of all steps in float64, of gradients and params of all steps.
        ours: Makes the transformation of this library.
        optax: Makes that of Optax, or `None`.
        torch: The class in `torch.optim` and its arguments, or `None`.
        shape: The shape of the one leaf, of `ENTRIES` numbers.
        extra: What `update` needs besides.
    """

    name: str
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ours: Callable[[], Any]
    optax: Callable[[], Any] | None = None
    torch: tuple[str, dict[str, Any]] | None = None
    shape: tuple[int, ...] = (ENTRIES,)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


# Where the exact updates come from. Those of the oracles that follow a trajectory of their
# own are for rules that do not read the parameters; the rest is given the parameters.


def trajectory_of(name, **kwargs):
    """The updates of an oracle that steps from zero."""

    def exact(grads, params):
        path = getattr(oracles, name)(grads, np.zeros_like(params[0]), **kwargs)
        return np.diff(path, axis=0, prepend=np.zeros_like(path[:1]))

    return exact


def decayed(name, *, learning_rate, weight_decay, **kwargs):
    """A trajectory at rate one, with decoupled decay."""
    exact = trajectory_of(name, learning_rate=1.0, **kwargs)
    return lambda grads, params: (
        learning_rate * (exact(grads, params) - weight_decay * np.float64(params))
    )


def lion(grads, params):
    u = oracles.scale_by_lion(grads)
    return -1e-4 * oracles.add_decayed_weights(u, params, weight_decay=0.01)


def lamb(grads, params):
    u = -decayed("adam", learning_rate=1.0, weight_decay=0.01, eps=1e-6)(grads, params)
    return -1e-3 * oracles.scale_by_trust_ratio(u, params)


def lars(grads, params):
    u = oracles.add_decayed_weights(grads, params, weight_decay=0.01)
    u = oracles.scale_by_trust_ratio(u, params, trust_coefficient=1e-3)
    return -oracles.scale_by_momentum(0.1 * u, decay=0.9)


def fromage(grads, params):
    step = oracles.scale_by_trust_ratio(grads, params, min_norm=1e-6)
    params = np.float64(params)
    # 1 / sqrt(1 + lr^2) - 1, which would cancel.
    shrink = np.expm1(-0.5 * np.log1p(0.01**2))
    return shrink * params - 0.01 * step * (1 + shrink)


def polyak_sgd(grads, params):
    return -oracles.scale_by_polyak(grads, params, max_learning_rate=1.0, value=2.0)


# The rows.


def theirs(name):
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def alike(name, torch=None, *, variant=None, exact=None, in_optax=True, **kwargs):
    """A row where library, oracle and Optax have the same names, of arguments as well."""
    rest = {k: kwargs.pop(k) for k in ("shape", "extra") if k in kwargs}
    return Row(
        name if variant is None else f"{name}, {variant}",
        exact or trajectory_of(name, **kwargs, **rest.get("extra", {})),
        lambda: getattr(ox, name)(**kwargs),
        (lambda: theirs(name)(**kwargs)) if in_optax else None,
        torch,
        **rest,
    )


def alike_and_decayed(name, direction, *, variant=None, **kwargs):
    """The same, for decoupled weight decay."""
    exact = decayed(direction, **kwargs)
    return alike(name, variant=variant, exact=exact, **kwargs)


LR = {"learning_rate": 1e-3}
OUTSIDE = {"eps_in_sqrt": False}
SQUARE = (8, ENTRIES // 8)
ROWS = [
    alike("sgd", ("SGD", {"lr": 0.1}), learning_rate=0.1),
    alike(
        "sgd",
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        variant="momentum",
        learning_rate=0.1,
        momentum=0.9,
    ),
    alike(
        "sgd",
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        variant="Nesterov",
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
    ),
    Row(
        "momentum, mean",
        trajectory_of("momentum", learning_rate=0.1, decay=0.9, dampening=0.9),
        lambda: ox.momentum(0.1, 0.9, dampening=0.9),
        lambda: optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
    ),
    alike("adagrad", learning_rate=0.1),
    alike(
        "adagrad",
        ("Adagrad", {"lr": 0.1}),
        variant="eps outside",
        in_optax=False,
        learning_rate=0.1,
        initial_accumulator_value=0.0,
        eps=1e-10,
        eps_in_sqrt=False,
    ),
    alike("rmsprop", **LR),
    alike(
        "rmsprop",
        ("RMSprop", {"lr": 1e-3}),
        variant="eps outside",
        decay=0.99,
        **LR,
        **OUTSIDE,
    ),
    alike(
        "rmsprop",
        ("RMSprop", {"lr": 1e-3, "momentum": 0.9}),
        variant="momentum",
        decay=0.99,
        momentum=0.9,
        **LR,
        **OUTSIDE,
    ),
    alike(
        "rmsprop",
        ("RMSprop", {"lr": 1e-3, "centered": True}),
        variant="centered",
        decay=0.99,
        centered=True,
        **LR,
        **OUTSIDE,
    ),
    alike("rmsprop", variant="corrected", decay=0.99, bias_correction=True, **LR),
    alike("adam", ("Adam", {"lr": 1e-3}), **LR),
    alike(
        "adam",
        ("Adam", {"lr": 1e-3, "betas": (0.99, 0.9999)}),
        variant="b2=0.9999",
        b1=0.99,
        b2=0.9999,
        **LR,
    ),
    Row(
        "adam, eps hat",
        trajectory_of("adam_eps_hat", **LR),
        lambda: ox.chain(
            ox.scale_by_momentum(0.9, dampening=0.9),
            ox.scale_by_rms(0.999, 1e-7),
            ox.add_bias_correction(0.9, rms_decay=0.999),
            ox.scale_by_learning_rate(1e-3),
        ),
    ),
    alike_and_decayed("adamw", "adam", weight_decay=1e-2, **LR),
    alike("nadam", **LR),
    alike(
        "nadam",
        ("NAdam", {"lr": 1e-3}),
        variant="warming up",
        in_optax=False,
        momentum_decay=0.004,
        **LR,
    ),
    alike("amsgrad", **LR),
    alike("adamax", ("Adamax", {"lr": 1e-3}), **LR),
    alike_and_decayed("nadamw", "nadam", weight_decay=1e-2, **LR),
    alike_and_decayed("adamaxw", "adamax", weight_decay=1e-2, **LR),
    alike("radam", **LR),
    Row(
        "radam, eps hat",
        trajectory_of("torch_radam", **LR),
        lambda: ox.radam(1e-3, eps_hat=True),
        torch=("RAdam", {"lr": 1e-3}),
    ),
    alike("adabelief", **LR),
    alike("acprop", **LR),
    alike("yogi", **LR),
    alike("adan", in_optax=False, **LR),
    Row(
        "adan, of Optax",
        trajectory_of("adan", difference_weight=0.08, **LR),
        lambda: ox.adan(1e-3, difference_weight=0.08),
        lambda: optax.adan(1e-3),
    ),
    alike("ademamix", **LR),
    alike("simplified_ademamix", alpha=2.0, **LR),
    alike("adopt", **LR),
    alike("laprop", in_optax=False, eps=1e-8, **LR),
    Row(
        "optimistic_adam",
        trajectory_of("optimistic_adam", **LR),
        lambda: ox.optimistic_adam(1e-3),
        lambda: optax.optimistic_adam_v2(1e-3),
    ),
    alike("optimistic_gradient_descent", learning_rate=0.1),
    alike("adadelta", ("Adadelta", {}), learning_rate=1.0),
    alike(
        "adafactor",
        shape=SQUARE,
        min_dim_size_to_factor=2,
        multiply_by_parameter_scale=False,
        **LR,
    ),
    alike("sm3", shape=SQUARE, learning_rate=0.1),
    alike(
        "madgrad",
        exact=functools.partial(oracles.scale_by_madgrad, learning_rate=0.01),
        learning_rate=0.01,
    ),
    alike("sign_sgd", **LR),
    alike("signum", **LR),
    alike("lion", exact=lion, learning_rate=1e-4, weight_decay=0.01),
    Row(
        "rprop",
        trajectory_of("rprop", learning_rate=0.01),
        lambda: ox.rprop(0.01),
        torch=("Rprop", {"lr": 0.01}),
    ),
    alike("lamb", exact=lamb, weight_decay=0.01, **LR),
    alike("lars", exact=lars, learning_rate=0.1, weight_decay=0.01),
    alike("fromage", exact=fromage, learning_rate=0.01),
    alike("novograd", **LR),
    alike("polyak_sgd", exact=polyak_sgd, extra={"value": 2.0}),
]


# What the libraries compute.


def run_jax(tx, grads, params, extra):
    """The updates of all steps, in one compiled program."""

    @jax.jit
    def run(grads, params):
        def step(state, x):
            updates, state = tx.update(x[0], state, x[1], **extra)
            return state, updates

        return jax.lax.scan(step, tx.init(params[0]), (grads, params))[1]

    return np.asarray(run(jnp.asarray(grads), jnp.asarray(params)))


def run_torch(name, kwargs, grads, wanted):
    """The updates of the `wanted` steps; zero in place of the others."""
    import torch

    torch.set_num_threads(1)
    p = torch.zeros(grads.shape[1:])
    optimizer = getattr(torch.optim, name)([p], **kwargs)
    out = np.zeros_like(grads)
    for t, g in enumerate(torch.from_numpy(grads)):
        p.zero_()
        p.grad = g
        optimizer.step()
        if wanted[t]:
            out[t] = p.numpy()
    return out


def updates_of(row, library, grads, params, wanted):
    """What a library makes of the gradients, or `None` where it has no such rule."""
    if library == "ours":
        return run_jax(row.ours(), grads, params, row.extra)
    if library == "Optax" and row.optax is not None:
        return run_jax(row.optax(), grads, params, row.extra)
    if library == "torch" and row.torch is not None and has_torch():
        return run_torch(*row.torch, grads, wanted)
    return None


# The error.


def window(n):
    """The steps, counted from 0, over which the figures at `n` steps are taken."""
    return slice(n - min(WINDOW, (n + 1) // 2), n)


def errors(got, exact, n):
    """The errors near step `n`, in ulps."""
    typical = np.sqrt(np.mean(exact[n // 2 : n] ** 2, axis=0))
    size = np.maximum(np.abs(exact[window(n)]), typical)
    ulp = np.spacing(size.astype(np.float32)).astype(np.float64)
    return np.abs(got[window(n)].astype(np.float64) - exact[window(n)]) / ulp


def measure(row, steps, libraries=LIBRARIES, done=lambda: None):
    """`{library: {steps: (median, worst)}}`, libraries that lack the rule left out."""
    grads, params = sequences(max(steps), row.shape)
    exact = row.exact(grads, params)
    done()
    wanted = np.zeros(len(grads), bool)
    for n in steps:
        wanted[window(n)] = True
    figures = {}
    for library in libraries:
        got = updates_of(row, library, grads, params, wanted)
        done()
        if got is None:
            continue
        assert got.dtype == np.float32
        off = {n: errors(got, exact, n) for n in steps}
        figures[library] = {
            n: (float(np.median(e)), float(e.max())) for n, e in off.items()
        }
    return figures


# The report.


def number(x):
    """Three digits or so, in eight characters at most."""
    return "-" if x is None else f"{x:.2f}" if x < 1000 else f"{x:.1e}"


def report(title, results, steps, which):
    """One line a row; for each number of steps the libraries side by side."""
    name_width, width = max(len(name) for name in results), 8
    group = len(LIBRARIES) * width
    heads = (f"{n:,} step{'s' * (n > 1)}".rjust(group) for n in steps)
    print(f"\n{title}\n{'':{name_width}}  {'  '.join(heads)}")
    labels = "".join(library.rjust(width) for library in LIBRARIES)
    print(f"{'':{name_width}}  {'  '.join([labels] * len(steps))}")
    for name, figures in results.items():
        groups = []
        for n in steps:
            cells = [figures.get(x, {}).get(n, (None, None))[which] for x in LIBRARIES]
            groups.append("".join(number(x).rjust(width) for x in cells))
        print(f"{name:{name_width}}  {'  '.join(groups)}")


def behind(results, steps, slack=0.1):
    """Where a peer's median is smaller than ours by more than `slack` ulps."""
    for name, figures in results.items():
        for n in steps:
            best = min((f[n][0], x) for x, f in figures.items())
            ours = figures["ours"][n][0]
            if ours > best[0] + slack:
                yield f"{name} at {n:,}: {ours:.2f}, {best[1]} {best[0]:.2f}"


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(dict.fromkeys(row.name.split(",")[0] for row in ROWS))
    parser.add_argument("--optimizers", nargs="+", default=names, choices=names,
                        metavar="NAME", help=f"of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), metavar="N")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here, too")
    args = parser.parse_args()
    steps = sorted(set(args.steps))
    rows = [row for row in ROWS if row.name.split(",")[0] in args.optimizers]

    from rich.progress import Progress  # Of the extra `benchmarks`.

    results = {}
    with Progress() as progress:
        task = progress.add_task("", total=len(rows) * (1 + len(LIBRARIES)))
        for row in rows:
            progress.update(task, description=f"{row.name:20}")
            results[row.name] = measure(row, steps, done=lambda: progress.advance(task))
    device = jax.devices()[0].device_kind
    versions = f"JAX {jax.__version__}, Optax {optax.__version__}"
    if has_torch():
        import torch

        versions += f", torch {torch.__version__}"
    print(f"{device}, {platform.machine()}, {versions}")
    report("Median error of the update, in ulps", results, steps, 0)
    report("Worst error of the update, in ulps", results, steps, 1)
    print("\nWhere a peer's median is smaller by more than 0.1 ulp:")
    print("\n".join(f"  {line}" for line in behind(results, steps)) or "  nowhere")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
