"""The command ``trips``.

Every command imports what it needs when it runs, so that ``trips --help`` is quick. Exit codes: 0 done, 2 wrong use or
wrong settings, 1 anything else. An error is a line on stderr; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from streams.errors import TripsError, UsageError
from streams.push.cli import push
from streams.serve.cli import keys, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from streams.settings import Settings
    from streams.topics import TopicReport

__all__ = ["main", "trips"]

_EPILOG: Final = """\b
New here?       trips demo
No Kafka?       trips derive FILE      or      trips broker
All settings:   docs/settings.md       (environment variables that start with TRIPS_)
"""
_STATE_COLOURS: Final = {"ok": "green", "created": "green", "note": "yellow", "differs": "red", "missing": "red"}


_servers = click.option(
    "--bootstrap-servers",
    metavar="HOST:PORT",
    help="The Kafka cluster; instead of TRIPS_BOOTSTRAP_SERVERS.",
)


_positive = click.FloatRange(min=0, min_open=True)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(package_name="ignition-trips", message="ignition-trips %(version)s")
@click.option("--debug", is_flag=True, help="Log everything, and show a traceback with an error.")
@click.pass_context
def trips(context: click.Context, *, debug: bool) -> None:
    """Trips from vehicle telemetry in Kafka.

    Reads what vehicles say (topic vehicle-telemetry), tells their trips by the ignition, and publishes what happens
    to each trip (topics trip-events and trips). The same telemetry always makes the same trips with the same ids:
    in any order, however often repeated, whatever crashes in between.
    """
    context.obj = debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@trips.command()
@click.option("--bootstrap-servers", metavar="HOST:PORT", help="Use this Kafka cluster instead of starting one.")
@click.option("--full", is_flag=True, help="Show planned trips, looking trips up, deleting one, and pushes as well.")
@click.option("--keep-running", is_flag=True, help="Stay up after the last trip, for a look around; Ctrl-C ends it.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=None,
    metavar="N",
    help="Replay N times as fast as it was driven; 0: as fast as it goes.  [default: done in about 15 s]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the announcements, one JSON a line, and nothing else.")
@click.pass_obj
def demo(
    debug: bool,  # noqa: FBT001
    *,
    bootstrap_servers: str | None,
    full: bool,
    keep_running: bool,
    speed: float | None,
    as_json: bool,
) -> None:
    """See it work, with nothing installed but this project.

    Starts an Apache Kafka on this machine, creates the topics, runs a worker, replays seven recorded drives, and
    shows the trips as they happen. The first start fetches Kafka (about 43 MB); afterwards it takes about half a
    minute. Everything that it starts ends with it.

    With --full a push worker and a server run as well, and an endpoint that takes pushes: a trip is planned, accepted
    and linked to its drive, trips are looked up, one is deleted, and what is pushed of it comes. That takes about 10
    seconds more.
    """
    from streams.local.demo import run_demo
    from streams.settings import Settings

    _quiet_libraries(debug)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    with _sigterm_as_interrupt():
        run_demo(
            settings,
            bootstrap_servers=bootstrap_servers,
            full=full,
            keep_running=keep_running,
            speed=speed,
            as_json=as_json,
        )


@trips.command()
@_servers
@click.pass_obj
def worker(debug: bool, *, bootstrap_servers: str | None) -> NoReturn:  # noqa: FBT001
    """Run a worker: telemetry in, announcements out.

    As many workers as the telemetry topic has partitions share the work; each finds its own. It ends on SIGTERM or
    Ctrl-C (exit 0), or when something is wrong that a restart may cure (exit 1): nothing is lost either way. Health,
    readiness and metrics are on TRIPS_HTTP_PORT.
    """
    from streams.settings import Settings

    settings = Settings.load(bootstrap_servers=bootstrap_servers)  # before the slow imports: settings are checked first
    from streams.app import run_worker

    sys.exit(run_worker(settings, debug=debug))


@trips.command()
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option(
    "--close",
    is_flag=True,
    help="At the end, treat all vehicles as silent for ever: their trips end as TRIPS_SILENCE_TIMEOUT says.",
)
@click.option("--strict", is_flag=True, help="Exit 1 if a line was bad.")
def derive(*, file: str, close: bool, strict: bool) -> None:
    """Tell the trips of a file, without Kafka.

    FILE holds JSON lines of telemetry, plain or gzip; - is stdin. Prints one announcement a line, as JSON, in the
    order in which they are known. Lines that cannot be used are named on stderr, with their number and the reason.
    """
    from streams.local.derive import derive_lines
    from streams.local.files import read_lines
    from streams.runtime.garbage import spare_the_state
    from streams.settings import Settings

    settings = Settings.load()
    spare_the_state()
    out = sys.stdout.buffer
    bad = derive_lines(
        read_lines(file),
        settings,
        write=lambda payload: out.write(payload + b"\n"),
        complain=lambda line: click.echo(line, err=True),
        close=close,
    )
    out.flush()
    if strict and bad:
        raise TripsError("1 line was bad" if bad == 1 else f"{bad} lines were bad")


@trips.command("replay")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="N",
    help="N times as fast as it was recorded; 0: as fast as it goes.",
)
@click.option(
    "--max-gap",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Cut longer pauses in the recording to this, before speed counts.",
)
@_servers
@click.pass_obj
def replay_command(debug: bool, *, file: str, speed: float, max_gap: float, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Send telemetry from a file to Kafka, at its own pace.

    FILE holds JSON lines, plain or gzip; - is stdin. Their timestamps set the pace. The record's key is
    the vehicle id. Lines go out as they are, bad ones too: the worker sorts those out.
    """
    from streams.local.files import check_readable
    from streams.settings import Settings

    _quiet_libraries(debug)
    check_readable(file)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    with _sigterm_as_interrupt():
        count = _replay_with_progress(file, settings, speed=speed, max_gap=max_gap)
    click.echo(f"{count} messages sent to {settings.topics.telemetry}", err=True)


def _replay_with_progress(file: str, settings: Settings, *, speed: float, max_gap: float) -> int:
    import asyncio

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from streams.local.files import read_lines
    from streams.local.replay import Paced, pace, replay
    from streams.local.words import time_of_day

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("messages"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        # Stdin cannot be read twice, and may have no end.
        total = sum(1 for line in read_lines(file) if line.strip()) if file != "-" and console.is_terminal else None
        bar = progress.add_task("", total=total)

        def sent(message: Paced) -> None:
            progress.update(bar, advance=1, description=time_of_day(message.time_ms))

        return asyncio.run(replay(pace(read_lines(file), max_gap), settings, speed=speed, sent=sent))


@trips.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as they are: one JSON a line.")
@click.option("--from-beginning", is_flag=True, help="Start with the oldest that is there, not with the next.")
@_servers
@click.pass_obj
def tail(debug: bool, *, as_json: bool, from_beginning: bool, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Follow the announcements, until Ctrl-C.

    With --json they have the whole id of each trip. What was there before comes partition by partition, not in the
    order of time.
    """
    import asyncio

    import orjson

    from streams.local.tail import follow
    from streams.local.words import in_words
    from streams.settings import Settings

    def show(payload: bytes) -> None:
        click.echo(payload if as_json else in_words(orjson.loads(payload)))

    _quiet_libraries(debug)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    with _sigterm_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(follow(settings, show, from_beginning=from_beginning))


@trips.command()
@click.option(
    "--port", type=click.IntRange(1, 65_535), default=9092, show_default=True, help="Listen on 127.0.0.1:PORT."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the data here.  [default: a temporary folder, removed at the end]",
)
@click.pass_obj
def broker(debug: bool, *, port: int, data: Path | None) -> None:  # noqa: FBT001
    """Run a local Apache Kafka in the foreground.

    For development: one node, reachable from this machine only, ended with Ctrl-C. Needs nothing installed; the
    first start fetches about 43 MB.
    """
    from streams.errors import ClusterError
    from streams.local.broker import LocalKafka

    _quiet_libraries(debug)
    kafka = LocalKafka(port=port, data=data, progress=lambda line: click.echo(line, err=True))
    with _sigterm_as_interrupt(), contextlib.suppress(KeyboardInterrupt), kafka:
        click.echo(
            f"Next: TRIPS_BOOTSTRAP_SERVERS={kafka.bootstrap_servers} trips topics create. Ctrl-C ends it.", err=True
        )
        while (code := kafka.wait(1.0)) is None:
            pass
        raise ClusterError(f"the local Kafka ended (exit code {code}); its log:\n{kafka.tail()}")


@trips.group()
def topics() -> None:
    """Create or check the topics."""


@topics.command("create")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for a broker that does not answer yet.",
)
@_servers
@click.pass_obj
def topics_create(debug: bool, *, wait: float, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Create the topics that are missing, and name what differs in the others.

    Safe to repeat: a topic that is there is left as it is.
    """
    import asyncio

    from streams.settings import Settings
    from streams.topics import create_topics, wait_for_cluster

    _quiet_libraries(debug)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)

    async def create() -> list[TopicReport]:
        await wait_for_cluster(
            settings, wait, lambda: click.echo(f"Waiting for Kafka at {settings.bootstrap_servers}", err=True)
        )
        return await create_topics(settings)

    _show_topics(asyncio.run(create()))


@topics.command("check")
@_servers
@click.pass_obj
def topics_check(debug: bool, *, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Look whether the topics are as they must be; exit 1 if not."""
    import asyncio

    from streams.settings import Settings
    from streams.topics import check_topics

    _quiet_libraries(debug)
    reports = asyncio.run(check_topics(Settings.load(bootstrap_servers=bootstrap_servers)))
    _show_topics(reports)
    if not all(report.is_right for report in reports):
        raise TripsError("the topics are not as they must be")


def _show_topics(reports: list[TopicReport]) -> None:
    for report in reports:
        for detail in report.details:
            click.echo(f"{_state(report.state)} {report.name}: {detail}")


@trips.command()
@_servers
@click.pass_obj
def check(debug: bool, *, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """See whether a worker could start, and what to do if not.

    Settings, broker, topics, revisions: one line each, and what to do. Exit 1 if something is wrong, 2
    if it is the settings. Shows no secrets.
    """
    import asyncio

    from streams.local.check import check as find
    from streams.settings import Settings

    async def show() -> bool:
        fine = True
        async for finding in find(settings):
            click.echo(f"{_state(finding.state)} {finding.subject}: {finding.text}")
            fine = fine and finding.state != "wrong"
        return fine

    _quiet_libraries(debug)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    if not asyncio.run(show()):
        raise TripsError("a worker could not do its job like this")


@trips.command()
@click.argument("trip_id", metavar="TRIP_ID")
@click.option("--vehicle", metavar="ID", help="Whose trip it is: finding it takes less reading.")
@click.option("--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Tell what became of it as JSON.")
@_servers
@click.pass_obj
def delete(
    debug: bool,  # noqa: FBT001
    *,
    trip_id: str,
    vehicle: str | None,
    timeout: float,
    as_json: bool,
    bootstrap_servers: str | None,
) -> None:
    """Delete a trip for good.

    Its samples are erased from the state and its record from the topic trips, TripDeleted is announced, and
    no late telemetry brings it back. Exit 1 if there is no such trip, or if no worker answers in time: then
    the command stays, and is carried out by the next one. May be repeated. See docs/deletion.md.
    """
    import asyncio
    from dataclasses import asdict

    import orjson

    from streams.deletion import request_deletion
    from streams.errors import ClusterError
    from streams.settings import Settings

    _quiet_libraries(debug)
    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    done = asyncio.run(request_deletion(settings, trip_id, vehicle_id=vehicle, within=timeout))
    if as_json:
        click.echo(orjson.dumps(asdict(done)))
    elif done.state == "deleted":
        click.echo(f"trip {done.trip_id} of vehicle {done.vehicle_id} is deleted")
    elif done.state == "already_deleted":
        click.echo(f"trip {done.trip_id} of vehicle {done.vehicle_id} was deleted before")
    if done.state == "requested":
        raise ClusterError(
            f"no worker has answered within {timeout:g} s. The command {done.command_id} stays in "
            f"{settings.topics.commands}, and will be carried out as soon as one runs"
        )


@trips.command("plan")
@click.option("--vehicles", type=click.IntRange(1, 10_000_000_000), required=True, help="How many there are.")
@click.option(
    "--interval",
    "interval_s",
    type=_positive,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Between messages.",
)
@click.option("--trip-minutes", type=_positive, default=20.0, show_default=True, help="Length of a trip.")
@click.option("--trips-per-day", type=_positive, default=3.0, show_default=True, help="Of each vehicle.")
@click.option(
    "--peak",
    type=click.FloatRange(min=1),
    default=3.0,
    show_default=True,
    help="How many times the average load the busiest hour has.",
)
@click.option("--message-bytes", type=click.IntRange(1), default=270, show_default=True, help="With the key.")
@click.option("--samples", type=click.IntRange(1), default=6, show_default=True, help="Properties in a message.")
@click.option(
    "--horizon-hours", "horizon_h", type=_positive, default=24.0, show_default=True, help="TRIPS_CORRECTION_HORIZON."
)
@click.option(
    "--commit-interval",
    "commit_interval_s",
    type=_positive,
    default=0.1,
    show_default=True,
    metavar="SECONDS",
    help="TRIPS_COMMIT_INTERVAL.",
)
@click.option(
    "--retention-days", type=_positive, default=7.0, show_default=True, help="Of telemetry and announcements."
)
@click.option("--replicas", type=click.IntRange(1), default=3, show_default=True, help="Of each topic.")
@click.option(
    "--headroom",
    type=click.FloatRange(0, 0.95),
    default=0.5,
    show_default=True,
    help="Share of a worker's core that is to be free at peak.",
)
@click.option(
    "--worker-memory",
    "worker_memory_gb",
    type=_positive,
    default=4.0,
    show_default=True,
    metavar="GB",
    help="At most, of each.",
)
@click.option(
    "--recovery-within",
    "recovery_within_s",
    type=_positive,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="By when a worker is to have its state back.",
)
@click.option("--unit", "units", multiple=True, metavar="NAME=VALUE", help="Another unit cost; may be repeated.")
@click.option("--units", "show_units", is_flag=True, help="Show the unit costs as well, and what printed them.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def plan_command(*, units: tuple[str, ...], show_units: bool, as_json: bool, **fleet_options: Any) -> None:
    """Work out how large a deployment has to be.

    Partitions, workers, memory, network, disk and recovery, from a fleet and from what one message, vehicle and trip
    were measured to cost. The formulas, and where those costs come from, are in docs/performance.md. Asks no cluster.
    """
    import json

    from streams.local import plan

    fleet = plan.Fleet(**fleet_options)
    costs = plan.unit_costs(dict(_unit(text) for text in units))
    made = plan.make_plan(fleet, costs)
    if as_json:
        click.echo(json.dumps(plan.as_json(fleet, made, costs)))
        return
    for line in plan.in_words(fleet, made):
        click.echo(line)
    if show_units:
        click.echo()
        for unit in plan.UNITS:
            source = unit.source if costs[unit.name] == unit.value else "as given"
            click.echo(f"{unit.name:30}{costs[unit.name]:>10,.6g}  {unit.about} ({source})")


def _unit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--unit {text}: not NAME=VALUE with a number as VALUE") from None


@trips.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("schemas"), metavar="[FOLDER]")
def schemas(*, folder: Path) -> None:
    """Write the JSON Schemas, AsyncAPI and OpenAPI documents.

    Of all messages, from the models, and of all that is answered over HTTP. FOLDER: where to; schemas if not given.
    """
    from schemas.generate import write
    from streams.serve.app import openapi_document

    try:
        paths = write(folder, openapi_document())
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}") from None
    for path in paths:
        click.echo(path)


trips.add_command(push)
trips.add_command(serve)
trips.add_command(keys)


def _state(state: str) -> str:
    return click.style(f"{state:<8}", fg=_STATE_COLOURS.get(state, "red"))


def _quiet_libraries(debug: bool) -> None:  # noqa: FBT001
    """What aiokafka logs of brokers that are away, we say ourselves, in one line."""
    import logging

    from streams.runtime.logs import hide_credentials

    hide_credentials()
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Clean up on SIGTERM as on Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command, and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        # Returns a code only where click itself has ended the command, as after --help.
        code = trips.main(arguments, prog_name="trips", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "trips"
        _say(f"{error.format_message()} (see {command} --help)", debug=debug)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted", debug=debug)
        sys.exit(1)
    except TripsError as error:
        _say(str(error), debug=debug)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever reads our output has seen enough, as `head` does. Python would complain once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  (the last resort, asyncio's CancelledError too: one line)
        _say(f"this should not happen: {type(error).__name__}: {error} (more with trips --debug)", debug=debug)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, *, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    for line in message.splitlines():
        click.echo(f"trips: {line}", err=True)


if __name__ == "__main__":
    main()
