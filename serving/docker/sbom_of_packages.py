"""The SBOM of an image's packages: `python3 -m tfserving.serving.docker.sbom_of_packages` writes it during the build.

cyclonedx-py lists the Python distributions with their licences and dependencies. pip's report of what it installed adds
the SHA-256 of every wheel, and dpkg the packages of Debian. The result is validated against CycloneDX's schema.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tfserving import __version__
from tfserving.serving.docker.sbom import image_bom, image_of, sha256, written

# Of each package: its state, and what names it.
_FIELDS = ("db:Status-Abbrev", "Package", "Version", "Architecture", "source:Package", "source:Version", "Maintainer")


def python_packages(path: str, report: dict[str, Any]) -> Bom:
    """Return the Python distributions on `path` and on the interpreter's own, with the hashes of pip's report.

    Raises ValueError if one that pip installed is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        # cyclonedx-py runs an interpreter for its path, and must not list itself.
        interpreter = Path(folder) / "python"
        interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)
        options = ("--output-reproducible", "--no-validate", str(interpreter))
        command = [sys.executable, "-m", "cyclonedx_py", "environment", *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    bom = Bom.from_json(json.loads(done.stdout))  # type: ignore[attr-defined]
    assert isinstance(bom, Bom)
    there = {(_normal(one.name), one.version): one for one in bom.components}
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if not (found := there.get((_normal(name), version))):
            raise ValueError(f"{name} {version} was installed, but is not on the path {path}")
        found.hashes.add(sha256(item["download_info"]["archive_info"]["hashes"]["sha256"]))
    return bom


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def debian_packages() -> Iterator[Component]:
    """Yield the packages that dpkg has installed, by their package URLs.

    https://github.com/package-url/purl-spec/blob/main/types-doc/deb-definition.md; scanners read `upstream`, the source
    package, because advisories name it.
    """
    system = platform.freedesktop_os_release()
    distribution = f"{system['ID']}-{system['VERSION_ID']}"
    command = ["dpkg-query", "--show", "--showformat", "\\t".join(f"${{{field}}}" for field in _FIELDS) + "\\n"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        state, name, version, architecture, source, source_version, maintainer = line.split("\t")
        if not state.startswith("ii"):
            continue
        qualifiers = {"arch": architecture, "distro": distribution}
        if source != name:
            qualifiers["upstream"] = source if source_version == version else f"{source}@{source_version}"
        purl = PackageURL("deb", system["ID"], name, version, qualifiers)
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=str(purl),
            purl=purl,
            supplier=OrganizationalEntity(name=maintainer.partition(" <")[0]),
        )


def surroundings() -> Iterator[Component]:
    """Yield the operating system, the Python interpreter, and the toolkit's own code."""
    system = platform.freedesktop_os_release()
    name, version = system["ID"], system["VERSION_ID"]
    yield Component(type=ComponentType.OPERATING_SYSTEM, name=name, version=version, bom_ref=f"system {name}")
    python = platform.python_version()
    yield Component(
        type=ComponentType.PLATFORM,
        name="python",
        version=python,
        bom_ref="python",
        purl=PackageURL("generic", None, "python", python),
        licenses=[DisjunctiveLicense(id="Python-2.0")],
    )
    yield Component(
        type=ComponentType.APPLICATION,
        name="tfserving",
        version=__version__,
        bom_ref="tfserving",
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
    )


def main() -> None:
    """Write the SBOM that the arguments describe. Raises ValueError if it breaks the schema."""
    options = argparse.ArgumentParser(prog="sbom_of_packages", description=__doc__)
    options.add_argument("--name", required=True, help="the image's name, without a tag")
    options.add_argument("--path", required=True, help="PYTHONPATH of the image")
    options.add_argument("--report", required=True, type=Path, help="what pip --report wrote")
    options.add_argument("--base", required=True, help="the name of the base image, with its digest if that is known")
    options.add_argument("--output", required=True, type=Path)
    given = options.parse_args()
    bom = python_packages(given.path, json.loads(given.report.read_text()))
    others = [*surroundings(), *debian_packages()]
    text = written(image_bom(image_of(f"{given.name}:{__version__}"), image_of(given.base), others, bom))
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM breaks the schema of CycloneDX: {problem}")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text)


if __name__ == "__main__":
    main()
