from datetime import timedelta

import pytest

from streams.errors import SettingsError
from streams.settings import Settings, misspelt
from streams.trips.samples import Property


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, whose `.env` is read again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    return tmp_path


def problems(**values):
    with pytest.raises(SettingsError) as error:
        Settings.given(**values)
    return list(error.value.problems)


def test_defaults_are_those_of_the_contract():
    settings = Settings.given()
    assert settings.bootstrap_servers == "localhost:9092"
    assert settings.application_id == "ignition-trips"
    assert settings.partitions == 8
    assert settings.replication_factor == 1
    assert settings.max_clock_skew_ms == 3_600_000
    assert settings.commit_interval_s == 0.1
    assert settings.session_timeout_s == 10.0
    assert settings.http_port == 8080
    rules = settings.rules()
    assert rules.trigger is Property.IGNITION
    assert rules.min_duration_ms == 60_000
    assert rules.silence_timeout_ms == 3_600_000
    assert rules.correction_horizon_ms == 86_400_000
    assert (rules.merge_gap_ms, rules.ready_delay_ms, rules.min_distance_m, rules.revision_base) == (0, 0, 0, 0)
    assert rules.ready_event_name == "TripDataReady"


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("90", 90_000),
        ("0.1", 100),
        (90, 90_000),
        (0.25, 250),
        ("PT30M", 1_800_000),
        ("PT1H30M", 5_400_000),
        ("PT0.5S", 500),
        ("PT0,5S", 500),
        ("P1D", 86_400_000),
        ("P1DT1S", 86_401_000),
        ("P2W", 1_209_600_000),
        ("0", 0),
        ("PT0S", 0),
    ],
)
def test_durations_are_seconds_or_iso_8601(written, milliseconds):
    assert Settings.given(min_duration=written).rules().min_duration_ms == milliseconds


@pytest.mark.parametrize(
    "written", ["", "P", "PT", "P1DT", "1h", "PT1H30", "P1Y", "P1M", "-1", "-PT1S", "nan", "inf", "1e9", "0.0001", True]
)
def test_what_is_no_duration_is_refused(written):
    (problem,) = problems(min_duration=written)
    assert problem == (
        f"TRIPS_MIN_DURATION={written!r}: must be seconds, or ISO 8601 such as PT30M; whole milliseconds"
    )


def test_everything_wrong_is_said_at_once():
    assert problems(
        bootstrap_servers="kafka",
        partitions="none",
        trigger="key",
        http_port=70_000,
        merge_gap="PT2H",
        late_topic="trips",
    ) == [
        "TRIPS_BOOTSTRAP_SERVERS='kafka': must be host:port, several separated by commas",
        "TRIPS_PARTITIONS='none': must be a whole number, 1 to 10000",
        "TRIPS_TRIGGER='key': must be one of: ignition, immobilizer, driving_enabled",
        "TRIPS_HTTP_PORT=70000: must be a port, 0 to 65535",
        (
            "TRIPS_MERGE_GAP=7200 s, TRIPS_SILENCE_TIMEOUT=3600 s (default): "
            "merge_gap must be less than silence_timeout: a gap that long is a data gap"
        ),
        "TRIPS_LATE_TOPIC=trips, TRIPS_TRIPS_TOPIC=trips (default): two topics must not have the same name",
    ]


def test_a_rule_between_settings_is_not_blamed_on_the_default_of_a_wrong_one():
    assert problems(silence_timeout="soon", merge_gap="PT2H") == [
        "TRIPS_SILENCE_TIMEOUT='soon': must be seconds, or ISO 8601 such as PT30M; whole milliseconds"
    ]


def test_the_merge_gap_may_be_long_where_silence_never_ends_a_trip():
    assert Settings.given(merge_gap="PT2H", silence_timeout=0).rules().merge_gap_ms == 7_200_000


@pytest.mark.parametrize(
    "servers", ["a:1", "a:9092,b:9092", "127.0.0.1:65535", "[::1]:9092", "broker-1.example.com:9092, broker-2:9092"]
)
def test_bootstrap_servers_are_hosts_and_ports(servers):
    assert Settings.given(bootstrap_servers=servers).client()["bootstrap_servers"] == servers.replace(" ", "").split(
        ","
    )


@pytest.mark.parametrize("servers", ["a", "a:", "a:0", "a:65536", ":1", "a:1,", "http://a:1", "a:1 b:2"])
def test_other_bootstrap_servers_are_refused(servers):
    assert problems(bootstrap_servers=servers) == [
        f"TRIPS_BOOTSTRAP_SERVERS={servers!r}: must be host:port, several separated by commas"
    ]


def test_the_environment_wins_over_env_file_and_that_over_toml(folder, monkeypatch):
    (folder / "trips.toml").write_text('application_id = "toml"\npartitions = 3\nmin_duration = "PT2M"\n')
    (folder / ".env").write_text("TRIPS_APPLICATION_ID=file\nTRIPS_PARTITIONS=4\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("TRIPS_APPLICATION_ID", "environment")
    settings = Settings.load()
    assert settings.application_id == "environment"
    assert settings.partitions == 4
    assert settings.min_duration == timedelta(minutes=2)
    assert Settings.load(partitions=5, application_id=None).partitions == 5


def test_an_empty_variable_counts_as_not_set(folder, monkeypatch):
    monkeypatch.setenv("TRIPS_PARTITIONS", "")
    assert Settings.load().partitions == 8


def test_another_toml_file_can_be_named(folder, monkeypatch):
    (folder / "other.toml").write_text("partitions = 3\n")
    monkeypatch.setenv("TRIPS_CONFIG_FILE", "other.toml")
    assert Settings.load().partitions == 3
    monkeypatch.setenv("TRIPS_CONFIG_FILE", "none.toml")
    with pytest.raises(SettingsError, match=r"TRIPS_CONFIG_FILE=none\.toml: No such file or directory"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partitons = 3", r"trips.toml: 'partitons' is no setting; is partitions meant\?"),
        ("TRIPS_PARTITIONS = 3", r"trips.toml: 'TRIPS_PARTITIONS' is no setting; is partitions meant\?"),
        ("zzz = 3", "trips.toml: 'zzz' is no setting$"),
        ("partitions = ", "trips.toml: not TOML: "),
        ("partitions = 0", "TRIPS_PARTITIONS=0: must be a whole number, 1 to 10000"),
    ],
)
def test_what_is_wrong_in_the_toml_file_is_named(folder, text, says):
    (folder / "trips.toml").write_text(text)
    with pytest.raises(SettingsError, match=says):
        Settings.load()


def test_topics_take_the_prefix_and_the_changelog_the_application_id():
    topics = Settings.given(topic_prefix="acme.", application_id="fleet", events_topic="events").topics
    assert topics.telemetry == "acme.vehicle-telemetry"
    assert topics.dead_letters == "acme.vehicle-telemetry-dead-letters"
    assert topics.late == "acme.late-telemetry"
    assert topics.events == "acme.events"
    assert topics.trips == "acme.trips"
    assert topics.changelog == "fleet-vehicles-changelog"


def test_no_number_is_shown_with_an_exponent():
    settings = Settings.given(status_retention="P31D", push_retry_scale=0.00002)
    assert settings.changed() == {"TRIPS_STATUS_RETENTION": "2678400 s", "TRIPS_PUSH_RETRY_SCALE": "0.00002"}


SECRET = "hunter2-hunter2"


def test_secrets_are_never_shown(monkeypatch, folder):
    for message in (
        *problems(sasl_password=SECRET),
        *problems(sasl_password=[SECRET]),
        *problems(security_protocol="SASL_SSL", sasl_password=SECRET),
        *problems(ssl_key_password=[SECRET], partitions=0),
    ):
        assert SECRET not in message
    settings = Settings.given(security_protocol="SASL_PLAINTEXT", sasl_username="me", sasl_password=SECRET)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.changed())
    assert settings.changed()["TRIPS_SASL_PASSWORD"] == "**********"
    assert settings.client() == {
        "bootstrap_servers": ["localhost:9092"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": SECRET,
    }


def test_security_settings_that_do_not_fit_together_are_refused(tmp_path):
    assert problems(security_protocol="SASL_PLAINTEXT") == [
        "TRIPS_SASL_USERNAME: needed with TRIPS_SECURITY_PROTOCOL=SASL_PLAINTEXT",
        "TRIPS_SASL_PASSWORD: needed with TRIPS_SECURITY_PROTOCOL=SASL_PLAINTEXT",
    ]
    assert problems(sasl_password="x") == [
        "TRIPS_SECURITY_PROTOCOL=PLAINTEXT (default), TRIPS_SASL_PASSWORD: a password needs SASL_PLAINTEXT or SASL_SSL"
    ]
    assert problems(ssl_cafile="ca.pem") == [
        "TRIPS_SECURITY_PROTOCOL=PLAINTEXT (default), TRIPS_SSL_CAFILE=ca.pem: certificates need SSL or SASL_SSL"
    ]
    assert problems(security_protocol="SSL", ssl_keyfile="key.pem") == [
        "TRIPS_SSL_KEYFILE=key.pem: a key needs its certificate, TRIPS_SSL_CERTFILE"
    ]
    missing, text = tmp_path / "none.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    assert problems(security_protocol="SSL", ssl_cafile=missing) == [
        f"TRIPS_SSL_CAFILE={missing}: cannot be used: No such file or directory"
    ]
    (problem,) = problems(security_protocol="SSL", ssl_certfile=text)
    assert problem.startswith(f"TRIPS_SSL_CERTFILE={text}: cannot be used: ")


def test_tls_comes_with_a_context():
    context = Settings.given(security_protocol="SSL").client()["ssl_context"]
    assert context.check_hostname
    assert (
        not Settings.given(security_protocol="SSL", ssl_check_hostname="false").client()["ssl_context"].check_hostname
    )


def test_there_are_two_guarantees_and_the_stronger_one_is_the_default():
    assert Settings.load().processing_guarantee == "exactly_once"
    assert Settings.load(processing_guarantee="at_least_once").processing_guarantee == "at_least_once"
    assert problems(processing_guarantee="exactly_twice") == [
        "TRIPS_PROCESSING_GUARANTEE='exactly_twice': must be one of: exactly_once, at_least_once"
    ]


def test_a_variable_that_looks_like_a_setting_is_named():
    environment = {
        "TRIPS_MIN_DURATON": "5",
        "TRIPS_PARTITIONS": "5",
        "TRIPS_SERVICE_HOST": "10.0.0.1",
        "TRIPS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "TRIPS_CONFIG_FILE": "x",
        "PATH": "/bin",
    }
    assert misspelt(environment) == ["TRIPS_MIN_DURATON is no setting: is TRIPS_MIN_DURATION meant?"]
