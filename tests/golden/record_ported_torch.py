"""Records `ported_torch`: `python tests/golden/record_ported_torch.py`, with PyTorch.

Each class takes 20 steps along the gradients `plain` of `inputs.npz`. Its `state_dict()` is
kept, and the parameters from there on: before the first and after each of 10 more steps.
"""

import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
BEFORE, AFTER = 20, 10
CASES = {
    "SGD": ("SGD", {"lr": 0.01}),
    "SGD.momentum": ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
    "SGD.dampening": ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    "SGD.nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "SGD.maximize": ("SGD", {"lr": 0.01, "momentum": 0.9, "maximize": True}),
    "Adagrad": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "RMSprop": ("RMSprop", {"alpha": 0.9}),
    "RMSprop.centered": ("RMSprop", {"momentum": 0.9, "centered": True}),
    "Adam": ("Adam", {"weight_decay": 0.01}),
    "Adam.amsgrad": ("Adam", {"amsgrad": True, "betas": [0.9, 0.99]}),
    "AdamW": ("AdamW", {"betas": [0.9, 0.95], "weight_decay": 0.1}),
    "AdamW.amsgrad": ("AdamW", {"amsgrad": True}),
    "NAdam": ("NAdam", {}),
    "NAdam.decoupled": (
        "NAdam",
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1},
    ),
    "RAdam": ("RAdam", {"betas": [0.9, 0.9]}),
    "RAdam.decoupled": ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "Adamax": ("Adamax", {"weight_decay": 0.01}),
    "Adadelta": ("Adadelta", {}),
    "Rprop": ("Rprop", {}),
    "ASGD": ("ASGD", {"t0": 10, "lambd": 0.01}),
    "Adafactor": ("Adafactor", {"weight_decay": 0.01}),
    "Muon": ("Muon", {}),
}


def record(torch, kind, kwargs, inputs):
    leaves = ["w", "t"] if kind == "Muon" else ["w", "b", "s"]
    params = [
        torch.nn.Parameter(torch.tensor(inputs[f"p0/{leaf}"], dtype=torch.float32))
        for leaf in leaves
    ]
    optimizer = getattr(torch.optim, kind)(params, **kwargs)
    arrays, path = {}, []
    for t in range(BEFORE + AFTER):
        if t == BEFORE:
            saved = optimizer.state_dict()
            for i, slots in saved["state"].items():
                for slot, x in slots.items():
                    if x is not None:
                        arrays[f"state/{i}/{slot}"] = torch.as_tensor(x).numpy().copy()
        if t >= BEFORE:
            path.append([p.detach().numpy().copy() for p in params])
        for leaf, p in zip(leaves, params, strict=True):
            p.grad = torch.tensor(inputs[f"plain/{leaf}"][t], dtype=torch.float32)
        optimizer.step()
    path.append([p.detach().numpy().copy() for p in params])
    for i, leaf in enumerate(leaves):
        arrays[leaf] = np.stack([row[i] for row in path])
    return {"cls": kind, "leaves": leaves, "param_groups": saved["param_groups"]}, arrays


def main():
    import torch

    inputs = dict(np.load(FOLDER / "inputs.npz"))
    meta, arrays = {}, {}
    for case, (kind, kwargs) in CASES.items():
        meta[case], recorded = record(torch, kind, kwargs, inputs)
        arrays |= {f"{case}/{key}": x for key, x in recorded.items()}
    np.savez_compressed(FOLDER / "ported_torch.npz", **arrays)
    written = {"torch": torch.__version__, "before": BEFORE, "cases": meta}
    (FOLDER / "ported_torch.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
