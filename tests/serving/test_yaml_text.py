"""YAML is read as the values that were written, whichever parser reads it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.k8s.needed import KUBECTL
from tfserving.k8s.kubectl import Kubectl
from tfserving.serving.yaml_text import as_yaml

# Numbers, booleans, null, times and references to one parser or another.
AMBIGUOUS = """
12e4 1E3 .5e3 -.5e3 0.1e5 1_000 09 017 0o17 0x1F 0b11 +1 1. 12:30:45 -1 2026-01-31 .inf -.INF .NaN
on off yes No y N true null ~ = << a:b a: #x @x *x &x !x - ? {x [x %x
""".split()  # noqa: SIM905 - a list of this length is harder to read
AMBIGUOUS += ["", "two\nlines", " padded ", "- x", "? x", "a: b", "a #b", "é", "\t", "\x85", "\u2028"]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_a_text_stays_a_text_in_both_versions_of_yaml(text: str) -> None:
    written = as_yaml({text: [text]})
    assert yaml.safe_load(written) == {text: [text]}
    assert YAML(typ="safe", pure=True).load(io.StringIO(written)) == {text: [text]}


@given(
    st.dictionaries(
        st.text(), st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none(), max_size=3
    )
)
def test_every_value_is_read_as_it_was_written(value: object) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


@KUBECTL
def test_kubernetes_parser_reads_every_text_as_a_text(tmp_path: Path) -> None:
    """That of Go, which Docker Compose uses as well. It takes no text that is not an annotation's value."""
    # kustomize writes the others so that no Python parser reads them as values.
    texts = [text for text in AMBIGUOUS if text.isascii() and text not in ("=", "<<")]
    annotations = {f"a{number}": text for number, text in enumerate(texts)}
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "annotations": annotations}}
    (tmp_path / "one.yaml").write_text(as_yaml(one))
    (tmp_path / "kustomization.yaml").write_text(as_yaml({"resources": ["one.yaml"]}))
    read = YAML(typ="safe", pure=True).load(Kubectl().run("kustomize", str(tmp_path)))
    assert read["metadata"]["annotations"] == annotations
