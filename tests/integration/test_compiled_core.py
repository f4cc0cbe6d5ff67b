"""The core compiled to machine code: the wheel can be built, and does what the Python does.

By default, and in all other tests, the core is Python. What is built here is unpacked beside it, and the tests of the
core run once more, with that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

PROJECT = Path(__file__).parents[2]
TESTS = ["trips", "telemetry", "compiled", "test_processor.py"]

uv = os.environ.get("UV") or shutil.which("uv")


@pytest.mark.timeout(600)
@pytest.mark.skipif(uv is None, reason="uv builds the wheel")
@pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler is needed")
def test_the_compiled_core_passes_the_tests_of_the_core(tmp_path):
    environment = os.environ | {"HATCH_BUILD_HOOKS_ENABLE": "1"}
    build = [uv, "build", "--quiet", "--python", sys.executable, "--out-dir", str(tmp_path / "dist"), str(PROJECT)]
    done = subprocess.run(build, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "compiled")

    here = os.environ | {"PYTHONPATH": str(tmp_path / "compiled")}
    look = (
        "from streams.trips import packed, vehicle; from streams import intake, processor; "
        "print(*(one.__file__ for one in (vehicle, processor, intake, packed)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", look], env=here, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [Path(path).suffix for path in found.stdout.split()] == [".so"] * 4

    # Not "python -m pytest", which would look for the modules in the project first.
    pytest_itself = Path(sys.executable).with_name("pytest")
    tests = [str(PROJECT / "tests/unit" / name) for name in TESTS]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", str(PROJECT / "pyproject.toml")]
    done = subprocess.run(
        [str(pytest_itself), *options, *tests], env=here, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 1000
    assert "skipped" not in done.stdout
