import json

import pytest
from pushing import SECRET, book_of, entry, subscription
from pydantic import ValidationError

from streams.errors import StateError, UsageError
from streams.push import book
from streams.push.credentials import CredentialError, resolve, signing_key
from streams.push.report import describe_subscription
from streams.push.subscriptions import EVENTS, Subscription, explain_invalid, read_file, tenant_records
from streams.settings import Settings

FILE = """
[tenants]
acme = ["ACME-*", "JQ7RP"]

[[subscriptions]]
id = "acme-deletions"
url = "https://acme.example/push/trip/event"
profile = "drivequant"
tenant = "acme"
authorization = "file:acme"

[[subscriptions]]
id = "acme-trips"
url = "https://acme.example/hooks?token=1"
profile = "standard"
events = ["TripDataReady", "TripDeleted"]
tenant = "acme"
secrets = ["env:PUSH_SECRET_ACME", "env:PUSH_SECRET_ACME_NEXT"]
limits = {concurrency = 2, rate = 10, timeout = 5}
"""


def test_a_file_of_subscriptions(tmp_path):
    path = tmp_path / "push.toml"
    path.write_text(FILE)
    file = read_file(path)
    deletions, trips = file.subscriptions
    assert file.tenants == {"acme": ("ACME-*", "JQ7RP")}
    assert deletions.wanted == {"TripDeleted"}
    assert trips.wanted == {"TripDataReady", "TripDeleted"}
    assert (trips.limits.concurrency, trips.limits.rate, trips.limits.timeout) == (2, 10, 5)
    as_json = tmp_path / "push.json"
    as_json.write_text(file.model_dump_json())
    assert read_file(as_json) == file


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[tenants]", "[tenant]"), "tenant: Extra inputs are not permitted"),
        (('tenant = "acme"\nauth', 'tenant = "acne"\nauth'), "there is no tenant acne in this file"),
        (('id = "acme-trips"', 'id = "acme-deletions"'), "there is more than one subscription acme-deletions"),
        (('"file:acme"', '"Bearer 123"'), "the secret itself is never stored"),
        (('"file:acme"', '"env:TRIPS_SASL_PASSWORD"'), "must be env:PUSH_SECRET_"),
        (('"file:acme"', '"file:../etc/passwd"'), "must be env:PUSH_SECRET_"),
        (('"TripDataReady"', '"TripReady"'), "subscriptions.1.events.0: Input should be 'TripStarted'"),
        (("concurrency = 2", "concurrency = 0"), "subscriptions.1.limits.concurrency"),
        (("[[subscriptions]]", "[subscriptions"), "Expected ']'"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_without_secrets(tmp_path, change, says):
    path = tmp_path / "push.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UsageError) as error:
        read_file(path)
    assert str(error.value).startswith(f"TRIPS_PUSH_FILE={path}: ")
    assert says in str(error.value)
    assert "Bearer" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"profile": "standard"}, "it needs a secret"),
        ({"secrets": ("env:PUSH_SECRET_ONE",)}, "signs nothing"),
        ({"events": ("TripStarted",)}, "tells of TripDeleted only"),
        ({"id": "Über"}, "id: "),
        ({"id": "a.b"}, "id: "),
        ({"profile": "standard", "secrets": ("env:PUSH_SECRET_A", "env:PUSH_SECRET_B", "file:c")}, "at most 2"),
    ],
)
def test_what_a_profile_does_not_have(changes, says):
    with pytest.raises(ValidationError) as error:
        Subscription.model_validate({"id": "one", "url": "https://example.com/", "profile": "drivequant", **changes})
    assert says in explain_invalid(error.value)


def test_what_is_shown_of_a_subscription_holds_no_secret():
    one = entry(subscription("https://example.com/push?token=secret", profile="standard"))
    shown = json.dumps(describe_subscription(one))
    assert "token" not in shown
    assert "https://example.com/\\u2026" in shown
    assert set(describe_subscription(one)["events"]) == set(EVENTS)


def test_a_subscription_of_a_newer_version_is_refused():
    record = json.loads(entry(subscription()).record())
    with pytest.raises(StateError, match="newer version"):
        book_of().take(b"subscription/one", json.dumps({**record, "format": 2}).encode())


def test_tenants_become_what_the_file_says():
    book = book_of(tenants={"old": ("A",), "same": ("B",), "other": ("C",)})
    records = tenant_records({"same": ("B",), "other": ("D",), "new": ("E",)}, book)
    assert records == {
        b"tenant/old": None,
        b"tenant/other": b'{"vehicles": ["D"]}',
        b"tenant/new": b'{"vehicles": ["E"]}',
    }
    for key, value in records.items():
        book.take(key, value)
    assert book.tenants == {"same": ("B",), "other": ("D",), "new": ("E",)}


# -- credentials -------------------------------------------------------------------------------------------------------


def test_secrets_by_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSH_SECRET_ONE", " Bearer x \n")
    (tmp_path / "two").write_text("Bearer y\n")
    assert resolve("env:PUSH_SECRET_ONE", tmp_path) == "Bearer x"
    assert resolve("file:two", tmp_path) == "Bearer y"


@pytest.mark.parametrize(
    "reference",
    [
        "env:PUSH_SECRET_NONE",
        "env:PUSH_SECRET_EMPTY",
        "env:PUSH_SECRET_LINES",
        "env:PUSH_SECRET_LETTERS",
        "env:HOME",
        "env:TRIPS_SASL_PASSWORD",
        "file:none",
        "file:folder",
        "file:link",
        "file:binary",
        "file:../secret",
        "file:/etc/passwd",
        "file:..",
        "Bearer not-a-reference",
    ],
)
def test_what_cannot_be_a_secret(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("PUSH_SECRET_EMPTY", " ")
    monkeypatch.setenv("PUSH_SECRET_LINES", "hidden\r\nX-Injected: 1")
    monkeypatch.setenv("PUSH_SECRET_LETTERS", "hidd\u00ebn")
    monkeypatch.setenv("TRIPS_SASL_PASSWORD", "hidden")
    folder = tmp_path / "folder"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("hidden")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialError) as error:
        resolve(reference, folder)
    assert "hidd" not in str(error.value)
    assert "Bearer" not in str(error.value)


@pytest.mark.parametrize("value", ["whsec_not base64", "whsec_c2hvcnQ=", "whsec_" + "A" * 100, "whsec_"])
def test_what_cannot_be_a_signing_key(value, tmp_path, monkeypatch):
    monkeypatch.setenv("PUSH_SECRET_ONE", value)
    with pytest.raises(CredentialError, match="must be"):
        signing_key("env:PUSH_SECRET_ONE", tmp_path)


def test_a_signing_key_may_lack_its_padding(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSH_SECRET_ONE", SECRET.rstrip("="))
    assert signing_key("env:PUSH_SECRET_ONE", tmp_path) == bytes(range(32))


async def test_a_subscription_of_the_file_is_removed_there_and_by_no_command(monkeypatch):
    of_file = entry(subscription(name="acme")).model_copy(update={"source": "file"})

    async def edit(_settings, change):
        return change(book_of(of_file, entry(subscription(name="mine"))))

    monkeypatch.setattr(book, "edit", edit)
    with pytest.raises(UsageError, match="subscription acme is from TRIPS_PUSH_FILE: take it out of that file"):
        await book.remove(Settings.given(), "acme")
    await book.remove(Settings.given(), "mine")
