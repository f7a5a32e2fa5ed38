"""The files that Docker Compose and its services read, made from models.yaml.

models.yaml ──► compose.yaml
config/       the server's configuration, as a lone container has it
prometheus/   prometheus.yml
grafana/      the data source, the dashboard and who provides it
envoy/        envoy.yaml, the certificate and its key
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tfserving.serving.compose import envoy as proxy
from tfserving.serving.config import (
    METRICS_PATH,
    MODELS_CONFIG,
    SERVE,
    container_config,
    draining_script,
    grace_seconds,
    in_container,
)
from tfserving.serving.docker.container import PREFIX, arguments, user
from tfserving.serving.engines import EngineError, Plan, address
from tfserving.serving.health import HEALTH, METRICS_FOLDER, health_script_over_rest
from tfserving.serving.models_yaml.fleet import FleetError
from tfserving.serving.models_yaml.server import Envoy, TlsFiles

COMPOSE = "compose.yaml"
DASHBOARD = Path(__file__).with_name("dashboard.json")
_NOBODY = "65534:65534"
_GRAFANA = 472


def files(plan: Plan, wait: float) -> dict[str, dict[str, str]]:
    """The text of every file by its name, by the folder that it belongs in; compose.yaml is in `.`.

    Raises FleetError when a file that models.yaml names can't be read.
    """
    compose, inside = plan.fleet.compose, in_container()
    config = container_config(plan.fleet, plan.names)
    made: dict[str, dict[str, str]] = {"config": dict(config.files), "prometheus": _prometheus(plan)}
    if compose.grafana:
        made["grafana"] = _grafana()
    if compose.envoy:
        made["envoy"] = _envoy(compose.envoy, inside.rest_port)
        made["envoy"][HEALTH] = health_script_over_rest(plan.fleet, plan.names, proxy.HEALTH_PORT)
        made["envoy"][SERVE] = draining_script(plan.fleet.server, proxy.in_flight())
    server = _service(arguments(plan, config, "compose", wait, Path("config")))
    server["stop_grace_period"] = f"{grace_seconds(plan.fleet.server)}s"
    services = {"server": server, "prometheus": _prometheus_service(plan)}
    volumes: dict[str, Any] = {"metrics": {}}
    if compose.memory_exporter:
        services["memory"] = _memory_service(compose.memory_exporter)
        server["volumes"].append({"type": "volume", "source": "memory", "target": METRICS_FOLDER})
        options = "size=1m,mode=1777,noexec,nosuid,nodev"
        volumes["memory"] = {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": options}}
    if compose.grafana:
        services["grafana"] = _grafana_service(compose.grafana, _published(plan, compose.grafana_port, 3000))
    if compose.envoy:
        # Compose ends it before the server, which it depends on.
        services["envoy"] = _envoy_service(compose.envoy, _published(plan, compose.envoy.port, 8443))
        services["envoy"]["stop_grace_period"] = server["stop_grace_period"]
    folders = {"server": "config"}
    for name, service in services.items():
        # Compose starts a service anew when its text changes, not when a file that it has mounted does.
        said = made.get(folders.get(name, name), {})
        reloaded = (MODELS_CONFIG, HEALTH)
        service["labels"] = {**service.get("labels", {PREFIX: name}), f"{PREFIX}.config": _digest(said, reloaded)}
    whole = {"services": services, "volumes": volumes}
    made["."] = {COMPOSE: _yaml(_literally(whole))}
    return made


def write_new(folder: Path, made: Mapping[str, Mapping[str, str]]) -> None:
    """Writes all files into `folder`, which doesn't exist, whole or not at all. Raises EngineError."""
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.absolute().parent))
        for name, texts in made.items():
            (temporary / name).mkdir(mode=0o755, exist_ok=True)
            for file, text in texts.items():
                (temporary / name / file).write_text(text)
        temporary.rename(folder)
    except OSError as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        raise EngineError(f"{folder} can't be written: {error.strerror}") from None


def images(plan: Plan) -> dict[str, str]:
    """The images of all services, by what in models.yaml names them."""
    compose = plan.fleet.compose
    named = {
        "server.image": plan.fleet.server.image_name,
        "compose.prometheus": compose.prometheus,
        "compose.memory_exporter": compose.memory_exporter,
        "compose.grafana": compose.grafana,
        "compose.envoy.image": compose.envoy and compose.envoy.image,
    }
    return {setting: image for setting, image in named.items() if image}


def ports(plan: Plan) -> dict[str, int]:
    """The ports of this machine that services get beside the server's, by what in models.yaml says them."""
    compose = plan.fleet.compose
    found = {"compose.prometheus_port": compose.prometheus_port}
    if compose.grafana:
        found["compose.grafana_port"] = compose.grafana_port
    if compose.envoy:
        found["compose.envoy.port"] = compose.envoy.port
    return found


def _service(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `docker run` is told of the server, as Compose says it."""
    health, log = run["healthcheck"], run["log_config"]
    service = {
        key: run[key]
        for key in ("image", "entrypoint", "command", "init", "user", "read_only", "cap_drop", "security_opt")
    }
    service |= {
        "tmpfs": [f"{target}:{options}" for target, options in run["tmpfs"].items()],
        "mem_limit": run["mem_limit"],
        "memswap_limit": run["memswap_limit"],
        "cpus": run["nano_cpus"] and run["nano_cpus"] / 1e9,
        "pids_limit": run["pids_limit"],
        "restart": run["restart_policy"]["Name"],
        "volumes": [_mount(mount["Source"], mount["Target"]) for mount in run["mounts"]],
        "ports": [
            f"{address(host, port)}:{inside.removesuffix('/tcp')}" for inside, (host, port) in run["ports"].items()
        ],
        "healthcheck": {
            "test": health["Test"],
            "retries": health["Retries"],
            **{key: f"{health[name] // 10**9}s" for key, name in _HEALTH_TIMES.items()},
        },
        "logging": {"driver": log["Type"], "options": log["Config"]},
        "labels": run["labels"],
    }
    if run["device_requests"]:
        devices = [
            {
                "driver": "nvidia",
                "capabilities": request["Capabilities"][0],
                **(
                    {"device_ids": request["DeviceIDs"]}
                    if request["DeviceIDs"]
                    else {"count": "all" if request["Count"] < 0 else request["Count"]}
                ),
            }
            for request in run["device_requests"]
        ]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return {key: value for key, value in service.items() if value is not None}


_HEALTH_TIMES = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}


def _hardened(image: str, user: str, memory: str) -> dict[str, Any]:
    """What every service beside the server has in common."""
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


def _prometheus(plan: Plan) -> dict[str, str]:
    rest = f"server:{in_container().rest_port}"
    jobs = [{"job_name": "server", "metrics_path": METRICS_PATH, "static_configs": [{"targets": [rest]}]}]
    if plan.fleet.compose.memory_exporter:
        jobs.append({"job_name": "memory", "static_configs": [{"targets": ["memory:9100"]}]})
    return {"prometheus.yml": _yaml({"global": {"scrape_interval": "5s"}, "scrape_configs": jobs})}


def _prometheus_service(plan: Plan) -> dict[str, Any]:
    return {
        **_hardened(plan.fleet.compose.prometheus, _NOBODY, "1g"),
        "entrypoint": ["prometheus"],
        "command": ["--config.file=/config/prometheus.yml", "--storage.tsdb.path=/prometheus"],
        "volumes": [
            _mount("prometheus", "/config"),
            {"type": "volume", "source": "metrics", "target": "/prometheus"},
        ],
        "ports": _published(plan, plan.fleet.compose.prometheus_port, 9090),
    }


def _memory_service(image: str) -> dict[str, Any]:
    """It reads what the server's health check writes, and nothing else."""
    collectors = ["--collector.disable-defaults", "--collector.textfile", "--web.disable-exporter-metrics"]
    return {
        **_hardened(image, _NOBODY, "64m"),
        "entrypoint": ["node_exporter"],
        "command": [*collectors, f"--collector.textfile.directory={METRICS_FOLDER}"],
        "volumes": [{"type": "volume", "source": "memory", "target": METRICS_FOLDER, "read_only": True}],
    }


def _grafana() -> dict[str, str]:
    source: dict[str, Any] = {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "access": "proxy"}
    source |= {"url": "http://prometheus:9090", "isDefault": True}
    provider = {"name": "serving", "type": "file", "options": {"path": "/etc/grafana/dashboards"}}
    return {
        "datasource.yaml": _yaml({"apiVersion": 1, "datasources": [source]}),
        "provider.yaml": _yaml({"apiVersion": 1, "providers": [provider]}),
        DASHBOARD.name: DASHBOARD.read_text(),
    }


def _grafana_service(image: str, ports: list[str]) -> dict[str, Any]:
    """Who gets to its port may look; nobody may change anything, and there is no password."""
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
        "volumes": [_mount(f"grafana/{name}", target) for name, target in places.items()],
        "ports": ports,
    }


def _envoy(envoy: Envoy, rest_port: int) -> dict[str, str]:
    configuration = proxy.configuration(envoy, "/config", "0.0.0.0", 8443, ("server", rest_port))  # noqa: S104
    said = {proxy.FILE: _yaml(configuration)}
    for name, key, path in (
        (proxy.CERTIFICATE, "certificate", envoy.certificate),
        (proxy.KEY, "key", envoy.key),
        (proxy.CLIENT_CA, "client_ca", envoy.client_ca),
    ):
        if path:
            try:
                said[name] = path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise FleetError(f"compose.envoy.{key}: {path}: {getattr(error, 'strerror', error)}") from None
    return said


def _envoy_service(envoy: Envoy, ports: list[str]) -> dict[str, Any]:
    return {
        **_hardened(envoy.image, user(), "256m"),
        "entrypoint": ["bash", f"/config/{SERVE}", "envoy"],
        "command": ["--config-path", f"/config/{proxy.FILE}", "--log-level", "warn", "--disable-hot-restart"],
        "volumes": [_mount("envoy", "/config")],
        "ports": ports,
        "depends_on": ["server"],
    }


def tls_files(envoy: Envoy) -> TlsFiles:
    """Envoy's certificate and key, as the server has them."""
    return TlsFiles(
        certificate=envoy.certificate,
        key=envoy.key,
        client_ca=envoy.client_ca,
        verify_clients=envoy.client_ca is not None,
    )


def _published(plan: Plan, port: int, inside: int) -> list[str]:
    return [f"{address(plan.host, port)}:{inside}"]


def _mount(source: str, target: str) -> dict[str, Any]:
    """A folder or file that can only be read; what isn't absolute is beside compose.yaml."""
    return {
        "type": "bind",
        "source": source if source.startswith("/") else f"./{source}",
        "target": target,
        "read_only": True,
    }


def _literally(said: Any) -> Any:
    """`said` with every `$` as Compose wants it when it is no variable."""
    if isinstance(said, str):
        return said.replace("$", "$$")
    if isinstance(said, Mapping):
        return {key: _literally(value) for key, value in said.items()}
    return [_literally(one) for one in said] if isinstance(said, list | tuple) else said


def _digest(said: Mapping[str, str], but: tuple[str, ...]) -> str:
    kept = {name: text for name, text in said.items() if name not in but}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _yaml(said: Any) -> str:
    return yaml.safe_dump(said, sort_keys=False, width=120)
