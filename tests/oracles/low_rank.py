"""GaLore (Zhao 2024) of one matrix, with full projections in place of small moments."""

import numpy as np

from .optimizers import adam_directions, descend
from .shared import double


def in_low_rank(
    grads,
    params=None,
    *,
    inner,
    rank,
    update_proj_gap=200,
    scale=1.0,
    side="smaller",
):
    """u = a P f(P* g), P the first singular vectors of every k-th g on one side.

    `inner` is the stage f, called anew with all that has been seen.
    """
    grads = double(grads)
    rows, columns = grads.shape[1:]
    on_the_right = rows > columns if side == "smaller" else rows < columns
    if on_the_right:
        grads = grads.swapaxes(1, 2)
    p, seen, out = None, [], []
    for t, g in enumerate(grads):
        if t % update_proj_gap == 0:
            new = np.linalg.svd(g)[0][:, :rank]
            if p is not None:  # No vector turns by more than a right angle.
                along = np.sum(new.conj() * p, axis=0)
                new = new * along / np.abs(along)
            p = new
        seen.append(p.conj().T @ g)
        u = scale * p @ inner(np.stack(seen))[-1]
        out.append(u.T if on_the_right else u)
    return np.stack(out)


def galore(
    grads, params, *, learning_rate, weight_decay=0.0, inner=adam_directions, **kwargs
):
    """p - lr (u + w p), u as above around Adam's direction."""
    u = in_low_rank(grads, inner=inner, **kwargs)
    return descend(u, params, learning_rate, weight_decay)
