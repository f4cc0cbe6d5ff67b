"""Python's collector of cyclic garbage, kept from walking through the state.

State holds no cycles: what is not needed any more goes with its last reference. The collector does not know that, and
looks at every object of every vehicle each time that it collects all. Nothing else happens in the process meanwhile,
and with many vehicles that takes seconds.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["no_collections", "spare_the_state"]

# Young objects are looked at after so many more were made than given up (700 is Python's own figure: what is fetched
# and not worked off yet is many thousands), those that stayed after so many times of that (10), all of them after so
# many times of these (10).
_THRESHOLDS: Final = (100_000, 50, 1_000)


def spare_the_state() -> None:
    """Let full collections be rare. For the whole process."""
    gc.set_threshold(*_THRESHOLDS)


@contextmanager
def no_collections() -> Iterator[None]:
    """Have the collector rest: state that is read back makes many objects, and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
