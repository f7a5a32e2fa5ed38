"""Places in a registry: oci://HOST[:PORT]/REPOSITORY, and the repository, tag or digest of a version there.

    oci://registry.example/models  +  digits/3  =  registry.example/models/digits:3

The names are those of the distribution specification:
https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tfserving.export.oci.errors import RegistryError

SCHEME = "oci://"
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(_COMPONENT)
_REPOSITORY = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Many clients have this limit: https://github.com/distribution/reference
_LONGEST = 255


@dataclass(frozen=True)
class Place:
    """Where versions of several models are in a registry. `path` is the repository above those of the models."""

    host: str
    path: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.host}" + (f"/{self.path}" if self.path else "")

    @property
    def is_loopback(self) -> bool:
        """Whether the registry runs on this machine."""
        name = self.host.rpartition(":")[0] if re.search(r":\d+$", self.host) else self.host
        try:
            return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def repository(self, model: str) -> str:
        """Return the repository of a model's versions. Raises RegistryError when it can't have this name."""
        if not _NAME.fullmatch(model):
            hint = ""
            if _NAME.fullmatch(lower := re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")):
                hint = f" A model of the name {lower!r} could be published there."
            raise RegistryError(
                f"{self}: a registry has no repository of the name {model!r}: it may have lower-case letters, digits, "
                f"and '.', '_' or '-' between them.{hint}"
            )
        repository = f"{self.path}/{model}" if self.path else model
        if len(f"{self.host}/{repository}") > _LONGEST:
            raise RegistryError(f"{self}/{model}: the name has more than {_LONGEST} characters")
        return repository


def is_registry(url: str) -> bool:
    """Return whether a URL is one of a registry."""
    return url.startswith(SCHEME)


def read_place(url: str) -> Place:
    """Return the place that oci://HOST[:PORT][/REPOSITORY] names. Raises RegistryError for any other text."""
    host, _, path = url.removeprefix(SCHEME).rstrip("/").partition("/")
    if "@" in host:
        # What is before it may be a password, so no error shows it.
        raise RegistryError(
            f"{SCHEME}…@{host.rpartition('@')[2]}: credentials don't belong into a URL. Log in with `docker login` or "
            "`oras login`"
        )
    if not _HOST.fullmatch(host):
        raise RegistryError(f"{url}: {host!r} is no host; expected oci://HOST[:PORT]/REPOSITORY")
    if path and not _REPOSITORY.fullmatch(path):
        raise RegistryError(
            f"{url}: {path!r} is no repository: its parts may have lower-case letters, digits, and '.', '_' or '-' "
            "between them"
        )
    return Place(host, path)
