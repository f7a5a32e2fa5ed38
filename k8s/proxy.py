"""Envoy's configuration in a pod: a proxy between the Services and the server.

    gRPC ──► Envoy :8600 ──► server :8500    predictions, metadata, status, health; no HandleReloadConfigRequest
    REST ──► Envoy :8601 ──► server :8501    the paths below /v1/models; no metrics page

TensorFlow Serving never ends a connection of REST by itself, so a client that keeps one loses the request that it sends
when the pod ends. Envoy ends each connection when it is half of `drain_seconds` old, whether or not the pod ends: over
HTTP/1.1 the next response has `Connection: close`, over HTTP/2 the client gets GOAWAY. A pod that ends serves for
`drain_seconds` after it has left the Services, so its clients have moved to other pods by then. Nothing has to tell
Envoy that the pod ends, and it has no admin interface.
"""

from __future__ import annotations

from typing import Any

from tfserving.serving.config import in_container
from tfserving.serving.envoy import EXTENSIONS, TIMEOUT, address, endpoints, listener
from tfserving.serving.models_yaml.kubernetes import Kubernetes, in_bytes
from tfserving.serving.yaml_text import as_yaml

FILE = "envoy.yaml"
GRPC, REST, ALIVE = 8600, 8601, 8602
# The kubelet checks Envoy alone at this path.
ALIVE_PATH = "/alive"
_METHODS = (
    "tensorflow.serving.PredictionService/Predict",
    "tensorflow.serving.PredictionService/Classify",
    "tensorflow.serving.PredictionService/Regress",
    "tensorflow.serving.PredictionService/MultiInference",
    "tensorflow.serving.PredictionService/GetModelMetadata",
    "tensorflow.serving.ModelService/GetModelStatus",
    "grpc.health.v1.Health/Check",
)
_ANY = "0.0.0.0"  # noqa: S104 - in a pod
_BUFFER = 1 << 20
# Connections that the server may have closed by itself aren't used again.
_IDLE = "10s"
_STREAMS = 1000
_RESOURCES = "envoy.resource_monitors"
_ACTIONS = "envoy.overload_actions"


def configuration(settings: Kubernetes) -> str:
    """Return the file for `envoy --config-path`."""
    return as_yaml(_configuration(settings))


def _configuration(settings: Kubernetes) -> dict[str, Any]:
    drain_seconds, max_connections = settings.drain_seconds, settings.proxy.max_connections
    inside = in_container()
    retries = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2}
    grpc, rest = (
        {"cluster": name, "timeout": TIMEOUT, "retry_policy": retries} for name in ("server-grpc", "server-rest")
    )
    ending: dict[str, Any] = {
        "common_http_protocol_options": {"idle_timeout": "600s", "max_connection_duration": f"{drain_seconds / 2:g}s"},
        "http1_safe_max_connection_duration": True,
        # Between the two GOAWAY of an HTTP/2 connection.
        "drain_timeout": f"{min(5, drain_seconds / 4):g}s",
        "request_timeout": TIMEOUT,
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": 1 << 16,
            "initial_connection_window_size": _BUFFER,
        },
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
    }
    methods = [{"match": {"path": f"/{method}"}, "route": grpc} for method in _METHODS]
    paths = [{"match": {"path_separated_prefix": "/v1/models"}, "route": rest}]
    alive = [{"match": {"path": ALIVE_PATH}, "direct_response": {"status": 200}}]
    return {
        "static_resources": {
            "listeners": [
                listener("grpc", address(_ANY, GRPC), methods, **ending),
                listener("rest", address(_ANY, REST), paths, **ending),
                # A busy Envoy isn't restarted.
                {
                    **listener("alive", address(_ANY, ALIVE), alive),
                    "ignore_global_conn_limit": True,
                    "bypass_overload_manager": True,
                },
            ],
            "clusters": [
                _cluster("server-grpc", inside.grpc_port, max_connections, {"http2_protocol_options": {}}),
                _cluster("server-rest", inside.rest_port, max_connections, {"http_protocol_options": {}}),
            ],
        },
        "overload_manager": _overload(max_connections, in_bytes(settings.proxy.memory) * 8 // 10),
    }


def _cluster(name: str, port: int, most: int, protocol: dict[str, Any]) -> dict[str, Any]:
    options = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": protocol,
        "common_http_protocol_options": {"idle_timeout": _IDLE},
    }
    limits = {"max_connections": most, "max_pending_requests": most, "max_requests": most}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": _BUFFER,
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": endpoints(name, "127.0.0.1", port),
    }


def _overload(max_connections: int, heap: int) -> dict[str, Any]:
    """Return the limits of all connections, and of Envoy's memory: above it, new requests get 503."""
    monitors = {
        "global_downstream_max_connections": {
            "@type": f"{EXTENSIONS}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": max_connections,
        },
        "fixed_heap": {
            "@type": f"{EXTENSIONS}.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            "max_heap_size_bytes": heap,
        },
    }
    actions = {"shrink_heap": 0.9, "stop_accepting_requests": 0.95}
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": f"{_RESOURCES}.{name}", "typed_config": config} for name, config in monitors.items()
        ],
        "actions": [
            {
                "name": f"{_ACTIONS}.{name}",
                "triggers": [{"name": f"{_RESOURCES}.fixed_heap", "threshold": {"value": value}}],
            }
            for name, value in actions.items()
        ],
    }
