"""Records of every kind that somebody may put into the source, whole ones and broken ones, made from a seed.

Each kind is there for a question: a reader that takes NaN for a number, a key that is not UTF-8, a header as large as
the record, a clock that is days ahead. The vehicles of a kind are its own, so that all of it can be in one partition.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["KINDS", "LIMITS", "ODD_TIMES", "Item", "corpus"]

Headers = tuple[tuple[str, bytes | None], ...]

START: Final = 1_772_352_000_000  # 2026-03-01T08:00:00Z
MINUTE: Final = 60_000
MEBIBYTE: Final = 2**20
KEY: Final = b"some key"

PROPERTIES: Final = (
    "ignition",
    "immobilizer",
    "driving_enabled",
    "position",
    "mileage_in_kilometers",
    "speed_in_kmh",
    "heading_in_degrees",
    "state_of_charge_or_fuel_level_in_percent",
    "state_of_charge_in_percent",
    "fuel_level_in_percent",
    "doors_status",
    "windows_status",
    "telematics_unit",
)
LIMITS: Final = {
    "mileage_in_kilometers": 10_000_000,
    "speed_in_kmh": 400,
    "heading_in_degrees": 360,
    "state_of_charge_or_fuel_level_in_percent": 100,
    "state_of_charge_in_percent": 100,
    "fuel_level_in_percent": 100,
}


@dataclass(frozen=True)
class Item:
    """A record to be sent. ``timestamp``: Kafka's, in epoch ms; None: when it is sent."""

    kind: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp: int | None = None

    @property
    def size(self) -> int:
        """About so many bytes."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.value or b"") + len(self.key or b"") + headers


class Maker:
    """What the kinds are made with.

    Args:
        kind: whose vehicles these are.
        seed: of everything.
        now: epoch ms, for clocks that are ahead of it.
    """

    def __init__(self, kind: str, seed: int, now: int) -> None:
        self.chance = random.Random(f"{seed} {kind}")
        self.now = now
        self._name = kind.replace(" ", "-")
        self._numbers = itertools.count()

    def vehicle(self) -> str:
        """Another one."""
        return f"{self._name}-{next(self._numbers)}"

    def text(self, fields: str, *, vehicle: str | None = None, time: str | None = None) -> bytes:
        """A message with these fields, written as they are."""
        vehicle = vehicle or self.vehicle()
        head = f'{{"vehicle_id":{json.dumps(vehicle)},"timestamp":{time or START}'
        return f"{head},{fields}}}".encode("utf-8", "surrogatepass")

    def message(self, **fields: Any) -> bytes:
        """A message with these fields; vehicle and time are there, unless they are among them."""
        return json.dumps({"vehicle_id": self.vehicle(), "timestamp": START, **fields}).encode()

    def drive(self) -> list[bytes]:
        """The messages of a trip of ten minutes."""
        vehicle = self.vehicle()
        said: list[dict[str, Any]] = [
            {"ignition": "OFF", "telematics_unit": {"id": "A", "brand": "B"}},
            {"ignition": "ON", "mileage_in_kilometers": 1000.1, "position": {"lat": 50.1, "lon": 7.1}},
            {"speed_in_kmh": 33.3, "position": {"lat": 50.11, "lon": 7.11, "altitude": 61}},
            {"ignition": "OFF", "mileage_in_kilometers": {"timestamp": START + 15 * MINUTE - 500, "value": 1004.9}},
        ]
        return [
            json.dumps({"vehicle_id": vehicle, "timestamp": START + number * 5 * MINUTE, **fields}).encode()
            for number, fields in enumerate(said)
        ]


KINDS: Final[dict[str, Callable[[Maker], Iterator[Any]]]] = {}


def kind(function: Callable[[Maker], Iterator[Any]]) -> Callable[[Maker], Iterator[Any]]:
    """One that yields items without a kind: values, (value, key), (value, key, headers), (…, Kafka's timestamp)."""
    KINDS[function.__name__.replace("_", " ")] = function
    return function


def corpus(seed: int, now: int, *, times: int = 1) -> dict[str, list[Item]]:
    """All kinds; those that are left to chance so many times as large."""
    made: dict[str, list[Item]] = {}
    for name, function in KINDS.items():
        rounds = range(times if name in BY_CHANCE else 1)
        items = (one for number in rounds for one in function(Maker(name, seed + number * 1_000_003, now)))
        own_key = f"{name}-key".encode()
        for one in items:
            value, key, *rest = one if isinstance(one, tuple) else (one, None)
            # A message without a vehicle is about the key's, which is the kind's own like all others.
            made.setdefault(name, []).append(Item(name, value, own_key if key == KEY else key, *rest))
    return made


# ----------------------------------------------------------------------------------------------------- bytes and JSON


@kind
def random_bytes(make: Maker) -> Iterator[Any]:
    for size in [*range(1, 20), *(make.chance.randrange(20, 2_000) for _ in range(40))]:
        yield make.chance.randbytes(size), KEY


@kind
def damaged_messages(make: Maker) -> Iterator[Any]:
    tokens = b'[ ] { } " : , 1 NaN null true \\ \\u0000 "a": 1e9 -'.split()
    for _ in range(30):
        for good in make.drive():
            value = bytearray(good)
            match make.chance.randrange(4):
                case 0:
                    del value[make.chance.randrange(len(value)) :]
                case 1:
                    for _ in range(make.chance.randrange(1, 5)):
                        value[make.chance.randrange(len(value))] = make.chance.randrange(256)
                case 2:
                    at = make.chance.randrange(len(value))
                    value[at : at + make.chance.randrange(9)] = make.chance.choice(tokens)
                case 3:
                    pass
            yield bytes(value), KEY


@kind
def truncated_messages(make: Maker) -> Iterator[Any]:
    good = make.drive()[1]
    for end in range(len(good)):
        yield good[:end], KEY


@kind
def JSON_of_every_shape(make: Maker) -> Iterator[Any]:  # noqa: N802
    shapes = ["null", "true", "false", "0", "-0", "1.5", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "12e-400"]
    shapes += ['""', '"text"', "[]", "{}", "[[]]", "[{}]", '{"":{}}', "[1,2,3]", '{"a":[{"b":null}]}', '["a",{"b":1}]']
    for shape in shapes:
        yield shape.encode(), KEY
        yield f"  {shape}\r\n\t".encode(), KEY
        for field in ("data", "metadata"):
            yield (
                json.dumps({"metadata": {}, "data": {}}).replace(f'"{field}": {{}}', f'"{field}": {shape}').encode(),
                b"k",
            )
        for field in ("vehicle_id", "timestamp", "unheard_of"):
            fields = {"vehicle_id": make.vehicle(), "timestamp": START, "ignition": "ON", "unheard_of": 0}
            yield json.dumps({**fields, field: "HERE"}).replace('"HERE"', shape).encode(), KEY


@kind
def JSON_nearly(make: Maker) -> Iterator[Any]:  # noqa: N802
    good = make.message(ignition="ON")
    text = good.decode()
    yield from (
        (value, KEY)
        for value in (
            good + b",",
            good + good,
            good + b"\n" + good,
            good + b"\x00",
            b"\x00" + good,
            good[:-1] + b",}",
            text.replace('"', "'").encode(),
            text.replace('"', "").encode(),
            b"/* a comment */" + good,
            good + b"// a comment",
            text.replace("ON", "O\nN").encode(),
            text.replace("ON", "O\\N").encode(),
            text.replace("ON", "\\u004f\\u004e").encode(),  # it is ON
            text.replace("ON", "\\u4f").encode(),
            b" " * 5_000 + good,
            b" ",
            b"",
            b"undefined",
            b"{'ignition'}",
            b'{"vehicle_id"}',
            b'{"vehicle_id":}',
            b'{:"ON"}',
            b"{,}",
            b"}{",
        )
    )


@kind
def names_that_are_there_twice(make: Maker) -> Iterator[Any]:
    vehicle = json.dumps(make.vehicle())
    for fields in (
        f'"vehicle_id":"twice","vehicle_id":{vehicle},"timestamp":{START},"ignition":"ON"',
        f'"vehicle_id":{vehicle},"timestamp":"never","timestamp":{START + MINUTE},"ignition":"ON"',
        f'"vehicle_id":{vehicle},"timestamp":{START + 2 * MINUTE},"ignition":"ON","ignition":"OFF"',
        f'"vehicle_id":{vehicle},"timestamp":{START + 3 * MINUTE},"ignition":"OFF","ignition":7',
        f'"vehicle_id":{vehicle},"timestamp":{START + 4 * MINUTE},"ignition":7,"ignition":"ON"',
        f'"vehicle_id":{vehicle},"timestamp":{START + 9 * MINUTE},"position":{{"lat":91,"lat":1,"lon":2}},"ignition":0',
    ):
        yield f"{{{fields}}}".encode(), KEY


@kind
def other_encodings(make: Maker) -> Iterator[Any]:
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "latin-1", "gb18030"):
        yield make.text('"ignition":"ON","unheard_of":"Größe 漢"').decode().encode(encoding, "replace"), KEY
    good = make.message(ignition="ON", note="HERE")
    for sequence in (
        b"\xc0\x80",  # NUL, written too long
        b"\xe0\x80\xaf",
        b"\xf0\x82\x82\xac",
        b"\xed\xa0\x80",  # half of a surrogate pair
        b"\xed\xa0\xbd\xed\xb8\x80",  # both halves, as CESU-8 has them
        b"\xf4\x90\x80\x80",  # beyond the last code point
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xff\xfe",
        b"\xe6\xbc",
    ):
        yield good.replace(b"HERE", sequence), KEY
        yield good.replace(b"ON", sequence), KEY


@kind
def nesting(make: Maker) -> Iterator[Any]:
    for depth in (30, 31, 32, 33, 34, 1_000, 10_000, 100_000):
        for start, end in (("[", "]"), ('{"a":', "}")):
            inside = start * depth + "1" + end * depth
            yield inside.encode(), KEY
            yield make.text(f'"ignition":"ON","unheard_of":{inside}')
            yield make.text(f'"ignition":"ON","position":{inside}')
            yield make.text(f'"ignition":{{"timestamp":{START},"value":{inside}}},"doors_status":"OPEN"')
            yield make.text(f'"ignition":{{"timestamp":{START},"value":"ON","unheard_of":{inside}}}')
            yield b'{"metadata":{"trace":%b},"data":%b}' % (inside.encode(), make.message(ignition="ON")), KEY
    yield b"[" * 500_000, KEY
    yield b'{"a":' * 100_000, KEY


@kind
def sizes(make: Maker) -> Iterator[Any]:
    empty = make.text('"ignition":"ON","unheard_of":""')
    for size in (MEBIBYTE - 1_000, *range(MEBIBYTE - 2, MEBIBYTE + 3), 2 * MEBIBYTE):
        value = make.text('"ignition":"ON","unheard_of":""')
        yield value[:-2] + b"y" * (size - len(value)) + b'"}'
    # A small batch that is large when it is unpacked.
    yield empty[:-2] + b"y" * (8 * MEBIBYTE) + b'"}'
    yield b" " * (4 * MEBIBYTE), KEY
    yield make.message(**{f"unheard_of_{number}": number for number in range(20_000)}, ignition="ON")
    yield make.message(ignition="ON", **{"n" * 70_000: 1})


# ------------------------------------------------------------------------------------------------------------- values


@kind
def properties_of_every_type(make: Maker) -> Iterator[Any]:
    values = [None, True, False, 0, 1, -1, 1.5, "", "text", "ON", "on", "1", [], [1], ["ON"], {}, {"value": 1}]
    values += [
        {"lat": 1},
        {"lat": 1, "lon": 2},
        {"lat": "1", "lon": 2},
        {"lat": None, "lon": 2},
        {"lat": 1, "lon": [2]},
    ]
    values += [{"id": "A"}, {"id": 1, "brand": "B"}, {"id": "", "brand": "B"}, {"id": "A" * 257, "brand": "B" * 256}]
    for name in PROPERTIES:
        vehicle = make.vehicle()
        for number, value in enumerate(values):
            time = START + number * MINUTE
            edge = {} if name == "ignition" else {"ignition": number % 5 < 3}
            written = value if number % 3 else {"timestamp": time - 7, "value": value}
            yield json.dumps({"vehicle_id": vehicle, "timestamp": time, name: written, **edge}).encode()
        for bad in ({"timestamp": START}, {"timestamp": None, "value": 1}, {"timestamp": [], "value": 1}):
            yield make.message(**{name: bad, "doors_status": "OPEN"})


@kind
def numbers(make: Maker) -> Iterator[Any]:
    always = [
        "0",
        "-0.0",
        "-1",
        "5e-324",
        "-5e-324",
        "1e308",
        "-1e308",
        "1e309",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
    ]
    always += [
        "9007199254740993",
        "18446744073709551616",
        "9" * 19,
        "9" * 300,
        "9" * 5_000,
        "1" + "0" * 5_000 + "e-4999",
    ]
    always += [
        "1e-5000",
        "0." + "0" * 400 + "1",
        "1.0000000000000000000000001",
        "4.35",
        "0.005",
        "0.015",
        "2.675",
        "1E2",
    ]
    always += ["01", "+1", ".5", "1.", "0x10", "1_000", "--1", "1e", "\\u0031"]
    for name, limit in LIMITS.items():
        edges = [limit, math.nextafter(limit, math.inf), math.nextafter(limit, 0), limit + 1, -limit]
        for raw in [*always, *map(repr, edges), repr(make.chance.uniform(0, limit)), repr(limit / 3)]:
            yield make.text(f'"{name}":{raw},"ignition":"ON"'), KEY
    for place in ('"lat":%s,"lon":7.1', '"lat":50.1,"lon":%s', '"lat":50.1,"lon":7.1,"altitude":%s'):
        limit = {'"lat":%': 90, '"lat":5': 180}[place[:7]] if "altitude" not in place else 100_000
        edges = [limit, -limit, math.nextafter(limit, math.inf), math.nextafter(-limit, -math.inf), limit + 1]
        for raw in [*always, *map(repr, edges)]:
            yield make.text(f'"position":{{{place % raw}}},"ignition":"ON"'), KEY
    for place in ("0,0", "-0.0,0.0", "1e-300,0", "0,1e-9", "-1e-9,-1e-9", "0.00000004,0"):
        latitude, longitude = place.split(",")
        yield make.text(f'"position":{{"lat":{latitude},"lon":{longitude}}},"ignition":"ON"')
    for value in (0.1 + 0.2, 1 / 3, 0.29999999999999993, 33.335, 33.345):
        yield make.message(speed_in_kmh=value, mileage_in_kilometers=value, ignition=True)


@kind
def vehicle_ids(make: Maker) -> Iterator[Any]:
    own = make.vehicle()
    names = [
        "x" * 256,
        "x" * 257,
        "é" * 256,
        "漢" * 257,
        "🚗" * 256,  # two UTF-16 units each, 1,024 bytes
        "🚗" * 257,
        "",
        " ",
        "\u202eright to left\u202c",
        "مركبة",
        "a\x00b",
        "a\nb\r\n",
        "\x1b[31mred",
        "\ufeffmark",
        "\ud800",
        "a\udfffb",
        "e\u0301",
        "\u00e9",  # these two look the same and are not
        "null",
        "../../etc/passwd",
        "'; DROP TABLE trips; --",
        "{}",
        "%s%n",
        "\u2028",
        "\U0010ffff",
        "\uffff",
    ]
    for name in names:
        vehicle = name if name in ("", " ") or len(name) >= 256 else name + own
        for minutes, ignition in ((0, "OFF"), (1, "ON"), (9, "OFF")):
            yield json.dumps(
                {"vehicle_id": vehicle, "timestamp": START + minutes * MINUTE, "ignition": ignition}
            ).encode()
    # The same as they are, not as \u escapes; and as the record's key.
    for name in names:
        raw = name.encode("utf-8", "surrogatepass")
        if '"' not in name and min(name, default="a") >= " ":
            yield b'{"vehicle_id":"%b-raw","timestamp":%d,"ignition":"ON"}' % (raw, START), KEY
        yield b'{"timestamp":%d,"ignition":"ON"}' % START, raw + b"-key"
    for value in (None, 7, 1.5, True, [], {}, ["a"], {"id": "a"}):
        yield make.message(vehicle_id=value, ignition="ON"), b"the-key-does-not-replace-it"


@kind
def timestamps(make: Maker) -> Iterator[Any]:
    days = ["0001-01-01", "1582-10-10", "1899-12-31", "1969-12-31", "1970-01-01", "1980-01-06", "1999-12-31"]
    days += ["2000-01-01", "2000-02-29", "1900-02-29", "2024-02-29", "2025-02-29", "2026-02-30", "2026-04-31"]
    days += [
        "2026-00-10",
        "2026-13-01",
        "2026-01-00",
        "2026-06-31",
        "2038-01-19",
        "2026-12-31",
        "9999-12-31",
        "0000-01-01",
    ]
    written: list[Any] = [f"{day}T{time}" for day in days for time in ("00:00:00Z", "23:59:59.999Z", "12:00:00+23:59")]
    for time in (
        *("08:00:60Z", "23:59:60Z", "24:00:00Z", "24:00:01Z", "08:60:00Z", "25:00:00Z", "08:00:61Z", "08:00Z", "08Z"),
        *("08:00:00", "08:00:00z", "08:00:00+00:00", "08:00:00-00:00", "08:00:00+23:59", "08:00:00-23:59"),
        *("08:00:00+24:00", "08:00:00+05:60", "08:00:00+0530", "08:00:00+05", "08:00:00 Z", "08:00:00UTC", "080000Z"),
        *("8:00:00Z", "08:00:00,5Z", "08:00:00.Z", "08:00:00.-1Z", "٠٨:00:00Z"),
        *(f"08:00:00.{'123456789012'[:digits]}Z" for digits in range(1, 13)),
        *("08:00:00.9999999Z", "08:00:00.0005Z", "08:00:00." + "9" * 1_000 + "Z", "08:00:00.000000000000000001Z"),
    ):
        written += [f"2026-03-01T{time}", f"2026-03-01t{time}", f"2026-03-01 {time}"]
    written += [
        "",
        " ",
        "now",
        "2026-03-01",
        "T",
        "Z",
        "2026-060T08:00:00Z",
        "2026-W09-7T08:00:00Z",
        "20260301T080000Z",
    ]
    written += ["+12026-03-01T08:00:00Z", "-0001-01-01T00:00:00Z", "12026-03-01T08:00:00Z", "2026-03-01T08:00:00Z\n"]
    written += [
        " 2026-03-01T08:00:00Z",
        "Sun, 01 Mar 2026 08:00:00 GMT",
        "1772352000000",
        "1772352000",
        "2026-03-01T08:00:00Z" * 20,
    ]
    written += [0, -1, 1, 946_684_799_999, 946_684_800_000, 1_772_352_000, START, START * 1_000, START * 1_000_000]
    written += [253_402_300_799_999, 253_402_300_800_000, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]
    written += [1.5, float(START), START + 0.5, 1e300, None, True, [], {}, [START], {"seconds": 1}]
    for time in written:
        yield make.message(timestamp=time, ignition="ON")
        yield make.message(ignition={"timestamp": time, "value": "ON"}, doors_status="OPEN")
    for raw in ("1e12", "1772352000000.0", "17723520e5", "-0", "1e999", "NaN", "9" * 5_000):
        yield make.text('"ignition":"ON"', time=raw)


@kind
def clocks_ahead(make: Maker) -> Iterator[Any]:
    hour, day = 60 * MINUTE, 24 * 60 * MINUTE
    ahead = [hour - 1, hour, hour + 1, 2 * hour, day, 3 * day, 30 * day, 365 * day, 3_650 * day]
    for by in ahead:
        vehicle = make.vehicle()
        # With Kafka timestamps given, so that the limit is met to the millisecond.
        for time, ignition in ((make.now - 20 * MINUTE, "OFF"), (make.now - 10 * MINUTE, "ON"), (make.now + by, "OFF")):
            value = json.dumps(
                {"vehicle_id": vehicle, "timestamp": time, "ignition": ignition, "speed_in_kmh": 1}
            ).encode()
            yield value, vehicle.encode(), (), make.now
        own = {"timestamp": make.now + by, "value": "OPEN"}
        value = json.dumps(
            {"vehicle_id": vehicle, "timestamp": make.now, "ignition": "OFF", "doors_status": own}
        ).encode()
        yield value, vehicle.encode(), (), make.now


@kind
def envelopes(make: Maker) -> Iterator[Any]:
    flows: list[Any] = ["f", "f" * 256, "f" * 257, "", None, 7, [], {}, "\ud800", "\x00", "🚗" * 256]
    for flow in flows:
        vehicle = make.vehicle()
        for minutes, ignition in ((0, "OFF"), (1, "ON"), (9, "OFF")):
            data = {"vehicle_id": vehicle, "timestamp": START + minutes * MINUTE, "ignition": ignition}
            yield json.dumps({"metadata": {"flow_id": flow, "id": 1, "more": [{}]}, "data": data}).encode()
    data = json.loads(make.message(ignition="ON"))
    yield json.dumps({"metadata": {}, "data": {**data, "metadata": {}, "data": data}}).encode()
    yield json.dumps({"metadata": {"flow_id": "f"}, **data}).encode()
    yield json.dumps({"data": data}).encode(), KEY
    yield json.dumps({"metadata": data, "data": {}}).encode(), KEY


# ------------------------------------------------------------------------------------------- what is around the value


@kind
def keys_and_tombstones(make: Maker) -> Iterator[Any]:
    by_key = b'{"timestamp":%d,"ignition":"ON"}' % START
    yield None, None
    yield None, KEY
    yield None, b""
    yield b"", None
    yield b"", b""
    keys = [
        None,
        b"",
        b"\x00",
        b"\xff\xfe",
        "Größe".encode("latin-1"),
        "key".encode("utf-16"),
        b"\xed\xa0\x80",
        b"k" * 256,
    ]
    keys += [
        b"k" * 257,
        "漢".encode() * 256,
        "🔑".encode() * 256,
        "🔑".encode() * 257,
        b"y" * 70_000,
        b"  ",
        b"\n",
        b"null",
    ]
    keys += [b"\xc3", b"\x1b[2J", make.chance.randbytes(16)]
    for key in keys:
        yield by_key, key
        yield make.message(ignition="ON"), key
        yield b"not JSON", key


class BadName(str):
    """A header's name that is not UTF-8; readers see it as ``\\xff`` and the like."""

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> Self:
        name = super().__new__(cls, raw.decode("utf-8", "backslashreplace"))
        name.raw = raw
        return name

    def encode(self, *_: Any, **__: Any) -> bytes:
        return self.raw


@kind
def headers(make: Maker) -> Iterator[Any]:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sets: list[Sequence[tuple[str, bytes | None]]] = [
        [],
        [("a", b"")],
        [("a", None)],
        [("", b"without a name")],
        [("", None)],
        [("twice", b"1"), ("twice", b"2"), ("twice", None)],
        [("binary", bytes(range(256)))],
        [("n" * 30_000, b"1")],
        [("名前", "値".encode()), ("🚗", b"\xff"), ("a\x00b\n", b"\x00")],
        [(f"h{number}", b"v" * 100) for number in range(1_000)],
        [("h", None)] * 20_000,
        [("large", b"y" * 500_000)],
        [(f"large {number}", b"y" * 10_000) for number in range(90)],
        [("large", make.chance.randbytes(MEBIBYTE))],
        [("y" * 900_000, b"")],
        [(BadName(b"caf\xe9"), b"1")],
        [(BadName(b"\xff" * 300), None), ("good", b"1"), (BadName(b"\xed\xa0\x80"), b"\xff")],
        [("traceparent", trace)],
        [("traceparent", trace), ("traceparent", b"second")],
        # What our own dead letters carry: somebody may send them back as they are.
        [("__connect.errors.topic", b"t"), ("__connect.errors.offset", b"7"), ("ignition-trips.partial", b"true")],
        [("ignition-trips.reasons", b"not_json"), ("ignition-trips.original-size", b"-1"), ("ce_id", b"x")],
    ]
    traces = [
        None,
        b"",
        b"00",
        trace.upper(),
        trace[:-1],
        trace + b"0",
        b"\xff" * 55,
        b"ff" + trace[2:],
        b"00-" + b"0" * 32,
    ]
    traces += [
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        trace + b"-more",
        trace.decode().encode("utf-16"),
        trace * 1_000,
    ]
    sets += [[("traceparent", one)] for one in traces]
    for some in sets:
        vehicle = make.vehicle()
        for value in (
            json.dumps({"vehicle_id": vehicle, "timestamp": START, "ignition": "ON"}).encode(),
            json.dumps(
                {"vehicle_id": vehicle, "timestamp": START + 9 * MINUTE, "ignition": "OFF", "speed_in_kmh": -1}
            ).encode(),
            b"not JSON",
        ):
            yield value, vehicle.encode(), tuple(some)


@kind
def Kafka_timestamps(make: Maker) -> Iterator[Any]:  # noqa: N802
    """To be put into a partition of its own, at the end: they move its clock to the year 9999."""
    for number, time in enumerate(
        (make.now, 0, 1, -1, -2, -make.now, make.now + 1, make.now - 10**10, 2**62, 2**63 - 1, -(2**63))
    ):
        vehicle = make.vehicle()
        for minutes, ignition in ((0, "OFF"), (1, "ON"), (9, "OFF")):
            body = {"vehicle_id": vehicle, "timestamp": START + minutes * MINUTE, "ignition": ignition}
            yield json.dumps(body).encode(), vehicle.encode(), (), time
        moment = datetime.fromtimestamp(0, UTC) + timedelta(days=number)  # nothing but a device without a clock
        yield make.message(timestamp=moment.isoformat(), ignition="ON"), KEY, (), time
    last = 253_402_300_799_999
    for time in (last, last + 1):
        for value in make.drive():
            yield value, KEY, (), time


ODD_TIMES: Final = "Kafka timestamps"
"""The kind whose records need a partition of their own: they move its clock."""

BY_CHANCE: Final = frozenset({"random bytes", "damaged messages"})
