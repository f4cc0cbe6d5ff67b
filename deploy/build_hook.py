"""A build hook of Hatchling: compiles the Cython sources of the package into the wheel. See docs/performance.md.

It is off unless it is asked for (``HATCH_BUILD_HOOKS_ENABLE=1``), as the hook that compiles the rest of the core is.
"""

# ruff: noqa: INP001

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

# The same sums as Python's, whatever the processor: no multiplication and addition in one.
_OPTIONS = ["-O2", "-ffp-contract=off"] if os.name == "posix" else []


class CythonBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Compiles aside, and leaves nothing in the source tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - Hatchling's signature
        """Before the wheel is put together."""
        root = Path(self.root)
        self._aside = TemporaryDirectory()
        extensions = [
            Extension(
                ".".join(source.relative_to(root).with_suffix("").parts),
                [str(source.relative_to(root))],
                extra_compile_args=_OPTIONS,
            )
            for source in sorted((root / "streams").rglob("*.pyx"))
        ]
        before = Path.cwd()
        os.chdir(root)
        try:
            modules = cythonize(extensions, build_dir=self._aside.name, quiet=True)
            command = build_ext(Distribution({"name": self.metadata.name, "ext_modules": modules}))
            command.build_lib = command.build_temp = self._aside.name
            command.ensure_finalized()
            command.run()
        finally:
            os.chdir(before)
        for output in command.get_outputs():
            build_data["force_include"][output] = str(Path(output).relative_to(self._aside.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """After it."""
        self._aside.cleanup()
