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
from tfserving.serving.envoy import EXTENSIONS, TIMEOUT, address, endpoints, listener
from tfserving.serving.models_yaml.server import Envoy

FILE = "envoy.yaml"
CERTIFICATE, KEY, CLIENT_CA = "certificate.pem", "key.pem", "client_ca.pem"
# The label that a request of a traffic split was sent to, on the response.
LABEL_HEADER = "x-served-label"
# In Envoy's container, to check that the server can be reached through Envoy.
HEALTH_PORT = 8081
# Only in the container, for its drain.
ADMIN_PORT = 9901
_IN_FLIGHT = Path(__file__).with_name("in_flight.sh")


def configuration(envoy: Envoy, folder: str, host: str, port: int, server: tuple[str, int]) -> dict[str, Any]:
    """Return the configuration for `envoy --config-path`.

    `folder` is the path of the certificate and key in Envoy's container. Envoy listens on `host` and `port`, and
    forwards to the REST address `server`.
    """
    routes = [route for model, canary in envoy.split.items() for route in _split(model, canary)]
    # The metrics page, outside of /v1/, is only for Prometheus.
    routes.append({"match": {"prefix": "/v1/"}, "route": _to_server()})
    outside = listener("rest", address(host, port), routes)
    outside["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": _tls(envoy, folder)}
    inside = [{"match": {"prefix": "/v1/"}, "route": _to_server()}]
    health = listener("health", address("127.0.0.1", HEALTH_PORT), inside)
    cluster = {
        "name": "server",
        "type": "STRICT_DNS",
        # A restarted server may have another address.
        "dns_refresh_rate": "1s",
        "connect_timeout": "2s",
        "load_assignment": endpoints("server", *server),
    }
    return {
        "admin": {"address": address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {"listeners": [outside, health], "clusters": [cluster]},
    }


def in_flight() -> str:
    """Return the functions with which `serving.config.draining_script` drains Envoy."""
    return f"admin={ADMIN_PORT}\n\n{_IN_FLIGHT.read_text()}"


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
    return {"cluster": "server", "timeout": TIMEOUT}


def _tls(envoy: Envoy, folder: str) -> dict[str, Any]:
    def file(name: str) -> dict[str, str]:
        return {"filename": f"{folder}/{name}"}

    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [{"certificate_chain": file(CERTIFICATE), "private_key": file(KEY)}],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    context: dict[str, Any] = {
        "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }
    if envoy.client_ca:
        common["validation_context"] = {"trusted_ca": file(CLIENT_CA)}
        context["require_client_certificate"] = True
    return context
