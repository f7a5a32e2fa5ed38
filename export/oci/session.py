"""Requests to a registry: each is bounded, and credentials go only to the registry and to its token server.

Credentials are those of docker's configuration, which `docker login` and `oras login` write, and
oras-py gets a token with them. Its other calls aren't used: they read a layer into memory, have no time limits, send a
token to whatever host an upload is redirected to, and unpack links.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from tfserving.export.oci.errors import RegistryError
from tfserving.export.oci.place import Place
from tfserving.foundation.extras import missing_for_store
from tfserving.foundation.files import read_bounded

if TYPE_CHECKING:
    from requests import Response

# Seconds for a connection, and between two parts of an answer.
_TIMEOUT = (10, 60)
# Seconds for a whole answer that is kept in memory.
_LONGEST_SECONDS = 120
_MOST_REDIRECTS = 5
_LARGEST_ERROR = 64 << 10
_LARGEST_TOKEN = 1 << 20
_LARGEST_CONFIG = 4 << 20
_CHUNK = 1 << 20
_LONGEST_REASON = 300
_REDIRECTS = (301, 302, 303, 307, 308)
_UNAUTHORIZED, _FORBIDDEN = 401, 403


class Session:
    """Requests to one registry. Use it in a `with` statement."""

    def __init__(self, place: Place, plain_http: bool = False) -> None:
        """Raises RegistryError when the extra `oci` isn't installed. `plain_http` allows HTTP to any host."""
        try:
            from oras.auth.token import TokenAuth
            from oras.logger import setup_logger
            from requests import Session as Requests
        except ModuleNotFoundError:
            raise RegistryError(missing_for_store(str(place))) from None
        self._place = place
        self._is_plain = plain_http or place.is_loopback
        self._schemes = ("https", "http") if self._is_plain else ("https",)
        self.origin = f"{self._schemes[-1]}://{place.host}"
        self._requests = _bounded(Requests)()
        # It prints errors that are raised here too.
        setup_logger(quiet=True)
        self._backend: Any = TokenAuth()
        self._backend.session, self._backend._tls_verify = _Tokens(self._requests), True
        self._authorization: dict[str, str] = {}
        self._knows_credentials = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | RawIOBase | None = None,
    ) -> Iterator[Response]:
        """Send a request, and yield the response, whose body isn't read yet. Raises RegistryError."""
        with self._failing(url):
            response = self._sent(method, urljoin(f"{self.origin}/", url), dict(headers or {}), body)
        with response:
            if response.status_code not in expected:
                raise RegistryError(f"{self._shown(url)}: {self._reason(response)}")
            with self._failing(url):
                yield response

    def small(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        most: int = _LARGEST_ERROR,
        headers: Mapping[str, str] | None = None,
        body: bytes | RawIOBase | None = None,
    ) -> tuple[Response, bytes]:
        """Send a request, and return the response with its body of at most `most` bytes. Raises RegistryError."""
        with self.opened(method, url, expected, headers, body) as response:
            data = _read(response, most)
        if len(data) > most:
            raise RegistryError(f"{self._shown(url)}: the registry sent more than {most} bytes")
        return response, data

    def _sent(self, method: str, url: str, headers: dict[str, str], body: bytes | RawIOBase | None) -> Response:
        for _ in range(_MOST_REDIRECTS):
            response = self._authorized(method, url, headers, body)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            if method not in ("GET", "HEAD"):
                raise RegistryError(f"{self._shown(url)}: the registry redirects an upload, which is not supported")
            url = self.target(response, url)
        raise RegistryError(f"{self._shown(url)}: the registry redirects more than {_MOST_REDIRECTS} times")

    def target(self, response: Response, url: str) -> str:
        """Return the URL that a response names instead of `url`. Raises RegistryError for one that isn't safe."""
        found = urljoin(urljoin(f"{self.origin}/", url), response.headers.get("location", ""))
        if urlsplit(found).scheme not in self._schemes:
            raise RegistryError(
                f"{self._shown(url)}: the registry redirects to {urlsplit(found).scheme}://, expected https://"
            )
        return found

    def _authorized(self, method: str, url: str, headers: dict[str, str], body: bytes | RawIOBase | None) -> Response:
        # Another host gets no credentials: its URL has all that it needs.
        is_own = _origin(url) == _origin(self.origin)
        response = self._once(method, url, headers | (self._authorization if is_own else {}), body)
        if response.status_code not in (_UNAUTHORIZED, _FORBIDDEN) or not is_own:
            return response
        if not (found := self._authorize(response)):
            return response
        response.close()
        self._authorization = found
        if body is not None and not isinstance(body, bytes):
            body.seek(0)
        return self._once(method, url, headers | found, body)

    def _once(self, method: str, url: str, headers: dict[str, str], body: bytes | RawIOBase | None) -> Response:
        found: Response = self._requests.request(
            method, url, headers={"Accept-Encoding": "identity", **headers}, data=body, stream=True
        )
        return found

    def _authorize(self, response: Response) -> dict[str, str] | None:
        """Return the header that the registry wants; None when there are no credentials for it."""
        import oras.auth.utils

        challenge = response.headers.get("www-authenticate", "")
        kind = challenge.partition(" ")[0].lower()
        self._load_credentials()
        if kind == "basic":
            found = getattr(self._backend, "_basic_auth", None)
            return {"Authorization": f"Basic {found}"} if found else None
        if kind != "bearer":
            return None
        realm = oras.auth.utils.parse_auth_header(challenge).realm or ""
        if urlsplit(realm).scheme not in self._schemes:
            raise RegistryError(f"{self._place}: its token server is not https://, so no credentials are sent there")
        headers, changed = self._backend.authenticate_request(response, {}, refresh=True)
        return {"Authorization": headers["Authorization"]} if changed else None

    def _load_credentials(self) -> None:
        if self._knows_credentials:
            return
        config = _docker_config()
        self._backend._auth_config = {
            "auths": _objects(config, "auths"),
            "credHelpers": _objects(config, "credHelpers"),
            "credsStore": config.get("credsStore"),
        }
        self._backend._load_auth(self._place.host)
        self._knows_credentials = True

    @contextlib.contextmanager
    def _failing(self, url: str) -> Iterator[None]:
        """Raise a RegistryError of one line, without secrets, for any error of the libraries."""
        import requests
        import urllib3

        try:
            yield
        except RegistryError:
            raise
        except requests.exceptions.SSLError as error:
            reason = f"its certificate can't be verified ({_line(error)}). REQUESTS_CA_BUNDLE names a CA's file"
            raise RegistryError(f"{self._shown(url)}: {reason}") from None
        except requests.exceptions.ConnectionError as error:
            # It may be a token server, or where the registry keeps its blobs.
            parts = urlsplit(str(getattr(error.request, "url", "") or self.origin))
            hint = "" if self._is_plain else ". For a registry without TLS use --plain-http"
            raise RegistryError(
                f"{self._place}: no server can be reached at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{hint}"
            ) from None
        except requests.exceptions.Timeout:
            raise RegistryError(f"{self._shown(url)}: no answer within {_TIMEOUT[1]} s") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise RegistryError(f"{self._shown(url)}: {type(error).__name__}") from None
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RegistryError(
                f"{self._place}: the token server's answer, or a credential helper's, can't be used: "
                f"{type(error).__name__}"
            ) from None

    def _shown(self, url: str) -> str:
        """Return a URL for an error: the query of a redirect has signatures in it."""
        parts = urlsplit(urljoin(f"{self.origin}/", url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _reason(self, response: Response) -> str:
        """Return what a registry says of a request that failed, and what to do."""
        text = f"HTTP {response.status_code}"
        with contextlib.suppress(Exception):
            first = json.loads(_read(response, _LARGEST_ERROR))["errors"][0]
            text += f" {_one_line(str(first['code']))}: {_one_line(str(first['message']))}"
        if response.status_code in (_UNAUTHORIZED, _FORBIDDEN):
            text += f". Log in: `docker login {self._place.host}`, or `oras login`"
        return text


class _Tokens:
    """The session that oras-py asks for a token: it sees small answers only."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def request(self, method: str, url: str, **options: Any) -> Any:
        # The realm was checked; another host must not get what is meant for it.
        response = self._session.request(method, url, stream=True, allow_redirects=False, **options)
        with response:
            response._content = _read(response, _LARGEST_TOKEN)
        return response

    def get(self, url: str, **options: Any) -> Any:
        return self.request("GET", url, **options)


def _bounded(base: type[Any]) -> type[Any]:
    """Return a session of requests with time limits, and without cookies, redirects and .netrc."""

    class Bounded(base):  # type: ignore[misc] # requests is imported late
        def __init__(self) -> None:
            from http.cookiejar import DefaultCookiePolicy

            super().__init__()
            self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            # Without one, requests takes .netrc's credentials instead of ours.
            self.auth = lambda request: request

        def request(self, *arguments: Any, **options: Any) -> Any:
            return super().request(*arguments, **{"timeout": _TIMEOUT, "allow_redirects": False, **options})

    return Bounded


def _read(response: Response, most: int) -> bytes:
    """Return the body, up to one byte more than `most`; nothing is decompressed. Raises RegistryError."""
    end, data = time.monotonic() + _LONGEST_SECONDS, b""
    while len(data) <= most and (chunk := response.raw.read(min(_CHUNK, most + 1 - len(data)), decode_content=False)):
        data += chunk
        if time.monotonic() > end:
            raise RegistryError(f"the answer took more than {_LONGEST_SECONDS} s")
    return data


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _docker_config() -> dict[str, Any]:
    """Return docker's configuration. Raises RegistryError when it can't be read; no error shows its contents."""
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    try:
        found = json.loads(read_bounded(path, _LARGEST_CONFIG))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RegistryError(f"{path} is not a configuration of docker: it is no JSON") from None
    return found if isinstance(found, dict) else {}


def _objects(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return dict(found) if isinstance(found, dict) else {}


def _line(error: Exception) -> str:
    return _one_line(str(error))


def _one_line(text: str) -> str:
    line = "".join(char if char.isprintable() else "?" for char in text)
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
