"""models.yaml: what it may say, and what an error in it says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tfserving.serving.models_yaml import fleet as models_yaml_fleet
from tfserving.serving.models_yaml import server
from tfserving.serving.models_yaml.errors import explain
from tfserving.serving.models_yaml.fleet import Fleet, FleetError, read_fleet
from tfserving.serving.running import fleet_id

GOOD = """\
models:
  digits:
    builder: tfserving.export.models.digits:build
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text)
    return path


def test_a_fleet_names_its_models_and_where_their_versions_lie(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path, GOOD))
    assert list(fleet.models) == ["digits"]
    assert fleet.models["digits"].builder == "tfserving.export.models.digits:build"
    assert fleet.model_folder("digits") == tmp_path / "models" / "digits"


def test_the_folder_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path, f"folder: elsewhere\n{GOOD}"))
    assert fleet.model_folder("digits") == tmp_path / "elsewhere" / "digits"


def test_versions_are_the_integer_folders_oldest_first(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path, GOOD))
    assert fleet.versions("digits") == []
    for name in ("10", "9", ".tmp-11", "v3", "00000002"):
        (tmp_path / "models" / "digits" / name).mkdir(parents=True)
    (tmp_path / "models" / "digits" / "4").touch()
    assert fleet.versions("digits") == [2, 9, 10]


def test_the_folder_of_a_savedmodel_is_relative_to_the_file(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path, "models:\n  old:\n    saved_model: exports/old\n"))
    assert (fleet.models["old"].builder, fleet.models["old"].saved_model) == (None, tmp_path / "exports/old")


def test_selecting_no_model_is_selecting_all(tmp_path: Path) -> None:
    fleet = read_fleet(write(tmp_path, GOOD + "  dense:\n    builder: m:build\n"))
    assert fleet.select(()) == ("digits", "dense")
    assert fleet.select(("dense",)) == ("dense",)
    with pytest.raises(
        FleetError, match=r"no model is called 'dens'; the fleet has digits, dense\. Did you mean 'dense'\?"
    ):
        fleet.select(("dens",))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "models:\n  digits:\n    builder: digits.py\n",
            3,
            "models.digits.builder: got 'digits.py', expected 'module:function'",
        ),
        (
            "models:\n  d:\n    allow: []\n",
            2,
            "models.d: neither builder nor saved_model is set; expected one of `builder: module:function`",
        ),
        ("models:\n  d:\n    builder: a:b\n    saved_model: x\n", 2, "models.d: both builder and saved_model is set"),
        (
            "models:\n  digits:\n    bilder: a:b\n    builder: a:b\n",
            3,
            "models.digits.bilder: unknown key. Did you mean 'builder'?",
        ),
        ("models:\n  a/b:\n    builder: a:b\n", 1, "models: got the name 'a/b', expected up to 200 letters"),
        (
            "models:\n  d:\n    builder: a:b\n    labels: {stable: 1}\n  d-canary:\n    builder: a:b\n",
            1,
            "models: 'd-canary' is the name of the canary of 'd', which has a label `stable`. Rename the model",
        ),
        ("models: {}\n", 1, "models: got an empty mapping, expected at least 1 entry"),
        ("folder: x\n", 1, "models: this key is missing"),
        ("models:\n  digits:\n", 2, "models.digits: got no value, expected a mapping of keys to values"),
        ("models:\n  d:\n    builder: a:b\n  d:\n    builder: a:c\n", 4, "models.d: this key appears twice"),
        ("models: [\n", 2, "expected"),
        ("", 1, "the file: got no value, expected a mapping of keys to values"),
    ],
)
def test_an_error_names_the_file_the_line_and_the_key(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FleetError) as caught:
        read_fleet(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


PAIRS = zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
LAUGHS = "a: &a [x, x]\n" + "".join(f"{after}: &{after} [*{one}, *{one}, *{one}]\n" for one, after in PAIRS)
CHAIN = "k0: &k0 [x]\n" + "".join(f"k{number + 1}: &k{number + 1} [*k{number}]\n" for number in range(500))
WRONG: dict[str, tuple[bytes | str, str]] = {
    "UTF-16": (GOOD.encode("utf-16"), "it is not UTF-8: byte 0 is 0xff"),
    "Latin-1": (GOOD.encode() + b"# \xe4", "it is not UTF-8: byte"),
    "a NUL": (GOOD + "\0", "special characters are not allowed"),
    "large": ("#" * (2 << 20), "it has more than 1048576 bytes"),
    "deep lists": ("models: " + "[" * 100_000, "nested too deeply"),
    "deep mappings": ("models: " + "{a: " * 100_000, "nested too deeply"),
    "a billion laughs": (LAUGHS, "more than 100000 values, where a value counts again for each alias of it"),
    "a list in itself": ("models: &a [*a]", "more than 100000 values"),
    "a mapping in itself": ("models: &a {b: *a}", "more than 100000 values"),
    "a chain of aliases": (CHAIN, "more than 100000 values"),
    "5,000 digits": ("models: {d: {builder: a:b, labels: {s: " + "9" * 5000 + "}}}", "a value can't be read: Exceeds"),
    "no day": ("models: 2026-99-99", "a value can't be read: month must be in 1..12"),
    "a label of 64 bits": (
        "models: {d: {builder: a:b, labels: {s: 9223372036854775808}}}",
        "expected at most 9223372036854775807",
    ),
    "many versions": (
        "models: {d: {builder: a:b, versions: 4294967296}}",
        "got 4294967296, expected a number such as 2, all",
    ),
    "memory beyond numbers": (GOOD + "server: {memory: " + "9" * 400 + "g}", "server.memory: got '9999"),
    "infinite": (GOOD + "rollout: {window: 1e400}", "rollout.window: got '1e400', expected a finite number"),
    "a batch beyond numbers": (
        GOOD + "server: {batching: {max_batch_size: 99999999999}}",
        "got 99999999999, expected at most 2147483647",
    ),
    "a key that is a list": ("? [models]\n: x", "a key is a list or a mapping"),
    "a key that is a mapping": ("models: {? {a: b} : x}", "a key is a list or a mapping"),
    "a long value": ("models: 1" + ":1" * 10_000, ":1: not valid YAML: a value has more than 10000 characters"),
    "Python": ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "thousands of errors": ("".join(f"k{number}: 1\n" for number in range(5000)), "and 4981 more errors"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_file_that_is_no_models_yaml_is_told(tmp_path: Path, fault: str) -> None:
    text, said = WRONG[fault]
    path = tmp_path / "models.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(FleetError) as caught:
        read_fleet(path)
    assert str(caught.value).startswith(f"{path}:")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 5000


def test_an_alias_is_a_value_as_any_other(tmp_path: Path) -> None:
    text = "models:\n  digits: &one\n    builder: m:build\n    labels: {stable: 1}\n  others: *one\n"
    assert read_fleet(write(tmp_path, text)).models["others"].labels == {"stable": 1}


def test_a_folder_and_a_pipe_are_no_models_yaml(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"Is a directory\. Use --fleet FILE to name another file"):
        read_fleet(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FleetError, match=r"it is not a file\. Use --fleet FILE"):
        read_fleet(tmp_path / "pipe")


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        FleetError, match=rf"there is no file {tmp_path}/models.yaml. Name a models.yaml with --fleet or"
    ):
        read_fleet(tmp_path / "models.yaml")


def test_a_fleet_is_the_same_from_a_subfolder_and_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/a/b").mkdir(parents=True)
    write(tmp_path / "project", GOOD)
    (tmp_path / "link").symlink_to("project")
    monkeypatch.chdir(tmp_path / "project/a/b")
    found = read_fleet(Path("../../models.yaml"))
    assert found.file == tmp_path / "project/models.yaml"
    assert found.model_folder("digits") == tmp_path / "project/models/digits"
    assert fleet_id(found) == fleet_id(read_fleet(tmp_path / "link/models.yaml"))
    assert fleet_id(found).startswith("project-")


def test_a_model_says_how_it_is_exported_and_served(tmp_path: Path) -> None:
    more = "    allow: [int-input]\n    batch_sizes: [1, 8]\n    golden: [mine.json]\n    labels: {stable: 3}\n"
    model = read_fleet(write(tmp_path, GOOD + more)).models["digits"]
    assert (model.allow, model.batch_sizes, model.labels) == (("int-input",), (1, 8), {"stable": 3})
    assert model.golden == (tmp_path / "mine.json",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("allow: [speed]", "models.digits.allow.0: got 'speed', expected 'breaking-change', "),
        ("batch_sizes: [8, 1]", "models.digits.batch_sizes: got [8, 1], expected increasing sizes: [1, 8]"),
        ("batch_sizes: [0]", "models.digits.batch_sizes.0: got 0, expected at least 1"),
        ("batch_sizes: []", "models.digits.batch_sizes: got an empty list, expected at least 1 entry"),
        ("labels: {stable: 0}", "models.digits.labels.stable: got 0, expected at least 1"),
        ('labels: {"": 1}', "models.digits.labels: got the label '', expected 1 to 63 letters, digits,"),
        ("labels: {a b: 1}", "models.digits.labels: got the label 'a b', expected 1 to 63 letters, digits,"),
        ('labels: {"a\\n": 1}', "models.digits.labels: got the label 'a\\n', expected 1 to 63 letters, digits,"),
        (f"labels: {{{'a' * 64}: 1}}", "models.digits.labels: got the label 'aaaaaaaa"),
        ("evaluation: {outputs: x}", "models.digits.evaluation.outputs: unknown key. Did you mean 'output'?"),
        ("quality: {acc: {at_lest: 1}}", "models.digits.quality.acc.at_lest: unknown key. Did you mean 'at_least'?"),
    ],
)
def test_what_a_model_cannot_say_is_told_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(FleetError) as error:
        read_fleet(write(tmp_path, f"{GOOD}    {line}\n"))
    assert f"models.yaml:4: {problem}" in str(error.value)


JUNK: tuple[Any, ...] = (
    None,
    -1,
    10**30,
    1.5,
    float("inf"),
    True,
    "?",
    [],
    [None],
    [[]],
    {},
    {"?": None},
    {1: 2},
    date(2026, 1, 1),
)


def keys(schema: type[BaseModel], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of models.yaml, also those of the mappings inside."""
    for name, field in schema.model_fields.items():
        here = (*where, name)
        yield here
        named = ("d",) if "dict[" in str(field.annotation) else ()
        inner = re.findall(r"tfserving[\w.]+\.(\w+)", str(field.annotation))
        for one in inner:
            if isinstance(found := getattr(models_yaml_fleet, one, None) or getattr(server, one, None), type):
                yield from keys(found, (*here, *named))


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_no_value_gets_an_error_in_the_words_of_pydantic(junk: object) -> None:
    """Each kind of error has plain words: a kind that has none would raise KeyError here."""
    found = [*keys(Fleet)]
    assert len(found) > 90
    for where in found:
        values: dict[str, Any] = {"models": {"d": {"builder": "a:b"}}}
        inner = values
        for part in where[:-1]:
            inner = inner.setdefault(part, {})
        inner[where[-1]] = junk
        try:
            Fleet.model_validate(values)
        except ValidationError as error:
            text = explain(Path("models.yaml"), None, error.errors(), Fleet)
            assert not re.search("Input|should|valid|Tuple|Dictionary|String|Field|pydantic|Path", text), text
