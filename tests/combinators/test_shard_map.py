"""Several devices, which JAX has to be told of before it starts."""

import os
import pathlib
import subprocess
import sys

import on_four_devices


def test_combinators_on_devices_are_those_on_one():
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, on_four_devices.__file__],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=4",
        },
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(on_four_devices.COMBINATORS)
