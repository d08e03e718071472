"""Pictures draw what the optimizers and schedules do, and surfaces are what they say."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox
from optimjax import plotting, surfaces

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("surface", surfaces.ALL, ids=lambda s: s.name)
def test_minima_are_minima_at_zero_within_the_window(surface):
    left, right, bottom, top = surface.window
    with jax.enable_x64(True):
        for place in surface.minima:
            x = jnp.array(place, jnp.float64)
            assert abs(surface(x)) < 1e-12
            np.testing.assert_allclose(jax.grad(surface.function)(x), 0.0, atol=1e-6)
            assert np.linalg.eigvalsh(jax.hessian(surface.function)(x)).min() > 0
        for x, y in (surface.start, *surface.minima):
            assert left < x < right
            assert bottom < y < top


def test_the_formulas_are_those_of_the_books():
    """At points where they are easy by hand."""
    at = jnp.array([2.0, 1.0])
    assert surfaces.rosenbrock(at) == 1 + 100 * 9
    assert surfaces.himmelblau(at) == (4 + 1 - 11) ** 2 + (2 + 1 - 7) ** 2
    assert surfaces.beale(at) == 1.5**2 + 2.25**2 + 2.625**2
    np.testing.assert_allclose(surfaces.rastrigin(at), 5.0, rtol=1e-5)


def test_a_line_is_the_schedule():
    schedule = ox.exponential_decay(1.0, 3, 0.5)
    figure = ox.plot_schedule({"mine": schedule, "flat": lambda t: 0.25}, 8)
    mine, flat = figure.axes[0].get_lines()
    np.testing.assert_allclose(mine.get_ydata(), 0.5 ** (np.arange(8) / 3), rtol=1e-6)
    np.testing.assert_array_equal(flat.get_ydata(), np.full(8, 0.25))
    assert mine.get_label() == "mine"


def test_a_walk_is_the_loop_by_hand():
    found = plotting.walk("sgd", ox.sgd(1e-3), surfaces.rosenbrock, 5)
    x = np.array([-1.5, 2.0])
    for point in found.points:
        np.testing.assert_allclose(point, x, rtol=1e-5)
        slope = -2 * (1 - x[0]) - 400 * x[0] * (x[1] - x[0] ** 2)
        x = x - 1e-3 * np.array([slope, 200 * (x[1] - x[0] ** 2)])
    assert found.learning_rate is None


def test_the_rate_is_the_best_of_those_tried():
    """A bowl that only one rate of the list goes down in one step."""
    rate = plotting.RATES[40]
    bowl = surfaces.Surface(
        "bowl",
        lambda x: jnp.sum(x**2) / (2 * rate),
        (1.0, 1.0),
        ((0.0, 0.0),),
        (-2, 2, -2, 2),
    )
    assert plotting.walk("sgd", ox.sgd, bowl, 10).learning_rate == rate


def test_every_optimizer_has_its_line_and_what_flees_is_said(tmp_path):
    path = tmp_path / "ways.png"
    figure = ox.plot_trajectories(
        {"Adam": ox.adam, "too far": ox.sgd(10.0)}, [surfaces.himmelblau], 20, path
    )
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0].startswith("Adam, rate ")
    assert texts[1] == "too far: diverges"
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ox.plot_schedule(0.1, 10), TypeError, "must be a function of the step"),
        (lambda: ox.plot_schedule(lambda t: t, 0), ValueError, "at least 1, but got 0"),
        (
            lambda: ox.plot_schedule({"two": lambda t: jnp.ones(2)}, 10),
            TypeError,
            "`plot_schedule` got .* it must give a number at each step",
        ),
        (lambda: ox.plot_trajectories({}), ValueError, "needs an optimizer"),
        (
            lambda: ox.plot_trajectories({"mine": 3}),
            TypeError,
            "'mine' is 3",
        ),
        (
            lambda: ox.plot_trajectories({"mine": ox.sgd(0.1)}, "beale"),
            TypeError,
            r"takes a list of `Surface`s.* but got 'beale'",
        ),
    ],
)
def test_bad_input_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'optimjax\[plots\]'"):
        ox.plot_schedule(lambda t: t, 3)
