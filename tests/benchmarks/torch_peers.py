"""The optimizers of PyTorch, as peers of those in JAX."""

import contextlib
import os

import jax

from tests.benchmarks import layouts, timing

RATE = 1e-3  # As in `peers`.


class Missing(Exception):
    """A peer has no such optimizer, or none for such leaves."""


# By default, threads of OpenMP spin for milliseconds where they wait. If the system has
# put two of them on one core, each barrier then takes a time slice, and a step hundreds.
# A short spin made PyTorch faster, and those beside it too. It is read at the import.
SPIN = ("GOMP_SPINCOUNT", "1000")


def has_torch():
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPIN)
    try:
        import torch
    except ImportError:
        return False
    return bool(torch)


class TorchRun:
    """A step of `torch.optim` on copies of the arrays."""

    def __init__(self, name, layout, turns=1, **how):
        if not has_torch():
            raise Missing("torch")
        import torch

        self.torch, self.turns = torch, turns
        device = self.device()
        torch.set_num_threads(timing.cores())
        params, grads = layouts.arrays(layout)
        self.params = {}
        for path, p in params.items():
            self.params[path] = torch.from_numpy(p).to(device).requires_grad_()
            self.params[path].grad = torch.from_numpy(grads[path]).to(device)
        self.clips = name == "clip_adamw"
        # What is not there, or not for these devices, is refused in many ways.
        with self.missing(AttributeError, TypeError, ValueError, RuntimeError):
            self.optimizers = self.make(name, layout, how)
            self()

    def device(self):
        """PyTorch's name of where JAX computes."""
        if jax.default_backend() == "cpu":
            return "cpu"
        if jax.default_backend() == "gpu" and self.torch.cuda.is_available():
            return "cuda"
        raise Missing(f"torch on {jax.default_backend()}")

    @contextlib.contextmanager
    def missing(self, *errors):
        try:
            yield
        except errors as error:
            raise Missing(str(error)) from error

    def make(self, name, layout, how):
        optim, params = self.torch.optim, list(self.params.values())
        if name == "muon":
            if how or "bio" in layout.roles.values():
                raise Missing(name)
            matrices = [p for path, p in self.params.items() if layout.roles[path]]
            rest = [p for path, p in self.params.items() if not layout.roles[path]]
            muon = optim.Muon(matrices, lr=RATE, weight_decay=0.0, ns_steps=5)
            return [muon, optim.AdamW(rest, lr=RATE)] if rest else [muon]
        makers = {
            "sgd": (optim.SGD, {}),
            "momentum": (optim.SGD, {"momentum": 0.9}),
            "rmsprop": (optim.RMSprop, {"alpha": 0.9}),
            "adam": (optim.Adam, {}),
            "clip_adamw": (optim.AdamW, {"weight_decay": 1e-4}),
            "adafactor": (getattr(optim, "Adafactor", None), {}),
        }
        maker, arguments = makers.get(name, (None, {}))
        if maker is None or not how:
            raise Missing(name)
        return [maker(params, lr=RATE, **arguments, **how)]

    def step(self):
        if self.clips:
            self.torch.nn.utils.clip_grad_norm_(self.params.values(), 1.0, foreach=True)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.device() == "cuda":
            self.torch.cuda.synchronize()

    def __call__(self):
        return sum(timing.timed(self.step)[0] for _ in range(self.turns)) / self.turns


TORCH = {
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
    "torch": {},  # Muon, which has neither.
}
