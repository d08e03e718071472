"""What `pip install optimjax` gives: the package, typed, and nothing that is not needed.

    python .ci/wheel.py FILE.whl    # with the Python of an environment that has only that

Prints what `import optimjax` takes beyond JAX.
"""

import importlib.util
import statistics
import subprocess
import sys
import zipfile

EXTRAS = ("optax", "flax", "torch", "matplotlib", "sklearn", "hypothesis", "pytest", "rich")
LIMIT = 0.3  # Seconds.
IMPORT = """
import time
import jax, jax.numpy, chex
start = time.perf_counter()
import optimjax
print(time.perf_counter() - start)
"""
STEP = """
import jax.numpy as jnp, optimjax as ox
tx, params = ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(1e-3)), {"w": jnp.ones(3)}
updates, _ = tx.update(params, tx.init(params), params)
assert abs(float(updates["w"][0]) + 1.0001e-3) < 1e-7, updates
print(ox.describe(tx, params))
"""


def run(code):
    arguments = [sys.executable, "-I", "-c", code]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def main(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    odd = [n for n in names if not n.startswith("optimjax/") and ".dist-info/" not in n]
    assert not odd, f"the wheel holds what is no part of the package: {odd}"
    assert "optimjax/py.typed" in names, "the wheel has no `py.typed`."
    assert not [n for n in names if "test_" in n], "the wheel holds tests."
    here = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert not here, f"this environment has more than is needed: {here}"
    print(run(STEP))
    seconds = statistics.median(float(run(IMPORT)) for _ in range(5))
    print(f"{len(names)} files; import beyond JAX: {seconds:.3f} s (median of 5)")
    assert seconds < LIMIT, f"importing takes {seconds:.3f} s, and may take {LIMIT}."


if __name__ == "__main__":
    main(sys.argv[1])
