"""The health check that runs in a server's container: a bash script.

The image tensorflow/serving has bash but no gRPC or HTTP client, so the script sends fixed bytes over `/dev/tcp`. It
requests the metadata of every model and label, which only a loaded version has; the status is OK even for a version
that failed. A canary under a name of its own doesn't count, because a canary that fails must not take the server away
from clients of other versions. Over gRPC, metadata doesn't wait for predictions and isn't counted as a request. Over
REST it waits and is counted (seen on TensorFlow Serving 2.20).
"""

from __future__ import annotations

import shlex

from tfserving.foundation.messages import GetModelMetadataRequest
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.served import Served, served

HEALTH = "health.sh"
# Where the health check writes the memory, which TensorFlow Serving's metrics page lacks, for a node exporter.
METRICS_FOLDER = "/metrics"
MEMORY_METRIC = "tensorflow_serving_resident_memory_bytes"
_METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"
# Types and flags of HTTP/2's frames, https://www.rfc-editor.org/rfc/rfc9113#section-6
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4

_MEMORY = f"""\
#!/bin/bash
export LC_ALL=C
# A closed connection is reported below.
trap '' PIPE
# The memory of the server, for the exporter that Compose runs beside it.
if [ -w {METRICS_FOLDER} ]; then
    kilobytes=0
    for status in /proc/[0-9]*/status; do
        while read -r key value _; do
            if [ "$key" = VmRSS: ]; then kilobytes=$((kilobytes + value)); break; fi
        done < "$status"
    done 2>/dev/null
    printf '# TYPE {MEMORY_METRIC} gauge\\n{MEMORY_METRIC} %s\\n' $((kilobytes * 1024)) > {METRICS_FOLDER}/memory.new
    mv {METRICS_FOLDER}/memory.new {METRICS_FOLDER}/memory.prom
fi
"""
_GRPC = r"""# `check NAME REQUEST` calls GetModelMetadata over gRPC and exits with 1 if the model isn't loaded.
# The response is binary, and `read` stops at each NUL. Metadata contains the type SignatureDefMap. An error has two
# headers with a NUL between them, grpc-status and grpc-message.
check() {{
    exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
    printf "$start$2" >&3 2>/dev/null
    more=0 seconds=5
    while [ $more = 0 ]; do
        IFS= read -r -d '' -t $seconds part <&3
        more=$?
        case $part in
            *tensorflow.serving.SignatureDefMap*) return ;;
            # All threads are busy, so the server works. It opened gRPC when its models were loaded.
            *'Server Threadpool Exhausted'*) return ;;
            *grpc-message*)
                # The length, in one to three bytes, then the text.
                part=${{part#*grpc-message}}
                part=${{part#$'\177'[$'\200'-$'\377']}}
                part=${{part#$'\177'}}
                part=${{part#?}}
                echo "$1: ${{part//[![:print:]]/}}"
                exit 1 ;;
            # Nothing follows the message.
            *grpc-status*) seconds=0.1 ;;
        esac
    done
    echo "$1: no metadata over gRPC"
    exit 1
}}
start={start}
"""
_REST = """\
# Request the metadata of each model over REST, and exit with 1 if one isn't loaded.
for path in {paths}; do
    exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
    printf 'GET %s HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' "$path" >&3 2>/dev/null
    read -r -t 5 line <&3 || {{ echo "$path: no response"; exit 1; }}
    case $line in
        *" 200 "*) ;;
        *) echo "$path: $line"; exit 1 ;;
    esac
done
"""


def health_script(fleet: Fleet, names: tuple[str, ...], grpc_port: int) -> str:
    """Return a script that exits with 0 when every model, and the version of each of its labels, is loaded.

    gRPC must not use TLS.
    """
    checks = ""
    for name in names:
        for label in [*_own(fleet, name).labels, ""]:
            what = f"model {name}, label {label}" if label else f"model {name}"
            checks += f"check {shlex.quote(what)} {_escaped(_request(name, label))}\n"
    return _MEMORY + _GRPC.format(port=grpc_port, start=_escaped(_START)) + checks


def health_script_over_rest(fleet: Fleet, names: tuple[str, ...], rest_port: int) -> str:
    """Return such a script for a server with TLS on gRPC.

    It requests versions instead of labels, because TensorFlow Serving counts a label that isn't set yet as a failed
    request.
    """
    paths = []
    for name in names:
        versions = sorted({*_own(fleet, name).labels.values()})
        paths += [f"/v1/models/{name}/versions/{version}/metadata" for version in versions]
        paths.append(f"/v1/models/{name}/metadata")
    return _MEMORY + _REST.format(port=rest_port, paths=" ".join(map(shlex.quote, paths)))


def _own(fleet: Fleet, name: str) -> Served:
    """Return what is served under the model's own name."""
    return served(fleet, name)[0]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2: length, type, flags, stream (https://www.rfc-editor.org/rfc/rfc9113#section-4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """Return a literal header, not indexed, not compressed (https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2).

    Lengths of one byte are below 127 (section 5.1).
    """
    return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))


def _request(name: str, label: str) -> bytes:
    """Return the message of a call, and its end."""
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    if label:
        request.model_spec.version_label = label
    message: bytes = request.SerializeToString(deterministic=True)
    # Not compressed, and its length (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
    return _frame(_DATA, _END_STREAM, 1, b"\0" + len(message).to_bytes(4, "big") + message)


# The begin of a connection (https://www.rfc-editor.org/rfc/rfc9113#section-3.4), and the call's headers.
_START = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, b"")
    + _frame(
        _HEADERS,
        _END_HEADERS,
        1,
        _field(":method", "POST")
        + _field(":scheme", "http")
        + _field(":path", _METHOD)
        + _field(":authority", "localhost")
        + _field("te", "trailers")
        + _field("content-type", "application/grpc"),
    )
)


def _escaped(data: bytes) -> str:
    """Return `data` as a quoted format of `printf` in a shell."""
    plain = (byte for byte in range(0x20, 0x7F) if chr(byte) not in "\\%'")
    characters = {byte: chr(byte) for byte in plain}
    return "'" + "".join(characters.get(byte, f"\\{byte:03o}") for byte in data) + "'"
