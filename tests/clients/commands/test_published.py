"""`tfserving export list URL --server`: which published versions a server has."""

from __future__ import annotations

import json

from tests.clients.conftest import Server
from tests.exporting import run_export
from tfserving.clients.client import connect


def test_a_list_of_what_is_published_shows_what_a_server_has(embedded_server: Server) -> None:
    with connect(embedded_server.url("grpc")) as client:
        expected = {one.version: one.state for one in client.status("half")}
    words = [str(embedded_server.models), "half", "--server", embedded_server.url("grpc")]
    done = run_export(embedded_server.folder, "list", *words, "--json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert {one["version"]: one["served"] for one in model["versions"]} == expected
    assert expected
    lines = run_export(embedded_server.folder, "list", *words).stdout.splitlines()
    assert all("server: AVAILABLE" in line for line in lines)
    # A model that the server doesn't have is listed all the same.
    (embedded_server.folder / "published/unknown/1").mkdir(parents=True)
    unknown = run_export(embedded_server.folder, "list", "./published", *words[2:], "--json")
    assert [one["served"] for one in json.loads(unknown.stdout)["models"][0]["versions"]] == [None]


def test_a_server_that_is_not_there_ends_the_list(embedded_server: Server) -> None:
    done = run_export(
        embedded_server.folder, "list", str(embedded_server.models), "half", "--server", "grpc://127.0.0.1:9"
    )
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
