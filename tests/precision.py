"""Float64 for a part of a test."""

import jax
import jax.experimental


def enable_x64():
    """A context in which float64 is float64; JAX has moved it since 0.6."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()
