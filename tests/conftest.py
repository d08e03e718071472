"""The JAX under which every test runs: no silent promotion, no silent broadcast."""

import importlib.metadata
import os
import pathlib

# Half of the time would go into compiling, and programs here run a few times. This way they
# compile in a third of it, with all optimizations. (`XLA_FLAGS= pytest` does without. Later
# XLA knows no such flag, and refuses to start.)
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# For `shard_map`: before the first array, since then there are as many as there are.
jax.config.update("jax_num_cpu_devices", 8)

# Many tests compile the same program, and all do when they are run again.
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
