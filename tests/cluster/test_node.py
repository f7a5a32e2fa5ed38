"""The node that tests run on: what they may expect of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.cluster.node import Cluster
from tests.servers import wait_for
from tfserving.serving.models_yaml.server import IMAGE

# Answers with who it is, over HTTP and gRPC, or with a file's text.
SERVER = """\
import concurrent.futures, http.server, os
import grpc

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        text = open(self.path).read() if self.path != "/" else os.environ["WHO"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

answer = grpc.unary_unary_rpc_method_handler(lambda request, context: os.environ["WHO"].encode())
server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("who.Who", {"Ask": answer})])
server.add_insecure_port("0.0.0.0:8500")
server.start()
http.server.ThreadingHTTPServer(("", 8501), Handler).serve_forever()
"""


def manifests(who: str) -> str:
    """A pod that says that it is `who`, and its service."""
    return f"""\
---
apiVersion: v1
kind: Pod
metadata: {{name: pod-{who}, labels: {{who: {who}}}}}
spec:
  securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}
  # Nothing here needs time to end.
  terminationGracePeriodSeconds: 0
  volumes:
  - {{name: server, configMap: {{name: server}}}}
  - {{name: models, persistentVolumeClaim: {{claimName: models, readOnly: true}}}}
  containers:
  - name: server
    image: {IMAGE}
    imagePullPolicy: Never
    command: [python3, /server/server.py]
    env: [{{name: WHO, value: {who}}}]
    volumeMounts: [{{name: server, mountPath: /server}}, {{name: models, mountPath: /models, readOnly: true}}]
    resources: {{requests: {{cpu: 10m, memory: 50Mi}}, limits: {{cpu: "1", memory: 200Mi}}}}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    readinessProbe: {{httpGet: {{path: /, port: 8501}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {who}}}
spec:
  selector: {{who: {who}}}
  ports: [{{name: http, port: 80, targetPort: 8501}}, {{name: grpc, port: 8500, targetPort: 8500}}]
"""


def volume(name: str, folder: Path) -> str:
    """A folder of the machine as a volume, and the claim `models` for it."""
    shared = f"storageClassName: {name}, accessModes: [ReadOnlyMany]"
    return f"""\
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec: {{{shared}, capacity: {{storage: 1Gi}}, hostPath: {{path: {folder}, type: Directory}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models}}
spec: {{{shared}, volumeName: {name}, resources: {{requests: {{storage: 1Gi}}}}}}
"""


def address(cluster: Cluster, namespace: str, service: str) -> str:
    return cluster.kubectl("-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        return str(answer.read().decode())


def answers(url: str) -> bool:
    try:
        return bool(fetch(url))
    except OSError:
        return False


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A namespace that admits restricted pods only, with two: `one` and `two`."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("models")
    (folder / "version").write_text("1")
    # pytest's folders are its user's alone, and pods are somebody else.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    cluster.kubectl("create", "namespace", name)
    try:
        cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        cluster.kubectl("-n", name, "create", "configmap", "server", f"--from-literal=server.py={SERVER}")
        cluster.apply(volume(name, folder) + manifests("one") + manifests("two"), namespace=name)
        cluster.kubectl("-n", name, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        for who in ("one", "two"):
            # That a pod is ready is known to its service a moment later.
            wait_for(partial(answers, f"http://{address(cluster, name, who)}/"), what=f"the service {who}")
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--timeout=120s")
        cluster.kubectl("delete", "persistentvolume", name, "--ignore-not-found", "--timeout=60s")


def test_a_restricted_pod_is_reached_through_its_service(cluster: Cluster, namespace: str) -> None:
    assert fetch(f"http://{address(cluster, namespace, 'one')}/") == "one"


def test_a_pod_reads_a_folder_of_the_machine_through_a_claim(cluster: Cluster, namespace: str) -> None:
    assert fetch(f"http://{address(cluster, namespace, 'one')}/models/version") == "1"


@pytest.mark.parametrize("host", ["two", "two.{}", "two.{}.svc.cluster.local"])
@pytest.mark.parametrize("who", ["one", "two"])
def test_a_pod_reaches_a_service_by_its_name(cluster: Cluster, namespace: str, who: str, host: str) -> None:
    code = (
        f"import urllib.request as u; print(u.urlopen('http://{host.format(namespace)}/', timeout=10).read().decode())"
    )
    assert cluster.kubectl("-n", namespace, "exec", f"pod-{who}", "--", "python3", "-c", code) == "two\n"


def test_a_name_of_nobody_is_told_at_once(cluster: Cluster, namespace: str) -> None:
    code = "import socket; socket.getaddrinfo('nobody', 80)"
    done = cluster.run("-n", namespace, "exec", "pod-one", "--", "python3", "-c", code)
    assert "Name or service not known" in done.stderr


def test_a_pod_that_is_not_restricted_is_refused(cluster: Cluster, namespace: str) -> None:
    done = cluster.run("-n", namespace, "run", "loose", f"--image={IMAGE}", "--image-pull-policy=Never")
    assert done.returncode
    assert 'violates PodSecurity "restricted' in done.stderr


def test_an_account_may_do_nothing_but_what_it_is_given(cluster: Cluster, namespace: str) -> None:
    asked = ("-n", namespace, "auth", "can-i", "list", "pods", f"--as=system:serviceaccount:{namespace}:default")
    assert cluster.kubectl(*asked, code=1) == "no\n"
    cluster.kubectl(
        "-n", namespace, "create", "rolebinding", "see", "--clusterrole=view", f"--serviceaccount={namespace}:default"
    )
    assert cluster.kubectl(*asked) == "yes\n"


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        ("monitoring.coreos.com/v1", "ServiceMonitor", {"selector": {}, "endpoints": [{"port": "http"}]}),
        ("monitoring.coreos.com/v1", "PrometheusRule", {"groups": [{"name": "g", "rules": []}]}),
        ("serving.kserve.io/v1beta1", "InferenceService", {"predictor": {"minReplicas": 1}}),
    ],
)
def test_manifests_of_other_kinds_are_checked(
    cluster: Cluster, namespace: str, version: str, kind: str, spec: dict[str, object]
) -> None:
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": "checked"}, "spec": spec}
    cluster.apply(json.dumps(manifest), namespace=namespace)
    wrong = {**manifest, "spec": {**spec, "wrong": 1}}
    done = cluster.run("-n", namespace, "apply", "--validate=strict", "-f", "-", stdin=json.dumps(wrong))
    assert 'unknown field "spec.wrong"' in done.stderr


HOSTS = {"HTTPRoute": "http.test", "GRPCRoute": "grpc.test"}


def route(kind: str, one: int, two: int) -> str:
    """A route for who asks for the kind's host, by weights."""
    port = {"HTTPRoute": 80, "GRPCRoute": 8500}[kind]
    backends = [{"name": name, "port": port, "weight": weight} for name, weight in (("one", one), ("two", two))]
    return json.dumps(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "split"},
            "spec": {
                "parentRefs": [{"namespace": "projectcontour", "name": "contour"}],
                "hostnames": [HOSTS[kind]],
                "rules": [{"backendRefs": backends}],
            },
        }
    )


@contextlib.contextmanager
def asking(kind: str, gateway: str) -> Iterator[Callable[[], str]]:
    """Asks who answers, over one connection that stays open."""
    if kind == "GRPCRoute":
        with grpc.insecure_channel(f"{gateway}:80", [("grpc.default_authority", HOSTS[kind])]) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/who.Who/Ask")
            yield lambda: bytes(ask(b"", timeout=10)).decode()
        return
    with contextlib.closing(http.client.HTTPConnection(gateway, 80, timeout=10)) as connection:

        def get() -> str:
            connection.request("GET", "/", headers={"Host": HOSTS[kind]})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise http.client.HTTPException(f"{answer.status} {text}")
            return text

        yield get


class Load:
    """Asks again and again, from a few threads, and counts who answered."""

    def __init__(self, kind: str, gateway: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kind, gateway)) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kind: str, gateway: str) -> None:
        with asking(kind, gateway) as ask:
            while not self._ended.is_set():
                try:
                    self.answers[ask()] += 1
                except (OSError, http.client.HTTPException, grpc.RpcError) as error:
                    self.failures.append(repr(error))

    def has(self, who: str, share: float) -> bool:
        """Whether `who` has about that share of the next 300 answers."""
        self.answers.clear()
        wait_for(lambda: self.failures or sum(self.answers.values()) >= 300, what="300 answers")
        assert self.failures == []
        answers = dict(self.answers)
        off = abs(answers.get(who, 0) / sum(answers.values()) - share)
        # All or nothing is exact; what is between is drawn by lot.
        return off <= (0.1 if 0 < share < 1 else 0)


@pytest.mark.parametrize("kind", HOSTS)
def test_a_route_splits_by_weights_that_change_under_load(cluster: Cluster, namespace: str, kind: str) -> None:
    status = "jsonpath={.status.addresses[0].value}"
    gateway = cluster.kubectl("-n", "projectcontour", "get", "gateway", "contour", "-o", status)
    cluster.apply(route(kind, 100, 0), namespace=namespace)

    def routed() -> bool:
        with asking(kind, gateway) as ask:
            try:
                return ask() == "one"
            except (OSError, http.client.HTTPException, grpc.RpcError):
                return False

    wait_for(routed, what="the route's first answer")
    with Load(kind, gateway) as load:
        for weight in (0, 25, 75, 100, 0):
            cluster.apply(route(kind, 100 - weight, weight), namespace=namespace)
            wait_for(partial(load.has, "two", weight / 100), what=f"a share of {weight} %")
        assert load.failures == []
