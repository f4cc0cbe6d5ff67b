import base64
import json
import time

import aiohttp
import pytest

from streams.local.receiver import Receiver
from streams.push import profiles

ID = "01DDS0B988YSDBE38249Z555NG"


def announcement(kind):
    return json.dumps(
        {
            "metadata": {"id": f"01EVENT{kind}", "type": kind},
            "data": {"occurred_at": "2026-01-30T07:23:22Z", "trip": {"id": ID, "vehicle_id": "JQ7RP"}},
        }
    ).encode()


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


async def post(url, request):
    async with aiohttp.ClientSession() as session, session.post(url, data=request.body, headers=request.headers) as got:
        return got.status


def signed(receiver, kind, *, delivery="delivery-1", secret=None):
    key = base64.b64decode((secret or receiver.secret).removeprefix("whsec_"))
    return profiles.standard(announcement(kind), delivery, int(time.time()), [key], None)


async def test_what_is_signed_is_taken(receiver):
    assert await post(receiver.url("standard"), signed(receiver, "TripDataReady")) == 204
    (attempt,) = receiver.attempts
    assert (attempt.id, attempt.event, attempt.trip_id, attempt.taken) == ("delivery-1", "TripDataReady", ID, True)
    assert receiver.forged == 0


async def test_the_first_attempt_to_tell_of_a_deletion_is_refused_and_the_second_is_taken(receiver):
    for expected in (503, 204):
        assert await post(receiver.url("standard"), signed(receiver, "TripDeleted")) == expected
    assert await post(receiver.url("standard"), signed(receiver, "TripDeleted", delivery="delivery-2")) == 503
    assert [attempt.taken for attempt in receiver.attempts] == [False, True, False]


async def test_what_another_has_signed_is_refused_and_counted(receiver):
    forged = signed(receiver, "TripDataReady", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert await post(receiver.url("standard"), forged) == 401
    unsigned = profiles.Request({"Content-Type": "application/json"}, announcement("TripDataReady"))
    assert await post(receiver.url("standard"), unsigned) == 401
    assert (receiver.attempts, receiver.forged) == ([], 2)


async def test_drivequants_push_is_taken_with_the_right_authorization_only(receiver):
    payload = announcement("TripDeleted")
    assert await post(receiver.url("drivequant"), profiles.drivequant(payload, "Bearer somebody")) == 401
    assert await post(receiver.url("drivequant"), profiles.drivequant(payload, None)) == 401
    assert await post(receiver.url("drivequant"), profiles.drivequant(payload, receiver.authorization)) == 204
    (attempt,) = receiver.attempts
    assert attempt.body == {"itinId": ID, "event": "TRIP_DELETION", "date": "2026-01-30T07:23:22.000+0000"}
    assert (attempt.trip_id, receiver.forged) == (ID, 2)


def test_each_receiver_has_secrets_of_its_own():
    one, other = Receiver(), Receiver()
    assert one.secret != other.secret
    assert one.authorization != other.authorization
