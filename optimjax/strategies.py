"""What Hypothesis may try on a transformation: dtypes, trees, gradients of all sizes.

    import hypothesis, optimjax as ox
    from optimjax import strategies
    from optimjax.testing import check_transformation

    @hypothesis.given(strategies.trees())
    def test_my_rule_keeps_the_laws(params):
        check_transformation(my_rule(0.9), params)

    @hypothesis.given(strategies.trees_with_gradients(strategies.EXTREME))
    def test_my_rule_gives_no_nan(pair):
        params, grads = pair
        ...

It needs Hypothesis: `pip install hypothesis`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _dtypes
from .base import Params, Updates

try:
    import hypothesis.strategies as st
except ImportError as error:
    raise ImportError(
        f"`optimjax.strategies` is made of Hypothesis ({error}); get it with "
        "`pip install hypothesis`."
    ) from None

# Scalars, vectors, matrices, one without elements, and three axes.
SHAPES = ((), (1,), (3,), (2, 3), (0, 2), (2, 1, 2))
# Signs and zeros, what is below the normal numbers, and what has no square in float32.
EXTREME = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-38, 1e-30, -1e-12, 1e6, -1e18, 1e30, -3e38)


def dtypes(
    names: Sequence[str] = ("float32", "bfloat16", "float16"),
) -> st.SearchStrategy[Any]:
    """Dtypes of parameters.

    Args:
        names: Of which.

    Example:
        >>> import hypothesis
        >>> from optimjax import strategies
        >>> hypothesis.find(strategies.dtypes(), lambda dtype: dtype.itemsize == 2)
        dtype(bfloat16)
    """
    return st.sampled_from([jnp.dtype(name) for name in names])


def arrays(
    shape: Any = None, dtype: Any = None, values: Sequence[float] | None = None
) -> st.SearchStrategy[Any]:
    """Arrays of JAX, all of their numbers finite.

    Args:
        shape: A strategy of shapes; `None`: of 0 to 3 axes, with lengths of 0 to 3.
        dtype: A strategy of dtypes; `None`: `dtypes()`.
        values: The numbers to take, such as `EXTREME`, each at random with either sign and
            held within the dtype's range; `None`: any from -4 to 4 that float16 can hold.

    Example:
        >>> import hypothesis
        >>> from optimjax import strategies
        >>> x = hypothesis.find(strategies.arrays(), lambda x: x.size > 1)
        >>> x.shape, x.dtype.name
        ((3,), 'float32')
    """
    numbers = st.floats(-4, 4, width=16) if values is None else st.sampled_from(values)

    @st.composite
    def array(draw: st.DrawFn) -> Any:
        of = draw(st.sampled_from(SHAPES) if shape is None else shape)
        kind = jnp.dtype(draw(dtypes() if dtype is None else dtype))
        size = int(np.prod(of))
        x = np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float64)
        high = float(jnp.finfo(kind).max)
        return jnp.asarray(np.clip(x, -high, high).reshape(of)).astype(kind)

    return array()


def trees(leaves: Any = None, *, max_leaves: int = 4) -> st.SearchStrategy[Params]:
    """Parameters: arrays, and `None`, in lists, tuples and dicts; or an array alone.

    Args:
        leaves: A strategy of arrays; `None`: `arrays()`.
        max_leaves: How many, about: at least 1.

    Example:
        >>> import hypothesis
        >>> from optimjax import strategies
        >>> hypothesis.find(strategies.trees(), lambda tree: isinstance(tree, dict))
        {}
    """
    return st.recursive(
        (arrays() if leaves is None else leaves) | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=max_leaves,
    )


@st.composite
def trees_with_gradients(
    draw: st.DrawFn, values: Sequence[float] | None = None, *, mixed: bool = True
) -> tuple[Params, Updates]:
    """Parameters, and gradients for them.

    Args:
        draw: Given by Hypothesis.
        values: The numbers in the gradients, such as `EXTREME`; `None`: see `arrays`.
        mixed: Whether a gradient may have another dtype than its parameter, and be missing.

    Example:
        >>> import hypothesis
        >>> from optimjax import strategies
        >>> pairs = strategies.trees_with_gradients(strategies.EXTREME)
        >>> params, grads = hypothesis.find(pairs, lambda pair: isinstance(pair[0], tuple))
        >>> len(grads)
        2
    """
    params = draw(trees())

    def like(p: Any) -> Any:
        if mixed and draw(st.integers(0, 9)) == 0:
            return None
        other = dtypes() if mixed and draw(st.booleans()) else st.just(_dtypes.dtype_of(p))
        return draw(arrays(st.just(p.shape), other, values))

    return params, jax.tree.map(like, params)
