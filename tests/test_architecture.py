"""docs/architecture.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tfserving.cli import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
TEXT = PAGE.read_text()
EMBEDDED = ROOT / "serving/embedded"


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "k8s/README.md"]), ids=str
)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", _prose(page)):
        file, _, heading = target.partition("#")
        to = page.parent / file if file else page
        assert "://" in target or to.exists(), target
        assert not heading or "://" in target or heading in _headings(to), target


def _prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def _headings(page: Path) -> set[str]:
    """What links call the headings of a page, as GitHub does: https://github.com/gjtorikian/html-pipeline."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([a-z_0-9/]+\.py)`", TEXT)
    assert len(named) > 10
    for name in named:
        assert any((folder / name).is_file() for folder in (ROOT, EMBEDDED, ROOT / "clients")), name


def test_every_room_is_on_the_page() -> None:
    for command, entry in ENTRIES.items():
        (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| [{entry.room}]("))
        assert f"`{command}`" in row
    for folder in EMBEDDED.iterdir():
        if folder.is_dir() and any(folder.glob("*.py")):
            assert f"| `{folder.name}/` |" in TEXT


def test_every_node_of_the_requests_way_is_a_module() -> None:
    (diagram,) = (block for block in re.findall(r"^```mermaid\n(.*?)^```$", TEXT, re.M | re.S) if "grpcio" in block)
    named = re.findall(r"\b((?:core|grpc|rest)/[a-z_]+)", diagram)
    assert len(named) > 8
    for name in named:
        assert (EMBEDDED / f"{name}.py").is_file(), name
