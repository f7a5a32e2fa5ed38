"""The servers that the embedded server is compared with: a bare echo, and naive servers.

    python -m tests.bench.baselines echo PORT ANSWER        gRPC that returns the bytes of the file ANSWER
    python -m tests.bench.baselines naive-grpc PORT VERSION  gRPC by `signatures`, `make_ndarray`, `make_tensor_proto`
    python -m tests.bench.baselines naive-rest PORT VERSION  REST by `http.server` and the standard library's json

VERSION is the folder of a SavedModel whose default signature has one input.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc

THREADS = 16


def echo(port: int, answer: str) -> None:
    """Serves the bytes of the file `answer`."""
    data = Path(answer).read_bytes()
    _serve_grpc(port, lambda _request, _context: data)


def naive_grpc(port: int, version: str) -> None:
    """Serves predict as tutorials write it."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    loaded = tf.saved_model.load(version)
    signature = loaded.signatures["serving_default"]

    def predict(data: bytes, _context: Any) -> bytes:
        request = predict_pb2.PredictRequest.FromString(data)
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for name, value in signature(**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response.SerializeToString()  # type: ignore[no-any-return]

    _serve_grpc(port, predict)


def naive_rest(port: int, version: str) -> None:
    """Serves predict with nothing but the standard library and TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(version)
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            (output,) = signature(**{name: tf.constant(document["instances"], tf.float32)}).values()
            body = json.dumps({"predictions": output.numpy().tolist()}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM})


def _serve_grpc(port: int, answer: Any) -> None:
    class Handler(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(
        ThreadPoolExecutor(THREADS),
        handlers=[Handler()],
        options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)),
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    {"echo": echo, "naive-grpc": naive_grpc, "naive-rest": naive_rest}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
