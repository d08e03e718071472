"""What training costs on many devices, on paper: `python -m tests.benchmarks.scale`.

Bytes on each device, and bytes on the wire, for families of optimizers, ways to divide
things, sizes of a model and numbers of devices, all from the formulas here: nothing is run,
and nothing allocated. `tests/test_scale.py` holds the formulas to compiled programs. With
`--write`, the tables of `docs/scale.md` are written anew, which a test compares.
"""

import argparse
import math
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

import optimjax as ox

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "scale.md"
AXES = {"words": None}  # No matrix to the rules for matrices.
DEVICES = (8, 64, 512, 4096, 65536)
# Two axes of a mesh: the first is no longer than this, the rest is the second.
FIRST_AXIS = 2048

# The collectives, on a ring: what each device sends, and takes in, of an array of `size`
# bytes in all.


def all_reduce(size: float, devices: int) -> float:
    return 2 * (devices - 1) / devices * size


def all_gather(size: float, devices: int) -> float:
    return (devices - 1) / devices * size


reduce_scatter = all_gather

# The model.


class Leaf(NamedTuple):
    """One parameter: its sides, and into how many parts each is divided."""

    sides: tuple[int, ...]
    matrix: bool = False  # To the rules for matrices.
    parts: tuple[int, ...] = (1, 1)

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    @property
    def part(self) -> float:
        """The numbers of it on a device."""
        return math.prod(self.each)

    @property
    def each(self) -> list[float]:
        """How long its sides are on a device."""
        return [side / k for side, k in zip(self.sides, self.parts, strict=False)]


class Model(NamedTuple):
    """A transformer: tied embeddings, no biases, an MLP of four times its width."""

    width: int
    layers: int
    words: int = 65_536

    def tree(self, dtype):
        """The shapes of its parameters."""

        def array(*shape):
            return jax.ShapeDtypeStruct(shape, dtype)

        d = self.width
        layers = [
            {
                **{name: array(d, d) for name in ("query", "key", "value", "out")},
                "up": array(d, 4 * d),
                "down": array(4 * d, d),
                "norms": [array(d), array(d)],
            }
            for _ in range(self.layers)
        ]
        return {"words": array(self.words, d), "layers": layers, "norm": array(d)}

    def leaves(self) -> list[tuple[int, Leaf]]:
        """How many there are of each kind of leaf."""
        d, k = self.width, self.layers
        return [
            (4 * k, Leaf((d, d), matrix=True)),
            (k, Leaf((d, 4 * d), matrix=True)),
            (k, Leaf((4 * d, d), matrix=True)),
            (2 * k + 1, Leaf((d,))),
            (1, Leaf((self.words, d))),
        ]

    def size(self) -> int:
        return sum(count * leaf.size for count, leaf in self.leaves())


MODELS = {
    "1e9": Model(2048, 18),
    "1e10": Model(4096, 48),
    "1e11": Model(12288, 55),
    "1e12": Model(24576, 138),
}

# The optimizers.


class Rule(NamedTuple):
    """An optimizer, and what it costs.

    Attributes:
        make: What makes it.
        state: The bytes of state that a device keeps for its part of a leaf.
        formula: That, to be read: for an m x n matrix, and for other leaves.
        dtype: That of parameters and gradients.
        by_number: Whether it treats all numbers alike, and so may be shown a part of a
            leaf that is cut anyhow.
        inside: What a device sends while it works on a leaf that is divided, among so many
            devices; None for what no formula says.
        held: What else it has in memory while it steps, at most, in copies of the largest
            leaf; NaN for what no formula says.
    """

    make: Callable[[], ox.GradientTransformation]
    state: Callable[[Leaf], float]
    formula: tuple[str, str]
    dtype: str = "float32"
    by_number: bool = True
    inside: Callable[[Leaf, int], float] | None = lambda x, devices: 0.0
    held: float = 0.0

    @property
    def width(self) -> int:
        """The bytes of a parameter, and of its gradient."""
        return 2 if self.dtype == "bfloat16" else 4


def each_number(width):
    """The state of rules that keep the same for every number."""
    numbers = (f"{width} mn", f"{width} a number") if width else ("0", "0")
    return lambda x: width * x.part, numbers


def lines(x):
    """The bytes of rows and columns, as a device has them; of a vector, all."""
    return 4 * sum(x.each)


def sm3(x):
    return 4 * x.part + lines(x)


def muon(width):
    return lambda x: (width if x.matrix else 4 + width) * x.part


def soap(x, longest=10_000):
    if not x.matrix:
        return 8 * x.part
    sides = zip(x.sides, x.each, strict=True)
    return 8 * x.part + 8 * sum(side * mine for side, mine in sides if side <= longest)


def shampoo(x, block=1024):
    if not x.matrix:
        return 8 * x.part
    if max(x.sides) <= block:
        return soap(x)
    # How long blocks are is not derived from a side, so no device divides them.
    number = [math.ceil(side / block) for side in x.sides]
    lengths = [math.ceil(side / k) for side, k in zip(x.sides, number, strict=True)]
    return 8 * x.part + 8 * math.prod(number) * sum(n * n for n in lengths)


def norms(number):
    """Some sums of all numbers of a leaf."""
    return lambda x, devices: all_reduce(4 * number, devices)


def sums_of_lines(x, devices):
    """Those of rows, along the axis that divides columns, and those of columns."""
    if len(x.sides) == 1:
        return 0.0
    return sum(
        all_reduce(4 * mine, k) for mine, k in zip(x.each, reversed(x.parts), strict=True)
    )


def newton_schulz(x, devices, steps=5):
    """As XLA divides it: three gathers of a square, or the Gram matrix of a short side."""
    if not x.matrix:
        return 0.0
    if min(x.parts) > 1:  # Divided along both sides, it is sent in ways without a formula.
        return math.nan
    short, long = min(x.sides), max(x.sides)
    if short == long:
        return steps * all_gather(3 * 4 * x.size, devices)
    return steps * all_reduce(4 * short * short, devices)


LOW = "bfloat16"
RULES = {
    "sgd": Rule(lambda: ox.sgd(0.1), *each_number(0)),
    "momentum": Rule(lambda: ox.momentum(0.1), *each_number(4)),
    "momentum, bf16": Rule(lambda: ox.momentum(0.1, dtype=LOW), *each_number(2), held=1),
    "rmsprop": Rule(lambda: ox.rmsprop(0.1), *each_number(4)),
    "adam, adamw": Rule(lambda: ox.adamw(0.1), *each_number(8)),
    "adamw, bf16": Rule(lambda: ox.adamw(0.1, mu_dtype=LOW), *each_number(6), held=1),
    "lion": Rule(lambda: ox.lion(0.1), *each_number(4), held=2),
    "lion, bf16": Rule(lambda: ox.lion(0.1, mu_dtype=LOW), *each_number(2), held=2),
    "lamb": Rule(
        lambda: ox.lamb(0.1), *each_number(8), by_number=False, inside=norms(2), held=1
    ),
    "adafactor": Rule(
        lambda: ox.adafactor(0.1),
        lines,
        ("4 (m + n)", "4 a number"),
        by_number=False,
        inside=lambda x, n: norms(3)(x, n) + sums_of_lines(x, n),
        held=1,
    ),
    "sm3": Rule(
        lambda: ox.sm3(0.1),
        sm3,
        ("4 mn + 4 (m + n)", "8 a number"),
        by_number=False,
        inside=sums_of_lines,
        held=3.5,
    ),
    "muon": Rule(
        lambda: ox.muon(0.1, axes=AXES),
        muon(4),
        ("4 mn", "8 a number"),
        by_number=False,
        inside=newton_schulz,
        held=3,
    ),
    "muon, bf16": Rule(
        lambda: ox.muon(0.1, axes=AXES, mu_dtype=LOW),
        muon(2),
        ("2 mn", "6 a number"),
        by_number=False,
        inside=newton_schulz,
        held=3.5,
    ),
    "soap": Rule(
        lambda: ox.soap(0.1, axes=AXES),
        soap,
        ("8 mn + 8 (m² + n²), of sides to 10,000", "8 a number"),
        by_number=False,
        inside=None,
        held=math.nan,
    ),
    "shampoo": Rule(
        lambda: ox.shampoo(0.1, axes=AXES),
        shampoo,
        ("8 mn + 8 (m² + n²), in blocks to 1,024", "8 a number"),
        by_number=False,
        inside=None,
        held=math.nan,
    ),
    "adamw of bf16": Rule(lambda: ox.adamw(0.1), *each_number(8), dtype=LOW),
    "master_weights(adamw)": Rule(
        lambda: ox.master_weights(ox.adamw(0.1)), *each_number(12), dtype=LOW
    ),
    "master_weights(adamw, bf16)": Rule(
        lambda: ox.master_weights(ox.adamw(0.1, mu_dtype=LOW)),
        *each_number(10),
        dtype=LOW,
        held=1,
    ),
    "master_weights(muon)": Rule(
        lambda: ox.master_weights(ox.muon(0.1, axes=AXES)),
        lambda x: 4 * x.part + muon(4)(x),
        ("8 mn", "12 a number"),
        dtype=LOW,
        by_number=False,
        inside=newton_schulz,
        held=3,
    ),
}
SPREAD = ("muon", "muon, bf16", "soap")

# The ways to divide.


def mesh_of(devices: int) -> tuple[int, int]:
    """The lengths of the two axes of a mesh that divides everything."""
    first = min(devices, FIRST_AXIS)
    return first, devices // first


def divided(leaf: Leaf, first: int, second: int = 1) -> Leaf:
    """Its longest side by one axis of the mesh, the other by the second."""
    wide = len(leaf.sides) > 1 and leaf.sides[1] > leaf.sides[0]
    return leaf._replace(parts=(second, first) if wide else (first, second))


class Cost(NamedTuple):
    """Bytes on one device, and those that it sends in a step; NaN: no formula says it."""

    params: float
    gradients: float
    state: float
    sent: float  # Gradients; and the params, where they are divided.
    own: float  # What the optimizer sends besides.

    @property
    def kept(self) -> float:
        return self.params + self.gradients + self.state

    @property
    def wire(self) -> float:
        return self.sent + self.own


def replicated(rule: Rule, model: Model, devices: int) -> Cost:
    """All devices have all, and take the mean of gradients."""
    params = rule.width * model.size()
    state = sum(count * rule.state(x) for count, x in model.leaves())
    return Cost(params, params, state, all_reduce(params, devices), 0.0)


def zero1(rule: Rule, model: Model, devices: int) -> Cost:
    """`zero1`: state and work divided, updates gathered, in float32."""
    whole = replicated(rule, model, devices)
    sent, own = 0.0, 0.0
    for count, x in model.leaves():
        size = rule.width * x.size
        own += count * all_gather(4 * x.size, devices)
        if rule.by_number or not all(side % devices for side in x.sides):
            sent += count * reduce_scatter(size, devices)
            own += count * _inside(rule, divided(x, devices), devices)
            # Statistics of the undivided side are kept divided, and gathered.
            if rule.state in (lines, sm3) and len(x.sides) == 2:
                own += count * all_gather(4 * min(x.sides), devices)
        else:  # It is worked on as a whole, so that its state is gathered, too.
            sent += count * all_reduce(size, devices)
            own += count * all_gather(rule.state(x), devices)
            # What is sent within matrices, no formula says.
            if x.matrix and rule.inside in (newton_schulz, None):
                own = math.nan
    return whole._replace(state=whole.state / devices, sent=sent, own=own)


def _inside(rule: Rule, leaf: Leaf, devices: int) -> float:
    return math.nan if rule.inside is None else rule.inside(leaf, devices)


def full(rule: Rule, model: Model, devices: int) -> Cost:
    """Params, gradients and state divided; params gathered forwards and backwards."""
    leaves = [(count, divided(x, *mesh_of(devices))) for count, x in model.leaves()]
    part = rule.width * sum(count * x.part for count, x in leaves)
    params = rule.width * model.size()
    state = sum(count * rule.state(x) for count, x in leaves)
    sent = 2 * all_gather(params, devices) + reduce_scatter(params, devices)
    own = sum(count * _inside(rule, x, devices) for count, x in leaves)
    return Cost(part, part, state, sent, own)


def stacks(model: Model, devices: int) -> Iterator[tuple[int, Leaf]]:
    """Those of `spread_matrices`: how many matrices, with those that fill up."""
    for count, x in model.leaves():
        if x.matrix:
            yield devices * math.ceil(count / devices), x


def spread(rule: Rule, model: Model, devices: int) -> Cost:
    """`spread_matrices`: each matrix with its state on one device, updates gathered."""
    whole = replicated(rule, model, devices)
    across = spread_over(model, devices)
    state = sum(count * rule.state(x) for count, x in model.leaves() if not x.matrix)
    own = 0.0
    for count, x in stacks(model, across):
        state += count // across * rule.state(x)
        own += all_gather(4 * count * x.size, across)
    return whole._replace(state=state, own=own)


def spread_over(model: Model, devices: int) -> int:
    """How many devices share the matrices; more of them are copies of these."""
    return min(devices, max(8, 2 ** int(math.log2(model.layers))))


WAYS = {"replicated": replicated, "zero1": zero1, "full": full, "spread": spread}


def held(rule: Rule, model: Model, devices: int, way: str) -> float:
    """What a device has in memory in a step besides, if one leaf comes after another."""
    leaves = [x for _, x in model.leaves()]
    largest = 4 * max(x.size for x in leaves)
    if way == "spread":
        return 4 * max(count * x.size for count, x in stacks(model, devices))
    if way == "replicated":
        return rule.held * largest
    mine = rule.held * largest / devices
    # Where sums are taken of divided leaves, those of all are taken at once, and the steps
    # of all wait for them.
    if _inside(rule, divided(leaves[0], devices), devices) > 0:
        mine = max(mine, 4 * model.size() / devices)
    return mine + (largest * (1 + 1 / devices) if way == "zero1" else 0)


# Slow links.


class Code(NamedTuple):
    """What becomes of a leaf that is sent by `compress`.

    Attributes:
        make: What makes the compressor; None for the plain mean.
        size: The bytes of one worker.
        summed: Whether the mean is taken of it on the way; else all get it from all.
    """

    make: Callable[[], ox.compressors.Compressor] | None
    size: Callable[[Leaf], float]
    summed: bool = False


def low_rank(x, rank=2):
    thin = len(x.sides) == 2 and rank * sum(x.sides) < x.size
    return 4 * rank * sum(x.sides) if thin else 4 * x.size


CODES = {
    "plain": Code(None, lambda x: 4 * x.size, summed=True),
    "int8()": Code(ox.compressors.int8, lambda x: x.size + 4 * math.ceil(x.size / 256)),
    "sign()": Code(ox.compressors.sign, lambda x: math.ceil(x.size / 8) + 4),
    "top_k(0.01)": Code(ox.compressors.top_k, lambda x: 8 * math.ceil(0.01 * x.size)),
    "low_rank(2)": Code(ox.compressors.low_rank, low_rank, summed=True),
}


def exchanged(code: Code, model: Model, workers: int) -> float:
    """What a worker sends in an exchange."""
    size = sum(count * code.size(x) for count, x in model.leaves())
    return all_reduce(size, workers) if code.summed else all_gather(workers * size, workers)


# The document.


def amount(x: float) -> str:
    """In three digits."""
    if math.isnan(x):
        return "-"
    if x == 0 or x >= 99.95:
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 9.995 else f"{x:.2f}" if x >= 0.0995 else f"{x:.2g}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def alike(rows: list[list[str]]) -> list[list[str]]:
    """Rows with the same cells as one, with the names of all."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in rows:
        names.setdefault(tuple(cells), []).append(name)
    return [[", ".join(of), *cells] for cells, of in names.items()]


def state_table() -> str:
    header = ["optimizer", "an m x n matrix", "other leaves", *MODELS]
    rows = []
    for name, rule in RULES.items():
        each = [replicated(rule, m, 8).state / m.size() for m in MODELS.values()]
        rows.append([f"`{name}`", *rule.formula, *map(amount, each)])
    return markdown(header, rows)


def by_way(model: Model, figure: Callable[[Cost], float], at: int) -> list[list[str]]:
    """For each optimizer: all have all (on so many devices), ZeRO-1, and full sharding."""
    rows = []
    for name, rule in RULES.items():
        costs = [replicated(rule, model, at)]
        costs += [way(rule, model, n) for way in (zero1, full) for n in DEVICES]
        rows.append([f"`{name}`", *(amount(figure(c) / 1e9) for c in costs)])
    return rows


def model_tables() -> str:
    """Memory and traffic, for each size."""
    text = ""
    ways = [f"{way} {n:,}" for way in ("ZeRO-1:", "full:") for n in DEVICES]
    header = ["optimizer", "whole", *ways]
    for name, model in MODELS.items():
        text += (
            f"\n### {name} parameters\n\n{model.layers} layers of width {model.width:,}, "
            f"{model.words:,} words: {model.size():,} parameters.\n\n"
            "GB on each device: parameters, gradients and state.\n\n"
        )
        text += markdown(header, alike(by_way(model, lambda c: c.kept, 8)))
        text += "\nGB that each device sends in a step.\n\n"
        most = max(DEVICES)
        text += markdown(header, alike(by_way(model, lambda c: c.wire, most)))
    return text + "\n"


def spread_table() -> str:
    header = ["parameters", "optimizer", "whole"]
    header += [f"{what} {n:,}" for what in ("state:", "sent:") for n in DEVICES]
    rows = []
    for size, model in MODELS.items():
        for name in SPREAD:
            rule = RULES[name]
            costs = [spread(rule, model, n) for n in DEVICES]
            cells = [replicated(rule, model, 8).state]
            cells += [c.state for c in costs] + [c.wire for c in costs]
            rows.append([size, f"`{name}`", *(amount(x / 1e9) for x in cells)])
    return markdown(header, rows)


WORKERS = (2, 8, 16, 64, 512)


def link_table() -> str:
    model = MODELS["1e10"]
    header = ["exchange", "a worker's code", *(f"{n} workers" for n in WORKERS)]
    rows = []
    for every in (1, 100):
        for name, code in CODES.items():
            size = sum(count * code.size(x) for count, x in model.leaves())
            cells = [exchanged(code, model, n) for n in WORKERS]
            label = f"`{name}`" + (f", every {every} steps" if every > 1 else "")
            per = (amount(x / every / model.size()) for x in (size, *cells))
            rows.append([label, *per])
    return markdown(header, rows)


TABLES = {
    "state": state_table,
    "models": model_tables,
    "spread": spread_table,
    "links": link_table,
}


def renewed(document: str) -> str:
    """The document with the tables of this version."""
    for name, table in TABLES.items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        made = table()
        document = re.sub(
            mark, lambda m, made=made: f"{m[1]}\n{made}\n{m[2]}", document, flags=re.S
        )
    return document


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"renew {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
    for table in TABLES.values():
        print(table())


if __name__ == "__main__":
    main()
