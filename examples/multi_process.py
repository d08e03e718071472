"""Training in several processes: one is killed, and others go on from its checkpoint.

    pip install -e '.[examples]'    # in a clone
    python multi_process.py
    python multi_process.py --processes 4 --then 3 --steps 20 --kill-at 12

Each process has its shard of every batch, and of the state of the optimizer (`zero1`), of
which it writes its part into checkpoints. On one machine, as above, the script starts the
processes itself, and four times: undisturbed; with one that is killed by SIGKILL at some
step; from the last checkpoint, as many as before; and from there, another number. The third
must end with the parameters of the first bit for bit, the fourth with the same to rounding.

On a cluster a scheduler starts one process on each host, and again when one has died; with
all the folder is on a file system that they share, and they go on from what is in it,
however many they are:

    srun python multi_process.py --folder /shared/run       # It knows of Slurm, Open MPI;
    python multi_process.py --folder /shared/run --worker   # where JAX finds out by itself;
    python multi_process.py --folder /shared/run --coordinator host0:1234 \\
        --processes 8 --process 3                           # and anywhere else.

Start reading at `train`.
"""

import argparse
import inspect
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import optimjax as ox

try:
    import orbax.checkpoint as ocp
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing; get it with: pip install -e '.[examples]' in a clone"
    ) from None

HIDDEN = 50  # Which neither 3 nor 4 divides: there `zero1` pads some of the leaves.
BATCH = 96  # All processes together.
HEARTBEAT = 10  # Seconds of silence after which a process is held to be dead.
PATIENCE = 15  # Seconds that the others have to see that one is dead.
ROUNDING = 1e-6  # What may differ where sums over processes are taken in another order.
END = "end.npz"
# Each process of a job has one of these, which Slurm and Open MPI set.
OF_A_JOB = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK")

Params = dict[str, jax.Array]


# The task: digits, a network, a loss.


def init_network(key: jax.Array) -> Params:
    first, second = jax.random.split(key)
    normal = jax.nn.initializers.he_normal()
    return {
        "w1": normal(first, (64, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": normal(second, (HIDDEN, 10)),
        "b2": jnp.zeros(10),
    }


def network(params: Params, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(x @ params["w1"] + params["b1"])
    return x @ params["w2"] + params["b2"]


def loss(params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy: of a batch, the mean over the shards of all processes."""
    log_p = jax.nn.log_softmax(network(params, x))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def judge(params: Params, x: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    right = jnp.argmax(network(params, x), axis=1) == labels
    return {"loss": loss(params, x, labels), "accuracy": jnp.mean(right)}


class Shards:
    """The batches of all steps, of which this process reads its shard."""

    def __init__(self, mesh: Mesh):
        pixels, labels = load_digits(return_X_y=True)
        self.pixels = np.asarray(pixels / 16, np.float32)
        self.labels = np.asarray(labels, np.int32)
        self.rows = NamedSharding(mesh, PartitionSpec("data"))

    def __getitem__(self, step: int) -> tuple[jax.Array, jax.Array]:
        """The batch of a step: the same one, however many share it."""
        order = np.random.default_rng(step).permutation(len(self.labels))[:BATCH]
        mine = np.split(order, jax.process_count())[jax.process_index()]
        return (
            jax.make_array_from_process_local_data(self.rows, self.pixels[mine]),
            jax.make_array_from_process_local_data(self.rows, self.labels[mine]),
        )


# One of the processes.


def make_optimizer(mesh: Mesh, devices: int | None = None) -> ox.GradientTransformation:
    adamw = ox.chain(ox.clip_by_global_norm(1.0), ox.adamw(3e-3))
    return ox.zero1(adamw, mesh, devices=devices)


def train(arguments: argparse.Namespace) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    job = arguments.coordinator, arguments.processes, arguments.process
    known = inspect.signature(jax.distributed.initialize).parameters
    # JAX 0.6 cannot be told; there it is 100 seconds.
    beat: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT}
    jax.distributed.initialize(*job, **{k: v for k, v in beat.items() if k in known})
    chief = jax.process_index() == 0
    mesh = Mesh(jax.devices(), ("data",))
    if BATCH % mesh.size:
        raise SystemExit(f"{mesh.size} devices do not divide a batch of {BATCH}")
    optimizer, batches = make_optimizer(mesh), Shards(mesh)

    @jax.jit
    def step(params: Params, state: Any, x: Any, labels: Any) -> tuple[Params, Any, Any]:
        value, gradient = jax.value_and_grad(loss)(params, x, labels)
        updates, state = optimizer.update(gradient, state, params)
        return ox.apply_updates(params, updates), state, value

    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.jit(init_network, out_shardings=whole)(jax.random.key(0))
    state = optimizer.init(params)
    options = ocp.CheckpointManagerOptions(save_interval_steps=arguments.every)
    with ocp.CheckpointManager(arguments.folder / "steps", options=options) as files:
        first = files.latest_step() or 0  # A checkpoint has the number of steps done.
        if first:
            params, state = restore(files, params, state, mesh)
        for i in range(first, arguments.steps):
            if i == arguments.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            params, state, value = step(params, state, *batches[i])
            save(files, i + 1, params, state, mesh)
            if chief:
                print(f"step {i + 1} of {arguments.steps}: loss {value:.4f}", flush=True)
    if chief:
        end = jax.device_get(params)
        about = jax.jit(judge)(end, batches.pixels, batches.labels)
        parts = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)]
        np.savez(arguments.folder / END, **end, **about, first=first, state=sum(parts))


def save(
    files: ocp.CheckpointManager, steps: int, params: Params, state: Any, mesh: Mesh
) -> None:
    """Writes a checkpoint, if it is time, each process its part, while all go on."""
    files.save(
        steps,
        args=ocp.args.Composite(
            run=ocp.args.StandardSave((params, state)),
            about=ocp.args.JsonSave({"devices": mesh.size}),
        ),
    )


def restore(
    files: ocp.CheckpointManager, params: Params, state: Any, mesh: Mesh
) -> tuple[Params, Any]:
    """What the last checkpoint has, in the place of `params` and of a fresh `state`."""
    steps = files.latest_step()
    about = files.restore(steps, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
    devices = about["about"]["devices"]
    if jax.process_index() == 0:
        print(f"{steps} steps are done, on {devices} devices; going on with {mesh.size}")
    # It is read in the shapes that it had on so many.
    then = make_optimizer(mesh, devices).init(params)
    run = ocp.args.StandardRestore((params, then))
    params, then = files.restore(steps, args=ocp.args.Composite(run=run))["run"]
    return params, ox.change_devices(then, state)


# All of them, on one machine.


class Run(NamedTuple):
    name: str
    processes: int
    first: int  # The step that it began with,
    last: int  # and the last one that was printed.
    seconds: float
    how: str  # It ended.
    end: dict[str, np.ndarray] | None  # If nothing killed it.


class Launcher:
    """Starts processes, shows how they get on, and sees to it that all of them end."""

    def __init__(self, arguments: argparse.Namespace, progress: Progress):
        self.arguments, self.progress = arguments, progress

    def run(self, name: str, processes: int, folder: Path, *, die_at: int = -1) -> Run:
        """One run; at step `die_at` the victim among them is killed."""
        (folder / "steps").mkdir(parents=True, exist_ok=True)
        task = self.progress.add_task(name, total=self.arguments.steps)
        begin = time.perf_counter()
        logs = [folder / f"process_{i}.log" for i in range(processes)]
        port, workers = free_port(), []
        last = [0]
        try:
            for i, log in enumerate(logs):
                victim = i == self.arguments.victim
                workers.append(
                    self.start(i, processes, port, folder, log, die_at if victim else -1)
                )
            reading = threading.Thread(target=self.follow, args=(workers[0], task, last))
            reading.start()
            how = wait(workers)
            reading.join()
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        seconds = time.perf_counter() - begin
        codes = [worker.returncode for worker in workers]
        if die_at >= 0 and codes[self.arguments.victim] == -signal.SIGKILL:
            dead = f"process {self.arguments.victim} killed at step {die_at + 1}, {how}"
            return Run(name, processes, 0, last[0], seconds, dead, None)
        if any(codes):
            first = next(i for i, code in enumerate(codes) if code)
            tail = "".join(logs[first].read_text().splitlines(keepends=True)[-30:])
            raise SystemExit(f"process {first} of {processes} ended unasked:\n\n{tail}")
        with np.load(folder / END) as file:
            end = dict(file)
        return Run(name, processes, int(end.pop("first")), last[0], seconds, "all", end)

    def start(
        self, process: int, processes: int, port: int, folder: Path, log: Path, die_at: int
    ) -> subprocess.Popen[str]:
        given = {
            "--coordinator": f"localhost:{port}",
            "--processes": processes,
            "--process": process,
            "--folder": folder,
            "--steps": self.arguments.steps,
            "--every": self.arguments.every,
            "--die-at": die_at,
        }
        here = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            # What one run has compiled, the next does not compile again.
            "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        with log.open("w") as stderr:
            return subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    *(str(x) for pair in given.items() for x in pair),
                ],
                env={**os.environ, **here},
                stdout=subprocess.PIPE if process == 0 else stderr,
                stderr=stderr,
                text=True,
            )

    def follow(self, worker: subprocess.Popen[str], task: Any, last: list[int]) -> None:
        """Reads what the first process prints."""
        assert worker.stdout is not None
        with worker.stdout:
            for line in worker.stdout:
                if found := re.match(r"step (\d+) of", line):
                    last[0] = int(found[1])
                    self.progress.update(task, completed=last[0])


def wait(workers: list[subprocess.Popen[str]]) -> str:
    """Until all have ended. When one has died, the others have some time to see that."""
    died = None
    while any(worker.poll() is None for worker in workers):
        if died is None and any(worker.poll() for worker in workers):
            died = time.perf_counter()
        if died is not None and time.perf_counter() - died > PATIENCE:
            for worker in workers:
                worker.kill()
            return f"the others after it, {PATIENCE} s later, by the launcher"
        time.sleep(0.05)
    if died is None:
        return ""
    return f"which the others saw within {time.perf_counter() - died:.1f} s"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def launch(arguments: argparse.Namespace, folder: Path, progress: Progress) -> list[Run]:
    launcher, count, then = (
        Launcher(arguments, progress),
        arguments.processes,
        arguments.then,
    )
    runs = [
        launcher.run("undisturbed", count, folder / "undisturbed"),
        launcher.run("one is killed", count, folder / "killed", die_at=arguments.kill_at),
    ]
    for number in dict.fromkeys((count, then)):
        copy = folder / f"resumed_by_{number}"
        shutil.copytree(folder / "killed" / "steps", copy / "steps")
        runs.append(launcher.run(f"resumed by {number}", number, copy))
    return runs


def make_table(runs: list[Run]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("\nrun", no_wrap=True)
    for above in (
        "\nprocesses",
        "\nsteps",
        "\nloss",
        "accu-\nracy",
        "state of\none, bytes",
    ):
        table.add_column(above, justify="right", no_wrap=True)
    table.add_column("\nseconds", justify="right", no_wrap=True)
    for run in runs:
        end = run.end
        cells = ("", "", "")
        if end is not None:
            cells = f"{end['loss']:.4f}", f"{end['accuracy']:.3f}", f"{end['state']}"
        span = f"{run.first + 1} to {run.last}"
        table.add_row(run.name, str(run.processes), span, *cells, f"{run.seconds:.1f}")
    return table


def compare(runs: list[Run]) -> tuple[list[str], bool]:
    """How the resumed runs differ from the first one, and whether they may."""
    undisturbed, _, *resumed = runs
    lines, fine = [], True
    for run in resumed:
        assert undisturbed.end is not None
        assert run.end is not None
        pairs = [
            (undisturbed.end[name], run.end[name]) for name in ("w1", "b1", "w2", "b2")
        ]
        most = np.max([np.abs(x - y).max() for x, y in pairs])  # NaN, if there is one.
        if run.processes == undisturbed.processes:
            good, must = all(map(np.array_equal, *zip(*pairs, strict=True))), "bit for bit"
        else:
            good, must = bool(most <= ROUNDING), f"to float32 rounding ({ROUNDING:g})"
        verdict = "the same" if good else "NOT THE SAME"
        lines.append(
            f"{run.name}: parameters {verdict} as undisturbed {must}; the largest "
            f"difference is {most:.3g}"
        )
        fine = fine and good
    return lines, fine


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    number = {"type": int, "metavar": "N"}
    parser.add_argument("--processes", **number, help="how many (on one machine: 3)")
    parser.add_argument("--then", **number, default=2, help="how many go on (default: 2)")
    parser.add_argument("--steps", **number, default=40, help="(default: 40)")
    parser.add_argument(
        "--every", **number, default=8, help="steps between checkpoints (default: 8)"
    )
    parser.add_argument("--kill-at", **number, help="at which step (default: by chance)")
    parser.add_argument(
        "--victim", **number, help="which process, from 0 (default: by chance)"
    )
    parser.add_argument("--folder", type=Path, help="for checkpoints")
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument("--worker", action="store_true", help="this is one of them")
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="where the first is")
    cluster.add_argument("--process", **number, help="which one this is, from 0")
    parser.add_argument("--die-at", **number, default=-1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given = arguments.coordinator is not None or arguments.process is not None
    arguments.worker |= given or any(name in os.environ for name in OF_A_JOB)
    if arguments.steps < 2 or not 0 < arguments.every < arguments.steps:
        parser.error("it takes 2 steps at least, and a checkpoint before the last")
    if arguments.worker:
        if arguments.folder is None:
            parser.error("on a cluster give a --folder that all processes share")
        arguments.folder = arguments.folder.resolve()
        return arguments
    if arguments.processes is None:
        arguments.processes = 3
    if not (2 <= arguments.processes <= 4 and 1 <= arguments.then <= 4):
        parser.error("on one machine it takes 2 to 4 processes, and then 1 to 4")
    if arguments.folder is not None and arguments.folder.exists():
        parser.error(f"there is a folder {str(arguments.folder)!r}; give a new one")
    if arguments.kill_at is None:
        # The second checkpoint waits until the first is whole: there is one by then.
        first = min(2 * arguments.every + 1, arguments.steps)
        arguments.kill_at = random.randint(first, arguments.steps)
    if arguments.victim is None:
        arguments.victim = random.randrange(arguments.processes)
    if not 1 <= arguments.kill_at <= arguments.steps:
        parser.error(f"--kill-at is a step from 1 to {arguments.steps}")
    if not 0 <= arguments.victim < arguments.processes:
        parser.error(f"--victim is a process from 0 to {arguments.processes - 1}")
    arguments.kill_at -= 1  # People count from one.
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.worker:
        try:
            train(arguments)
        except Exception:
            # To end in good order, it would wait for those that are dead.
            traceback.print_exc()
            os._exit(1)
        return
    # Progress goes to stderr, so that what is piped on is the table alone.
    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as progress,
        tempfile.TemporaryDirectory() as folder,
    ):
        runs = launch(arguments, arguments.folder or Path(folder), progress)
    console = Console()
    console.width = max(console.width, 100)  # Narrower, numbers would be cut off.
    console.print(make_table(runs))
    lines, fine = compare(runs)
    lines = [
        "loss and accuracy: over all images; state of one: what one process keeps of it",
        f"{runs[1].name}: {runs[1].how}",
        *lines,
    ]
    console.print(*lines, sep="\n", highlight=False)
    if not fine:
        sys.exit(1)


if __name__ == "__main__":
    main()
