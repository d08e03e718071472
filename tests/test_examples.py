"""Every script of `examples/` runs, and the README's quick start with them."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimjax as ox

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(*arguments, expected=0):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_quickstart_reaches_its_goal():
    out = run(EXAMPLES / "quickstart.py")
    losses = [float(x) for x in re.findall(r"loss (\d\.\d+)", out)]
    assert len(losses) > 3
    assert losses[-1] < 0.01 * losses[0]


def test_a_rule_of_ones_own_reaches_its_goal_and_keeps_the_laws():
    out = run(EXAMPLES / "your_own_rule.py")
    assert "keeps all" in out
    assert float(re.findall(r"loss (\d+\.\d+)", out)[-1]) < 1e-3


def test_every_recipe_shows_what_it_is_for():
    out = " ".join(re.sub("[│┃]", " ", run(EXAMPLES / "recipes.py")).split())
    accuracies = [float(x) for x in re.findall(r"accuracy (\d\.\d+)", out)]
    assert len(accuracies) >= 9
    assert min(accuracies) > 0.8
    assert "moved by 0.0 after 50 steps" in out
    assert out.count("learning_rate=") == 4
    assert "at a rate of 1e-03" in out
    assert "after 25 steps of 4 batches" in out
    assert out.count("stopped: True") == 2
    assert "left out: 2 not finite, 1 too long" in out
    assert "1e-02 is best" in out
    assert "least 0.0" in out
    assert float(re.findall(r"own way: (\S+) apart", out)[0]) < 1e-5
    before, after = re.findall(r"(\d\.\d+) at (?:a rate of )?0\.\d+", out)
    assert float(after) < float(before) - 0.1


def test_what_pytorch_began_goes_on_here():
    pytest.importorskip("torch")
    out = run(EXAMPLES / "porting.py")
    assert float(re.findall(r"of a parameter: (\S+)", out)[0]) < 1e-5


def test_recipes_say_which_there_are():
    out = run(EXAMPLES / "recipes.py", "accumulate", expected=2)
    assert "accumulate_gradients" in out


def test_the_quick_start_and_the_sweep_of_the_readme_run():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n((?:import|def|result =) .*?)```", readme, re.DOTALL)
    start, sweep, choice = blocks
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        exec(start, names)
        exec(sweep, names)
        exec(choice, names)
    assert abs(names["params"]["w"] - 3.0).max() < 0.05
    assert names["losses"][4] < 0.01 < names["losses"][0]
    assert names["result"].winner().mean < 0.1


def test_the_combinators_of_the_readme_run():
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(optimizer = .*?partition.*?)```", readme, re.DOTALL)
    names = {"ox": ox}
    exec(block, names)
    layer = {
        "kernel": jnp.ones((2, 2)),
        "bias": jnp.ones(2),
        "norm": {"scale": jnp.ones(2)},
    }
    params = {"encoder": layer, "head": {"kernel": jnp.ones((2, 1))}}
    state = names["optimizer"].init(params)
    for i in range(8):
        updates, state = names["optimizer"].update(params, state, params)
        assert bool(state.emitted) == (i == 7)
    assert float(updates["head"]["kernel"][0, 0]) < -0.9e-3
    averaged = ox.eval_params(state, params)
    assert jax.tree.structure(averaged) == jax.tree.structure(params)


def test_the_matrices_of_the_readme_run(capsys):
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(params = .*?)```", readme, re.DOTALL)
    names = {"ox": ox, "jnp": jnp}
    exec(block, names)
    assert re.search(r"qkv +\(8, 24\) +i\(3o\) +3 of 8 x 8", capsys.readouterr().out)
    params = {**names["params"], "block": {"qkv": jnp.ones((8, 24)), "out": jnp.eye(8)}}
    for name in ("muon", "lion_in_those_axes"):
        state = names[name].init(params)
        _, state = names[name].update(params, state, params)  # It finds the axes.
        updates, _ = names[name].update(params, state, params)
        assert float(updates["block"]["out"][0, 0]) < 0, name


def test_the_comparison_prints_its_table_and_draws_its_picture(tmp_path):
    picture = tmp_path / "small.png"
    script = EXAMPLES / "compare_optimizers.py"
    arguments = ["--optimizers", "sgd,adam", "--steps", "20", "--seeds", "2"]
    out = run(script, *arguments, "--out", picture)
    for name in ("sgd", "adam"):
        assert re.search(rf"\b{name}\b.*\d", out), out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_the_sweep_prints_its_table_and_draws_its_picture(tmp_path):
    picture = tmp_path / "small.png"
    small = ["--steps", "9", "--candidates", "3", "--seeds", "2"]
    arguments = ["--optimizers", "sgd", "lion", *small, "--out", picture]
    out = run(EXAMPLES / "sweep.py", *arguments)
    for name in ("sgd", "lion"):
        assert re.search(rf"\d +{name} +learning_rate=.* ± .*", out), out
    assert "had no part in the choice" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_late_gradients_print_their_table_and_draw_their_picture(tmp_path):
    picture = tmp_path / "small.png"
    small = ["--optimizers", "sgd", "--delays", "0", "6", "--steps", "60", "--seeds", "1"]
    out = run(EXAMPLES / "delayed_gradients.py", *small, "--out", picture)
    prompt, late = (
        [float(x) for x in re.search(rf" {n} +(.*\d)", out)[1].split()] for n in (0, 6)
    )
    assert len(prompt) == len(late) == 5
    assert prompt[0] < late[1] < late[0]  # None late; at its best rate; at the old one.
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_process_is_killed_and_others_go_on():
    arguments = ["--kill-at", "28", "--victim", "1"]
    out = " ".join(run(EXAMPLES / "multi_process.py", *arguments).split())
    assert re.search(r"one is killed 3 1 to 2\d", out), out
    steps = {n: re.search(rf"resumed by {n} {n} (\d+) to 40", out) for n in (2, 3)}
    assert {int(found[1]) for found in steps.values()} <= {17, 25}
    assert "process 1 killed at step 28" in out
    assert "the same as undisturbed bit for bit; the largest difference is 0" in out
    assert "the same as undisturbed to float32 rounding" in out


def test_other_parameters_after_a_restart_are_an_error():
    script = EXAMPLES / "multi_process.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    end = {name: np.ones(2, np.float32) for name in ("w1", "b1", "w2", "b2")}

    def ended(processes, most):
        changed = {**end, "b2": end["b2"] + np.float32([0, most])}
        return module.Run("run", processes, 0, 9, 1.0, "", changed)

    for processes, most, fine in ((3, 0, True), (3, 2e-7, False), (2, 2e-7, True)):
        runs = [ended(3, 0), ended(3, 9), ended(processes, most)]
        lines, verdict = module.compare(runs)
        assert verdict == fine
        assert ("NOT" in lines[0]) != fine
    assert not module.compare([ended(3, 0), ended(3, 9), ended(2, np.nan)])[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adan"], ["adan", "adagrad", "adamw", "rmsprop"]),
        (["--steps", "0"], ["steps"]),
        (["--seeds", "-1"], ["seeds"]),
        (["--out", "/no/such/folder/a.png"], ["/no/such/folder"]),
    ],
    ids=["optimizer", "steps", "seeds", "out"],
)
def test_the_comparison_refuses_what_it_cannot_do(arguments, words):
    out = run(EXAMPLES / "compare_optimizers.py", *arguments, expected=2)
    assert all(word in out for word in words), out
    assert "Traceback" not in out


def test_the_comparison_explains_itself():
    out = run(EXAMPLES / "compare_optimizers.py", "--help")
    assert "--optimizers" in out
    assert "digits" in out


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_examples_say_how_they_are_run(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    doc = script.read_text().split('"""')[1]
    assert f"{script.name}" in doc


def test_pictures_of_optimizers_and_schedules_are_drawn(tmp_path):
    run(EXAMPLES / "pictures.py", "--steps", "20", "--out", tmp_path)
    for name in ("surfaces.png", "schedules.png"):
        assert (tmp_path / name).stat().st_size > 20_000


@pytest.mark.parametrize("framework", ["nnx", "linen", "equinox", "jax"])
def test_the_optimizer_trains_in_every_framework(framework):
    pytest.importorskip({"nnx": "flax", "linen": "flax"}.get(framework, framework))
    out = run(EXAMPLES / "frameworks.py", framework)
    assert float(re.findall(r"loss (\d\.\d+)", out)[0]) < 0.01


def test_a_framework_that_is_none_is_refused():
    out = run(EXAMPLES / "frameworks.py", "keras", expected=2)
    assert "there is no 'keras'; there are nnx, linen, equinox, jax" in out
