import json
from datetime import UTC, datetime, timedelta

import pytest
from pushing import AUTHORIZATION, KEY, NEW_SECRET, SECRET
from standardwebhooks import Webhook, WebhookVerificationError

from streams.push.profiles import (
    DAY,
    MAX_RETRY_AFTER_S,
    WrongEventError,
    delay_s,
    drivequant,
    drivequant_date,
    retry_after_s,
    standard,
)


def deleted(trip_id, occurred_at):
    announcement = {"metadata": {"type": "TripDeleted"}, "data": {"occurred_at": occurred_at, "trip": {"id": trip_id}}}
    return json.dumps(announcement).encode()


# -- drivequant --------------------------------------------------------------------------------------------------------

# Sample message of seed 001_2ec317c3d076ac9a.txt ("Push Deleted Trip"), as it stands there.
SEED_001_SAMPLE = """{
  "itinId": "6030ebe4ea60426b34e9b3bf",
  "event": "TRIP_DELETION",
  "date": "2025-01-30T07:23:22.000+0000"
}"""
# Request body of seed 000_d428a3f66721a905.txt (POST /push/trip/event), as it stands there.
SEED_000_SAMPLE = """{
  "itinId": "text",
  "event": "TRIP_DELETION",
  "date": "2023-02-08T10:00:00.000+0200"
}"""


def test_the_sample_of_seed_001_is_what_is_sent():
    request = drivequant(deleted("6030ebe4ea60426b34e9b3bf", "2025-01-30T07:23:22Z"), AUTHORIZATION)
    assert json.loads(request.body) == json.loads(SEED_001_SAMPLE)
    assert list(json.loads(request.body)) == list(json.loads(SEED_001_SAMPLE))  # the order of the fields, too
    assert request.headers == {
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Authorization": AUTHORIZATION,
    }


def test_the_sample_of_seed_000_is_what_is_sent_at_the_same_instant_in_utc():
    request = drivequant(deleted("text", "2023-02-08T10:00:00.000+02:00"), AUTHORIZATION)
    ours, sample = json.loads(request.body), json.loads(SEED_000_SAMPLE)
    assert datetime.fromisoformat(ours.pop("date")) == datetime.fromisoformat(sample.pop("date"))
    assert ours == sample


@pytest.mark.parametrize(
    ("occurred_at", "date"),
    [
        ("2026-01-30T07:23:22Z", "2026-01-30T07:23:22.000+0000"),
        ("2026-01-30T07:23:22.5Z", "2026-01-30T07:23:22.500+0000"),
        ("2026-01-30T07:23:22.999999Z", "2026-01-30T07:23:22.999+0000"),
        ("2026-01-30T00:00:00.001+05:30", "2026-01-29T18:30:00.001+0000"),
    ],
)
def test_the_date_has_the_pattern_of_the_seeds(occurred_at, date):
    assert drivequant_date(occurred_at) == date


def test_without_a_credential_there_is_no_authorization_header():
    assert "Authorization" not in drivequant(deleted("01T", "2026-01-30T07:23:22Z"), None).headers


def test_drivequant_never_says_of_a_trip_that_is_there_that_it_was_deleted():
    ready = deleted("01T", "2026-01-30T07:23:22Z").replace(b"TripDeleted", b"TripDataReady")
    with pytest.raises(WrongEventError, match="TripDeleted only, and not of TripDataReady"):
        drivequant(ready, None)


def test_drivequant_tries_once_a_day_thirty_times_whatever_the_endpoint_asks_for():
    assert [delay_s("drivequant", failed, 0.9, 3.0) for failed in range(1, 30)] == [DAY] * 29
    assert delay_s("drivequant", 30, 0.9, 3.0) is None


# -- standard ----------------------------------------------------------------------------------------------------------

BODY = '{"metadata": {"type": "TripDataReady"}, "data": {"trip": {"vehicle_id": "Fahrzeug Ö"}}}'.encode()


def now():
    return int(datetime.now(UTC).timestamp())


def test_the_reference_library_accepts_what_is_signed():
    request = standard(BODY, "01EVENT-one", now(), [KEY], None)
    assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(BODY)
    assert request.body == BODY


def test_the_reference_librarys_own_signature_is_ours():
    # Its sign() takes the digits of a datetime for UTC, whatever its time zone says: only UTC gives what it means.
    seconds = now()
    signature = Webhook(SECRET).sign("01EVENT-one", datetime.fromtimestamp(seconds, UTC), BODY.decode())
    assert standard(BODY, "01EVENT-one", seconds, [KEY], None).headers["webhook-signature"] == signature


def test_the_example_of_the_specification():
    # From the Standard Webhooks specification's reference implementations.
    request = standard(
        b'{"test": 2432232314}',
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        [Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")._whsecret],
        None,
    )
    assert request.headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_sign_while_they_are_being_changed():
    import base64

    keys = [KEY, base64.b64decode(NEW_SECRET)]
    request = standard(BODY, "01EVENT-one", now(), keys, None)
    for secret in (SECRET, NEW_SECRET):
        Webhook(secret).verify(request.body, request.headers)
    assert request.headers["webhook-signature"].count("v1,") == 2


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp"])
def test_what_is_changed_on_the_way_is_refused(change):
    request = standard(BODY, "01EVENT-one", now(), [KEY], None)
    body, headers = request.body, dict(request.headers)
    if change == "body":
        body = body.replace(b"Ready", b"ready")
    elif change == "webhook-id":
        headers[change] += "x"
    else:
        headers[change] = str(int(headers[change]) + 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers)


def test_the_schedule_of_the_contract_with_its_jitter():
    seconds = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    for failed, delay in enumerate(seconds, start=1):
        assert delay_s("standard", failed, 0.5, None) == delay
        assert delay_s("standard", failed, 0.0, None) == pytest.approx(delay * 0.9)
        assert delay_s("standard", failed, 1.0, None) == pytest.approx(delay * 1.1)
    assert delay_s("standard", 10, 0.5, None) is None


def test_retry_after_puts_an_attempt_off_and_never_brings_it_forward():
    assert delay_s("standard", 1, 0.5, 60.0) == 60
    assert delay_s("standard", 2, 0.5, 60.0) == 300
    assert delay_s("standard", 1, 0.5, 1e9) == MAX_RETRY_AFTER_S == 86_400
    assert delay_s("standard", 10, 0.5, 60.0) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 0 ", 0),
        ("99999999999999999999", MAX_RETRY_AFTER_S),
        ("Sun, 01 Mar 2026 08:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 09:02:00 +0100", 120),
        ("Sunday, 01-Mar-26 08:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 08:02:00 -0000", 120),
        ("Sun, 01 Mar 2026 07:00:00 GMT", 0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
        ("\u0661\u0662", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value, seconds):
    start = datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert retry_after_s(value, int(start.timestamp() * 1000)) == seconds


def test_the_longest_history_is_over_after_some_three_days_and_four_hours():
    total = sum(delay_s("standard", failed, 0.5, None) for failed in range(1, 10))
    assert timedelta(seconds=total) == timedelta(hours=75, minutes=35, seconds=5)
