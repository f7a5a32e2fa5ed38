"""Envoy's configuration: HTTPS for REST, and traffic splits between the labels `canary` and `stable`.

    https ──► Envoy ──┬─ /v1/models/NAME:predict, some of 100 ──► NAME-canary/labels/canary:predict ──┬─► server
                      ├─ /v1/models/NAME:predict, the others ───► NAME/labels/stable:predict ─────────┤
                      └─ other paths of /v1/ ─────────────────────────────────────────────────────────┘

Names are those of https://www.envoyproxy.io/docs/envoy/latest/api-v3/api.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfserving.foundation.labels import CANARY, STABLE, canary_name
from tfserving.serving.models_yaml.server import Envoy

FILE = "envoy.yaml"
CERTIFICATE, KEY, CLIENT_CA = "certificate.pem", "key.pem", "client_ca.pem"
# The label that a request of a traffic split was sent to, on the response.
LABEL_HEADER = "x-served-label"
_TYPES = "type.googleapis.com/envoy.extensions"
# Longer than any model runs, since clients have their own deadlines.
_TIMEOUT = "300s"
# In Envoy's container, to check that the server can be reached through Envoy.
HEALTH_PORT = 8081
# Only in the container, for its drain.
ADMIN_PORT = 9901
_IN_FLIGHT = Path(__file__).with_name("in_flight.sh")


def configuration(envoy: Envoy, folder: str, address: str, port: int, server: tuple[str, int]) -> dict[str, Any]:
    """Return the configuration for `envoy --config-path`.

    `folder` is the path of the certificate and key in Envoy's container. Envoy listens on `address` and `port`, and
    forwards to the REST address `server`.
    """
    routes = [route for model, canary in envoy.split.items() for route in _split(model, canary)]
    # The metrics page, outside of /v1/, is only for Prometheus.
    routes.append({"match": {"prefix": "/v1/"}, "route": _to_server()})
    listener = _listener("rest", _address(address, port), routes)
    listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": _tls(envoy, folder)}
    inside = [{"match": {"prefix": "/v1/"}, "route": _to_server()}]
    health = _listener("health", _address("127.0.0.1", HEALTH_PORT), inside)
    cluster = {
        "name": "server",
        "type": "STRICT_DNS",
        # A restarted server may have another address.
        "dns_refresh_rate": "1s",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*server)}}]}],
        },
    }
    return {
        "admin": {"address": _address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {"listeners": [listener, health], "clusters": [cluster]},
    }


def in_flight() -> str:
    """Return the functions with which `serving.config.draining_script` drains Envoy."""
    return f"admin={ADMIN_PORT}\n\n{_IN_FLIGHT.read_text()}"


def _listener(name: str, address: dict[str, Any], routes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a listener for plain HTTP at `address`, forwarded by `routes`."""
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"idle_timeout": "600s"},
        "request_headers_timeout": "10s",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    return {
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _split(model: str, canary: int) -> list[dict[str, Any]]:
    """Return the routes of a model's requests without a version: to the canary, and to the stable version."""
    name = re.escape(model)
    match = {"safe_regex": {"regex": f"/v1/models/{name}:(predict|classify|regress)"}}
    some = {"default_value": {"numerator": canary, "denominator": "HUNDRED"}, "runtime_key": f"split.{model}"}
    routes = []
    for served, label, matched in (
        (canary_name(model), CANARY, {**match, "runtime_fraction": some}),
        (model, STABLE, match),
    ):
        rewrite = {
            "pattern": {"regex": f"^/v1/models/{name}:"},
            "substitution": f"/v1/models/{served}/labels/{label}:",
        }
        header = {"header": {"key": LABEL_HEADER, "value": label}}
        routes.append(
            {"match": matched, "route": {**_to_server(), "regex_rewrite": rewrite}, "response_headers_to_add": [header]}
        )
    return routes


def _to_server() -> dict[str, Any]:
    return {"cluster": "server", "timeout": _TIMEOUT}


def _tls(envoy: Envoy, folder: str) -> dict[str, Any]:
    def file(name: str) -> dict[str, str]:
        return {"filename": f"{folder}/{name}"}

    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [{"certificate_chain": file(CERTIFICATE), "private_key": file(KEY)}],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    context: dict[str, Any] = {
        "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }
    if envoy.client_ca:
        common["validation_context"] = {"trusted_ca": file(CLIENT_CA)}
        context["require_client_certificate"] = True
    return context


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
