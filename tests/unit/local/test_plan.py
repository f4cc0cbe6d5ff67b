import json
import re
from pathlib import Path

import pytest

from streams import cli
from streams.errors import UsageError
from streams.local.plan import UNITS, Fleet, make_plan, unit_costs

PAGE = (Path(__file__).parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")

# A thousand vehicles, each driving 144 minutes a day: a tenth of them at a time, 10 messages a second.
THOUSAND = Fleet(
    vehicles=1_000,
    interval_s=10,
    trip_minutes=72,
    trips_per_day=2,
    peak=2,
    message_bytes=100,
    samples=5,
    horizon_h=24,
    commit_interval_s=1,
    retention_days=10,
    replicas=3,
)
COSTS = {
    "worker_us": 1_000,
    "checkpoint_ms": 5,
    "broker_us": 100,
    "process_mib": 100,
    "idle_bytes": 1_000,
    "driving_bytes": 2_000,
    "driving_sample_bytes": 20,
    "sample_bytes": 10,
    "stored_idle_bytes": 500,
    "stored_driving_sample_bytes": 7,
    "stored_sample_bytes": 5,
    "changelog_ratio": 2,
    "events_bytes": 3_000,
    "trip_bytes": 1_000,
    "recovery_vehicles": 100,
    "recovery_mb": 100,
}


@pytest.fixture
def trips(capsys):
    """Runs a command in this process; returns exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


def test_a_plan_is_what_its_formulas_say():
    plan = make_plan(THOUSAND, COSTS)
    assert (plan.driving, plan.driving_peak) == (100, 200)
    assert (plan.messages_mean, plan.messages_peak) == (10, 20)
    assert plan.trips_per_day == 2_000
    assert (plan.processes, plan.partitions, plan.processes_because_of) == (2, 8, "failures")
    # 20 messages of 1 ms, and 8 partitions with a checkpoint of 5 ms a second.
    assert plan.worker_cores_peak == pytest.approx(0.02 + 0.04)
    assert plan.worker_cores_mean == pytest.approx(0.01 + 0.04)
    assert plan.broker_cores_peak == pytest.approx(20 * 100e-6 * 3)
    # Samples: 10 messages of 5 for a day; of 200 trips that are on, half of their 432 messages of 5.
    kept, under_way = 10 * 86_400 * 5, 200 * 216 * 5
    vehicles = 1_000 * 1_000 + 200 * 2_000 + under_way * 20 + kept * 10
    assert plan.memory_total == pytest.approx(vehicles + 2 * 100 * 2**20)
    assert plan.memory_process == pytest.approx(vehicles / 2 + 100 * 2**20)
    samples = under_way * 7 + kept * 5
    changelog = 1_000 * 500 + samples
    assert plan.changelog_stored == pytest.approx(3 * changelog)
    assert plan.recovery_s == pytest.approx((1_000 / 100 + samples / 100e6) / 2)
    # A second at peak, thrice: 2,000 bytes of telemetry, 4,000 of changelog, what is said of 4,000 trips a day.
    said = 4_000 / 86_400 * 4_000
    assert plan.changelog_written_peak == pytest.approx(4_000)
    assert plan.brokers_in_peak == pytest.approx(3 * (6_000 + said))
    assert plan.brokers_out_peak == pytest.approx(2_000 + 2 * (6_000 + said))
    assert plan.telemetry_stored == pytest.approx(10 * 86_400 * 100 * 10 * 3)
    assert plan.events_stored == pytest.approx(2_000 * 3_000 * 10 * 3)
    assert plan.trips_stored_year == pytest.approx(2_000 * 365 * 1_000 * 3)


@pytest.mark.parametrize(
    ("changes", "processes", "partitions", "why"),
    [
        (
            {"worker_us": 100_000},
            5,
            16,
            "processor time",
        ),  # 2 cores at peak, and 0.08 of checkpoints, half of each free
        ({"sample_bytes": 2_000}, 3, 8, "memory"),  # 8.6 GB of samples, at most 4 GB each
        ({"recovery_vehicles": 3}, 6, 16, "recovery"),  # 333 s, within 60 s
    ],
)
def test_what_is_scarce_says_how_many_workers_there_are(changes, processes, partitions, why):
    plan = make_plan(THOUSAND, COSTS | changes)
    assert (plan.processes, plan.partitions, plan.processes_because_of) == (processes, partitions, why)


def test_at_peak_there_are_no_more_than_all_vehicles():
    plan = make_plan(Fleet(vehicles=10, interval_s=1, trip_minutes=720, trips_per_day=1, peak=5), COSTS)
    assert plan.driving_peak == 10


def test_more_than_a_day_of_driving_is_refused():
    with pytest.raises(UsageError, match="25 trips of 60 minutes are more than a day"):
        make_plan(Fleet(vehicles=10, interval_s=1, trip_minutes=60, trips_per_day=25), COSTS)


def test_what_no_cluster_can_have_is_refused():
    with pytest.raises(UsageError, match="partitions, and at most 10,000 can be: use several clusters"):
        make_plan(Fleet(vehicles=10_000_000_000, interval_s=1), COSTS)


def test_less_memory_than_an_empty_worker_takes_is_refused():
    with pytest.raises(UsageError, match="takes 100 MiB: it has to get more than that"):
        make_plan(Fleet(vehicles=10, interval_s=1, worker_memory_gb=0.1), COSTS)


def test_unit_costs_can_be_replaced():
    assert unit_costs({"worker_us": 7})["worker_us"] == 7
    assert unit_costs().keys() == COSTS.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker_us", "trips: --unit worker_us: not NAME=VALUE with a number as VALUE\n"),
        ("worker=5", "trips: there is no unit cost 'worker'; there are: worker_us, "),
        ("worker_us=0", "trips: the unit cost worker_us has to be more than 0\n"),
        ("worker_us=nan", "trips: the unit cost worker_us has to be more than 0\n"),
    ],
)
def test_unit_costs_that_are_none_are_refused(trips, text, says):
    code, out, err = trips("plan", "--vehicles", 1, "--unit", text)
    assert (code, out) == (2, "")
    assert err.startswith(says)


def test_the_unit_costs_are_shown_with_their_source_and_what_was_given(trips):
    _, out, _ = trips("plan", "--vehicles", 1, "--units", "--unit", "broker_us=5")
    shown = dict(re.findall(r"^(\w+) +[\d.,]+  .* \((.*)\)$", out, flags=re.MULTILINE))
    assert shown == {unit.name: unit.source for unit in UNITS} | {"broker_us": "as given"}


def test_a_plan_as_json_has_all_that_went_into_it(trips):
    code, out, _ = trips("plan", "--vehicles", 1_000, "--interval", 10, "--unit", "broker_us=5", "--json")
    made = json.loads(out)
    assert code == 0
    assert (made["fleet"]["vehicles"], made["fleet"]["interval_s"], made["unit_costs"]["broker_us"]) == (1_000, 10, 5)
    assert made["plan"]["processes"] == 2


EXAMPLES = re.findall(r"^```text\n\$ trips (plan [^\n]*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_page_has_plans_for_three_sizes():
    assert [re.search(r"--vehicles (\d+)", arguments)[1] for arguments, _ in EXAMPLES] == [
        "10000",
        "1000000",
        "50000000",
    ]


@pytest.mark.parametrize(("arguments", "shown"), EXAMPLES, ids=[arguments for arguments, _ in EXAMPLES])
def test_the_plans_on_the_page_are_what_the_command_prints(trips, arguments, shown):
    _, out, _ = trips(*arguments.split())
    assert out == shown, "docs/performance.md is out of date: `make docs`"
