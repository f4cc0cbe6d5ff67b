import json
import random

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from oracle.consumer import final_view
from serve_world import DAY, announcement, trip_id
from sqlalchemy import select, text

from streams.errors import DatabaseError, SettingsError, StateError
from streams.serve.database import open_database, reading, writing
from streams.serve.projection import apply_announcements, apply_latest, begin_anew
from streams.serve.tables import announcements, metadata, trips, vehicles
from streams.serve.words import first_id, read_word, to_column
from streams.settings import Settings

STATUS = {
    "on": "ONGOING",
    "ended": "PENDING",
    "ready": "FINISHED",
    "discarded": "DISCARDED",
    "superseded": "DISCARDED",
    "deleted": "DELETED",
}
MINUTE = 60_000


@pytest.fixture
def engine(database):
    engine = open_database(Settings.given(serve_database=database))
    yield engine
    engine.dispose()


def project(engine, payloads):
    with writing(engine) as (connection, _):
        apply_announcements(connection, [read_word(payload) for payload in payloads])


def rows(engine):
    """Everything in the tables that comes from Kafka, in order."""
    with reading(engine) as connection:
        return [
            sorted(tuple(row) for row in connection.execute(select(table)))
            for table in (trips, announcements, vehicles)
        ]


def empty(engine):
    with writing(engine) as (connection, _):
        begin_anew(connection)


def test_who_reads_sees_one_state_of_the_database(engine):
    with reading(engine) as connection:
        assert connection.execute(select(trips.c.id)).all() == []
        project(engine, [announcement("TripStarted")])
        assert connection.execute(select(vehicles.c.id)).all() == []
    with reading(engine) as connection:
        assert len(connection.execute(select(vehicles.c.id)).all()) == 1


def test_the_tables_are_those_that_the_migrations_make(engine):
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "schema_version"})
        assert compare_metadata(context, metadata) == []


def test_a_database_of_a_newer_version_is_refused(database):
    engine = open_database(Settings.given(serve_database=database))
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StateError, match="newer version"):
        open_database(Settings.given(serve_database=database))


@pytest.mark.parametrize("url", ["trips:s3cret@127.0.0.1:1/trips", "127.0.0.1:1/trips?user=trips&password=s3cret"])
def test_a_database_that_is_away_is_told_without_its_password(url):
    with pytest.raises(DatabaseError, match="TRIPS_SERVE_DATABASE") as error:
        open_database(Settings.given(serve_database=f"postgresql://{url}"))
    assert "127.0.0.1:1/trips" in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("place", [":memory:", "file:x?mode=memory&uri=true", "a.db?mode=ro"])
def test_sqlite_is_in_a_file(place):
    with pytest.raises(SettingsError, match="sqlite:///FILE"):
        open_database(Settings.given(serve_database=f"sqlite:///{place}"))


def test_a_file_that_cannot_be_made_is_a_wrong_setting(tmp_path):
    with pytest.raises(SettingsError, match="cannot be written"):
        open_database(Settings.given(serve_database=f"sqlite:///{tmp_path}/no/such/folder.db"))


def test_the_file_is_for_its_user_alone(tmp_path):
    path = tmp_path / "a.db"
    open_database(Settings.given(serve_database=f"sqlite:///{path}")).dispose()
    assert path.stat().st_mode & 0o777 == 0o600


# -- the consumer's rule ---------------------------------------------------------------------------------------------


def some_trips():
    """Lives of trips as workers announce them, each in its order."""
    late, early = DAY + 60 * MINUTE, DAY
    return [
        [announcement("TripStarted"), announcement("TripEnded"), announcement("TripDataReady", revision=1)],
        [  # corrected twice
            announcement("TripStarted", "v2", revision=3),
            announcement("TripEnded", "v2", revision=5),
            announcement("TripDataReady", "v2", revision=5),
            announcement("TripStarted", "v2", revision=8),
            announcement("TripEnded", "v2", revision=9, end=DAY + 20 * MINUTE),
            announcement("TripDataReady", "v2", revision=9, end=DAY + 20 * MINUTE, flags=("DATA_GAP",)),
        ],
        [  # on
            announcement("TripStarted", "v2", late, revision=11),
        ],
        [  # ready, then it never was
            announcement("TripStarted", "v3", early, revision=1),
            announcement("TripEnded", "v3", early, revision=2),
            announcement("TripDataReady", "v3", early, revision=2),
            announcement(
                "TripDiscarded", "v3", early, revision=7, reason="SUPERSEDED", superseded_by=[trip_id("v3", early - 1)]
            ),
        ],
        [  # too short
            announcement("TripStarted", "v4", revision=1),
            announcement("TripEnded", "v4", revision=2, end=DAY + 5),
            announcement("TripDiscarded", "v4", revision=2, end=DAY + 5, reason="TOO_SHORT"),
        ],
        [  # deleted, at a revision that is not the highest
            announcement("TripStarted", "v5", revision=4),
            announcement("TripEnded", "v5", revision=6),
            announcement("TripDataReady", "v5", revision=6, position=(12.345678, 7.3)),
            announcement("TripDeleted", "v5", revision=6),
        ],
    ]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_between_trips_and_any_batches_end_as_the_consumers_rule_says(engine, seed):
    chance = random.Random(seed)
    lives = some_trips()
    expected = final_view(json.loads(payload) for life in lives for payload in life)
    lives = [list(life) for life in lives]
    said = []
    while lives:
        life = chance.choice(lives)
        said.append(life.pop(0))
        lives = [life for life in lives if life]
    while said:
        size = chance.randint(1, 6)
        batch, said = said[:size], said[size:]
        project(engine, batch)
        if chance.random() < 0.3:
            project(engine, batch)  # once more: it changes nothing
    there, told, _ = rows(engine)
    assert {row[0]: (row[2], row[3]) for row in there} == {
        name: (STATUS[view.status], view.revision) for name, view in expected.items()
    }
    deleted = trip_id("v5", DAY)
    assert deleted not in {row[0] for row in told}
    assert len(told) == 1 * 3 + 6 + 1 + 4 + 3
    assert b"12.345678" not in b"".join(row[-1] for row in there) + b"".join(row[-1] for row in told)


def test_within_one_revision_the_later_stage_wins_whatever_comes_first(engine):
    project(engine, [announcement("TripDataReady", revision=5)])
    project(engine, [announcement("TripEnded", revision=5), announcement("TripStarted", revision=5)])
    assert [(row[2], row[3]) for row in rows(engine)[0]] == [("FINISHED", 5)]
    project(engine, [announcement("TripStarted", revision=6)])
    assert [(row[2], row[3]) for row in rows(engine)[0]] == [("ONGOING", 6)]


def test_deleted_beats_all_and_erases_what_was_said(engine):
    project(engine, [announcement("TripStarted", revision=5), announcement("TripDeleted", revision=2)])
    project(engine, [announcement("TripDataReady", revision=99)])
    there, told, newest = rows(engine)
    assert [(row[2], row[3]) for row in there] == [("DELETED", 2)]
    assert told == []
    assert set(json.loads(there[0][-1])) == {"id", "key", "revision", "vehicle_id", "deleted_at"}
    assert set(json.loads(newest[0][1])) == {"id", "type", "occurred_at", "trip_id", "revision"}


def test_a_deletion_in_the_midst_of_a_batch_takes_what_comes_before_and_after_it(engine):
    project(
        engine,
        [
            announcement("TripStarted", revision=1),
            announcement("TripDeleted", revision=1),
            announcement("TripEnded", revision=2),
        ],
    )
    there, told, _ = rows(engine)
    assert [row[2] for row in there] == ["DELETED"]
    assert told == []


def test_more_trips_than_fit_into_one_statement(engine):
    payloads = [announcement("TripStarted", "v1", DAY + number) for number in range(1201)]
    project(engine, payloads)
    project(engine, [announcement("TripDeleted", "v1", DAY + number) for number in range(1201)])
    there, told, newest = rows(engine)
    assert ({row[2] for row in there}, len(there), told, len(newest)) == ({"DELETED"}, 1201, [], 1)


# -- what is begun with ----------------------------------------------------------------------------------------------


def latest(engine, *records):
    with writing(engine) as (connection, _):
        apply_latest(connection, [(name, payload and read_word(payload)) for name, payload in records])


def test_the_last_record_of_trips_counts_and_announcements_come_on_top(engine):
    one, other = trip_id("v1", DAY), trip_id("v2", DAY)
    latest(engine, (one, announcement("TripDataReady", revision=2)), (one, announcement("TripDataReady", revision=4)))
    latest(engine, (other, announcement("TripDataReady", "v2", revision=1)), (other, None))
    assert [(row[0], row[3]) for row in rows(engine)[0]] == [(one, 4)]
    latest(engine, (one, None), (other, announcement("TripDataReady", "v2", revision=3)))
    assert [(row[0], row[3]) for row in rows(engine)[0]] == [(other, 3)]
    project(engine, [announcement("TripDataReady", "v2", revision=1), announcement("TripStarted", "v2", revision=9)])
    there, told, _ = rows(engine)
    assert [(row[2], row[3]) for row in there] == [("ONGOING", 9)]
    assert [(row[1], row[3]) for row in told] == [(1, "TripDataReady"), (9, "TripStarted")]


def test_what_is_begun_anew_ends_the_same(engine):
    said = [payload for life in some_trips() for payload in life]
    project(engine, said)
    before = rows(engine)
    empty(engine)
    assert rows(engine) == [[], [], []]
    project(engine, said)
    assert rows(engine) == before


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"metadata": {"type": "TripStarted"}, "data": {}}',
        announcement("TripStarted").replace(b'"TripStarted"', b'"TripInvented"'),
        announcement("TripStarted").replace(b'"TripStarted"', b'["TripStarted"]'),
        announcement("TripStarted").replace(b'"revision":1', b'"revision":-1'),
        announcement("TripStarted").replace(b'"revision":1', b'"revision":true'),
        announcement("TripStarted").replace(b'"revision":1', b'"revision":9223372036854775808'),
        announcement("TripStarted").replace(b'"vehicle_id":"v1"', b'"vehicle_id":""'),
        announcement("TripStarted").replace(b'"vehicle_id":"v1"', b'"vehicle_id":7'),
        announcement("TripStarted").replace(b'"flags":[]', b'"flags":7'),
        announcement("TripStarted").replace(b'"flags":[]', b'"flags":[{}]'),
        announcement("TripStarted").replace(trip_id("v1", DAY).encode(), b"no-ulid"),
        announcement("TripDiscarded", reason="TOO_SHORT").replace(b'"reason"', b'"why"'),
    ],
)
def test_what_is_no_announcement_is_told_so(payload):
    with pytest.raises(ValueError, match=r"."):
        read_word(payload)


def test_a_flag_of_a_newer_version_counts_as_one():
    assert read_word(announcement("TripDataReady", flags=("NEWER",))).flags != 0
    assert read_word(announcement("TripDataReady")).flags == 0


def test_an_event_of_invers_without_a_revision_is_one():
    assert read_word(announcement("TripStarted").replace(b'"revision":1,', b"")).revision == 0


def test_texts_that_no_database_has_stay_different(engine):
    names = ["a\x00", "a\x01", "a\x01\x01", "a\x01\x02", "a\x00\x01", "a"]
    assert len({to_column(name) for name in names}) == len(names)
    project(engine, [announcement("TripStarted", name) for name in names])
    assert len(rows(engine)[0]) == len(names)


@pytest.mark.parametrize("instant", [0, 1, DAY, DAY + 1, 2**48 - 1])
def test_the_first_id_of_an_instant_is_the_lowest_that_a_trip_can_have(instant):
    first = first_id(instant)
    assert first <= trip_id("any", instant)
    assert trip_id("any", max(instant - 1, 0)) < first or instant == 0
