"""Timing in turns, and what the memory can move."""

import os
import random
import time

import jax
import jax.numpy as jnp
import numpy as np

WARM_UP, FEWEST = 2, 7  # Rounds: not counted; at least.
MOVING = 3  # After so many rounds the arrays move.


def cores():
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it.
    return len(affinity(0)) if affinity else os.cpu_count()


def timed(function, *args):
    """The seconds that a call takes until its result is there, and the result."""
    start = time.perf_counter()
    out = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, out


def turns(names, i):
    """Their order in round i: in a few rounds, each follows each other equally often.

    That is a Williams design. An order drawn at random would have to be drawn often until
    nobody follows one particular peer more than the others do.
    """
    n = len(names)
    zigzag = [(j + 1) // 2 if j % 2 else -(j // 2) for j in range(n)]
    order = [names[(z + i) % n] for z in zigzag]
    return order[::-1] if n % 2 and i // n % 2 else order


def in_turns(runs, rounds, seconds=float("inf"), pause=0.002):
    """Times of several functions, called in turns.

    Where arrays happen to lie makes a difference of 10 to 20 % at a thousand leaves, as two
    copies of one program show. So what has a method `move` takes its arrays elsewhere every
    few rounds, in an order of its own.

    Args:
        runs: A dict from names to functions that return the seconds they took.
        rounds: How often each has its turn.
        seconds: After this long there are no more rounds than the fewest.
        pause: Before each turn, so that threads that still spin for the last one sleep.

    Returns:
        A dict from names to lists of seconds, in the order of rounds.
    """
    times = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for i in range(WARM_UP + rounds):
        if i >= WARM_UP + min(FEWEST, rounds) and time.perf_counter() > end:
            break
        if i % MOVING == 0:
            for name in random.sample(list(runs), len(runs)):
                getattr(runs[name], "move", lambda: None)()
        for name in turns(list(runs), i):
            time.sleep(pause)
            taken = runs[name]()
            if i >= WARM_UP:
                times[name].append(taken)
    return times


def spread(values):
    """The median, and the 10th and 90th percentiles."""
    low, middle, high = (float(x) for x in np.percentile(values, [10, 50, 90]))
    return {"median": middle, "low": low, "high": high}


def ratios(ours, theirs):
    """The spread of the ratios of each round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


class Triad:
    """`x = a x + y` over two large arrays, x donated: 12 bytes for each entry.

    It is one program of JAX over arrays of `megabytes` each, which should be several times
    what the caches hold.
    """

    def __init__(self, megabytes=128):
        size = megabytes * 1_000_000 // 4
        self.x, self.y = jnp.ones(size), jnp.ones(size)
        self.run = jax.jit(lambda x, y: 0.5 * x + y, donate_argnums=0)

    def bandwidth(self, times=5):
        """Bytes a second, the median of a few."""
        taken = []
        for _ in range(times + 1):
            seconds, self.x = timed(self.run, self.x, self.y)
            taken.append(seconds)
        return 3 * self.x.nbytes / float(np.median(taken[1:]))
