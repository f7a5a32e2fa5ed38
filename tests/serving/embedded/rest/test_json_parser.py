"""JSON as the real server's parser reads it; the texts and offsets were seen on TensorFlow Serving 2.20."""

from __future__ import annotations

import contextlib
import json
import math
import random
from typing import Any

import pytest

from tfserving.serving.embedded.errors import Code, RequestError
from tfserving.serving.embedded.rest.http import RefusedError
from tfserving.serving.embedded.rest.json_parser import _Parser, parse


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"instances":[1,2.5,-3e2,true,false,null,"a"]}', {"instances": [1, 2.5, -300.0, True, False, None, "a"]}),
        (b" [ ] ", []),
        (b'{"a":{}}', {"a": {}}),
        (b'{"a":[[1],[]]} and more', {"a": [[1], []]}),
        (b'{"a":1}}', {"a": 1}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 1}),
        (b'{"b":[{"a":1,"a":2}]}', {"b": [{"a": 1}]}),
        (b'{"a":"x:y"}', {"a": "x:y"}),
        (b"[18446744073709551615,-9223372036854775808]", [2**64 - 1, -(2**63)]),
        (b"[18446744073709551616,-9223372036854775809]", [2.0**64, -(2.0**63)]),
        (b"[10e308]", [math.inf]),
        (b"[Infinity,-Infinity,Inf,-Inf]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b'["\\u00e9\\n\\ud83d\\ude00\\/"]', ["é\n😀/"]),
        (b'["\\ude00"]', [b"\xed\xb8\x80"]),
        (b'["\xff"]', [b"\xff"]),
        (b"1", 1),
    ],
)
def test_what_is_accepted(body: bytes, document: Any) -> None:
    assert parse(body) == document


def test_not_a_number_is_one() -> None:
    assert [math.isnan(value) for value in parse(b"[NaN,-NaN]")] == [True, True]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b" ", "The document is empty. at offset: 1"),
        (b"]", "The document is empty. at offset: 0"),
        (b"\0{}", "The document is empty. at offset: 0"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{a:1}", "Missing a name for object member. at offset: 1"),
        (b'{"a"=1}', "Missing a colon after a name of object member. at offset: 4"),
        (b'{"a":1', "Missing a comma or '}' after an object member. at offset: 6"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"[" * 10000, "Invalid value. at offset: 10000"),
        (b'{"a":' * 10000, "Invalid value. at offset: 50000"),
        (b"[tru]", "Invalid value. at offset: 4"),
        (b"[+1]", "Invalid value. at offset: 1"),
        (b"[--1]", "Invalid value. at offset: 2"),
        (b"[INF]", "Invalid value. at offset: 2"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e+]", "Miss exponent in number. at offset: 4"),
        (b"[1e309]", "Number too big to be stored in double. at offset: 1"),
        (b"[1" + b"0" * 400 + b"]", "Number too big to be stored in double. at offset: 1"),
        (b'["a', "Missing a closing quotation mark in string. at offset: 3"),
        (b'["a\n"]', "Invalid escape character in string. at offset: 3"),
        (b'["\\q"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\u12"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud83dA"]', "The surrogate pair in string is invalid. at offset: 2"),
    ],
)
def test_what_is_refused_and_where(body: bytes, text: str) -> None:
    with pytest.raises(RequestError) as failure:
        parse(body)

    assert failure.value.code is Code.INVALID_ARGUMENT
    assert str(failure.value) == f"JSON Parse error: {text}"


def made_up(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(6 if depth < 4 else 4)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.choice([chance.randrange(-(2**63), 2**64), chance.randrange(-9, 10)])
    if kind == 2:
        return chance.choice([chance.uniform(-1, 1), chance.uniform(-1, 1) * 10 ** chance.randrange(-300, 300)])
    if kind == 3:
        return "".join(chance.choice('ab:{}[],"\\\n\t\0é😀') for _ in range(chance.randrange(6)))
    if kind == 4:
        return [made_up(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {f"{index}:": made_up(chance, depth + 1) for index in range(chance.randrange(4))}


def test_both_parsers_agree_on_plain_json() -> None:
    chance = random.Random(20)  # noqa: S311 - the same documents every time
    for _ in range(500):
        document = made_up(chance)
        text = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2]))

        assert parse(text.encode()) == document
        assert _Parser(text.encode()).parse() == document


def test_no_bytes_at_all_make_it_fail_otherwise() -> None:
    chance = random.Random(21)  # noqa: S311
    good = b'{"signature_name":"s","instances":[{"x":[1.5e3,NaN,-0],"b":{"b64":"YQ=="}},{"\\u00e9":null}]}'
    for _ in range(5000):
        body = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(body))
            body[place : place + chance.randrange(3)] = bytes(chance.choices(b'{}[]",:\\u0129.eE+-tfnNI\xff\0 ', k=2))
        try:
            parse(bytes(body))
        except RequestError as error:
            assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017 - most of them parse, or fail like this


@pytest.mark.parametrize(
    ("unit", "counts"),
    [("1,", 1), ("[],", 2), ("{},", 2), ('"",', 5), ('{"a":1},', 7), ('[[1],["a"]],', 9), ('"a:b,c",', 7)],
)
def test_a_document_of_too_many_values_is_refused(unit: str, counts: int) -> None:
    body = ("[" + unit * 100 + "1]").encode()
    count = 100 * counts + 1
    assert len(parse(body, count)) == 101
    with pytest.raises(RefusedError) as refused:
        parse(body, count - 1)
    assert refused.value.status == 413
    assert f"has more than {count - 1} values" in refused.value.text


@pytest.mark.parametrize("body", [b"[NaN%s]", b'{"a":1,"a":[1%s]}', b"[1%s] and more", b'["\\ude00"%s]', b"[1%s"])
def test_what_is_no_plain_json_may_have_fewer_values(body: bytes) -> None:
    long = body.replace(b"%s", b",1" * 1000)
    with pytest.raises(RefusedError):
        parse(long, 3000)
    with contextlib.suppress(RequestError):
        parse(long, 5000)
    assert len(parse(b"[" + b"1," * 2999 + b"1]", 3000)) == 3000


def test_escapes_count_where_they_take_time() -> None:
    body = b'["' + b"\\n" * 1000 + b'",NaN]'
    with pytest.raises(RefusedError):
        parse(body, 3000)
    assert parse(body.replace(b",NaN", b""), 3000) == ["\n" * 1000]
