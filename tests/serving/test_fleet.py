"""models.yaml: what it may say, and what an error in it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfserving.serving.models_yaml.fleet import FleetError, read_fleet

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
    with pytest.raises(FleetError, match="no model is called 'dens'; the fleet has digits, dense"):
        fleet.select(("dens",))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "models:\n  digits:\n    builder: digits.py\n",
            3,
            "models.digits.builder: 'digits.py' is not 'module:function'",
        ),
        (
            "models:\n  d:\n    allow: []\n",
            2,
            "models.d: it has neither a builder nor a saved_model; one of them is needed: `builder: module:function`, "
            "or `saved_model: FOLDER`, which is served as it is",
        ),
        ("models:\n  d:\n    builder: a:b\n    saved_model: x\n", 2, "models.d: it has a builder and a saved_model; o"),
        ("models:\n  digits:\n    bilder: a:b\n    builder: a:b\n", 3, "models.digits.bilder: is not a key"),
        ("models:\n  a/b:\n    builder: a:b\n", 1, "models: 'a/b' can't name a model"),
        (
            "models:\n  d:\n    builder: a:b\n    labels: {stable: 1}\n  d-canary:\n    builder: a:b\n",
            1,
            "models: 'd-canary' is where servers have the canary of 'd', which has a label `stable`; rename the model",
        ),
        ("models: {}\n", 1, "models: Dictionary should have at least 1 item"),
        ("folder: x\n", 1, "models: Field required"),
        ("models:\n  digits:\n", 2, "models.digits: "),
        ("models:\n  d:\n    builder: a:b\n  d:\n    builder: a:c\n", 4, "models.d: is there twice"),
        ("models: [\n", 2, "expected"),
        ("", 1, "the file: "),
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
    "deep lists": ("models: " + "[" * 100_000, "it is nested too deep"),
    "deep mappings": ("models: " + "{a: " * 100_000, "it is nested too deep"),
    "a billion laughs": (LAUGHS, "it has more than 100000 values, each counted wherever an alias repeats it"),
    "a list in itself": ("models: &a [*a]", "it has more than 100000 values"),
    "a mapping in itself": ("models: &a {b: *a}", "it has more than 100000 values"),
    "a chain of aliases": (CHAIN, "it has more than 100000 values"),
    "5,000 digits": ("models: {d: {builder: a:b, labels: {s: " + "9" * 5000 + "}}}", "a value can't be read: Exceeds"),
    "no day": ("models: 2026-99-99", "a value can't be read: month must be in 1..12"),
    "a label of 64 bits": (
        "models: {d: {builder: a:b, labels: {s: 9223372036854775808}}}",
        "less than or equal to 9223",
    ),
    "many versions": ("models: {d: {builder: a:b, versions: 4294967296}}", "4294967296 is more than 4294967295"),
    "memory beyond numbers": (GOOD + "server: {memory: " + "9" * 400 + "g}", "server.memory: Input should be a valid"),
    "infinite": (GOOD + "rollout: {window: .inf}", "rollout.window: Input should be a finite number"),
    "a batch beyond numbers": (
        GOOD + "server: {batching: {max_batch_size: 99999999999}}",
        "less than or equal to 2147",
    ),
    "a key that is a list": ("? [models]\n: x", "a key is not a word"),
    "a key that is a mapping": ("models: {? {a: b} : x}", "a key is not a word"),
    "a long value": ("models: 1" + ":1" * 10_000, ":1: a value has more than 10000 characters"),
    "Python": ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "thousands of errors": ("".join(f"k{number}: 1\n" for number in range(5000)), "and 4981 more"),
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
    with pytest.raises(FleetError, match="Is a directory; write one, or name another"):
        read_fleet(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FleetError, match="it is not a file; name another"):
        read_fleet(tmp_path / "pipe")


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"models.yaml: No such file or directory; write one, or name another"):
        read_fleet(tmp_path / "models.yaml")


def test_a_model_says_how_it_is_exported_and_served(tmp_path: Path) -> None:
    more = "    allow: [int-input]\n    batch_sizes: [1, 8]\n    golden: [mine.json]\n    labels: {stable: 3}\n"
    model = read_fleet(write(tmp_path, GOOD + more)).models["digits"]
    assert (model.allow, model.batch_sizes, model.labels) == (("int-input",), (1, 8), {"stable": 3})
    assert model.golden == (tmp_path / "mine.json",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("allow: [speed]", "models.digits.allow.0: Input should be 'breaking-change', "),
        ("batch_sizes: [8, 1]", "models.digits.batch_sizes: [8, 1] does not increase; [1, 8] does"),
        ("batch_sizes: [0]", "models.digits.batch_sizes.0: Input should be greater than or equal to 1"),
        ("batch_sizes: []", "models.digits.batch_sizes: Tuple should have at least 1 item"),
        ("labels: {stable: 0}", "models.digits.labels.stable: Input should be greater than or equal to 1"),
    ],
)
def test_what_a_model_cannot_say_is_told_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(FleetError) as error:
        read_fleet(write(tmp_path, f"{GOOD}    {line}\n"))
    assert f"models.yaml:4: {problem}" in str(error.value)
