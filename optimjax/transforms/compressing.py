"""Gradients that are made small before they cross a slow link."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _dtypes, base
from .._checks import Refusal, checked
from .._workers import AxisName
from ..base import GradientTransformation, Params, Updates, transformation
from ..compressors import Compressor, Link
from ..tree import leafwise, slot_like
from ..typing import PositiveCount


class CompressState(NamedTuple):
    """State of `compress`."""

    # e, shaped like the params: what this worker has not sent yet; None without feedback.
    residual: Params
    memory: Any  # For each parameter, what the compressor remembers of it.

    directions = ("residual",)


def _sent(
    u: jax.Array, residual: Any, memory: Any, *, compressor: Compressor, link: Link
) -> tuple[jax.Array, Any, Any]:
    if u.size == 0:
        return u, residual, memory
    total = u if residual is None else u + residual
    sent, mean, memory = compressor.send(total, memory, link)
    return mean, None if residual is None else total - sent, memory


@transformation(state=CompressState, real=True)
def compress(
    compressor: Compressor,
    axis_name: AxisName | None = None,
    *,
    error_feedback: bool = True,
) -> GradientTransformation:
    r"""Sends a compressed gradient over the link, and what that left out with the next one.

    With the compressor $C$, and for worker $w$ the gradient $g_w$ and the residual $e_w$,

    $$ s_w = C(g_w + e_w), \qquad e_w \leftarrow g_w + e_w - s_w, \qquad
       u = \frac1W \sum_w s_w. $$

    So nothing is lost: $s_w$ and the new residual are the gradient and the old one, to a
    rounding of each of the sums. Put it first, `chain(compress(...), sgd(...))`; behind
    rules that divide by moments of the gradient, what is late would be of other units.

    With an `axis_name` it takes the place of `lax.pmean` inside of a `shard_map`, a `pmap`
    or a `vmap` of that axis, and nothing else crosses the link than what the table in
    `optimjax.compressors` says. All workers then get the same bits. (JAX does not know
    that they do of what was gathered: a `shard_map` that returns it as equal needs
    `check_vma=False`.) Without a name it does what it does to one worker.

    The residual is this worker's own, plain state; for another number of workers see
    `change_workers`. Two ways to send less often as well: this in the outer optimizer of
    `local_updates`, and `accumulate` around it.

    Args:
        compressor: One of `optimjax.compressors`, such as `compressors.int8()`, or one of
            your own.
        axis_name: The axis of the workers, or a tuple of axes. None: there is one.
        error_feedback: Whether there is a residual. Without it, what is left out is lost.

    Returns:
        A `GradientTransformation` with a `CompressState`. It refuses complex leaves.

    Raises:
        TypeError: If `compressor` is none, or `axis_name` no name.

    Example:
        >>> import jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.top_k(0.5))
        >>> state = t.init(jnp.zeros(2))
        >>> for _ in range(3):
        ...     updates, state = t.update(jnp.array([3.0, 2.0]), state)
        ...     print(updates)
        [3. 0.]
        [0. 4.]
        [6. 0.]

    References:
        F. Seide et al., [1-bit stochastic gradient
        descent](https://doi.org/10.21437/Interspeech.2014-274), 2014;
        S. P. Karimireddy et al., [Error feedback fixes SignSGD and other gradient
        compression schemes](https://arxiv.org/abs/1901.09847), 2019.
    """
    if not (hasattr(compressor, "init") and hasattr(compressor, "send")):
        raise TypeError(
            "`compress(compressor=...)` must be one of `optimjax.compressors`, such as "
            f"`compressors.int8()`, but got {compressor!r}."
        )
    link = Link(axis_name)

    def init(params: Params) -> CompressState:
        def remembered(p: Any) -> Any:
            return compressor.init(p) if p.size else ()

        memory = jax.tree.map(remembered, params)
        return CompressState(slot_like(params) if error_feedback else None, memory)

    def update(
        updates: Updates, state: CompressState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, CompressState]:
        del params, extra
        base.check_slot("residual", state.residual, error_feedback, updates)
        out, residual, memory = leafwise(
            _sent, updates, state.residual, state.memory, compressor=compressor, link=link
        )
        return out, CompressState(residual, memory)

    return GradientTransformation(init, update)


@checked
def change_workers(stacked: Any, workers: PositiveCount) -> Any:
    r"""What workers hold, for another number of workers.

    What counts of the residuals $e_w$ of `compress` is their mean over workers: with a
    rate $\eta$, the parameters will still move by $-\eta \frac1W \sum_w e_w$. So all
    workers, those that stay and those that join, get that mean, which is then also that of
    the new ones. (It is the mean that is kept, not the sum: what comes out of `compress` is
    a mean, too. Of all ways to divide it, equal parts have the least squares, by which the
    theory bounds what the delay costs.)

    Of everything else, worker $w$ gets what worker $w \bmod W$ had: one that joins gets a
    copy. Where workers differ, as between two exchanges of `local_updates`, those that
    leave take what only they knew with them: change after an exchange.

    Args:
        stacked: A tree, such as `(params, state)`, whose leaves have a first axis of
            workers, as under `vmap`, or outside of a `shard_map` that has divided it.
        workers: How many there shall be.

    Returns:
        A tree of the same structure, with a first axis of that length.

    Raises:
        ValueError: If `workers` is less than 1, or if leaves have no first axis, or first
            axes of different lengths.

    Example:
        >>> import jax, jax.numpy as jnp, optimjax as ox
        >>> t = ox.compress(ox.compressors.top_k(0.5), "workers")
        >>> state = jax.vmap(t.init)(jnp.zeros((2, 2)))
        >>> grads = jnp.array([[3.0, 2.0], [1.0, 4.0]])
        >>> _, state = jax.vmap(t.update, axis_name="workers")(grads, state)
        >>> print(state.residual)
        [[0. 2.]
         [1. 0.]]
        >>> print(ox.change_workers(state, 3).residual)
        [[0.5 1. ]
         [0.5 1. ]
         [0.5 1. ]]
    """
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(stacked)}
    if () in lengths or len(lengths) > 1:
        found = ", ".join(sorted(str(n[0]) if n else "none" for n in lengths))
        raise Refusal(
            ValueError,
            f"needs leaves with a first axis of one length, that of the workers, but got "
            f"{found}.",
        )

    def copied(x: Any) -> Any:
        return jnp.asarray(x)[jnp.arange(workers) % x.shape[0]]

    def shared(x: Any) -> Any:
        mean = jnp.mean(_dtypes.wide(x), axis=0, keepdims=True)
        return _dtypes.cast(jnp.repeat(mean, workers, axis=0), x.dtype)

    def changed(x: Any) -> Any:
        if isinstance(x, CompressState):
            return CompressState(
                jax.tree.map(shared, x.residual), jax.tree.map(copied, x.memory)
            )
        return copied(x)

    return jax.tree.map(changed, stacked, is_leaf=lambda x: isinstance(x, CompressState))
