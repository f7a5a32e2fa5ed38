"""The services that Compose runs beside the server, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfserving.serving.compose import envoy as proxy
from tfserving.serving.config import METRICS_PATH, SERVE, in_container
from tfserving.serving.docker.container import user
from tfserving.serving.engines import Plan, address
from tfserving.serving.health import METRICS_FOLDER
from tfserving.serving.models_yaml.fleet import FleetError
from tfserving.serving.models_yaml.server import Envoy
from tfserving.serving.yaml_text import as_yaml

DASHBOARD = Path(__file__).with_name("dashboard.json")
_NOBODY = "65534:65534"
_GRAFANA = 472


def _hardened(image: str, user: str, memory: str) -> dict[str, Any]:
    """Return the common settings of all services beside the server."""
    return {
        "image": image,
        "user": user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory,
        "pids_limit": 256,
        "restart": "unless-stopped",
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    }


def prometheus(plan: Plan) -> dict[str, str]:
    """Return the files of Prometheus."""
    rest = f"server:{in_container().rest_port}"
    jobs = [{"job_name": "server", "metrics_path": METRICS_PATH, "static_configs": [{"targets": [rest]}]}]
    if plan.fleet.compose.memory_exporter:
        jobs.append({"job_name": "memory", "static_configs": [{"targets": ["memory:9100"]}]})
    return {"prometheus.yml": as_yaml({"global": {"scrape_interval": "5s"}, "scrape_configs": jobs})}


def prometheus_service(plan: Plan) -> dict[str, Any]:
    """Return the service of Prometheus."""
    return {
        **_hardened(plan.fleet.compose.prometheus, _NOBODY, "1g"),
        "entrypoint": ["prometheus"],
        "command": ["--config.file=/config/prometheus.yml", "--storage.tsdb.path=/prometheus"],
        "volumes": [
            bind("prometheus", "/config"),
            {"type": "volume", "source": "metrics", "target": "/prometheus"},
        ],
        "ports": published(plan, plan.fleet.compose.prometheus_port, 9090),
    }


def memory_service(image: str) -> dict[str, Any]:
    """Return the service that exports only the file that the server's health check writes."""
    collectors = ["--collector.disable-defaults", "--collector.textfile", "--web.disable-exporter-metrics"]
    return {
        **_hardened(image, _NOBODY, "64m"),
        "entrypoint": ["node_exporter"],
        "command": [*collectors, f"--collector.textfile.directory={METRICS_FOLDER}"],
        "volumes": [{"type": "volume", "source": "memory", "target": METRICS_FOLDER, "read_only": True}],
    }


def grafana() -> dict[str, str]:
    """Return the files of Grafana."""
    source: dict[str, Any] = {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "access": "proxy"}
    source |= {"url": "http://prometheus:9090", "isDefault": True}
    provider = {"name": "serving", "type": "file", "options": {"path": "/etc/grafana/dashboards"}}
    return {
        "datasource.yaml": as_yaml({"apiVersion": 1, "datasources": [source]}),
        "provider.yaml": as_yaml({"apiVersion": 1, "providers": [provider]}),
        DASHBOARD.name: DASHBOARD.read_text(),
    }


def grafana_service(image: str, ports: list[str]) -> dict[str, Any]:
    """Return the service: everyone who reaches its port can view, without a password, and change nothing."""
    places = {
        "datasource.yaml": "/etc/grafana/provisioning/datasources/datasource.yaml",
        "provider.yaml": "/etc/grafana/provisioning/dashboards/provider.yaml",
        DASHBOARD.name: f"/etc/grafana/dashboards/{DASHBOARD.name}",
    }
    return {
        **_hardened(image, f"{_GRAFANA}:0", "512m"),
        "environment": {
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
            "GF_AUTH_BASIC_ENABLED": "false",
            "GF_AUTH_DISABLE_LOGIN_FORM": "true",
            "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": places[DASHBOARD.name],
            "GF_LOG_MODE": "console",
        },
        "tmpfs": [f"/var/lib/grafana:uid={_GRAFANA},gid=0,mode=0755,size=256m", "/tmp:size=64m"],  # noqa: S108
        "volumes": [bind(f"grafana/{name}", target) for name, target in places.items()],
        "ports": ports,
    }


def envoy(envoy: Envoy, rest_port: int) -> dict[str, str]:
    """Return the files of Envoy, which forwards to the REST port of the server. Raises FleetError."""
    configuration = proxy.configuration(envoy, "/config", "0.0.0.0", 8443, ("server", rest_port))  # noqa: S104
    made = {proxy.FILE: as_yaml(configuration)}
    for name, key, path in (
        (proxy.CERTIFICATE, "certificate", envoy.certificate),
        (proxy.KEY, "key", envoy.key),
        (proxy.CLIENT_CA, "client_ca", envoy.client_ca),
    ):
        if path:
            try:
                made[name] = path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise FleetError(f"compose.envoy.{key}: {path}: {getattr(error, 'strerror', error)}") from None
    return made


def envoy_service(envoy: Envoy, ports: list[str]) -> dict[str, Any]:
    """Return the service of Envoy."""
    return {
        **_hardened(envoy.image, user(), "256m"),
        "entrypoint": ["bash", f"/config/{SERVE}", "envoy"],
        "command": ["--config-path", f"/config/{proxy.FILE}", "--log-level", "warn", "--disable-hot-restart"],
        "volumes": [bind("envoy", "/config")],
        "ports": ports,
        "depends_on": ["server"],
    }


def published(plan: Plan, port: int, inside: int) -> list[str]:
    """Return the published port of a service."""
    return [f"{address(plan.host, port)}:{inside}"]


def bind(source: str, target: str) -> dict[str, Any]:
    """Return a read-only mount. A relative source is relative to compose.yaml."""
    return {
        "type": "bind",
        "source": source if source.startswith("/") else f"./{source}",
        "target": target,
        "read_only": True,
    }
