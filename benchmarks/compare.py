"""This project beside other ways to do its job, in one run on one broker, every output checked.

    python benchmarks/compare.py [--messages 1000000] [--vehicles 5000] [--rounds 3] [--runners trips,confluent,…]
                                 [--json FILE] [--plot FILE.svg] [--noise 0.3]

Starts a local Kafka, fills the telemetry topic once (8 partitions, messages of some 255 bytes), and has each runner
work it off from the first record, in shuffled order in each round. What the peers need is fetched once, into
environments of their own; a runner that cannot run here is named with the reason, and left out.

Every runner is timed by the same clock from outside: from the first sample that shows an output or a committed offset,
until its group has no lag. Peers have a clock of their own beside it: from the first record delivered until the last is
committed, start-up apart. They commit every second; the worker has its default settings but for the names of topics
and a silence timeout of 12 h, because vehicles that end with the ignition on would else be closed by the clock.

An output has to be what the reference makes of the same messages: see peers/judge.py. The peers do much less than the
worker: peers/job.py is all of it.
"""
# ruff: noqa: INP001, S603, T201

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from fleet import recent
from measuring import (
    PARTITIONS,
    Cluster,
    about,
    arguments,
    busy_seconds,
    cpu_seconds,
    emit,
    environment,
    markdown,
    median_and_range,
    resident_bytes,
)
from peers.chart import chart
from peers.environments import UnavailableError
from peers.judge import Reference, wrong_with
from peers.runners import BASE, JAVA, RUNNERS, Runner

from streams.settings import Settings
from streams.topics import create_topics

COMMIT_S: Final = 1.0
DEFAULT: Final = (
    "trips",
    "trips-alo",
    "trips-python",
    "confluent",
    "aiokafka",
    "quix",
    "faust-table",
    "kafka-streams",
    "kafka-streams-eos",
)
_POLL_S: Final = 0.05
_TIMEOUT_S: Final = 900.0
_ENDS_WITHIN_S: Final = 15.0
_TRIES: Final = 3
# Longer runs are not repeated for what others did meanwhile.
_SHORT_S: Final = 30.0


@dataclass
class Load:
    """A filled telemetry topic, and what is to come of it."""

    topic: str
    messages: int
    bytes: int = 0
    reference: Reference = field(default_factory=Reference)


class Sample(NamedTuple):
    """What the outside clock sees at one moment: seconds, offsets, and processor time so far."""

    at: float
    committed: int
    outputs: int
    cpu: float
    broker: float
    busy: float


@dataclass
class Run:
    """A runner's run. Seconds; processor time in seconds, of the whole runner.

    Attributes:
        seconds: from the first output or commit that was seen until no lag.
        cpu: of the runner, in that time; ``broker`` and ``others`` likewise.
        until_outputs: from the same moment until the last output.
        between_commits: records that were committed after the first commit that was seen, the seconds and the
            processor time that they took: free of what happens before anything is seen.
        own: seconds and processor time by the runner's own clock.
        start_to_end: from the start of the process until no lag.
        wrong: what is wrong with its output; empty: nothing.
        error: why there is no result.
    """

    runner: str
    round: int
    messages: int
    seconds: float = 0.0
    cpu: float = 0.0
    broker: float = 0.0
    others: float = 0.0
    peak_mib: float = 0.0
    until_outputs: float | None = None
    between_commits: tuple[int, float, float] | None = None
    own: tuple[float, float] | None = None
    start_to_end: float = 0.0
    outputs: int = 0
    wrong: str = ""
    error: str = ""
    tries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.messages / self.seconds

    @property
    def noise(self) -> float:
        """Cores that others used meanwhile."""
        return self.others / self.seconds if self.seconds else 0.0


class Comparison:
    """All runs on one broker."""

    def __init__(self, cluster: Cluster, commands: dict[str, list[str]]) -> None:
        self._cluster = cluster
        self._commands = commands
        self._serial = 0
        self._prefix = f"compare-{os.getpid()}"

    async def load(self, count: int, vehicles: int) -> Load:
        """Fill a topic of its own with so many messages, the newest from now."""
        topic = f"{self._prefix}-telemetry-{count}"
        await self._cluster.create(topic)
        load = Load(topic, count)

        def known() -> Iterator[tuple[bytes, bytes]]:
            for key, value in recent(count, vehicles):
                load.reference.add(value)
                load.bytes += len(key) + len(value)
                yield key, value

        await self._cluster.fill(topic, known())
        return load

    async def clean_up(self) -> None:
        """Leave no topic behind, also on a broker that is not ours."""
        await self._cluster.drop(self._prefix)

    async def quiet_run(self, runner: Runner, load: Load, number: int, noise: float) -> Run:
        """A run; again where others were busy meanwhile: the quietest counts, and keeps the others with it."""
        tried: list[Run] = []
        while len(tried) < _TRIES:
            tried.append(await self.run(runner, load, number))
            last = tried[-1]
            if last.error or last.seconds > _SHORT_S or last.noise <= noise:
                break
        best = min(tried, key=lambda run: (bool(run.error), run.noise))
        best.tries = [asdict(run) for run in tried if run is not best]
        return best

    async def run(self, runner: Runner, load: Load, number: int) -> Run:
        """A runner from the first record to the last, with group, topics and folder of its own."""
        self._serial += 1
        name = f"{self._prefix}-{self._serial}-{runner.name}"
        run = Run(runner.name, number, load.messages)
        scratch = self._cluster.folder / name
        scratch.mkdir()
        settings = self._cluster.settings(name, telemetry_topic=load.topic, silence_timeout="PT12H", http_port=0)
        if runner.ours:
            await create_topics(settings)
        else:
            await self._cluster.create(settings.events_topic)
            await self._cluster.create(f"{name}-states-changelog", compacted=True)
        log = scratch / "log"
        with log.open("wb") as out:
            began = time.monotonic()
            process = subprocess.Popen(  # noqa: ASYNC220  (nothing else goes on meanwhile)
                self._commands[runner.name],
                env=_environment(runner, settings, load, scratch),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            samples, run.peak_mib = await self._watch(process, settings, load, ends_by_itself=not runner.ours)
        finally:
            _end(process)
        told = log.read_text(errors="replace")
        _evaluate(run, samples, began)
        run.own = next(((result["seconds"], result["cpu"]) for result in map(json.loads, _results(told))), None)
        if run.error:
            run.error += f"; the end of its log:\n{told[-1500:]}"
        else:
            await self._check(run, runner, settings, load)
        await self._cluster.drop(name)
        return run

    async def _watch(
        self, process: subprocess.Popen[bytes], settings: Settings, load: Load, *, ends_by_itself: bool
    ) -> tuple[list[Sample], float]:
        """Samples until the runner has no lag, or has ended; and its peak memory, MiB."""
        samples: list[Sample] = []
        peak = 0
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            committed = await self._cluster.committed(settings)
            outputs = await self._cluster.end(settings.events_topic)
            peak = max(peak, resident_bytes(process.pid))
            cpu = cpu_seconds(process.pid) or (samples[-1].cpu if samples else 0.0)
            broker = cpu_seconds(self._cluster.broker)
            samples.append(Sample(time.monotonic(), committed, outputs, cpu, broker, busy_seconds()))
            if ended or committed >= load.messages:
                if ends_by_itself and not ended:  # it has yet to tell by its own clock
                    await asyncio.to_thread(_wait, process)
                break
            await asyncio.sleep(max(0.0, _POLL_S - (time.monotonic() - samples[-1].at)))
        return samples, peak / 2**20

    async def _check(self, run: Run, runner: Runner, settings: Settings, load: Load) -> None:
        values = [value for _, value in await self._cluster.records(settings.events_topic) if value is not None]
        run.outputs = len(values)
        run.wrong = wrong_with(values, load.reference, ours=runner.ours)
        if runner.ours:
            for topic in (settings.dead_letters_topic, settings.late_topic):
                letters = await self._cluster.end(topic)
                if letters:
                    run.wrong += f"{', ' if run.wrong else ''}{letters} in {topic}"


def _environment(runner: Runner, settings: Settings, load: Load, scratch: Path) -> dict[str, str]:
    if runner.ours:
        return environment(settings, **runner.extra)
    return {
        **os.environ,
        "PEER_SERVERS": settings.bootstrap_servers,
        "PEER_MESSAGES": str(load.messages),
        "PEER_GROUP": settings.application_id,
        "PEER_PARTITIONS": str(PARTITIONS),
        "PEER_SOURCE": load.topic,
        "PEER_OUTPUT": settings.events_topic,
        "PEER_CHANGELOG": f"{settings.application_id}-states-changelog",
        "PEER_FOLDER": str(scratch),
        "PEER_COMMIT_S": str(COMMIT_S),
        **runner.extra,
    }


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            _wait(process)


def _results(log: str) -> Iterator[str]:
    return (line.removeprefix("RESULT ") for line in log.splitlines() if line.startswith("RESULT "))


def _evaluate(run: Run, samples: list[Sample], began: float) -> None:
    first = next((sample for sample in samples if sample.committed or sample.outputs), None)
    last = next((sample for sample in samples if sample.committed >= run.messages), None)
    if first is None or last is None:
        run.error = f"it stands at {samples[-1].committed:,} of {run.messages:,} records" if samples else "no sample"
        return
    # A load that is done between two samples: at least a sample's time.
    run.seconds = max(last.at - first.at, _POLL_S)
    run.cpu = last.cpu - first.cpu
    run.broker = last.broker - first.broker
    run.others = max(0.0, last.busy - first.busy - run.cpu - run.broker)
    run.start_to_end = last.at - began
    output = next(sample for sample in samples if sample.outputs >= samples[-1].outputs)
    run.until_outputs = max(output.at - first.at, _POLL_S)
    commit = next(sample for sample in samples if sample.committed)
    if commit.committed < run.messages:
        run.between_commits = (run.messages - commit.committed, last.at - commit.at, last.cpu - commit.cpu)


# -- what is told ------------------------------------------------------------------------------------------------------

Figure = Callable[[Run], float]


def _of(runs: list[Run], figure: Figure, form: str = ",.0f") -> str:
    return median_and_range([figure(run) for run in runs], form)


def _ratio(runs: list[Run], to: list[Run], figure: Figure) -> str:
    """Round by round."""
    beside = {run.round: figure(run) for run in to}
    return median_and_range([figure(run) / beside[run.round] for run in runs if beside.get(run.round)], ".2f")


def _rate_of_cpu(run: Run) -> float:
    return run.messages / run.cpu if run.cpu else 0.0


def _by_runner(runs: list[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.runner, []).append(run)
    return found


def tables(runs: list[Run], left_out: dict[str, str]) -> str:
    """What was measured, in markdown."""
    grouped = _by_runner(runs)
    good = {name: [run for run in group if not run.error] for name, group in grouped.items()}
    base, java = good.get(BASE, []), good.get(JAVA, [])
    rows, others = [], []
    for name, group in grouped.items():
        fine = good[name]
        rows.append(
            (
                name if not fine or RUNNERS[name].at_most is None else f"{name} ({fine[0].messages:,} messages)",
                _of(fine, lambda run: run.rate),
                _ratio(fine, base, lambda run: run.rate),
                _of(fine, lambda run: run.cpu / run.messages * 1e6, ".2f"),
                _of(fine, _rate_of_cpu),
                _ratio(fine, java, _rate_of_cpu),
                _of(fine, lambda run: run.broker / run.messages * 1e6, ".2f"),
                f"{max((run.peak_mib for run in fine), default=0):,.0f}",
                _of(fine, lambda run: run.noise, ".2f"),
                f"{sum(not run.wrong and not run.error for run in group)}/{len(group)}",
            )
        )
        own = [run for run in fine if run.own]
        between = [run for run in fine if run.between_commits]
        others.append(
            (
                name,
                _of(own, lambda run: run.messages / _own(run)[0]),
                _of(own, lambda run: _own(run)[1] / run.messages * 1e6, ".2f"),
                _of(between, lambda run: _between(run)[0] / _between(run)[1]),
                _of(between, lambda run: _between(run)[2] / _between(run)[0] * 1e6, ".2f"),
                _of(fine, lambda run: run.messages / (run.until_outputs or run.seconds)),
                _of(fine, lambda run: run.start_to_end, ".1f"),
            )
        )
    head = (
        "runner",
        "rec/s",
        f"ratio to {BASE}",
        "client CPU µs/rec",
        "rec per client CPU-s",
        f"ratio to {JAVA}",
        "broker CPU µs/rec",
        "peak RSS MiB",
        "others, cores",
        "outputs ok",
    )
    clocks = (
        "by other clocks",
        "own: rec/s",
        "own: CPU µs/rec",
        "between commits: rec/s",
        "between commits: CPU µs/rec",
        "to the last output: rec/s",
        "start to no lag, s",
    )
    parts = [markdown(head, rows), markdown(clocks, others)]
    names = [*grouped, *left_out]
    parts.append("\n".join(f"- `{name}`: {RUNNERS[name].about}" for name in names))
    if left_out:
        parts.append("\n".join(f"`{name}` cannot run here: {why}" for name, why in left_out.items()))
    return "\n\n".join(parts)


def _own(run: Run) -> tuple[float, float]:
    return run.own or (1.0, 0.0)


def _between(run: Run) -> tuple[int, float, float]:
    return run.between_commits or (0, 1.0, 0.0)


def _say(run: Run) -> None:
    told = (
        f"failed: {run.error}"
        if run.error
        else f"{run.rate:10,.0f} rec/s {run.seconds:7.2f} s, CPU {run.cpu / run.messages * 1e6:6.2f} µs/rec, "
        f"broker {run.broker / run.messages * 1e6:5.2f}, others {run.noise:.2f} cores, "
        f"outputs {run.wrong or 'ok'}"
    )
    print(f"{run.runner:18} {told}", file=sys.stderr, flush=True)


# -- all of it ---------------------------------------------------------------------------------------------------------


def prepare(names: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The commands of those that can run here, and why the others cannot."""
    commands, left_out = {}, {}
    for name in names:
        try:
            commands[name] = RUNNERS[name].command()
        except UnavailableError as error:
            left_out[name] = str(error)
            print(f"{name:18} left out: {error}", file=sys.stderr, flush=True)
    return commands, left_out


async def measure(options: argparse.Namespace, commands: dict[str, list[str]]) -> tuple[list[Run], Load]:
    """All rounds."""
    runs: list[Run] = []
    async with Cluster.at(options.bootstrap_servers) as cluster:
        comparison = Comparison(cluster, commands)
        counts = {name: min(options.messages, RUNNERS[name].at_most or options.messages) for name in commands}
        loads = {
            count: await comparison.load(count, options.vehicles)
            for count in sorted({options.messages, *counts.values()})
        }
        base = BASE if BASE in commands else next(iter(commands))
        for _ in range(options.warm_ups):
            print("warm-up, not counted:", end=" ", file=sys.stderr)
            _say(await comparison.run(RUNNERS[base], loads[counts[base]], 0))
        for number in range(1, options.rounds + 1):
            order = list(commands)
            random.Random(number).shuffle(order)  # noqa: S311
            print(f"round {number}", file=sys.stderr)
            for name in order:
                run = await comparison.quiet_run(RUNNERS[name], loads[counts[name]], number, options.noise)
                _say(run)
                runs.append(run)
        await comparison.clean_up()
        return runs, loads[options.messages]


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__, kafka=True)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--vehicles", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runners", default=",".join(DEFAULT), help=f"of: {', '.join(RUNNERS)}")
    parser.add_argument("--warm-ups", type=int, default=2, help="uncounted runs of the base first")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.3,
        help="a run of less than 30 s is repeated, twice at most, if others used more cores than this meanwhile",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="where the plot goes")
    options = parser.parse_args(given)
    options.runners = options.runners.split(",")
    unknown = [name for name in options.runners if name not in RUNNERS]
    if unknown:
        parser.error(f"no such runner: {', '.join(unknown)}; there are {', '.join(RUNNERS)}")
    return options


def main(given: list[str] | None = None) -> int:
    """From the command line. Exit 1 if an output was wrong or a runner failed."""
    options = _options(given)
    commands, left_out = prepare(options.runners)
    runs, load = asyncio.run(measure(options, commands))
    runs.sort(key=lambda run: (options.runners.index(run.runner), run.round))
    title = (
        f"{load.messages:,} messages of {options.vehicles:,} vehicles, {load.bytes / load.messages:.0f} bytes with "
        f"the key, {PARTITIONS} partitions; medians of {options.rounds} rounds"
    )
    raw = {"title": title, "left_out": left_out, "runs": [asdict(run) for run in runs]}
    emit(title, tables(runs, left_out), raw, options.json)
    if options.plot:
        bars = {
            name: [run.rate for run in group if not run.error]
            for name, group in _by_runner(runs).items()
            if not all(run.error for run in group)
        }
        subtitle = f"{title}, {about()['date']}"
        options.plot.write_text(chart(bars, "records a second", subtitle), encoding="utf-8")
    return int(any(run.error or run.wrong for run in runs))


if __name__ == "__main__":
    sys.exit(main())
