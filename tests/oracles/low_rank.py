"""GaLore (Zhao 2024) of one matrix, with full projections in place of small moments."""

import numpy as np

from .shared import at, double


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

    `inner` makes a function f of one array, with a memory of its own.
    """
    grads = double(grads)
    rows, columns = grads.shape[1:]
    on_the_right = rows > columns if side == "smaller" else rows < columns
    if on_the_right:
        grads = grads.swapaxes(1, 2)
    f, p, out = inner(), None, []
    for t, g in enumerate(grads):
        if t % update_proj_gap == 0:
            new = np.linalg.svd(g)[0][:, :rank]
            if p is not None:  # No vector turns by more than a right angle.
                along = np.sum(new.conj() * p, axis=0)
                new = new * along / np.abs(along)
            p = new
        u = scale * p @ f(p.conj().T @ g)
        out.append(u.T if on_the_right else u)
    return np.stack(out)


def adam_direction_of(b1=0.9, b2=0.999, eps=1e-8):
    """Make m / (sqrt v + eps) of Adam, as a function that remembers."""
    memory = {"t": 0, "m": 0.0, "v": 0.0}

    def direction(g):
        memory["t"] += 1
        memory["m"] = b1 * memory["m"] + (1 - b1) * g
        memory["v"] = b2 * memory["v"] + (1 - b2) * np.abs(g) ** 2
        m = memory["m"] / (1 - b1 ** memory["t"])
        v = memory["v"] / (1 - b2 ** memory["t"])
        return m / (np.sqrt(v) + eps)

    return direction


def heavy_ball(decay=0.9):
    """Make v = b v + g, as a function that remembers."""
    memory = {"v": 0.0}

    def direction(g):
        memory["v"] = decay * memory["v"] + g
        return memory["v"]

    return direction


def galore(
    grads, params, *, learning_rate, weight_decay=0.0, inner=adam_direction_of, **kwargs
):
    """p - lr (u + w p), u as above around Adam's direction."""
    p, path = double(params), []
    for t, u in enumerate(in_low_rank(grads, inner=inner, **kwargs)):
        p = p - at(learning_rate, t) * (u + weight_decay * p)
        path.append(p)
    return np.stack(path)
