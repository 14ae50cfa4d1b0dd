"""Containers in compose and on Kubernetes start with commands, settings, ports and probes that the server has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from control.api import make_app
from control.cli import make_app as make_cli
from control.services import open_services
from control.settings import OTHER_VARIABLES, Settings, load

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((DOCKER / "kubernetes" / "kustomization.yaml").read_text())
MANIFESTS = [
    document
    for path in sorted((DOCKER / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
OF_THE_IMAGE = dict(re.findall(r"(HEADRACE_\w+)=(\S+)", DOCKERFILE))
USER = int(re.findall(r"--uid (\d+)", DOCKERFILE)[0])
METRICS_PORT = 9090


@dataclass
class Part:
    """A container of ours, wherever it is described."""

    where: str
    arguments: list[str]
    environment: dict[str, str]
    pod: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def container(self) -> dict[str, Any]:
        (found,) = self.pod["containers"]
        return dict(found)

    @property
    def settings(self) -> Settings:
        """As the server would read them; raises `SettingsError` for a name or value that it does not know."""
        return load(environment=OF_THE_IMAGE | self.environment, folder=Path("/nonexistent"))

    def port(self, name: str | int) -> tuple[int, str]:
        """A port of the container by its name (or number, told of the others): its number and protocol."""
        for port in self.container["ports"]:
            if name in (port["name"], port["containerPort"]):
                return port["containerPort"], port.get("protocol", "TCP")
        raise AssertionError(f"{self.where} has no port {name}")


def of_compose() -> Iterator[Part]:
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            values = {k: re.sub(r"\$\{\w+:-(.*)\}", r"\1", v) for k, v in service.get("environment", {}).items()}
            yield Part(f"compose {name}", service.get("command", ["serve"]), values)


def of_kubernetes() -> Iterator[Part]:
    (shared,) = KUSTOMIZATION["configMapGenerator"]
    for document in MANIFESTS:
        if document["kind"] != "Deployment":
            continue
        template = document["spec"]["template"]
        (container,) = template["spec"]["containers"]
        values = {}
        for source in container.get("envFrom", ()):
            assert source["configMapRef"]["name"] == shared["name"]
            values |= dict(literal.split("=", 1) for literal in shared["literals"])
        for variable in container.get("env", ()):
            at_run_time = {"HEADRACE_EDGE__NAME": "edge-5d8f-x2x", "HEADRACE_DATABASE__URL": ""}
            values[variable["name"]] = variable.get("value") or at_run_time[variable["name"]]
        name = document["metadata"]["name"]
        yield Part(f"kubernetes {name}", container["args"], values, template["spec"], template["metadata"]["labels"])


PODS = {part.where.split()[1]: part for part in of_kubernetes()}
PARTS = [*of_compose(), *PODS.values()]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in MANIFESTS if found["kind"] == kind}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.where)
def test_commands_and_settings_are_real(part: Part) -> None:
    assert all(name.startswith("HEADRACE_") and name not in OTHER_VARIABLES for name in part.environment)
    assert part.settings.log.format == "json"
    name, *options = part.arguments
    command = typer.main.get_command(make_cli()).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, options).params
    if name == "edge":
        assert given["origin"] == f"http://core:{Settings().origin.port}"
        assert given["metrics_port"] == METRICS_PORT
    if name == "worker":
        assert given["core"] == f"tls://core:{Settings().workers.port}"


@pytest.mark.parametrize("part", PODS.values(), ids=lambda part: part.where)
def test_pods_ask_for_little(part: Part) -> None:
    security = part.pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, USER)
    assert part.container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert part.container["image"] == KUSTOMIZATION["images"][0]["name"]
    resources = part.container["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]
    mounted = {mount["name"]: mount["mountPath"] for mount in part.container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in part.pod["volumes"]}
    assert mounted["tmp"] == "/tmp", "sockets of the server's own processes"


def test_ports_are_those_of_the_settings() -> None:
    core, edge = PODS["core"], PODS["edge"]
    settings = core.settings
    assert core.port("rtmp") == (settings.rtmp.port, "TCP")
    assert core.port("rtmps") == (settings.rtmps.port, "TCP")
    assert core.port("srt") == (settings.srt.port, "UDP")
    assert core.port("api") == (settings.api.port, "TCP")
    assert core.port("origin") == (settings.origin.port, "TCP")
    assert core.port("workers") == (settings.workers.port, "TCP")
    assert edge.port("http") == (edge.settings.edge.port, "TCP")
    assert edge.port("metrics") == (METRICS_PORT, "TCP")
    # What has to be reached from outside of the pod listens there.
    for section in (settings.api, settings.origin, settings.workers, edge.settings.api, edge.settings.edge):
        assert section.host == "0.0.0.0"

    udp = {port["port"] for port in of_kind("Service")["ingest-udp"]["spec"]["ports"]}
    whip = set(range(settings.whip.port_min, settings.whip.port_max + 1))
    assert udp == whip | {settings.srt.port}


def test_services_lead_to_pods() -> None:
    whip = PODS["core"].settings.whip
    for name, service in of_kind("Service").items():
        (pod,) = [pod for pod in PODS.values() if pod.labels == service["spec"]["selector"]]
        for port in service["spec"]["ports"]:
            found = port["port"], port.get("protocol", "TCP")
            if "targetPort" in port:
                assert found == pod.port(port["targetPort"]), (name, port)
            else:
                assert whip.port_min <= found[0] <= whip.port_max
                assert found[1] == "UDP"
    assert set(of_kind("Service")) == {"core", "ingest", "ingest-udp", "edge"}
    assert PODS["core"].pod["hostname"] == "core", "the name that workers check in the certificate"


def test_only_edges_reach_the_origin() -> None:
    whip = PODS["core"].settings.whip
    everybody, edges, workers = of_kind("NetworkPolicy")["core"]["spec"]["ingress"]
    assert {port["port"] for port in everybody["ports"]} == {"rtmp", "rtmps", "srt", "api", whip.port_min}
    assert [port["endPort"] for port in everybody["ports"] if "endPort" in port] == [whip.port_max]
    for rule, name, port in ((edges, "edge", "origin"), (workers, "worker", "workers")):
        (source,) = rule["from"]
        assert source["podSelector"]["matchLabels"] == PODS[name].labels
        assert rule["ports"] == [{"port": port}]


async def test_probes_ask_for_pages_that_need_no_token(tmp_path: Path) -> None:
    async with open_services(tmp_path) as services:
        paths = set(make_app(services, Settings(), None).openapi()["paths"])  # type: ignore[arg-type]
    for pod, known in ((PODS["core"], {"/healthz", "/readyz"} & paths), (PODS["edge"], {"/healthz", "/"})):
        asked = set()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            request = pod.container[probe]["httpGet"]
            pod.port(request["port"])
            asked.add(request["path"])
        assert asked == known, pod.where


def test_the_core_keeps_its_data_and_no_secret_is_written_down() -> None:
    core = PODS["core"]
    (volume,) = [volume for volume in core.pod["volumes"] if "persistentVolumeClaim" in volume]
    assert volume["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
    (mount,) = [mount for mount in core.container["volumeMounts"] if mount["name"] == volume["name"]]
    assert mount["mountPath"] == OF_THE_IMAGE["HEADRACE_DATA"]
    assert core.pod["securityContext"]["fsGroup"] == USER
    deployment = of_kind("Deployment")["core"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"}), "two would share a database"
    assert not of_kind("Secret")


def test_the_kustomization_has_every_file() -> None:
    text = (DOCKER / "kubernetes" / "kustomization.yaml").read_text()
    files = {path.name for path in (DOCKER / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(re.findall(r"^  (?:# )?- (\w+\.yaml)$", text, re.MULTILINE)) == files
    assert set(KUSTOMIZATION["resources"]) == files - {"worker.yaml"}, "its Secret comes first"
