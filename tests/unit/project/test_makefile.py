import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from repository import TOP

MAKEFILE = (TOP / "Makefile").read_text()
UV_VERSION = re.search(r"^UV_VERSION := (.*)$", MAKEFILE, flags=re.MULTILINE)[1]
CP, MKDIR = shutil.which("cp"), shutil.which("mkdir")


@pytest.fixture
def folder(tmp_path):
    """A machine with make and the usual Unix commands, but without Python or uv, and the Makefile."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for command in ("make", "sh", "awk", "env", "rm", "find"):
        (commands / command).symlink_to(shutil.which(command))
    shutil.copy(TOP / "Makefile", tmp_path)
    return tmp_path


def make(folder, *arguments):
    return subprocess.run(
        [folder / "bin" / "make", *arguments],
        cwd=folder,
        env={"PATH": str(folder / "bin"), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def put(folder, name, script):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_make_alone_lists_every_target(folder):
    listed = re.findall(r"^  make (\w+)", make(folder).stdout, flags=re.MULTILINE)
    assert listed == re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[1].split()


def test_uv_on_the_path_is_used(folder):
    put(folder, "uv", 'echo "uv $*, downloads: $UV_PYTHON_DOWNLOADS"')
    result = make(folder, "demo", "ARGS=--json")
    assert result.returncode == 0, result.stderr
    assert "uv run trips demo --json, downloads: never" in result.stdout
    assert not (folder / ".uv").exists()


def test_without_a_python_that_fits_one_line_says_so(folder):
    put(folder, "python3", "exit 1  # as one that is too old answers")
    result = make(folder, "demo")
    assert result.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13, and there is none on the PATH" in result.stderr
    assert not (folder / ".uv").exists()


def test_without_uv_it_is_put_beside_the_makefile_with_the_first_python_that_fits(folder):
    # What venv and pip do is played by scripts: nothing is fetched here.
    put(folder, "uv-to-be", 'echo "uv $*"')
    put(
        folder,
        "python-to-be",
        f'echo "pip $*"; case "$*" in "-m pip install "*uv=={UV_VERSION}) {CP} {folder}/bin/uv-to-be .uv/bin/uv;; esac',
    )
    put(folder, "python3", "exit 1  # as one that is too old, or too new, answers")
    put(
        folder,
        "python3.12",
        f"""case "$*" in
            "-m venv --clear .uv") {MKDIR} -p .uv/bin && {CP} {folder}/bin/python-to-be .uv/bin/python;;
            *) exec {sys.executable} "$@";;
        esac""",
    )
    result = make(folder, "test", "ARGS=-x")
    assert result.returncode == 0, result.stderr
    assert f"putting uv {UV_VERSION} into .uv/" in result.stderr
    command = "uv run pytest -n 2 --dist loadfile -x"
    assert result.stdout.splitlines()[-2:] == [f".uv/bin/{command}", command]
    assert "pip" not in make(folder, "test").stdout, "the second time it is there"


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (TOP / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\bmake --no-print-directory test\b", (TOP / ".ci" / "run").read_text())


def test_ci_goes_on_after_a_failure_and_fails_in_the_end(folder):
    (folder / ".ci").mkdir()
    shutil.copy(TOP / ".ci" / "run", folder / ".ci")
    for command in ("bash", "dirname", "mktemp", "tee", "tail"):
        (folder / "bin" / command).symlink_to(shutil.which(command))
    put(folder, "uv", 'echo "uv $*"; case "$*" in "run pytest"*) echo "=== 1 failed in 1s ==="; exit 1;; esac')
    result = subprocess.run(
        [folder / ".ci" / "run"], env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "uv run ruff check" in result.stdout
    assert "uv run mypy" in result.stdout
    assert result.stdout.rstrip().endswith("=== 1 failed in 1s ===")
    assert result.stderr.rstrip().endswith("failed: tests")


def test_commit_hooks_fetch_nothing_and_run_what_ci_runs():
    config = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["entry"] for hook in hooks} == {"make lint", "make types", "make test"}
    assert {hook["language"] for hook in hooks} == {"system"}


def test_ci_is_executable():
    assert os.access(TOP / ".ci" / "run", os.X_OK)
