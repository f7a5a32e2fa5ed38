"""docs/tensorflow_serving.md: its form, and that the flags, settings and releases that it names exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tfserving.serving.embedded.flags import NO_EFFECT, Flags
from tfserving.serving.embedded.release import KNOWN, Release
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.kubernetes import Kubernetes
from tfserving.serving.models_yaml.server import TENSORFLOW_SERVING, ServerSettings

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "tensorflow_serving.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
VERSIONS = SECTIONS.pop("Differences between releases")
for introduction in ("Terms", "Overview"):
    SECTIONS.pop(introduction)
# Options of `docker run`, `serve logs` and `serve config`.
OTHERS = {"init", "tail", "check"}


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_list_at_the_top_has_every_section_in_its_order() -> None:
    listed = re.findall(r"^\| \[(.*?)\]\(#(.*?)\) \| \S", PAGE, re.M)
    assert listed == [(heading, slug(heading)) for heading in SECTIONS]


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_section_has_the_behavior_what_the_toolkit_does_and_what_you_have_to_do(heading: str) -> None:
    found = re.findall(r"^\*\*(.*?)\*\*", SECTIONS[heading], re.M)
    assert found == ["Behavior.", "What the toolkit does.", "What you have to do."]


def test_every_flag_that_the_page_names_is_one() -> None:
    known = {field.name for field in dataclasses.fields(Flags)} | NO_EFFECT.keys()
    named = set(re.findall(r"--([a-z]\w+)", PAGE))
    assert len(named) > 5
    assert named - known == OTHERS


def test_every_setting_that_the_page_names_is_one() -> None:
    known = {"server": ServerSettings.model_fields, "kubernetes": Kubernetes.model_fields}
    named = re.findall(r"`(server|kubernetes)\.(\w+)", PAGE)
    assert len(named) > 5
    assert [(where, key) for where, key in named if key not in known[where]] == []
    assert "compose" in Fleet.model_fields


def test_every_known_release_has_a_column() -> None:
    (header,) = (line for line in VERSIONS.splitlines() if line.startswith("| | "))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [".".join(map(str, one)) for one in KNOWN]
    assert f"`tensorflow/serving:{TENSORFLOW_SERVING}`" in VERSIONS


def test_the_limits_of_the_newest_release_are_those_of_the_code() -> None:
    newest = Release(".".join(map(str, KNOWN[-1])))
    assert f"nested in more than {newest.most_nested} arrays" in VERSIONS


def test_links_into_the_page_lead_to_a_section() -> None:
    targets = {
        target
        for page in DOCS.glob("*.md")
        for target in re.findall(r"tensorflow_serving\.md#([\w-]+)", page.read_text())
    }
    assert targets
    assert targets <= {slug(heading) for heading in [*SECTIONS, "Differences between releases"]}
