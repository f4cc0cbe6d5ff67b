"""Where a partition goes on: for each thing that can have happened to state, offset and source."""

import pytest

from streams.errors import ClusterError, StateError
from streams.records import Standing
from streams.runtime.positions import Found, Names, Start, check_ids, refuse, start_of

NAMES = Names("app", "telemetry", "changelog")
OLD, NEW = b"o" * 16, b"n" * 16


def start(next_offset, *, begin=0, end=100, committed=None, marked=True, empty=False):
    found = Found(begin=begin, end=end, committed=committed, marked=marked and committed is not None)
    return start_of(3, NAMES, Standing(next_offset), found, empty=empty)


def refused(kind, next_offset, **found):
    with pytest.raises(kind) as info:
        start(next_offset, **found)
    line = str(info.value)
    assert "\n" not in line
    assert "partition 3" in line
    return line


def test_what_was_never_read_starts_at_the_beginning():
    assert start(None, empty=True) == Start(0)
    assert start(None, begin=40, empty=True) == Start(40)


def test_state_and_offset_that_say_the_same_are_gone_on_from():
    assert start(70, committed=70) == Start(70)
    assert start(100, committed=100) == Start(100)
    assert start(40, begin=40, committed=40) == Start(40)


@pytest.mark.parametrize(("committed", "marked"), [(0, False), (100, False), (30, False), (71, False), (69, True)])
def test_another_offset_of_the_group_does_not_count(committed, marked):
    at = start(70, committed=committed, marked=marked)
    assert (at.offset, at.recorded, at.lost) == (70, False, 0)
    assert f"the group app is at offset {committed} (reset?), but the state goes on from offset 70" in at.remark
    assert "TRIPS_APPLICATION_ID" in at.remark


@pytest.mark.parametrize("begin", [0, 75])
def test_state_that_is_older_than_an_offset_of_ours_is_refused(begin):
    line = refused(StateError, 70, begin=begin, committed=80, marked=True)
    assert line.startswith("changelog partition 3 holds state up to offset 70 of telemetry, but the group app has")
    assert "committed offset 80 together with newer state" in line
    assert "another TRIPS_APPLICATION_ID" in line


def test_an_offset_that_has_expired_is_no_loss():
    at = start(70)
    assert (at.offset, at.recorded, at.lost) == (70, False, 0)
    assert "has no offset (expired?)" in at.remark


def test_an_offset_that_somebody_has_set_to_where_the_state_is_becomes_ours():
    assert start(70, committed=70, marked=False) == Start(70, recorded=False)


def test_an_offset_of_an_older_version_is_gone_on_from():
    assert start(None, committed=70, marked=False) == Start(70, recorded=False)
    assert start(None, committed=0, marked=False, empty=True) == Start(0, recorded=False)


def test_state_of_an_older_version_whose_offset_has_expired_starts_at_the_beginning():
    assert start(None, begin=5) == Start(5, recorded=False)


def test_an_offset_of_ours_without_state_is_refused():
    line = refused(StateError, None, committed=70, empty=True)
    assert line.startswith(
        "changelog partition 3 holds no state, but the group app has committed offset 70 of telemetry"
    )
    assert "another TRIPS_APPLICATION_ID" in line


def test_a_source_that_ends_before_the_state_is_refused():
    line = refused(ClusterError, 101, committed=101)
    assert line.startswith("telemetry partition 3 ends at offset 100, but the state goes on from 101")
    assert "Starting anew" in line


@pytest.mark.parametrize("committed", [None, 0, 100])
def test_no_offset_of_the_group_makes_up_for_a_source_that_ends_before_the_state(committed):
    refused(ClusterError, 101, committed=committed, marked=False)


def test_a_source_that_ends_before_the_offset_of_an_older_version_is_refused():
    assert "but the group has committed 101" in refused(ClusterError, None, committed=101, marked=False)


@pytest.mark.parametrize(("committed", "marked"), [(None, False), (70, True), (70, False), (89, False), (101, False)])
def test_records_that_are_gone_before_they_were_read_are_refused(committed, marked):
    line = refused(ClusterError, 70, begin=90, committed=committed, marked=marked)
    assert line.startswith("telemetry partition 3 begins at offset 90: records 70 to 89 were deleted before they were")
    assert "kafka-consumer-groups.sh --group app --topic telemetry:3 --reset-offsets --to-earliest --execute" in line


@pytest.mark.parametrize("committed", [90, 95, 100])
def test_somebody_may_decide_to_go_on_without_them(committed):
    at = start(70, begin=90, committed=committed, marked=False)
    assert (at.offset, at.recorded, at.lost) == (committed, False, committed - 70)
    assert f"records 70 to {committed - 1} are lost" in at.remark


def test_records_that_are_gone_before_an_older_version_read_them_are_refused():
    assert "records 70 to 89" in refused(ClusterError, None, begin=90, committed=70, marked=False)


# -- ids of topics -----------------------------------------------------------------------------------------------------


def test_a_source_that_was_created_anew_is_refused():
    with pytest.raises(ClusterError) as info:
        check_ids(NAMES, Standing(70, OLD, OLD), {"telemetry": NEW, "changelog": OLD}, where=" partition 3")
    assert str(info.value).startswith(
        "telemetry partition 3 is not the topic that the state in changelog was made from"
    )


def test_a_changelog_that_was_created_anew_is_refused():
    with pytest.raises(StateError, match="changelog partition 3 is not the topic that its state was written to"):
        check_ids(NAMES, Standing(70, OLD, OLD), {"telemetry": OLD, "changelog": NEW}, where=" partition 3")


@pytest.mark.parametrize(
    ("state", "ids"),
    [
        (Standing(70, OLD, NEW), {"telemetry": OLD, "changelog": NEW}),
        (Standing(70, None, None), {"telemetry": NEW, "changelog": NEW}),  # a broker that did not tell
        (Standing(70, OLD, OLD), {}),  # one that does not tell
        (Standing(None, OLD, OLD), {"telemetry": NEW, "changelog": NEW}),  # nothing was ever applied
    ],
)
def test_what_is_not_known_or_does_not_matter_is_not_compared(state, ids):
    check_ids(NAMES, state, ids)


def test_of_several_problems_the_first_is_told_and_where_there_are_more():
    with pytest.raises(ClusterError, match=r"^a of 1\. \(Partition 1 is not the only one: 2, 5 too\.\)$"):
        refuse([(5, StateError("no")), (1, ClusterError("a of 1.")), (2, StateError("no"))])
    with pytest.raises(StateError, match=r"^no$"):
        refuse([(5, StateError("no"))])
