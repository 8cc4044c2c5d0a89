"""Digests and canonical JSON: one text per value, and no other is taken."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.digest import (
    copy_stream,
    digest_of,
    digest_of_stream,
    parse_digest,
    parse_json,
    render_json,
    short,
    verify_stream,
)
from vnfsbuild.errors import InputError, VerificationError

HEX = "ab" * 32

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, values, max_size=3)


def test_a_digest_is_sha256_and_64_hexadecimal_digits():
    assert parse_digest(f"sha256:{HEX}") == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "bad", ["", HEX, f"sha256:{HEX}0", f"sha256:{HEX.upper()}", f"sha256:{HEX}\n", f"md5:{HEX}", 7]
)
def test_anything_else_is_no_digest(bad):
    with pytest.raises(InputError, match=r"here: found .*, expected sha256:"):
        parse_digest(bad, where="here")


def test_a_stream_has_the_digest_of_its_bytes():
    data = b"x" * 3_000_000
    sink = io.BytesIO()
    assert digest_of_stream(io.BytesIO(data)) == (digest_of(data), len(data))
    assert copy_stream(io.BytesIO(data), sink) == (digest_of(data), len(data))
    assert sink.getvalue() == data


def test_tables_show_twelve_digits():
    assert short(f"sha256:{HEX}") == HEX[:12]


@given(objects)
def test_canonical_json_is_read_back(value):
    assert parse_json(render_json(value), where="x") == value


@given(objects)
def test_every_other_text_of_the_same_value_is_refused(value):
    canonical = render_json(value)
    for other in (json.dumps(value, indent=1), json.dumps(value) + "\n", " " + json.dumps(value)):
        if other.encode() != canonical:
            with pytest.raises(VerificationError):
                parse_json(other.encode(), where="x")


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"{", b"[]", b"7", b'{"a":1.0}', b'{"a":NaN}', b'{"a":1e3}', b'{"a":1,"a":1}',
        b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":-0}', b'{"a":01}', b'{"\\u0061":1}',
        b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'\xef\xbb\xbf{}', b'{"a":' + b"[" * 100_000,
        b'{"a":' + b"9" * 10_000 + b"}", b'{}\x00',
    ],
)  # fmt: skip
def test_json_in_another_form_is_refused(bad):
    with pytest.raises(VerificationError, match=r"^here: "):
        parse_json(bad, where="here")


@pytest.mark.parametrize("bad", [{"a": 1.0}, {"a": [{"b": float("nan")}]}, {1: 2}, {"a": object()}])
def test_what_canonical_json_does_not_have_is_not_rendered(bad):
    with pytest.raises(TypeError):
        render_json(bad)


def chunks_of(data, size=3):
    return (data[start : start + size] for start in range(0, len(data), size))


@given(st.binary(max_size=40))
def test_a_stream_that_is_what_was_promised_passes(data):
    passed = verify_stream(chunks_of(data), digest=digest_of(data), size_bytes=len(data), where="x")
    assert b"".join(passed) == data


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_stream_that_is_not_raises_before_its_end_and_never_gives_more(promised, found):
    if promised == found:
        return
    passed = []
    with pytest.raises(VerificationError, match=r"^x: "):
        passed.extend(
            verify_stream(
                chunks_of(found), digest=digest_of(promised), size_bytes=len(promised), where="x"
            )
        )
    assert sum(map(len, passed)) <= len(promised)
