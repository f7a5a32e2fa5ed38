"""What addresses say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tfserving.clients.address import Address, Tls, read_address, read_server, tls_of_each


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://model.example", Address("grpc", "model.example:8500")),
        ("grpcs://model.example", Address("grpc", "model.example:8500", Tls())),
        ("http://model.example", Address("rest", "http://model.example:8501")),
        ("https://model.example:443", Address("rest", "https://model.example:443", Tls())),
        ("grpc://[::1]:9", Address("grpc", "[::1]:9")),
        ("http://[::1]:9/behind/", Address("rest", "http://[::1]:9/behind")),
        ("dns:///model.example", Address("grpc", "dns:///model.example:8500", every_address=True)),
        ("dns:///model.example:9", Address("grpc", "dns:///model.example:9", every_address=True)),
        ("unix:///run/model.sock", Address("grpc", "unix:/run/model.sock")),
    ],
)
def test_schemes_ports_and_brackets(url: str, address: Address) -> None:
    assert read_address(url) == address


def test_tls_goes_with_addresses_that_can_have_it() -> None:
    tls = Tls(server_name="model")
    for url in ("grpcs://host", "https://host", "dns:///host", "unix:///socket"):
        assert read_address(url, tls).tls == tls
    for url in ("grpc://host", "http://host"):
        with pytest.raises(ValueError, match=f"'{url}' doesn't use TLS; write {url[:4]}s:// to use it"):
            read_address(url, tls)


def test_tls_goes_to_those_of_several_addresses_that_have_it() -> None:
    tls = Tls(server_name="model")
    urls = ["grpcs://h:8500", "http://h:8501", "HTTPS://h", "dns:///h", "unix:///h"]
    assert tls_of_each(urls, tls) == [tls, None, tls, tls, tls]
    assert tls_of_each(urls, None) == [None] * 5
    with pytest.raises(ValueError, match="no URL uses TLS; write grpcs://h:8500 or https://h:8501"):
        tls_of_each(["grpc://h:8500", "http://h:8501"], tls)


@pytest.mark.parametrize(
    "url",
    [
        "dns:///",
        "unix://path",
        "unix:///",
        "ftp://127.0.0.1",
        "grpc://",
        "grpc://host:port",
        "grpc://host/path",
        "http://user@host",
        "http://host?x=1",
    ],
)
def test_only_addresses_of_model_servers_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not the URL of a model server; expected grpc\[s\]://HOST:PORT"):
        read_address(url)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("10.0.0.7:8500", "'10.0.0.7:8500' is not a URL; write grpc://10.0.0.7:8500 or http://10.0.0.7:8500"),
        ("grpc://h,", "has an empty URL; write URL or URL,URL"),
        ("grpc://h,grpcs://i", "has two gRPC URLs; a server has one for gRPC and one for REST"),
        ("grpc://h,http://h,unix:///s", "has 3 URLs"),
        ("grpc://h,ftp://h", "'ftp://h' is not the URL of a model server"),
    ],
)
def test_a_server_has_one_url_for_each_protocol(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        read_server(text)


def test_the_urls_of_a_server_stand_in_any_order() -> None:
    server = read_server("http://h:8501, grpcs://h:8500")
    assert (server.first, server.of("grpc"), server.of("rest")) == ("http://h:8501", "grpcs://h:8500", "http://h:8501")
    assert read_server("unix:///run/model.sock").of("rest") is None


def test_tls_files_are_looked_at_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.pem \(ca\) can't be read: No such file"):
        Tls(ca=tmp_path / "missing.pem")
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate=tmp_path / "client.pem")
