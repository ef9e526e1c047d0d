"""The image, the compose file, the board and the alerts speak of what there is."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client import CollectorRegistry

from headwater.cli import app
from headwater.cli.definitions_file import load_definitions
from headwater.cli.run.worker_process import registry_of
from headwater.config import load_config
from headwater.config.mistakes import known_settings
from headwater.config.settings import WorkerConfig
from headwater.errors import StateError
from headwater.flow.metrics import Metrics
from headwater.plan.plan import compile_plan
from headwater_serving.call_metrics import CallMetrics
from headwater_serving.monitoring import Monitoring

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
WORKERS = {name: one for name, one in SERVICES.items() if one["image"] == "headwater"}
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
BOARD = json.loads((DOCKER / "grafana/dashboards/headwater.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
SCRAPED = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
PAGE = ROOT / "docs/docker.md"

# What Prometheus adds to every series, and what a histogram's buckets have.
GIVEN_LABELS = {"instance", "job", "le"}
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}

expressions = pytest.mark.parametrize(
    "expression",
    [target["expr"] for panel in PANELS for target in panel["targets"]]
    + [alert["expr"] for alert in ALERTS]
    + [one["query"]["query"] for one in BOARD["templating"]["list"] if one["type"] == "query"],
)
services = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
workers = pytest.mark.parametrize("worker", WORKERS.values(), ids=list(WORKERS))
alerts = pytest.mark.parametrize("alert", ALERTS, ids=[one["alert"] for one in ALERTS])


class Health:
    """A worker's health, and the worker, as far as its metrics go."""

    error: StateError | None = None

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.calls = CallMetrics(self.metrics.registry)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def heartbeat_age_s(self) -> float:
        return 0.0

    def is_ready(self) -> bool:
        return True


def series() -> dict[str, set[str]]:
    """Return what a worker exposes: by name of a series, its labels."""
    worker = Health()
    found: dict[str, set[str]] = {"up": set()}
    registries = [
        registry_of(worker, worker, max_staleness_s=5.0),
        worker.metrics.registry,
    ]
    for registry in registries:
        for collector in list(registry._collector_to_names):
            labels = set(getattr(collector, "_labelnames", ()))
            for metric in collector.collect():
                sampled = {name for sample in metric.samples for name in sample.labels}
                for suffix in SUFFIXES[metric.type]:
                    found[metric.name + suffix] = labels | sampled
    return found


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    return series()


def plain(expression: str) -> str:
    """Return an expression without texts and durations, whose words are names then."""
    return re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))


# The board and the alerts


@expressions
def test_every_metric_of_board_and_alerts_is_exposed(expression, exposed) -> None:
    used = set(re.findall(r"\b(?:headwater_|process_)\w+|\bup\b", plain(expression)))
    assert used
    assert used - exposed.keys() == set()


@expressions
def test_every_label_that_is_matched_is_one_of_its_metric(expression, exposed) -> None:
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", plain(expression)):
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= exposed[name] | GIVEN_LABELS


@expressions
def test_every_label_that_is_grouped_by_is_one_of_its_metrics(expression, exposed) -> None:
    text = plain(expression)
    known = set().union(*(exposed.get(name, set()) for name in re.findall(r"\w+", text)))
    for group in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", text):
        assert set(re.findall(r"\w+", group)) <= known | GIVEN_LABELS


def test_every_metric_of_ours_is_on_the_board_or_known_not_to_be(exposed) -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    ours = {re.sub(r"_(sum|count|bucket)$", "", name) for name in exposed if "headwater_" in name}
    assert {name for name in ours if name not in shown} == {
        "headwater_backlog_rows",  # of one process that holds everything
    }


def test_a_legend_shows_only_labels_that_are_left() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"\(([\w, ]*)\)", target["expr"]))))
            assert shown <= kept | {"instance"}, panel["title"]


def test_the_panels_have_a_place_and_a_description_each() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] for panel in PANELS)
    for one, other in combinations((panel["gridPos"] for panel in BOARD["panels"]), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@alerts
def test_an_alert_says_what_why_and_where_to_read_on(alert) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9-]", "", one.lower().replace(" ", "-")) for one in headings}


@alerts
def test_an_alert_is_seen_to_fire(alert) -> None:
    assert alert["alert"] in (DOCKER / "prometheus/alerts_test.yml").read_text(encoding="utf-8")


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_agrees(arguments) -> None:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=DOCKER / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The compose file


@services
def test_a_service_can_do_as_little_as_it_needs(service) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_no_two_services_publish_one_port() -> None:
    ports = [port.split(":")[1] for one in SERVICES.values() for port in one.get("ports", ())]
    assert len(set(ports)) == len(ports)


@services
def test_whom_a_service_waits_for_tells_when_it_is_there(service) -> None:
    for name, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[name]
        else:
            assert SERVICES[name]["restart"] == "no"


@services
def test_what_is_mounted_is_there(service) -> None:
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        if source.startswith("."):
            assert (DOCKER / source).exists()
            assert mount.endswith(":ro")
        elif not source.startswith("/"):
            assert source in COMPOSE["volumes"]


@workers
def test_the_settings_of_a_worker_are_settings(worker, monkeypatch) -> None:
    monkeypatch.chdir(DOCKER)
    config = load_config(Path("headwater.toml"), environ=worker["environment"])
    settings = config.worker
    assert settings.advertise == f"{worker['hostname']}:{settings.port}"
    assert settings.id == worker["hostname"]
    assert config.kafka.bootstrap_servers == "kafka:19092"
    assert "kafka:19092" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    inside = [port.split(":")[2] for port in worker["ports"]]
    assert inside == [str(settings.port), str(settings.metrics_port)]
    assert int(worker["stop_grace_period"].removesuffix("s")) > settings.stop_timeout_s
    # Definitions where the settings look for them, state on a volume of its own, the rest shared.
    mounts = dict(mount.split(":")[1::-1] for mount in worker["volumes"])
    assert "/etc/headwater/" + settings.definitions in mounts
    shared = next(path for path, volume in mounts.items() if volume == "shared")
    assert settings.archive is not None
    assert settings.archive.is_relative_to(shared)
    assert settings.checkpoints.is_relative_to(shared)
    assert not settings.state.is_relative_to(shared)
    assert settings.state.is_relative_to("/var/lib/headwater")


def test_the_workers_share_a_namespace_and_nothing_of_their_own() -> None:
    environments = [one["environment"] for one in WORKERS.values()]
    assert len(environments) == 2
    assert len({one["HEADWATER_NAMESPACE"] for one in environments}) == 1
    assert len({one["HEADWATER_WORKER__ID"] for one in environments}) == 2
    own = [set(one["volumes"]) for one in WORKERS.values()]
    assert {mount.split(":")[0] for mount in own[0] & own[1]} == {"./features.py", "shared"}


def test_every_worker_is_scraped() -> None:
    (job,) = SCRAPED["scrape_configs"]
    assert job["job_name"] == "headwater"
    (group,) = job["static_configs"]
    port = WorkerConfig().metrics_port
    assert group["targets"] == [f"{one['hostname']}:{port}" for one in WORKERS.values()]


def test_grafana_finds_prometheus_and_the_board() -> None:
    folder = DOCKER / "grafana/provisioning"
    text = (folder / "datasources/prometheus.yaml").read_text(encoding="utf-8")
    (source,) = yaml.safe_load(text)["datasources"]
    assert source["url"] == "http://prometheus:9090"
    text = (folder / "dashboards/headwater.yaml").read_text(encoding="utf-8")
    (provider,) = yaml.safe_load(text)["providers"]
    grafana = SERVICES["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/headwater.json"


def test_the_definitions_compile_and_their_topics_are_made() -> None:
    plan = compile_plan(load_definitions(str(DOCKER / "features.py")))
    command = SERVICES["topics"]["command"]
    assert {command[command.index("--topic") + 1]} == set(plan.streams)


# The image


def reaches_the_build(path: str) -> bool:
    """Tell whether .dockerignore lets a path through: its last rule that matches counts."""
    allowed = True
    for line in IGNORED:
        rule = line.removeprefix("!").removeprefix("**/")
        if not rule or line.startswith("#"):
            continue
        parts = [path, *map(str, Path(path).parents)]
        if any(fnmatch(part, rule) or fnmatch(Path(part).name, rule) for part in parts):
            allowed = line.startswith("!")
    return allowed


def test_what_the_image_copies_is_there_and_reaches_the_build() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "uv.lock" in copied
    for source in copied:
        assert (ROOT / source).exists()
        assert reaches_the_build(source)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", "tests/harness.py", "docker/compose.yaml",
        "engine/headwater/__pycache__/errors.cpython-311.pyc", "engine/headwater/kernels/x.nbi",
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_image_does_not_reach_the_build(path) -> None:
    assert not reaches_the_build(path)
    assert reaches_the_build("engine/headwater/errors.py")


def stage(number: int) -> str:
    return re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[number + 1]


def test_both_stages_are_made_from_the_base_that_is_given() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE_IMAGE}"] * 2


def test_the_build_installs_what_is_locked_with_the_uv_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert f"ARG UV_VERSION={version}\n" in DOCKERFILE
    syncs = re.findall(r"uv sync [^\\\n]*", DOCKERFILE)
    assert len(syncs) == 2
    assert all("--frozen" in one and "--no-default-groups" in one for one in syncs)


def test_the_index_of_the_build_does_not_get_into_the_image() -> None:
    assert "INDEX" in stage(0)
    assert "INDEX" not in stage(1)


def test_the_image_runs_the_worker_as_nobody_in_particular() -> None:
    final = stage(1)
    (user,) = re.findall(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
    assert "0" not in user
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.*)$", final, re.MULTILINE)
    assert json.loads(entry) == ["headwater"]
    app.parse_args(json.loads(command), print_error=False, exit_on_error=False)
    (ports,) = re.findall(r"^EXPOSE (.*)$", final, re.MULTILINE)
    assert ports.split() == [str(WorkerConfig().port), str(WorkerConfig().metrics_port)]
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", final, re.MULTILINE)
    assert Path(json.loads(check)[-1]).name == "healthz.py"


def test_kernels_are_compiled_for_the_processor_that_they_are_looked_for() -> None:
    for number in (0, 1):
        assert "ARG CPU_NAME=generic\n" in stage(number)
        assert "NUMBA_CPU_NAME=${CPU_NAME}" in stage(number)
        assert 'NUMBA_CPU_FEATURES=""' in stage(number)
    (locators,) = re.findall(r"NUMBA_CACHE_LOCATOR_CLASSES=(\S+)", DOCKERFILE)
    module, _, name = locators.split(",")[0].rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_the_kernels_that_are_compiled_ahead_come_from_the_cache_the_second_time() -> None:
    command = [sys.executable, str(DOCKER / "precompile.py")]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"kernels: 0 compiled, [1-9]\d+ from the cache\n", done.stdout)


# The health check


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def monitored(health: Health, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitoring]:
    with Monitoring(CollectorRegistry(), health) as running:
        monkeypatch.setenv("HEADWATER_WORKER__METRICS_PORT", str(running.port))
        yield running


def check_health() -> tuple[int, str]:
    command = [sys.executable, "-I", str(DOCKER / "healthz.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_healthy_worker_passes(monitored) -> None:
    code, said = check_health()
    assert code == 0
    assert json.loads(said)["status"] == "ok"


def test_a_worker_that_failed_does_not_pass_and_says_why(monitored, health) -> None:
    health.error = StateError("the disk is full")
    code, said = check_health()
    assert code == 1
    assert "the disk is full" in said


def test_a_worker_that_is_not_there_does_not_pass(monitored) -> None:
    monitored.stop()
    code, said = check_health()
    assert code == 1
    assert "no answer" in said


# The page


def test_the_page_names_files_services_and_variables_that_there_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in re.findall(r"docker/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"docker compose (?:exec|logs|restart|stop|kill) (?:-\S+ )*(\S+)", text):
        assert name in SERVICES
    for name in re.findall(r"--build-arg (\w+)=", text):
        assert re.search(rf"^ARG {name}\b", DOCKERFILE, re.MULTILINE)
    known = {"HEADWATER_" + "__".join(path).upper() for path in known_settings()}
    assert set(re.findall(r"HEADWATER_\w+", text)) <= known
