"""A fuzzer asks whatever the OpenAPI document allows, and what it does not: nothing ends in a 5xx."""

import json
import threading
import time

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from serve_world import DAY, ReadSide, announcement, trip_id

from streams.errors import UnknownTripError
from streams.local.broker import free_ports
from streams.serve.app import openapi_document

DOCUMENT = openapi_document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request, tmp_path_factory):
    """The address of a read side with some trips, and the header of a key for everything."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('fuzz')}/a.db"
    else:
        url = request.getfixturevalue("postgres")()

    async def delete(trip_id, vehicle_id):
        raise UnknownTripError("never mind")

    side = ReadSide(url, delete=delete)
    side.say(*(announcement("TripDataReady", "omaha-1", DAY + number, number) for number in range(20)))
    side.say(announcement("TripDeleted", "omaha-1", DAY, 30), announcement("TripStarted", "0", DAY, 30))
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(side.gate, port=port, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {side.keys.create('fuzz', ['admin'])[1]}"}
    server.should_exit = True
    thread.join(10)
    side.close()


@SCHEMA.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_nothing_that_is_asked_ends_in_an_error_of_ours(case, served):
    url, headers = served
    case.call_and_validate(base_url=url, headers=headers, checks=CHECKS, timeout=10)


def test_the_fuzzer_reaches_every_operation():
    operations = {(operation.ok().method.upper(), operation.ok().path) for operation in SCHEMA.get_all_operations()}
    assert operations == {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert len(operations) == 12
    assert trip_id("omaha-1", DAY) not in json.dumps(DOCUMENT)
