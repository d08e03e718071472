"""What every optimizer keeps for each parameter: `python -m tests.benchmarks.state_sizes`.

Bytes of state for each parameter of a transformer of the size of GPT-2 (124 million
parameters: 12 layers of width 768, 50,257 words), at the defaults of each optimizer, from
the shapes of what `init` returns: nothing is allocated. With `--write`, the table of
`docs/state_sizes.md` is written anew, which a test compares.
"""

import argparse
import inspect
import pathlib

import jax
import jax.numpy as jnp

import optimjax as ox
from tests.benchmarks.tables import table

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "state_sizes.md"
WIDTH, LAYERS, WORDS, PLACES = 768, 12, 50257, 1024
# For the optimizers of matrices: which axes are what, and what is no matrix.
AXES = {"words": None, "places": None, "**/qkv/kernel": "i(3o)"}
STAGES = ("dadapt_adamw", "momo", "prodigy")  # Whole optimizers that are no chains.
ARGUMENTS = {"learning_rate": 1e-3, "key": 0, "axes": AXES}


def transformer(dtype):
    """The shapes of its parameters."""

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    def dense(inputs, outputs):
        return {"kernel": array(inputs, outputs), "bias": array(outputs)}

    def norm():
        return {"scale": array(WIDTH), "bias": array(WIDTH)}

    layer = {
        "qkv": dense(WIDTH, 3 * WIDTH),
        "out": dense(WIDTH, WIDTH),
        "up": dense(WIDTH, 4 * WIDTH),
        "down": dense(4 * WIDTH, WIDTH),
        "norms": [norm(), norm()],
    }
    return {
        "words": array(WORDS, WIDTH),
        "places": array(PLACES, WIDTH),
        "layers": [layer] * LAYERS,
        "norm": norm(),
    }


def optimizers():
    """Every whole optimizer of the library, made with its defaults."""
    made = {}
    for name, factory in vars(ox).items():
        home = getattr(factory, "__module__", None)
        if home != "optimjax.optimizers" and name not in STAGES:
            continue
        parameters = inspect.signature(factory).parameters
        if "learning_rate" in parameters or not name.startswith("scale_by"):
            needed = {k: v for k, v in ARGUMENTS.items() if k in parameters}
            for k, p in parameters.items():  # A default rate may be one of its own.
                if p.default is not p.empty and k != "axes":
                    needed.pop(k, None)
            made[name] = factory(**needed)
    return made


def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def sizes():
    """Bytes of state per parameter, by optimizer: for float32 and bfloat16 parameters."""
    models = [transformer(dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    count = ox.tree.size(models[0])
    return {
        name: [bytes_of(jax.eval_shape(tx.init, model)) / count for model in models]
        for name, tx in optimizers().items()
    }


def rows():
    """Name, and bytes for float32 and bfloat16 parameters: the smallest first."""
    found = sorted(sizes().items(), key=lambda item: (item[1], item[0]))
    return [[name, *(f"{size:.2f}" for size in both)] for name, both in found]


RULE = "| --- | --- | --- |\n"


def renewed(document):
    """The document with the table of this version."""
    before, _ = document.split(RULE)
    lines = [f"| `{name}` | {wide} | {low} |\n" for name, wide, low in rows()]
    return before + RULE + "".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"renew {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
    table("Bytes of state for each parameter", ["optimizer", "float32", "bfloat16"], rows())


if __name__ == "__main__":
    main()
