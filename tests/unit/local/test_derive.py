import json

from streams.local.derive import derive_lines
from streams.local.files import RECORDED_DRIVES, read_lines
from streams.settings import Settings


def line(time, **properties):
    return json.dumps({"vehicle_id": "A", "timestamp": f"2026-03-01T{time}Z", **properties}).encode()


def derive(lines, *, close=False, **settings):
    announcements, complaints = [], []
    bad = derive_lines(
        lines,
        Settings.given(**settings),
        write=lambda payload: announcements.append(json.loads(payload)),
        complain=complaints.append,
        close=close,
    )
    return announcements, complaints, bad


def kinds(announcements):
    return [one["metadata"]["type"] for one in announcements]


def test_the_revision_is_the_line_number_blank_and_bad_lines_count():
    announcements, complaints, bad = derive(
        [b"", line("08:00:00", ignition="ON"), b"not JSON", line("08:10:00", ignition="OFF")]
    )
    assert [(one["metadata"]["type"], one["data"]["trip"]["revision"]) for one in announcements] == [
        ("TripStarted", 2),
        ("TripEnded", 4),
        ("TripDataReady", 4),
    ]
    assert bad == 1
    (complaint,) = complaints
    assert complaint.startswith("line 3: ")
    assert not complaint.endswith("(the rest of the line counts)")


def test_the_good_part_of_a_line_counts():
    announcements, complaints, bad = derive([line("08:00:00", ignition="ON", speed_in_kmh=-1)])
    assert kinds(announcements) == ["TripStarted"]
    assert bad == 1
    assert complaints[0].startswith('line 1: "speed_in_kmh" is -1')
    assert complaints[0].endswith(" (the rest of the line counts)")


def test_late_lines_are_told_but_not_bad():
    _, complaints, bad = derive(
        [line("00:00:00", speed_in_kmh=0), line("20:00:00", speed_in_kmh=0), line("10:00:00", speed_in_kmh=5)],
        correction_horizon="PT1H",
    )
    assert bad == 0
    assert complaints[0].startswith("line 3: late: behind the correction horizon: speed_in_kmh of 2026-03-01T10:00:00Z")


def test_the_skew_of_clocks_is_not_checked():
    assert kinds(derive([b'{"vehicle_id": "A", "timestamp": 4102444800000, "ignition": "ON"}'])[0]) == ["TripStarted"]


def test_only_close_ends_what_is_still_on():
    lines = [line("08:00:00", ignition="ON"), line("08:10:00", speed_in_kmh=9)]
    assert kinds(derive(lines)[0]) == ["TripStarted"]
    announcements, _, _ = derive(lines, close=True)
    assert kinds(announcements) == ["TripStarted", "TripEnded", "TripDataReady"]
    assert announcements[-1]["data"]["trip"]["flags"] == ["START_UNOBSERVED", "END_INFERRED"]


def test_a_batch_is_a_thousand_lines():
    trip = [line("08:00:00", ignition="ON"), line("08:30:00", ignition="OFF")]
    corrections = [line(f"08:{n // 60:02}:{n % 60:02}", position={"lat": 50.0, "lon": 7.0}) for n in range(1, 1198)]
    announcements, _, _ = derive([b"", *trip, *corrections])
    revisions = [one["data"]["trip"]["revision"] for one in announcements if one["metadata"]["type"] == "TripDataReady"]
    assert revisions == [3, 1000, 1200]


def test_the_recorded_drives():
    announcements, _, _ = derive(read_lines(str(RECORDED_DRIVES)))
    assert sorted(kinds(announcements)) == (
        ["TripDataReady"] * 6 + ["TripDiscarded"] + ["TripEnded"] * 7 + ["TripStarted"] * 7
    )
    ready = [one["data"]["trip"]["metrics"] for one in announcements if one["metadata"]["type"] == "TripDataReady"]
    assert [metrics["distance_source"] for metrics in ready] == ["ODOMETER"] * 6
    expected = [8.359, 1.215, 3.340, 12.734, 1.100, 2.257]
    assert all(abs(metrics["distance_in_km"] - km) < 0.001 for metrics, km in zip(ready, expected, strict=True))
    (discarded,) = [one["data"] for one in announcements if one["metadata"]["type"] == "TripDiscarded"]
    assert (discarded["reason"], discarded["trip"]["metrics"]["duration_in_ms"]) == ("TOO_SHORT", 53_000)
