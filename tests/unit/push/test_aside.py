"""Calls that may never come back."""

import subprocess
import sys

import pytest

from streams.push.aside import Aside

HANGING = """
import asyncio, threading
from streams.push.guard import Guard, GuardedResolver, Policy
from streams.settings import Settings

async def main():
    guard = Guard("https://example.com", Policy.of(Settings.given()))
    resolver = GuardedResolver(guard, lambda *_: threading.Event().wait())
    try:
        async with asyncio.timeout(0.1):
            await resolver.resolve("example.com")
    except TimeoutError:
        await resolver.close()
        print("closed")

asyncio.run(main())
"""


def test_the_process_ends_while_a_name_server_does_not_answer():
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=20, check=True)
    assert (ended.stdout, ended.stderr) == ("closed\n", "")


async def test_calls_return_and_raise_one_after_the_other():
    aside = Aside("test")
    assert await aside.run(int, "7") == 7
    with pytest.raises(ValueError, match="'x'"):
        await aside.run(int, "x")
    assert await aside.run(max, 1, 2) == 2
    aside.close()
