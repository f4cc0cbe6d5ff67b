"""The contract: models, the files made from them, and samples that both must take or refuse."""

import json
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

import schemas
from schemas.generate import asyncapi, json_schemas, write
from schemas.headers import AnnouncementHeaders, DeadLetterHeaders, LateHeaders
from schemas.telemetry import Telemetry, TelemetryEnvelope
from streams.delivery.messages import Source, announcement_messages, dead_letter, late_letter
from streams.records import Announcement, Late, Rejected, TripsRecord
from streams.serve.app import openapi_document
from streams.settings import Settings
from streams.telemetry.reader import Problem, Reason

COMMITTED = Path(schemas.__file__).parent
DATA = Path(__file__).parents[2] / "data"

# The example of the Trips API of INVERS (part of its Events API), verbatim from its documentation,
# section "TripDataReady and TripDiscarded".
INVERS = (DATA / "invers_trip_data_ready.json").read_bytes()


@cache
def validator(name):
    return Draft202012Validator(json_schemas()[f"{name}.schema.json"])


def names_of(value):
    """The shape of a JSON value: all field names, as paths."""
    if not isinstance(value, dict):
        return set()
    return {f".{name}{rest}" for name, inner in value.items() for rest in names_of(inner) | {""}}


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_the_models_say(tmp_path):
    written = write(tmp_path, openapi_document())
    committed = sorted(path.relative_to(COMMITTED) for path in COMMITTED.rglob("*.json"))
    assert sorted(path.relative_to(tmp_path) for path in written) == committed
    for path in written:
        name = path.relative_to(tmp_path)
        assert path.read_text() == (COMMITTED / name).read_text(), f"{name}: run `trips schemas` and commit it"


def test_files_are_written_into_a_directory_that_is_made(tmp_path):
    written = write(tmp_path / "a" / "b")
    assert tmp_path / "a" / "b" / "json" / "trip-started.schema.json" in written
    assert tmp_path / "a" / "b" / "asyncapi.json" in written
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize("name", json_schemas())
def test_each_file_is_a_json_schema(name):
    schema = json_schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:ignition-trips:schema:1:{name.removesuffix('.schema.json')}"
    assert '"null"' not in json.dumps(schema), "absent, not null"


@pytest.mark.parametrize("name", json_schemas())
def test_every_field_that_goes_out_with_a_unit_in_its_name_is_a_number(name):
    def fields(schema):
        for part in (schema, *schema.get("$defs", {}).values()):
            yield from part.get("properties", {}).items()

    for field, schema in fields(json_schemas()[name]):
        if field.endswith(("_in_ms", "_count")) and "telemetry" not in name:
            assert schema["type"] == "integer"
        elif "_in_" in field and "telemetry" not in name:
            assert schema["type"] == "number"


# --- AsyncAPI -------------------------------------------------------------------------------------------------------


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document, reference):
    found = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    document = asyncapi()
    found = set(references(document))
    assert found
    for reference in found:
        assert reference.startswith("#/")
        resolve(document, reference)


def test_every_component_of_the_asyncapi_document_is_used():
    document = asyncapi()
    used = set(references(document))
    for kind in ("messages", "schemas"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in used


def test_the_asyncapi_document_tells_of_the_topics_of_the_settings():
    topics = Settings().topics
    document = asyncapi()
    assert {channel["address"] for channel in document["channels"].values()} == {
        topics.telemetry,
        topics.commands,
        topics.events,
        topics.trips,
        topics.dead_letters,
        topics.late,
        topics.status_events,
        topics.push_dead_letters,
    }
    assert document["operations"]["receiveVehicleTelemetry"]["action"] == "receive"
    assert {name for name, one in document["operations"].items() if one["action"] == "send"} == {
        "sendTripEvents",
        "sendTrips",
        "sendDeadLetters",
        "sendLateTelemetry",
        "sendTripStatusEvents",
        "sendPushDeadLetters",
    }


def test_payloads_of_the_asyncapi_document_are_those_of_the_json_schemas():
    document = asyncapi()
    schema = {"$ref": "#/components/schemas/TripDataReady", "components": document["components"]}
    Draft202012Validator.check_schema(schema)
    whole = Draft202012Validator(schema)
    whole.validate(json.loads(INVERS))
    assert not whole.is_valid({"metadata": {}, "data": {}})


# --- the INVERS sample ----------------------------------------------------------------------------------------------


def test_the_invers_sample_is_a_trip_data_ready():
    event = schemas.read_announcement(INVERS)
    assert isinstance(event, schemas.TripDataReady)
    validator("trip-data-ready").validate(json.loads(INVERS))
    trip = event.data.trip
    assert trip.start.address.street == "Christophstrasse"
    assert trip.metrics.duration_in_ms == 65_432
    assert trip.revision is None
    assert trip.flags is None


def test_nothing_of_the_invers_sample_is_lost():
    event = schemas.read_announcement(INVERS)
    assert json.loads(event.model_dump_json(exclude_unset=True)) == json.loads(INVERS)


# --- announcements --------------------------------------------------------------------------------------------------

NAMES = {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "key": "H5XAV", "revision": 48_123, "vehicle_id": "JQ7RP"}
POSITION = {"timestamp": "2026-03-01T07:59:58.500Z", "value": {"lat": 50.123, "lon": 7.321}}
START = {"timestamp": "2026-03-01T08:00:00Z", "position": POSITION}
END = {"timestamp": "2026-03-01T08:31:05.432Z"}
TOLD = NAMES | {"is_flagged": False, "flags": [], "start": START}
METRICS = {"duration_in_ms": 1_865_432, "position_count": 0, "longest_gap_in_ms": 1_865_432}


def event(kind, data, **metadata):
    return {
        "metadata": {
            "id": "01F1FHJ7SHQK5MGF69B8K2346E",
            "type": kind,
            "schema_major_version": 1,
            "occurred_at": "2026-03-01T08:31:05Z",
            "flow_id": "804f2161-a15c-420f-8f21-61a15c320f68",
            **metadata,
        },
        "data": {"occurred_at": "2026-03-01T08:31:05.432Z", **data},
    }


FINISHED = TOLD | {"data_completion_status": "FINISHED", "end": END, "metrics": METRICS}
SAMPLES = {
    "trip-started": event("TripStarted", {"trip": TOLD | {"data_completion_status": "ONGOING"}}),
    "trip-ended": event("TripEnded", {"trip": TOLD | {"data_completion_status": "PENDING", "end": END}}),
    "trip-data-ready": event("TripDataReady", {"trip": FINISHED}),
    "trip-metrics-ready": event("TripMetricsReady", {"trip": FINISHED}),
    "trip-discarded": event(
        "TripDiscarded", {"reason": "TOO_SHORT", "trip": FINISHED | {"data_completion_status": "DISCARDED"}}
    ),
    "trip-deleted": event("TripDeleted", {"trip": NAMES}),
}
SUPERSEDED = event(
    "TripDiscarded",
    {
        "reason": "SUPERSEDED",
        "superseded_by": ["01ARZ3NDEKTSV4RRFFQ69G5FAW"],
        "trip": NAMES | {"data_completion_status": "DISCARDED", "start": {"timestamp": "2026-03-01T08:00:00Z"}},
    },
)
ALL = [*SAMPLES.items(), ("trip-discarded", SUPERSEDED)]


@pytest.mark.parametrize(("name", "sample"), ALL)
def test_an_announcement_is_read_and_written_without_loss(name, sample):
    validator(name).validate(sample)
    read = schemas.read_announcement(json.dumps(sample))
    assert type(read).__name__ == sample["metadata"]["type"]
    assert json.loads(read.model_dump_json(exclude_unset=True)) == sample


@pytest.mark.parametrize(("name", "sample"), ALL)
def test_each_kind_of_announcement_has_its_own_schema(name, sample):
    fits = [other for other in SAMPLES if validator(other).is_valid(sample)]
    assert fits == [name]


@pytest.mark.parametrize(("name", "sample"), ALL)
def test_new_fields_are_no_error(name, sample):
    later = json.loads(json.dumps(sample))
    later["metadata"]["new"] = later["data"]["new"] = later["data"]["trip"]["new"] = {"a": [1]}
    validator(name).validate(later)
    schemas.read_announcement(json.dumps(later))


def without(path):
    def change(sample):
        *parents, last = path.split(".")
        for parent in parents:
            sample = sample[parent]
        del sample[last]

    return change


def with_value(path, value):
    def change(sample):
        *parents, last = path.split(".")
        for parent in parents:
            sample = sample[parent]
        sample[last] = value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trip-started", without("metadata.id")),
        ("trip-started", without("data.trip.start")),
        ("trip-started", without("data.trip.is_flagged")),
        ("trip-started", with_value("metadata.id", "01f1fhj7shqk5mgf69b8k2346e")),
        ("trip-started", with_value("metadata.schema_major_version", 2)),
        ("trip-started", with_value("metadata.occurred_at", "2026-03-01T08:31:05+00:00")),
        ("trip-started", with_value("metadata.occurred_at", 1_772_352_000_000)),
        ("trip-started", with_value("data.trip.start.timestamp", "2026-03-01T08:31:05.5Z")),
        ("trip-started", with_value("data.trip.id", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ")),
        ("trip-started", with_value("data.trip.revision", -1)),
        ("trip-started", with_value("data.trip.revision", "48123")),
        ("trip-started", with_value("data.trip.flags", ["LATE"])),
        ("trip-started", with_value("data.trip.vehicle_id", "")),
        ("trip-started", with_value("data.trip.telematics_unit", None)),
        ("trip-started", with_value("data.trip.data_completion_status", "PENDING")),
        ("trip-ended", without("data.trip.end")),
        ("trip-ended", with_value("data.trip.end.position", None)),
        ("trip-data-ready", without("data.trip.metrics")),
        ("trip-data-ready", without("data.trip.metrics.duration_in_ms")),
        ("trip-data-ready", with_value("data.trip.metrics.duration_in_ms", 1.5)),
        ("trip-data-ready", with_value("data.trip.metrics.distance_in_km", -0.1)),
        ("trip-data-ready", with_value("data.trip.metrics.distance_in_km", None)),
        ("trip-data-ready", with_value("data.trip.metrics.distance_in_km", True)),
        ("trip-data-ready", with_value("data.trip.metrics.distance_source", "GUESS")),
        ("trip-data-ready", with_value("data.trip.start.position.value.lat", 90.1)),
        ("trip-discarded", without("data.reason")),
        ("trip-discarded", with_value("data.reason", "SUPERSEDED")),
        ("trip-discarded", with_value("data.reason", "BORING")),
        ("trip-deleted", without("data.trip.vehicle_id")),
    ],
)
def test_what_breaks_the_contract_is_refused_by_model_and_schema(name, change):
    broken = json.loads(json.dumps(SAMPLES[name]))
    change(broken)
    assert not validator(name).is_valid(broken)
    with pytest.raises(ValidationError):
        schemas.read_announcement(json.dumps(broken))


def test_flags_and_is_flagged_agree():
    with pytest.raises(ValidationError, match="is_flagged says whether there are flags"):
        schemas.TripStarted.model_validate_json(
            json.dumps(event("TripStarted", {"trip": TOLD | {"data_completion_status": "ONGOING", "is_flagged": True}}))
        )


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"metadata":{"type":"TripPaused"}}', b'{"metadata":7}'])
def test_what_is_no_announcement_is_refused(payload):
    with pytest.raises(ValidationError):
        schemas.read_announcement(payload)


# --- headers --------------------------------------------------------------------------------------------------------


class Record:
    offset = 17
    timestamp = 1_772_352_000_000
    key = b"JQ7RP"
    value = b'{"speed_in_kmh": 500}'
    headers = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


def as_text(headers):
    return {name: value.decode() for name, value in headers}


def test_the_headers_of_an_announcement():
    announcement = Announcement(
        vehicle_id="JQ7RP",
        trip_id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
        event="TripStarted",
        event_id="01F1FHJ7SHQK5MGF69B8K2346E",
        revision=1,
        time_ms=1_772_352_000_500,
        traceparent=None,
        payload=b"{}",
        trips_record=TripsRecord.KEEP,
    )
    message, _ = announcement_messages(announcement, b"/ignition-trips/test", 3)
    read = AnnouncementHeaders.of(message.headers)
    assert (read.ce_type, read.ce_subject, read.traceparent) == ("TripStarted", "01ARZ3NDEKTSV4RRFFQ69G5FAV", None)
    validator("announcement-headers").validate(as_text(message.headers))
    assert json.loads(read.model_dump_json(exclude_unset=True)) == as_text(message.headers)


@pytest.mark.parametrize("partial", [False, True])
def test_the_headers_of_a_dead_letter(partial):
    problems = [
        Problem(Reason.OUT_OF_RANGE, "speed_in_kmh", '"speed_in_kmh" is 500: allowed is a number from 0 to 400'),
        Problem(Reason.BAD_VALUE, "ignition", '"ignition" is "on": allowed are …'),
    ]
    message = dead_letter(Rejected(Record(), problems, partial), Source("vehicle-telemetry", 3), 1_000_000)
    read = DeadLetterHeaders.of(message.headers)
    assert (read.topic, read.partition, read.offset) == ("vehicle-telemetry", 3, 17)
    assert (read.reason, read.reasons) == ("ignition_trips.out_of_range", "out_of_range,bad_value")
    assert read.partial == ("true" if partial else None)
    assert read.original_size is None
    validator("dead-letter-headers").validate(as_text(message.headers))


def test_the_headers_of_a_dead_letter_that_is_cut_short():
    problems = [Problem(Reason.TOO_LARGE, None, "too large")]

    class Large(Record):
        value = b"x" * 5_000

    message = dead_letter(Rejected(Large(), problems, partial=False), Source("vehicle-telemetry", 3), 2_000)
    assert DeadLetterHeaders.of(message.headers).original_size == 5_000
    validator("dead-letter-headers").validate(as_text(message.headers))


def test_the_headers_of_a_late_record():
    message = late_letter(Late(Record(), "ignition is 26 h behind"), Source("vehicle-telemetry", 3), 1_000_000)
    assert LateHeaders.of(message.headers).message == "ignition is 26 h behind"
    validator("late-headers").validate(as_text(message.headers))
    with pytest.raises(ValidationError):
        DeadLetterHeaders.of(message.headers)


def test_of_headers_from_an_earlier_dead_letter_ours_count():
    class Again(Record):
        headers = (("__connect.errors.topic", b"elsewhere"), ("__connect.errors.offset", b"1"), ("empty", None))

    problems = [Problem(Reason.NOT_JSON, None, "the message is not JSON")]
    message = dead_letter(Rejected(Again(), problems, partial=False), Source("vehicle-telemetry", 3), 1_000_000)
    read = DeadLetterHeaders.of(message.headers)
    assert (read.topic, read.offset) == ("vehicle-telemetry", 17)


# --- telemetry: see also test_telemetry_model.py, which compares with the reader -------------------------------------


def test_a_message_of_every_property_is_telemetry():
    message = {
        "vehicle_id": "JQ7RP",
        "timestamp": "2026-03-01T08:00:00Z",
        "ignition": "ON",
        "immobilizer": "UNLOCKED",
        "driving_enabled": True,
        "position": {"lat": 50.123, "lon": 7.321, "altitude": 61.4},
        "mileage_in_kilometers": {"timestamp": "2026-03-01T07:59:58.500Z", "value": 12345.6},
        "speed_in_kmh": 0,
        "heading_in_degrees": 360,
        "state_of_charge_or_fuel_level_in_percent": 35,
        "state_of_charge_in_percent": 35.5,
        "fuel_level_in_percent": 0,
        "doors_status": "CLOSED",
        "windows_status": "OPEN",
        "telematics_unit": {"id": "2A2440843B02F704", "brand": "CLOUDBOXX"},
    }
    validator("telemetry").validate(message)
    read = Telemetry.model_validate_json(json.dumps(message))
    assert json.loads(read.model_dump_json(exclude_unset=True)) == message
    envelope = {"metadata": {"flow_id": "f"}, "data": message}
    validator("telemetry-envelope").validate(envelope)
    assert TelemetryEnvelope.model_validate_json(json.dumps(envelope)).data == read
