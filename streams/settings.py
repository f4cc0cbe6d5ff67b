"""Settings: environment variables with the prefix ``TRIPS_``, a ``.env`` file and a TOML file; checked at the start.

The environment wins over ``.env``, and that over the TOML file (``TRIPS_CONFIG_FILE``, else ``./trips.toml``), whose
keys are the names of the fields below. Secrets are kept as such: no message, log or report shows one.

``python -m streams.settings`` prints docs/settings.md.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import ssl
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from streams.errors import SettingsError
from streams.trips.rules import Rules
from streams.trips.samples import Property

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

__all__ = ["ENV_PREFIX", "Settings", "Topics", "misspelt", "reference"]

ENV_PREFIX: Final = "TRIPS_"
CONFIG_FILE_VARIABLE: Final = "TRIPS_CONFIG_FILE"
DEFAULT_CONFIG_FILE: Final = "trips.toml"
ENV_FILE: Final = ".env"

# Not settings, but known all the same: no typing mistakes.
_KUBERNETES: Final = "TRIPS_SERVICE_"  # of a service that is called trips; some look much like TRIPS_SERVE_…
_OTHER_VARIABLES: Final = frozenset({CONFIG_FILE_VARIABLE, "TRIPS_TEST_BOOTSTRAP_SERVERS"})

_LONGEST: Final = timedelta(days=3650)
_ISO_8601_DURATION: Final = re.compile(
    r"P(?:(?P<weeks>\d+)W|(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:[.,]\d+)?)S)?)?)",
    re.ASCII,
)
_UNIT_SECONDS: Final = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def _parse_duration(value: object) -> timedelta:
    """Seconds (``90``, ``"0.1"``) or ISO 8601 (``"PT1M30S"``); whole milliseconds."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a duration")  # noqa: TRY004  (pydantic turns a ValueError, not a TypeError, into a line)
    text = str(value).strip()
    match = _ISO_8601_DURATION.fullmatch(text)
    try:
        if match is None:
            seconds = Decimal(text)
        elif any(match.groups()):
            parts = {unit: Decimal((part or "0").replace(",", ".")) for unit, part in match.groupdict().items()}
            seconds = sum((parts[unit] * size for unit, size in _UNIT_SECONDS.items()), Decimal(0))
        else:
            raise ValueError("not a duration")
    except InvalidOperation:
        raise ValueError("not a duration") from None
    if not seconds.is_finite() or not 0 <= seconds <= Decimal(_LONGEST.total_seconds()):
        raise ValueError("out of range")
    milliseconds = seconds * 1000
    if milliseconds != int(milliseconds):
        raise ValueError("finer than a millisecond")
    return timedelta(milliseconds=int(milliseconds))


def _check_servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")]
    for server in servers:
        match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})", server)
        if match is None or not 1 <= int(match[1]) <= 65_535:
            raise ValueError("not host:port")
    return ",".join(servers)


_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")


def _check_places(value: str) -> str:
    places = [place.strip() for place in value.split(",") if place.strip()]
    for place in places:
        try:
            ipaddress.ip_network(place)
        except ValueError:
            # Digits and dots alone are an address that is misspelt, and no name.
            if _HOST.fullmatch(place) is None or re.fullmatch(r"[0-9./:]+", place):
                raise ValueError("neither a network nor a host") from None
    return ",".join(places)


def _check_nat64(value: str) -> str:
    prefixes = [prefix.strip() for prefix in value.split(",") if prefix.strip()]
    for prefix in prefixes:
        if ipaddress.IPv6Network(prefix).prefixlen not in (32, 40, 48, 56, 64, 96):
            raise ValueError("not the length of a NAT64 prefix")
    return ",".join(prefixes)


def _check_ports(value: str) -> str:
    ports = [port.strip() for port in value.split(",") if port.strip()]
    if not all(port.isdecimal() and 1 <= int(port) <= 65_535 for port in ports):
        raise ValueError("not ports")
    return ",".join(ports)


def _check_database(value: SecretStr | None) -> SecretStr | None:
    # SQLite's options can make it one in memory, or to be read only.
    known = r"sqlite:///(?!:memory:)[^?]+\Z|postgresql(\+psycopg)?://"
    if value is not None and re.match(known, value.get_secret_value()) is None:
        raise ValueError("not a database that we know")
    return value


Duration = Annotated[timedelta, BeforeValidator(_parse_duration)]
Servers = Annotated[str, AfterValidator(_check_servers)]
# A topic's name has at most 249 characters; "-vehicles-changelog" and the names below need their share.
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
TopicPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")]

_NAME_ALLOWED: Final = "letters, digits, '.', '_' and '-'"
_DURATION_ALLOWED: Final = "seconds, or ISO 8601 such as PT30M; whole milliseconds"


def _setting(default: object, about: str, allowed: str, group: str) -> Any:
    return Field(default=default, description=about, json_schema_extra={"allowed": allowed, "group": group})


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """The full names of the topics."""

    telemetry: str
    commands: str
    dead_letters: str
    late: str
    events: str
    trips: str
    changelog: str
    status_events: str
    status_requests: str
    status_changelog: str
    push_dead_letters: str
    push_subscriptions: str
    push_requests: str
    push_changelog: str


class Settings(BaseSettings):
    """Everything that can be set. ``Settings.load()`` is the way to get one: it says in lines what is wrong.

    Durations are ``timedelta``; the properties that end in ``_ms`` or ``_s`` give them as numbers.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=False,
    )

    _only_given: ClassVar[bool] = False

    # Cluster
    bootstrap_servers: Servers = _setting(
        "localhost:9092", "Where the Kafka cluster answers.", "host:port, several separated by commas", "cluster"
    )
    application_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = _setting(
        "ignition-trips",
        "Consumer group, prefix of the internal topics and of the transactional ids.",
        f"1 to 200 {_NAME_ALLOWED}",
        "cluster",
    )
    session_timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(minutes=30))] = _setting(
        timedelta(seconds=10),
        "How soon the partitions of a dead worker move to another. "
        "Brokers refuse less than their group.min.session.timeout.ms (6 s unless changed).",
        f"1 s to 30 min ({_DURATION_ALLOWED})",
        "cluster",
    )

    # Topics
    topic_prefix: TopicPrefix = _setting(
        "", "Put in front of every topic's name, but for the internal ones.", f"up to 100 {_NAME_ALLOWED}", "topics"
    )
    telemetry_topic: TopicName = _setting(
        "vehicle-telemetry", "The source: telemetry messages.", f"1 to 200 {_NAME_ALLOWED}", "topics"
    )
    commands_topic: TopicName = _setting(
        "trip-commands",
        "What is to be done with trips: their deletion. As many partitions as the source has.",
        f"1 to 200 {_NAME_ALLOWED}",
        "topics",
    )
    dead_letters_topic: TopicName = _setting(
        "vehicle-telemetry-dead-letters",
        "Records that could not be read, as a whole or in part.",
        f"1 to 200 {_NAME_ALLOWED}",
        "topics",
    )
    late_topic: TopicName = _setting(
        "late-telemetry", "Records behind the correction horizon.", f"1 to 200 {_NAME_ALLOWED}", "topics"
    )
    events_topic: TopicName = _setting("trip-events", "Every announcement.", f"1 to 200 {_NAME_ALLOWED}", "topics")
    trips_topic: TopicName = _setting(
        "trips", "The latest state of each finished trip; compacted.", f"1 to 200 {_NAME_ALLOWED}", "topics"
    )
    status_events_topic: TopicName = _setting(
        "trip-status-events", "Every change of a planned trip.", f"1 to 200 {_NAME_ALLOWED}", "topics"
    )
    push_dead_letters_topic: TopicName = _setting(
        "trip-push-dead-letters",
        "Pushes that were given up, with their history.",
        f"1 to 200 {_NAME_ALLOWED}",
        "topics",
    )
    partitions: Annotated[int, Field(ge=1, le=10_000)] = _setting(
        8, "Partitions of the topics that we create.", "a whole number, 1 to 10000", "topics"
    )
    replication_factor: Annotated[int, Field(ge=1, le=100)] = _setting(
        1, "Replicas of the topics that we create; 3 where it matters.", "a whole number, 1 to 100", "topics"
    )

    # Trips
    trigger: Literal["ignition", "immobilizer", "driving_enabled"] = _setting(
        "ignition",
        "The property whose change starts and ends trips.",
        "one of: ignition, immobilizer, driving_enabled",
        "trips",
    )
    unknown_start: Literal["start", "ignore"] = _setting(
        "start",
        "Whether an ON of which nothing is known before starts a trip, or waits for an observed OFF and ON.",
        "one of: start, ignore",
        "trips",
    )
    min_duration: Duration = _setting(
        timedelta(minutes=1), "Trips shorter than this are discarded.", _DURATION_ALLOWED, "trips"
    )
    min_distance: Annotated[int, Field(ge=0, le=10_000_000)] = _setting(
        0,
        "Trips shorter than this, in metres, are discarded; 0: off. An unknown distance is kept.",
        "metres, a whole number, 0 to 10000000",
        "trips",
    )
    merge_gap: Duration = _setting(
        timedelta(0),
        "An OFF followed by an ON at most that much later does not end the trip; 0: off.",
        f"less than TRIPS_SILENCE_TIMEOUT and TRIPS_CORRECTION_HORIZON ({_DURATION_ALLOWED})",
        "trips",
    )
    ready_delay: Duration = _setting(
        timedelta(0),
        "How much longer than a trip's end its last data may still come in; 0: off.",
        _DURATION_ALLOWED,
        "trips",
    )
    silence_timeout: Duration = _setting(
        timedelta(hours=1),
        "A trip without any sample for longer than this has a data gap, and may have ended; 0: never.",
        _DURATION_ALLOWED,
        "trips",
    )
    correction_horizon: Annotated[Duration, Field(gt=timedelta(0))] = _setting(
        timedelta(hours=24),
        "How far behind a vehicle's newest sample late samples still change its trips. Memory grows with it.",
        f"more than 0 ({_DURATION_ALLOWED})",
        "trips",
    )
    max_clock_skew: Duration = _setting(
        timedelta(hours=1),
        "Samples that are later than their Kafka record by more than this are rejected.",
        _DURATION_ALLOWED,
        "trips",
    )
    revision_base: Annotated[int, Field(ge=0, le=2**62)] = _setting(
        0,
        "Added to offsets to make revisions. Needed above every published revision when starting with empty state "
        "beside existing announcements, or with another number of source partitions; `trips check` says so.",
        "a whole number, 0 or more",
        "trips",
    )
    ready_event_name: Literal["TripDataReady", "TripMetricsReady"] = _setting(
        "TripDataReady",
        "What the event is called that tells a trip's complete data.",
        "one of: TripDataReady, TripMetricsReady",
        "trips",
    )

    route_tolerance: Annotated[int, Field(ge=0, le=100_000)] = _setting(
        0,
        "Whether TripDataReady has a simplified route, and how far apart its points are, in metres; 0: it has none. "
        "Of a long trip they are further apart: there are at most 256.",
        "metres, a whole number, 0 to 100000",
        "trips",
    )

    # Worker
    processing_guarantee: Literal["exactly_once", "at_least_once"] = _setting(
        "exactly_once",
        "exactly_once: a consumer that reads committed sees each announcement once. at_least_once: it sees them "
        "sooner, and after a crash some of them again, byte for byte the same; state and `trips` are exactly once all "
        "the same.",
        "one of: exactly_once, at_least_once",
        "worker",
    )
    commit_interval: Annotated[Duration, Field(ge=timedelta(milliseconds=10), le=timedelta(seconds=10))] = _setting(
        timedelta(milliseconds=100),
        "The time from one checkpoint to the next: less is more work for the brokers. One with announcements begins at "
        "once, if in this partition there were few of late: two for each interval, and they took less than half of its "
        "time. One without has more patience with at_least_once: at least 1 s. While more than 10,000 records of a "
        "partition wait to be read, it is up to 1 s, or 20,000 records.",
        f"0.01 s to 10 s ({_DURATION_ALLOWED})",
        "worker",
    )
    http_host: Annotated[str, Field(min_length=1)] = _setting(
        "127.0.0.1",
        "The address on which health, readiness and metrics are served; 0.0.0.0 in a container.",
        "a host name or an IP address",
        "worker",
    )
    http_port: Annotated[int, Field(ge=0, le=65_535)] = _setting(
        8080, "The port of health, readiness and metrics; 0: off.", "a port, 0 to 65535", "worker"
    )

    # Trip status
    status_outdated: Literal["error_code", "argument_exception"] = _setting(
        "error_code",
        "The answer to an update that is older than the trip's last one: success false with errorCode -3 (HTTP 200), "
        "or an ArgumentException (HTTP 400).",
        "one of: error_code, argument_exception",
        "status",
    )
    status_answer_timeout: Annotated[Duration, Field(ge=timedelta(milliseconds=100), le=timedelta(minutes=5))] = (
        _setting(
            timedelta(seconds=10),
            "How long a request waits for its decision before it is answered 503.",
            f"0.1 s to 5 min ({_DURATION_ALLOWED})",
            "status",
        )
    )
    status_retention: Annotated[Duration, Field(ge=timedelta(minutes=1))] = _setting(
        timedelta(days=30),
        "For how long a planned trip is kept after its last change, and if it is still open after the end of its "
        "window.",
        f"1 min or more ({_DURATION_ALLOWED})",
        "status",
    )
    status_trip_memory: Annotated[Duration, Field(ge=timedelta(minutes=1))] = _setting(
        timedelta(hours=24),
        "For how long after its last announcement a trip can still be linked to a plan that is accepted late. Memory "
        "grows with it.",
        f"1 min or more ({_DURATION_ALLOWED})",
        "status",
    )

    # Push
    push_file: Path | None = _setting(
        None,
        "Subscriptions and tenants, read by `trips push worker` when it starts and whenever it changes.",
        "a TOML or JSON file",
        "push",
    )
    push_secrets_folder: Path = _setting(
        Path("/run/secrets/push"),
        "Where the files are that subscriptions may name as `file:NAME`: all of them, so nothing else should be there.",
        "a folder",
        "push",
    )
    push_allowed_networks: Annotated[str, AfterValidator(_check_places)] = _setting(
        "",
        "Where pushes may go although it is not public, also without TLS and to any port.",
        "networks such as 10.1.0.0/16, addresses and host names, separated by commas",
        "push",
    )
    push_nat64_prefixes: Annotated[str, AfterValidator(_check_nat64)] = _setting(
        "",
        "The NAT64 prefixes of your network besides 64:ff9b::/96: addresses in them are refused, or, where "
        "TRIPS_PUSH_ALLOWED_NETWORKS has the prefix, are as good as the IPv4 address that they wrap.",
        "IPv6 networks of 32, 40, 48, 56, 64 or 96 bits (RFC 6052), separated by commas",
        "push",
    )
    push_allowed_ports: Annotated[str, AfterValidator(_check_ports)] = _setting(
        "443,8443", "The ports that pushes may go to elsewhere.", "ports, separated by commas", "push"
    )
    push_ssl_cafile: Path | None = _setting(
        None, "Certificates (PEM) that endpoints are trusted by, besides the system's.", "a readable PEM file", "push"
    )
    push_retry_scale: Annotated[float, Field(gt=0, le=1)] = _setting(
        1.0,
        "The times between attempts are multiplied by this: less than 1 is for demonstrations and tests.",
        "a number, more than 0 and at most 1",
        "push",
    )
    push_max_waiting: Annotated[int, Field(ge=1, le=10_000_000)] = _setting(
        100_000,
        "How many deliveries of one subscription may wait in one partition; what comes on top goes to the dead "
        "letters. Memory grows with it.",
        "a whole number, 1 to 10000000",
        "push",
    )
    push_http_port: Annotated[int, Field(ge=0, le=65_535)] = _setting(
        8081,
        "The port of health, readiness and metrics of `trips push worker`; 0: off.",
        "a port, 0 to 65535",
        "push",
    )

    # Serving
    serve_host: Annotated[str, Field(min_length=1)] = _setting(
        "127.0.0.1",
        "The address on which `trips serve` answers. Any but this machine's own needs an API key first: "
        "`trips keys create`.",
        "a host name or an IP address",
        "serve",
    )
    serve_port: Annotated[int, Field(ge=1, le=65_535)] = _setting(
        8000, "The port on which `trips serve` answers.", "a port, 1 to 65535", "serve"
    )
    serve_http_port: Annotated[int, Field(ge=0, le=65_535)] = _setting(
        8082,
        "The port of health, readiness and metrics of `trips serve`, on TRIPS_HTTP_HOST; 0: off.",
        "a port, 0 to 65535",
        "serve",
    )
    serve_database: Annotated[SecretStr | None, AfterValidator(_check_database)] = _setting(
        None,
        "Where the projection and the API keys are kept; without it the SQLite file `trips.sqlite3` in the working "
        "directory. Shown nowhere: it may hold a password.",
        "an SQLAlchemy URL: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/DATABASE",
        "serve",
    )
    serve_rate_limit: Annotated[int, Field(ge=0, le=1_000_000)] = _setting(
        100,
        "Requests a second that each API key may make, twice as many for a moment; 0: no limit.",
        "a whole number, 0 to 1000000",
        "serve",
    )
    serve_max_request_bytes: Annotated[int, Field(ge=1024, le=2**26)] = _setting(
        65_536, "The largest body of a request.", "bytes, a whole number, 1024 to 67108864", "serve"
    )

    # Security
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "PLAINTEXT",
        "How the brokers are spoken to.",
        "one of: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
        "security",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = _setting(
        "PLAIN", "How we log in.", "one of: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", "security"
    )
    sasl_username: str | None = _setting(None, "Who we are.", "text; needed with SASL_…", "security")
    sasl_password: SecretStr | None = _setting(None, "And the proof.", "text; needed with SASL_…", "security")
    ssl_cafile: Path | None = _setting(
        None, "Certificates (PEM) that we trust, instead of the system's.", "a readable PEM file", "security"
    )
    ssl_certfile: Path | None = _setting(
        None, "Our certificate (PEM), where brokers ask for one.", "a readable PEM file", "security"
    )
    ssl_keyfile: Path | None = _setting(
        None, "The key to our certificate (PEM).", "a readable PEM file; needs TRIPS_SSL_CERTFILE", "security"
    )
    ssl_key_password: SecretStr | None = _setting(None, "The password of that key.", "text", "security")
    ssl_check_hostname: bool = _setting(
        True, "Whether a broker's certificate must be for its host name.", "true or false", "security"
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read and check everything.

        Args:
            overrides: settings that win over every source, such as those of the command line. None: not given.

        Raises:
            SettingsError: with all that is wrong, a line each.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            problems, wrong = _explain(cls, error)
            # The rules that hold between settings are only checked when each is right by itself: check them for
            # those that are, so that the wrong ones are all named at once.
            if wrong:
                defaults = {name: cls.model_fields[name].default for name in wrong}
                try:
                    cls(**{**given, **defaults})
                except ValidationError as rest:
                    problems += _explain(cls, rest, without=wrong)[0]
            raise SettingsError(problems) from None
        except UnicodeDecodeError:
            raise SettingsError([f"{ENV_FILE}: not UTF-8 text"]) from None

    @classmethod
    def given(cls, **values: Any) -> Settings:
        """Settings from these values alone, whatever the environment and the files say: for tests.

        Raises:
            SettingsError: with all that is wrong, a line each.
        """
        return _GivenSettings.load(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (no directory of secrets: none is set)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order in which the sources win. Called by pydantic-settings."""
        if cls._only_given:
            return (init_settings,)
        from_file = InitSettingsSource(settings_cls, init_kwargs=_read_config_file(settings_cls.model_fields))
        return init_settings, env_settings, dotenv_settings, from_file

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        try:
            self.rules()
        except ValueError as error:
            message = str(error)
            problems.append((tuple(name for name in type(self).model_fields if name in message), message))
        problems += self._check_topics()
        problems += self._check_security()
        if problems:
            lines = [(names, self._line(names, message)) for names, message in problems]
            raise PydanticCustomError("together", "{lines}", {"lines": lines})
        return self

    def _line(self, names: tuple[str, ...], message: str) -> str:
        shown = []
        for name in names:
            value = getattr(self, name)
            if value is None or _is_secret(type(self).model_fields[name]):
                shown.append(_variable(name))
            else:
                default = "" if name in self.model_fields_set else " (default)"
                shown.append(f"{_variable(name)}={_show(value)}{default}")
        return f"{', '.join(shown)}: {message}" if shown else message

    def _check_topics(self) -> list[tuple[tuple[str, ...], str]]:
        seen: dict[str, str] = {}
        problems: list[tuple[tuple[str, ...], str]] = []
        topics = self.topics
        internal = {
            topics.changelog,
            topics.status_requests,
            topics.status_changelog,
            topics.push_subscriptions,
            topics.push_requests,
            topics.push_changelog,
        }
        for field in (name for name in type(self).model_fields if name.endswith("_topic")):
            name = getattr(self, field)
            if name in seen:
                problems.append(((seen[name], field), "two topics must not have the same name"))
            elif self.topic_prefix + name == topics.changelog:
                problems.append(((field,), "this is the name of our own changelog topic"))
            elif self.topic_prefix + name in internal:
                problems.append(((field,), "this is the name of an internal topic of ours"))
            seen.setdefault(name, field)
        return problems

    def _check_security(self) -> list[tuple[tuple[str, ...], str]]:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.security_protocol.startswith("SASL_"):
            problems += [
                ((name,), f"needed with TRIPS_SECURITY_PROTOCOL={self.security_protocol}")
                for name in ("sasl_username", "sasl_password")
                if getattr(self, name) is None
            ]
        elif self.sasl_password is not None:
            # Said rather than ignored: whoever sets a password believes that the connection uses it.
            problems.append((("security_protocol", "sasl_password"), "a password needs SASL_PLAINTEXT or SASL_SSL"))
        if "SSL" not in self.security_protocol.split("_"):
            given = tuple(name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(self, name))
            if given:
                problems.append((("security_protocol", *given), "certificates need SSL or SASL_SSL"))
            return problems
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            problems.append((("ssl_keyfile",), "a key needs its certificate, TRIPS_SSL_CERTFILE"))
            return problems
        for name, check in (("ssl_cafile", self._trust), ("ssl_certfile", self._identify)):
            try:
                check(ssl.create_default_context())
            except (OSError, ValueError) as error:  # SSLError is an OSError
                reason = getattr(error, "strerror", None) or str(error)
                problems.append(((name,), f"cannot be used: {reason}"))
        return problems

    def _trust(self, context: ssl.SSLContext) -> None:
        if self.ssl_cafile is not None:
            context.load_verify_locations(cafile=self.ssl_cafile)

    def _identify(self, context: ssl.SSLContext) -> None:
        if self.ssl_certfile is not None:
            # A function, or OpenSSL would ask at the terminal for the password of a key that has one.
            password = "" if self.ssl_key_password is None else self.ssl_key_password.get_secret_value()
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, lambda: password)

    def rules(self) -> Rules:
        """The rules of the core.

        Raises:
            ValueError: a combination that has no meaning; :meth:`load` has checked that.
        """
        return Rules(
            trigger=Property[self.trigger.upper()],
            unknown_start=self.unknown_start,
            min_duration_ms=_ms(self.min_duration),
            min_distance_m=self.min_distance,
            merge_gap_ms=_ms(self.merge_gap),
            ready_delay_ms=_ms(self.ready_delay),
            silence_timeout_ms=_ms(self.silence_timeout),
            correction_horizon_ms=_ms(self.correction_horizon),
            revision_base=self.revision_base,
            ready_event_name=self.ready_event_name,
            route_tolerance_m=self.route_tolerance,
        )

    @property
    def max_clock_skew_ms(self) -> int:
        """``max_clock_skew`` in milliseconds."""
        return _ms(self.max_clock_skew)

    @property
    def commit_interval_s(self) -> float:
        """``commit_interval`` in seconds."""
        return self.commit_interval.total_seconds()

    @property
    def session_timeout_s(self) -> float:
        """``session_timeout`` in seconds."""
        return self.session_timeout.total_seconds()

    @property
    def status_answer_timeout_s(self) -> float:
        """``status_answer_timeout`` in seconds."""
        return self.status_answer_timeout.total_seconds()

    @property
    def topics(self) -> Topics:
        """The full names of the topics. The changelog belongs to the application id, whatever the prefix."""
        return Topics(
            telemetry=self.topic_prefix + self.telemetry_topic,
            commands=self.topic_prefix + self.commands_topic,
            dead_letters=self.topic_prefix + self.dead_letters_topic,
            late=self.topic_prefix + self.late_topic,
            events=self.topic_prefix + self.events_topic,
            trips=self.topic_prefix + self.trips_topic,
            changelog=f"{self.application_id}-vehicles-changelog",
            status_events=self.topic_prefix + self.status_events_topic,
            status_requests=f"{self.application_id}-status-requests",
            status_changelog=f"{self.application_id}-status-changelog",
            push_dead_letters=self.topic_prefix + self.push_dead_letters_topic,
            push_subscriptions=f"{self.push_application_id}-subscriptions",
            push_requests=f"{self.push_application_id}-requests",
            push_changelog=f"{self.push_application_id}-changelog",
        )

    @property
    def push_application_id(self) -> str:
        """Consumer group of the push workers, and prefix of their internal topics and transactional ids."""
        return f"{self.application_id}-push"

    def client(self) -> dict[str, Any]:
        """The keyword arguments that aiokafka's consumer, producer and admin client have in common."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL_"):
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password.get_secret_value() if self.sasl_password else None,
            }
        if "SSL" in self.security_protocol.split("_"):
            context = ssl.create_default_context()
            self._trust(context)
            self._identify(context)
            context.check_hostname = self.ssl_check_hostname
            arguments["ssl_context"] = context
        return arguments

    def changed(self) -> dict[str, str]:
        """Environment variable to value of each setting that is not its default; secrets as asterisks."""
        return {
            _variable(name): _show(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        }


class _GivenSettings(Settings):
    _only_given: ClassVar[bool] = True


def misspelt(environment: Mapping[str, str] | None = None) -> list[str]:
    """A line for each variable of ours that is no setting but looks like one.

    Not an error: Kubernetes puts variables of its own with our prefix beside a service that is called ``trips``.
    """
    known = [_variable(name) for name in Settings.model_fields]
    lines = []
    for name in sorted(os.environ if environment is None else environment):
        if name.startswith(_KUBERNETES):
            continue
        if name.startswith(ENV_PREFIX) and name not in known and name not in _OTHER_VARIABLES:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if close:
                lines.append(f"{name} is no setting: is {close[0]} meant?")
    return lines


def _read_config_file(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    named = os.environ.get(CONFIG_FILE_VARIABLE)
    path = Path(named or DEFAULT_CONFIG_FILE)
    if not named and not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{CONFIG_FILE_VARIABLE}={path}: {error.strerror or error}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise SettingsError([_unknown_key(name, path, fields) for name in unknown])
    return values


def _unknown_key(name: str, path: Path, fields: Mapping[str, FieldInfo]) -> str:
    close = difflib.get_close_matches(name.lower().removeprefix(ENV_PREFIX.lower()), fields, n=1)
    hint = f"; is {close[0]} meant?" if close else ""
    return f"{path}: {name!r} is no setting{hint}"


def _explain(
    settings: type[Settings], error: ValidationError, without: frozenset[str] = frozenset()
) -> tuple[list[str], frozenset[str]]:
    """A line for each problem, and the names of the settings that are wrong by themselves."""
    lines: list[str] = []
    wrong: list[str] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "together":
            lines += [line for names, line in detail["ctx"]["lines"] if without.isdisjoint(names)]
            continue
        name = str(detail["loc"][0])
        if name in wrong:
            continue
        wrong.append(name)
        # The value as pydantic shows it would be the one thing that must not be shown of a secret.
        value = "…" if _is_secret(settings.model_fields[name]) else repr(detail["input"])
        lines.append(f"{_variable(name)}={value}: must be {_extra(settings.model_fields[name], 'allowed')}")
    return lines, frozenset(wrong)


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) else ""


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _show(value: object) -> str:
    # Without an exponent, however long or small.
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.15g} s"
    if isinstance(value, float):
        return f"{Decimal(str(value)):f}"
    return str(value)


_GROUPS: Final = {
    "cluster": "Cluster",
    "topics": "Topics",
    "trips": "Trips",
    "worker": "Worker",
    "status": "Trip status",
    "push": "Push",
    "serve": "Serving",
    "security": "Security",
}

_INTRODUCTION: Final = """\
# Settings

<!-- Generated by `python -m streams.settings > docs/settings.md`; a test compares it. -->

Settings are environment variables. They may also stand in a file `.env` in the working directory, or in a TOML file
(`TRIPS_CONFIG_FILE`, else `./trips.toml`) under their names without `TRIPS_` and in lower case:

```toml
bootstrap_servers = "kafka-1:9092,kafka-2:9092"
min_duration = "PT2M"
```

The environment wins over `.env`, and that over the TOML file. An empty variable counts as not set. Everything is
checked at the start, and all that is wrong is said at once:

```
$ TRIPS_PARTITIONS=none TRIPS_LATE_TOPIC=trips trips worker
trips: TRIPS_PARTITIONS='none': must be a whole number, 1 to 10000
trips: TRIPS_LATE_TOPIC=trips, TRIPS_TRIPS_TOPIC=trips (default): two topics must not have the same name
```

Durations are seconds (`90`, `0.1`) or ISO 8601 (`PT1M30S`, `P1D`), in whole milliseconds. `trips check` shows what is
set, and names variables that look like a misspelt setting. Secrets are never shown.
"""


def reference() -> str:
    """docs/settings.md, from the model above."""
    parts = [_INTRODUCTION]
    for group, title in _GROUPS.items():
        parts.append(f"\n## {title}\n\n| variable | default | meaning | allowed |\n|---|---|---|---|\n")
        for name, field in Settings.model_fields.items():
            if _extra(field, "group") == group:
                default = "" if field.default in (None, "") else f"`{_show(field.default)}`"
                cells = (f"`{_variable(name)}`", default, field.description or "", _extra(field, "allowed"))
                parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201  (this module's one output)
