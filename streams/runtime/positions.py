"""Where to go on in the source, when a partition is taken over: what the state says, or nothing at all.

State and offset are committed in one transaction, and the state says which offset that was. So the state is the
authority: that the group's offset is reset, or has expired, changes nothing. Wherever going on could leave records out
or apply some to a state that they do not belong to, the worker refuses, and says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from streams.errors import ClusterError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.errors import TripsError
    from streams.records import Standing

__all__ = ["START_ANEW", "Found", "Names", "Start", "check_ids", "refuse", "start_of"]

START_ANEW: Final = (
    "start with empty state: another TRIPS_APPLICATION_ID and a TRIPS_REVISION_BASE above every published revision "
    '(`trips check` names it; docs/operating.md, "Starting anew")'
)


class Names(NamedTuple):
    """Of which topics the messages speak."""

    application_id: str
    telemetry: str
    changelog: str
    anew: str = START_ANEW
    """What to do where nothing else helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the brokers say of a partition of the source.

    Attributes:
        begin: the first offset that is still there.
        end: the one behind the last that is there (the high watermark: no open transaction holds it back).
        committed: by the group; None: nothing.
        marked: the committed offset is ours.
    """

    begin: int
    end: int
    committed: int | None
    marked: bool


@dataclass(frozen=True, slots=True)
class Start:
    """Where to go on.

    Attributes:
        offset: of the next record.
        recorded: state and group both say so already.
        lost: records that are gone, and that will be missing for good, because somebody has decided so.
        remark: what somebody may want to look at, a line.
    """

    offset: int
    recorded: bool = True
    lost: int = 0
    remark: str | None = None


def start_of(partition: int, names: Names, state: Standing, found: Found, *, empty: bool) -> Start:
    """Where a partition goes on.

    Args:
        partition: its number.
        names: for the messages.
        state: where its state stands.
        found: what the brokers say.
        empty: there is no vehicle in the state.

    Raises:
        StateError: the state is missing.
        ClusterError: records are missing, or the source is not what it was.
    """
    if state.next_offset is None:
        return _without_state(partition, names, found, empty=empty)
    return _with_state(partition, names, state.next_offset, found)


def _without_state(partition: int, names: Names, found: Found, *, empty: bool) -> Start:
    """The changelog does not say where it stands: nothing was ever applied, or a version before format 2 did it."""
    if found.committed is None:
        return Start(found.begin, recorded=empty)
    if found.marked:
        raise StateError(
            f"{names.changelog} partition {partition} holds no state, but the group {names.application_id} has "
            f"committed offset {found.committed} of {names.telemetry} together with some: the changelog has been "
            f"deleted or cut off. To go on, {names.anew}."
        )
    _check_end(partition, names, found.committed, found, "the group has committed")
    if found.committed < found.begin:
        raise _unread(partition, names, found.committed, found)
    return Start(found.committed, recorded=False)


def _with_state(partition: int, names: Names, next_offset: int, found: Found) -> Start:
    _check_end(partition, names, next_offset, found, "the state goes on from")
    committed = found.committed
    if found.marked and committed is not None and committed > next_offset:
        raise StateError(
            f"{names.changelog} partition {partition} holds state up to offset {next_offset} of {names.telemetry}, but "
            f"the group {names.application_id} has committed offset {committed} together with newer state: brokers "
            f"have lost the end of the changelog, or it is a copy from before. To go on, {names.anew}."
        )
    if next_offset < found.begin:
        if committed is None or found.marked or committed < found.begin or committed > found.end:
            raise _unread(partition, names, next_offset, found)
        return Start(
            committed,
            recorded=False,
            lost=committed - next_offset,
            remark=(
                f"{names.telemetry} partition {partition}: goes on from offset {committed}, to which the group's "
                f"offset was reset; records {next_offset} to {committed - 1} are lost"
            ),
        )
    if committed == next_offset:
        return Start(next_offset, recorded=found.marked)
    what = "has no offset (expired?)" if committed is None else f"is at offset {committed} (reset?)"
    return Start(
        next_offset,
        recorded=False,
        remark=(
            f"{names.telemetry} partition {partition}: the group {names.application_id} {what}, but the state goes on "
            f"from offset {next_offset}, and that is what counts. To process records again, {names.anew}"
        ),
    )


def _check_end(partition: int, names: Names, offset: int, found: Found, who: str) -> None:
    if offset > found.end:
        raise ClusterError(
            f"{names.telemetry} partition {partition} ends at offset {found.end}, but {who} {offset}: the topic has "
            "been created anew or cut off, or brokers have lost records. Send what is missing again, and "
            f"{names.anew}."
        )


def _unread(partition: int, names: Names, offset: int, found: Found) -> ClusterError:
    return ClusterError(
        f"{names.telemetry} partition {partition} begins at offset {found.begin}: records {offset} to "
        f"{found.begin - 1} were deleted before they were read. To go on without them, stop all workers, and set the "
        f"group's offset: kafka-consumer-groups.sh --group {names.application_id} --topic "
        f"{names.telemetry}:{partition} --reset-offsets --to-earliest --execute"
    )


def check_ids(names: Names, state: Standing, ids: dict[str, bytes], *, where: str = "") -> None:
    """Check that a state belongs to the topics that are there now.

    Args:
        names: of them.
        state: what it was written for. Ids that either side does not know are not compared, and none are when nothing
            of the source was ever applied.
        ids: of the topics that are there, by name.
        where: a partition, for the message: " partition 3".

    Raises:
        ClusterError: the source has been deleted and created anew.
        StateError: the changelog has.
    """
    if state.next_offset is None:
        return
    telemetry, changelog = ids.get(names.telemetry), ids.get(names.changelog)
    if telemetry is not None and state.telemetry_id not in (None, telemetry):
        raise ClusterError(
            f"{names.telemetry}{where} is not the topic that the state in {names.changelog} was made from (up to "
            f"offset {state.next_offset}): it has been deleted and created anew. Put the telemetry since the start "
            f"of the oldest trip that was on into it, and {names.anew}."
        )
    if changelog is not None and state.changelog_id not in (None, changelog):
        raise StateError(
            f"{names.changelog}{where} is not the topic that its state was written to: it has been deleted and created "
            f"anew, and what it holds may not be whole. To go on, {names.anew}."
        )


def refuse(problems: Iterable[tuple[int, TripsError]]) -> None:
    """Raise what stands against taking partitions over, in one line.

    Raises:
        TripsError: the first of the problems, and of which partitions there are more.
    """
    (first, error), *others = sorted(problems, key=lambda problem: problem[0])
    if not others:
        raise error
    text = str(error).rstrip(".")
    more = ", ".join(str(partition) for partition, _ in others)
    raise type(error)(f"{text}. (Partition {first} is not the only one: {more} too.)")
