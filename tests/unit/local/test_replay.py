from streams.local.replay import pace


def line(time, vehicle="A"):
    return f'{{"vehicle_id": "{vehicle}", "timestamp": "2026-03-01T{time}Z", "speed_in_kmh": 1}}'.encode()


def test_messages_are_paced_by_their_timestamps():
    paced = list(pace([line("08:00:00"), line("08:00:01.500"), line("08:00:04", "B")], 10))
    assert [message.at_s for message in paced] == [0.0, 1.5, 4.0]
    assert [message.key for message in paced] == [b"A", b"A", b"B"]
    assert paced[1].time_ms == 1_772_352_001_500


def test_long_pauses_are_cut():
    paced = list(pace([line("08:00:00"), line("20:00:00"), line("20:00:01")], 10))
    assert [message.at_s for message in paced] == [0.0, 10.0, 11.0]


def test_what_is_older_or_has_no_time_goes_at_once():
    paced = list(pace([line("08:00:05"), line("08:00:01"), b"not JSON", line("08:00:06")], 10))
    assert [message.at_s for message in paced] == [0.0, 0.0, 0.0, 1.0]
    assert paced[2].key is None
    assert paced[2].value == b"not JSON"


def test_blank_lines_are_left_out():
    assert len(list(pace([b"", b"  ", line("08:00:00")], 10))) == 1


def test_the_newest_property_counts():
    message = (
        b'{"vehicle_id": "A", "speed_in_kmh": {"timestamp": "2026-03-01T08:00:00Z", "value": 1}, '
        b'"ignition": {"timestamp": "2026-03-01T08:00:02Z", "value": "ON"}}'
    )
    assert next(pace([message], 10)).time_ms == 1_772_352_002_000
