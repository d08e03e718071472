"""Which leaves there are: what `--layouts` takes.

`COUNTxSIZE` is that many vectors, `COUNTxROWSxCOLUMNS` that many matrices, with `k` and
`M` for thousands and millions: `2000x50`, `10x1M`, `24x256x256`. By name: `resnet50`;
`transformer:LAYERSxWIDTH`, the leaves of all layers side by side; `scanned:LAYERSxWIDTH`,
those of the same place in each layer stacked, as for a `scan` over layers.
"""

import argparse
import math
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

FLAT = ("1x16M", "10x1M", "100x10k", "1000x100", "3000x16")
# Wide enough for the products of Muon to be products, and no wider than 2 cores take.
MODELS = ("resnet50", "transformer:12x256", "scanned:12x256")
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


class Layout(NamedTuple):
    name: str
    shapes: dict[str, tuple[int, ...]]
    roles: dict[str, str | None]  # As `optimjax.matrices` spells them; None: no matrix.

    @property
    def parameters(self):
        return sum(math.prod(shape) for shape in self.shapes.values())


def layout(text):
    """The layout of a text such as `2000x50`."""
    text = text.replace(" ", "")
    name, _, sizes = text.partition(":")
    if name == "resnet50" and not sizes:
        return of_shapes(text, resnet50())
    if name in ("transformer", "scanned"):
        layers, width = numbers(sizes or "12x256", text)
        return of_shapes(text, transformer(layers, width, stacked=name == "scanned"))
    count, *shape = numbers(text, text, least=2)
    return of_shapes(text, {f"layer_{i:05d}": tuple(shape) for i in range(count)})


def numbers(sizes, text, least=2):
    found = [re.fullmatch(r"(\d+)([kM]?)", part) for part in sizes.split("x")]
    if len(found) < least or not all(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no layout; take 2000x50, 10x1M, 24x256x256, resnet50, "
            "transformer:12x256 or scanned:12x256"
        )
    return [int(m[1]) * UNITS[m[2]] for m in found]


def of_shapes(name, shapes):
    roles = {}
    for path, shape in shapes.items():
        stacked = path.startswith("layers/")
        role = {2: "io", 3: "bio"}.get(len(shape)) if len(shape) - stacked == 2 else None
        roles[path] = role
    return Layout(name, shapes, roles)


def as_matrices(given):
    """The layout, with each vector as the matrix of as many numbers nearest to a square."""
    if any(given.roles.values()):
        return given
    shapes = {}
    for path, shape in given.shapes.items():
        size = math.prod(shape)
        rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
        shapes[path] = (rows, size // rows)
    return of_shapes(given.name, shapes)


def resnet50():
    shapes = {"stem/kernel": (7, 7, 3, 64), "stem/scale": (64,), "stem/bias": (64,)}
    inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            convolutions = {
                "a": (1, 1, inputs, width),
                "b": (3, 3, width, width),
                "c": (1, 1, width, 4 * width),
            }
            if block == 0:
                convolutions["shortcut"] = (1, 1, inputs, 4 * width)
            for name, shape in convolutions.items():
                path = f"stage{stage}/block{block}/{name}"
                shapes[f"{path}/kernel"] = shape
                shapes[f"{path}/scale"] = shapes[f"{path}/bias"] = shape[-1:]
            inputs = 4 * width
    return shapes | {"head/kernel": (inputs, 1000), "head/bias": (1000,)}


def transformer(layers, width, *, stacked):
    one = {}
    for norm in ("norm1", "norm2"):
        one |= {f"{norm}/scale": (width,), f"{norm}/bias": (width,)}
    for name, rows, columns in (
        ("qkv", width, 3 * width),
        ("out", width, width),
        ("up", width, 4 * width),
        ("down", 4 * width, width),
    ):
        one |= {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}
    shapes = {"embedding": (8192, width), "positions": (512, width)}
    shapes |= {"norm/scale": (width,), "norm/bias": (width,)}
    if stacked:
        return shapes | {f"layers/{name}": (layers, *s) for name, s in one.items()}
    for i in range(layers):
        shapes |= {f"layer_{i:02d}/{name}": shape for name, shape in one.items()}
    return shapes


def arrays(given):
    """Params and gradients of a layout, of random numbers, by NumPy."""
    rng = np.random.default_rng(0)

    def draw():
        return {
            path: 0.1 * rng.standard_normal(shape, np.float32)
            for path, shape in given.shapes.items()
        }

    return draw(), draw()


def leaves(given):
    """Params and gradients of a layout, as arrays of JAX."""
    params, grads = ({k: jnp.array(x) for k, x in tree.items()} for tree in arrays(given))
    return params, grads
