"""The commands ``trips push …``. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from streams.errors import TripsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from streams.push.report import Line
    from streams.settings import Settings

__all__ = ["push"]

_servers = click.option(
    "--bootstrap-servers", metavar="HOST:PORT", help="The Kafka cluster; instead of TRIPS_BOOTSTRAP_SERVERS."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON a line.")


@click.group()
def push() -> None:
    """Deliver announcements to endpoints over HTTP (webhooks)."""


@push.command()
@_servers
@click.pass_obj
def worker(debug: bool, *, bootstrap_servers: str | None) -> NoReturn:  # noqa: FBT001
    """Run a push worker: announcements in, HTTP requests out.

    As many as trip-events has partitions share the work. It ends on SIGTERM or Ctrl-C (exit 0), or when something is
    wrong that a restart may cure (exit 1): what is due stays due either way. Health, readiness and metrics are on
    TRIPS_PUSH_HTTP_PORT.
    """
    from streams.settings import Settings

    settings = Settings.load(bootstrap_servers=bootstrap_servers)
    from streams.push.app import run_push_worker

    sys.exit(run_push_worker(settings, debug=debug))


@push.command()
@click.argument("name", metavar="ID")
@click.argument("url", metavar="URL")
@click.option(
    "--profile",
    type=click.Choice(["standard", "drivequant"]),
    required=True,
    help="standard: Standard Webhooks, signed. drivequant: deleted trips, as DriveQuant pushes them.",
)
@click.option(
    "--event", "events", multiple=True, metavar="TYPE", help="Such as TripDataReady; repeat it. [default: all]"
)
@click.option("--vehicle", "vehicles", multiple=True, metavar="ID|PATTERN", help="Such as 'BUS-*'; repeat it.")
@click.option("--tenant", metavar="NAME", help="Only vehicles of this tenant of TRIPS_PUSH_FILE.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="REFERENCE",
    help="env:PUSH_SECRET_… or file:NAME: what signs (standard). Twice while it is being changed.",
)
@click.option("--authorization", metavar="REFERENCE", help="The same: the whole value of the Authorization header.")
@click.option("--concurrency", type=int, help="Requests at once, for each worker.  [default: 4]")
@click.option("--rate", type=float, help="Requests a second, for each worker.  [default: 50]")
@click.option("--timeout", type=float, metavar="SECONDS", help="For one request.  [default: 20]")
@_servers
@click.pass_obj
def add(
    debug: bool,  # noqa: FBT001
    *,
    name: str,
    url: str,
    profile: str,
    events: Sequence[str],
    vehicles: Sequence[str],
    tenant: str | None,
    secrets: Sequence[str],
    authorization: str | None,
    concurrency: int | None,
    rate: float | None,
    timeout: float | None,
    bootstrap_servers: str | None,
) -> None:
    """Add a subscription.

    Workers know of it within seconds. What was announced before is not pushed. Credentials are never stored: they are
    looked up by the workers, in variables that begin with PUSH_SECRET_ or in files of TRIPS_PUSH_SECRETS_FOLDER.
    """
    from pydantic import ValidationError

    from streams.push import book
    from streams.push.guard import Guard, Policy, RefusedAddressError, RefusedUrlError
    from streams.push.subscriptions import Subscription, explain_invalid

    settings = _settings(debug, bootstrap_servers)
    limits = {"concurrency": concurrency, "rate": rate, "timeout": timeout}
    try:
        definition = Subscription.model_validate(
            {
                "id": name,
                "url": url,
                "profile": profile,
                "events": events,
                "vehicles": vehicles,
                "tenant": tenant,
                "secrets": secrets,
                "authorization": authorization,
                "limits": {key: value for key, value in limits.items() if value is not None},
            }
        )
        Guard(url, Policy.of(settings))
    except ValidationError as error:
        raise UsageError(explain_invalid(error)) from None
    except (RefusedUrlError, RefusedAddressError) as error:
        raise UsageError(f"this URL is refused: {error}") from None
    _run(book.add(settings, definition))
    click.echo(f"added {name}: what is announced from now on is pushed", err=True)


@push.command("list")
@_as_json
@_servers
@click.pass_obj
def list_(debug: bool, *, as_json: bool, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Show the subscriptions; credentials by reference only."""
    import json

    from streams.push.book import read_book
    from streams.push.report import describe_subscription

    settings = _settings(debug, bootstrap_servers)
    for _, entry in sorted(_run(read_book(settings)).entries.items()):
        shown = describe_subscription(entry)
        if as_json:
            click.echo(json.dumps(shown))
            continue
        about = [
            ", ".join(shown["events"]) if len(shown["events"]) < len(_events()) else "all events",
            *(f"vehicles {', '.join(shown['vehicles'])}" for _ in shown["vehicles"][:1]),
            *(f"tenant {shown['tenant']}" for _ in [0] if "tenant" in shown),
        ]
        state = "on" if shown["off"] is None else f"off: {shown['off']['reason']}, since {shown['off']['at']}"
        click.echo(f"{shown['id']}  {shown['profile']}  {shown['url']}  ({'; '.join(about)})  {state}")


@push.command()
@click.argument("name", metavar="ID")
@_servers
@click.pass_obj
def remove(debug: bool, *, name: str, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Remove a subscription; what waits for it is dropped.

    One of TRIPS_PUSH_FILE is removed by taking it out of that file.
    """
    from streams.push import book

    _run(book.remove(_settings(debug, bootstrap_servers), name))
    click.echo(f"removed {name}", err=True)


@push.command()
@click.argument("name", metavar="ID")
@_servers
@click.pass_obj
def pause(debug: bool, *, name: str, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Send nothing to a subscription for now; what comes waits."""
    from streams.push import book

    changed = _run(book.switch(_settings(debug, bootstrap_servers), name, "paused"))
    click.echo(f"paused {name}" if changed else f"{name} rests already", err=True)


@push.command()
@click.argument("name", metavar="ID")
@_servers
@click.pass_obj
def resume(debug: bool, *, name: str, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Let a subscription go on that was paused, or disabled because its endpoint was gone."""
    from streams.push import book

    changed = _run(book.switch(_settings(debug, bootstrap_servers), name, None))
    click.echo(f"resumed {name}" if changed else f"{name} is on already", err=True)


@push.command()
@click.argument("name", metavar="ID")
@_servers
@click.pass_obj
def test(debug: bool, *, name: str, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Send one event that is marked as a test, from here, and show what came of it.

    From this machine, with the settings and credentials of this shell, which need not be those of the workers. Exit 1
    if it was not taken.
    """
    from streams.push.testing import send_test

    outcome = _run(send_test(_settings(debug, bootstrap_servers), name))
    answer = f"HTTP {outcome.status}" if outcome.status is not None else "no answer"
    if outcome.error is not None:
        raise TripsError(f"not taken after {outcome.seconds:.2f} s: {outcome.error}")
    click.echo(f"taken: {answer} after {outcome.seconds:.2f} s")


@push.command()
@click.argument("name", metavar="[ID]", required=False)
@_as_json
@_servers
@click.pass_obj
def report(debug: bool, *, name: str | None, as_json: bool, bootstrap_servers: str | None) -> None:  # noqa: FBT001
    """Tell what has become of pushes: delivered, waiting, discarded, and the last errors."""
    import json

    from streams.push.report import report as find

    for line in _run(find(_settings(debug, bootstrap_servers), name)):
        click.echo(json.dumps(line.as_json()) if as_json else _in_words(line))


@push.command()
@click.argument("ids", metavar="[DELIVERY]...", nargs=-1)
@click.option("--subscription", metavar="ID", help="All that was discarded of this one.")
@click.option("--all", "all_", is_flag=True, help="All that was discarded.")
@_servers
@click.pass_obj
def retry(
    debug: bool,  # noqa: FBT001
    *,
    ids: Sequence[str],
    subscription: str | None,
    all_: bool,
    bootstrap_servers: str | None,
) -> None:
    """Deliver again what was discarded, with the same ids.

    DELIVERY: ids from the dead letters or from `trips push report`. To the subscription that it was due to, if it
    still asks for it; another one that was added under its name later is told nothing. What was told of a trip that
    has been deleted since is not delivered any more. What an earlier retry has asked for is left out, unless it was
    discarded once more, or is named by its id.
    """
    from streams.push.report import request_retries

    if bool(ids) + (subscription is not None) + all_ != 1:
        raise UsageError("say what: ids of deliveries, or --subscription ID, or --all")
    count, missing = _run(request_retries(_settings(debug, bootstrap_servers), subscription=subscription, ids=ids))
    for one in missing:
        click.echo(f"{one} is not in the dead letters, or its subscription is gone or does not ask for it", err=True)
    click.echo(f"{count} to be delivered again", err=True)
    if missing:
        raise TripsError("not all of them were found")


def _settings(debug: bool, bootstrap_servers: str | None) -> Settings:  # noqa: FBT001
    import logging

    from streams.runtime.logs import hide_credentials
    from streams.settings import Settings

    # What aiokafka logs of brokers that are away, we say ourselves, in one line.
    hide_credentials()
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL)
    return Settings.load(bootstrap_servers=bootstrap_servers)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(work)


def _events() -> Sequence[str]:
    from streams.push.subscriptions import EVENTS

    return EVENTS


def _in_words(line: Line) -> str:
    import time

    from streams.push.checkpoint import rfc3339

    parts = [f"{line.delivered} delivered", f"{line.waiting} waiting"]
    if line.failing:
        parts[-1] += f" ({line.failing} have failed before)"
    parts.append(f"{line.discarded} discarded")
    parts += [f"{count} {what}" for count, what in ((line.dropped, "dropped"), (line.erased, "erased")) if count]
    if line.oldest is not None:
        parts.append(f"oldest since {line.oldest}")
    if line.next is not None:
        is_due = line.next <= rfc3339(time.time_ns() // 1_000_000)
        parts.append("an attempt is due" if is_due else f"next attempt at {line.next}")
    state = line.state if line.why is None else f"{line.state}: {line.why}"
    errors = "".join(f"\n    {one['at']}  {one['error']}  ({one['delivery']})" for one in line.errors)
    return f"{line.subscription} ({state}): {', '.join(parts)}{errors}"
