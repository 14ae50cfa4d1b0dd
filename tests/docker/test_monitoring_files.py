"""Dashboard and alerts ask for metrics and labels that the server really has, and find each other in compose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from control.metrics import make_registry
from control.services import open_services
from edge.metrics import Snapshot, render

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DASHBOARD = json.loads((DOCKER / "grafana" / "headrace.json").read_text())
ALERTS = [rule for group in yaml.safe_load((DOCKER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(target["expr"], target["legendFormat"]) for panel in PANELS for target in panel["targets"]]

OF_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate", "severity", "stream"}}
EVERYWHERE = {"instance", "job"}
KEYWORDS = {"and", "or", "unless", "by", "on", "ignoring"}


class BareNode:
    """What `control.metrics` asks of `control.ports.Node`, of a server that has nothing yet."""

    def broadcasts(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def ready(self) -> Mapping[str, bool]:
        return {}

    def workers(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def hardware(self) -> None:
        return None

    def refusals(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def drops(self) -> Mapping[str, int]:
        return {"srt_bytes": 0, "dvr_jobs": 0}

    def origin(self) -> tuple[Mapping[int, int], int]:
        return {}, 0

    def stills(self) -> Mapping[str, int]:
        return {"made": 0, "failed": 0, "left_out": 0, "restarts": 0}


@pytest.fixture
async def metrics(tmp_path: Path) -> dict[str, set[str]]:
    """The labels of every metric of a core and an edge, by its name in queries."""
    found = dict(OF_PROMETHEUS)
    async with open_services(tmp_path) as services:
        for family in make_registry(services, BareNode()).collect():  # type: ignore[arg-type]
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = set(getattr(family, "_labelnames", ()))
    seen = Snapshot(
        viewers={"main": [1]},
        upstreams={"http://core": [1, 1, 0]},
        histograms={"first_byte": [0] * 10, "wake": [0] * 10},
    )
    for family in text_string_to_metric_families(render([seen], {}).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def names(expression: str) -> set[str]:
    """The metrics in a query: every word outside of selectors, ranges and groupings that is no function."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|ignoring)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)) - KEYWORDS


def matched(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric with each label that its selector names."""
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            yield name, label


def left(expression: str, metrics: Mapping[str, set[str]]) -> set[str]:
    """The labels that the answer to a query has."""
    groupings = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    if groupings:
        return {label.strip() for grouping in groupings for label in grouping.split(",")}
    if re.search(r"\b(?:sum|min|max)\s*\(", expression):
        return set()
    return EVERYWHERE | set[str]().union(*(metrics[name] for name in names(expression)))


def check(expression: str, shown: set[str], metrics: Mapping[str, set[str]]) -> None:
    found = names(expression)
    assert found, expression
    assert found <= set(metrics), (expression, found - set(metrics))
    for name, label in matched(expression):
        assert label in metrics[name] | EVERYWHERE, (expression, label)
    for grouping in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        for label in grouping.split(","):
            assert label.strip() in EVERYWHERE.union(*(metrics[name] for name in found)), (expression, label)
    assert shown <= left(expression, metrics), (expression, shown)


def test_the_check_finds_what_is_wrong() -> None:
    known = {"a_total": {"x"}, "b": set[str]()}
    check("sum by (x) (rate(a_total{x=~'1'}[5m])) > 0.05 * b", {"x"}, known)
    for expression, shown in (
        ("rate(a[5m])", set[str]()), ("b{x='1'}", set()), ("sum by (y) (a_total)", set()), ("sum(a_total)", {"x"}),
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            check(expression, shown, known)


async def test_the_dashboard_asks_for_what_there_is(metrics: dict[str, set[str]]) -> None:
    assert len(QUERIES) > 40
    for expression, legend in QUERIES:
        check(expression, set(re.findall(r"\{\{(\w+)\}\}", legend)), metrics)
    (variable,) = DASHBOARD["templating"]["list"]
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
    assert label in metrics[name]
    (annotation,) = DASHBOARD["annotations"]["list"]
    check(annotation["expr"], set(), metrics)


async def test_the_alerts_ask_for_what_there_is(metrics: dict[str, set[str]]) -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        words = " ".join(rule["annotations"].values())
        check(rule["expr"], set(re.findall(r"\$labels\.(\w+)", words)), metrics)
        assert set(rule["annotations"]) == {"summary", "look"}
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_dashboard_finds_its_data_source() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana" / "datasource.yaml").read_text())["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    every = [*PANELS, *DASHBOARD["templating"]["list"], *DASHBOARD["annotations"]["list"]]
    assert all(item["datasource"] == wanted for item in every)
    assert source["url"] == "http://prometheus:9090"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie over each other"
    assert max(x for x, _ in cells) == 23


def test_compose_brings_prometheus_and_grafana_their_files() -> None:
    mounts = {
        name: {Path(parts[1]): DOCKER / parts[0] for mount in COMPOSE["services"][name]["volumes"]
               if (parts := mount.split(":"))[0].startswith("./")}
        for name in ("prometheus", "grafana")
    }  # fmt: skip
    made_by_the_operator = DOCKER / "admin-token"
    assert all(path.is_file() for found in mounts.values() for path in found.values() if path != made_by_the_operator)

    config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
    home = Path("/etc/prometheus")
    inside = mounts["prometheus"]
    assert {inside[home / name] for name in config["rule_files"]} == {DOCKER / "alerts.yaml"}
    assert inside[Path(config["scrape_configs"][0]["authorization"]["credentials_file"])] == made_by_the_operator

    (provider,) = yaml.safe_load((DOCKER / "grafana" / "provider.yaml").read_text())["providers"]
    folders = {path.parent for path, file in mounts["grafana"].items() if file.suffix == ".json"}
    assert folders == {Path(provider["options"]["path"])}
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]) in mounts["grafana"]
    for service in COMPOSE["services"].values():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), "an image without a version"
