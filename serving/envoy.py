"""The common parts of Envoy's configurations: of Compose, and of pods.

Names are those of https://www.envoyproxy.io/docs/envoy/latest/api-v3/api.
"""

from __future__ import annotations

from typing import Any

EXTENSIONS = "type.googleapis.com/envoy.extensions"
# Longer than any model runs, since clients have their own deadlines.
TIMEOUT = "300s"


def listener(name: str, where: dict[str, Any], routes: list[dict[str, Any]], **manager: Any) -> dict[str, Any]:
    """Return a listener for plain HTTP at `where`, forwarded by `routes`. `manager` has more of its settings."""
    settings = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"idle_timeout": "600s"},
        "request_headers_timeout": "10s",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"}},
        ],
        **manager,
    }
    return {
        "name": name,
        "address": where,
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": settings}]}],
    }


def address(host: str, port: int) -> dict[str, Any]:
    """Return an address."""
    return {"socket_address": {"address": host, "port_value": port}}


def endpoints(cluster: str, host: str, port: int) -> dict[str, Any]:
    """Return the load assignment of a cluster of one address."""
    one = {"endpoint": {"address": address(host, port)}}
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [one]}]}
