"""Optimizers on classic surfaces, and schedules, as pictures.

    pip install -e '.[examples]'    # in a clone
    python pictures.py
    python pictures.py --steps 500 --out /tmp

Five optimizers, each at the best of 61 learning rates, take 200 steps on four functions of
two variables; a second picture shows six schedules.
"""

import argparse
import pathlib

import optimjax as ox

OPTIMIZERS = {
    "gradient descent": ox.sgd,
    "momentum": lambda rate: ox.sgd(rate, momentum=0.9),
    "AdaGrad": ox.adagrad,
    "Adam": ox.adam,
    "Lion": ox.lion,
}


def schedules(steps):
    warmup = steps // 10
    return {
        "cosine, warmed up": ox.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps),
        "warm up, stay, decay": ox.warmup_stable_decay_schedule(
            0.0, 1.0, warmup, steps - 4 * warmup, 3 * warmup
        ),
        "one cycle": ox.cosine_onecycle_schedule(steps, 1.0),
        "inverse root": ox.warmup_schedule(
            ox.inverse_sqrt_schedule(1.0, warmup, offset=warmup), warmup, 1 / warmup
        ),
        "in stairs": ox.exponential_decay(1.0, steps // 5, 0.5, staircase=True),
        "REX": ox.rex_schedule(1.0, steps),
    }


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="that each takes")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="a folder"
    )
    args = parser.parse_args()
    try:
        ox.plot_trajectories(OPTIMIZERS, steps=args.steps, path=args.out / "surfaces.png")
        ox.plot_schedule(schedules(args.steps), args.steps, args.out / "schedules.png")
    except ImportError as error:
        raise SystemExit(str(error)) from None
    print(f"surfaces.png and schedules.png are in {args.out}")


if __name__ == "__main__":
    main()
