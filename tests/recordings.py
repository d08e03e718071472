"""Reading the recorded trajectories (see `golden/README.md`)."""

import functools
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"
INPUTS = dict(np.load(FOLDER / "inputs.npz"))
SETS = ("plain", "mix")


@functools.cache
def cases(file):
    """The metadata of each case of a file."""
    return json.loads((FOLDER / f"{file}.json").read_text())["cases"]


@functools.cache
def arrays(file):
    """The arrays of a file, by key."""
    return dict(np.load(FOLDER / f"{file}.npz"))


def initial(leaves):
    return {leaf: INPUTS[f"p0/{leaf}"] for leaf in leaves}


def gradients(which, leaves):
    return {leaf: INPUTS[f"{which}/{leaf}"] for leaf in leaves}


def trajectory(peer, case, which):
    """The recorded parameters before the first and after each update, by leaf."""
    leaves = cases(peer)[case]["leaves"]
    return {leaf: arrays(peer)[f"{case}/{which}/{leaf}"] for leaf in leaves}


def error(got, want):
    """The largest difference, in units of the largest value that its entry ever has."""
    scale = np.abs(want).max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return float((np.abs(np.float64(got) - np.float64(want)) / scale).max())
