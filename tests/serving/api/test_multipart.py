"""multipart/form-data: what httpx writes is read back; anything else is a 400 that says why."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from silva.serving.api.errors import ApiError
from silva.serving.api.multipart import MAX_BOUNDARY, MAX_HEADER_BYTES, boundary_of, parts_of

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), min_size=1, max_size=9
)
awkward = st.sampled_from([b"\r\n", b"--", b"--b", b"\r\n--", b"\r\n--b", b"\n--b--", b"", b"\r"])
contents = st.binary(max_size=40) | st.lists(awkward, max_size=5).map(b"".join)


def written(fields: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """As httpx sends files, and the type it says; its boundary is long and random."""
    files = [(name, ("a file.png", content)) for name, content in fields]
    request = httpx.Request("POST", "http://localhost", files=files)
    return request.read(), request.headers["content-type"]


def part(name: str = "a", content: bytes = b"1", more: bytes = b"") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n'.encode()
    return head + more + b"\r\n" + content + b"\r\n"


@given(fields=st.lists(st.tuples(st.text("abyz[]_-", min_size=1), contents), min_size=1))
def test_what_a_client_writes_is_read(fields: list[tuple[str, bytes]]) -> None:
    body, kind = written(fields)
    found = parts_of(body, boundary_of(kind), len(fields))
    assert [(each.name, each.content) for each in found] == fields


def test_a_boundary_may_be_quoted_and_stand_among_others() -> None:
    for kind in (
        "multipart/form-data; boundary=b",
        'multipart/form-data; charset=utf-8; Boundary="b"',
        'multipart/form-data;boundary="b" ; x=y',
    ):
        assert boundary_of(kind) == b"b"
    [found] = parts_of(b"--b  \t" + part()[3:] + b"--b--\r\n", b"b", 1)
    assert (found.name, found.text()) == ("a", "1")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=\xe4",
        f"multipart/form-data; boundary={'b' * (MAX_BOUNDARY + 1)}",
        f"multipart/form-data; x={'y' * 600}; boundary=b",
        "multipart/form-data; boundary*=utf-8''b",
    ],
)
def test_a_type_without_a_good_boundary_is_refused(kind: str) -> None:
    with pytest.raises(ApiError, match="names no boundary") as refused:
        boundary_of(kind)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not begin with its boundary"),
        (b"hello", "does not begin with its boundary"),
        (b"before\r\n" + part() + b"--b--", "does not begin with its boundary"),
        (b"--b", "does not end"),
        (part(), "does not end"),
        (part()[:-2], "does not end"),
        (part() + b"--b", "does not end"),
        (part() + b"--b--after", "does not end"),
        (part() + b"--b--\r\n" + part(), "does not end"),
        (part() + b"--bx\r\n" + part()[3:] + b"--b--", "on a line of its own"),
        (b"--b\r\n\r\n1\r\n--b--", "not one content-disposition"),
        (part() + b"--b\r\nx: y\r\n\r\n1\r\n--b--", "part 1 has not one content-disposition"),
        (b"--b\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--b--", "form-data"),
        (part(more=b"content-disposition: form-data; name=b\r\n") + b"--b--", "not one content"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--", "has no name"),
        (part("") + b"--b--", "has no name"),
        (b"--b\r\nContent-Disposition: form-data; name*=u''a\r\n\r\n\r\n--b--", "has no name"),
        (part(more=b"x: " + b"y" * MAX_HEADER_BYTES + b"\r\n") + b"--b--", "end of its headers"),
        (b"--b\r\nContent-Disposition: form-data; name=a\r\n--b--", "end of its headers"),
        (part() * 4 + b"--b--", "more than 3 parts"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(ApiError, match=said) as refused:
        parts_of(body, b"b", 3)
    assert refused.value.status == 400


def test_a_text_is_utf_8() -> None:
    [good, bad] = parts_of(part(content="ä".encode()) + part(content=b"\xff") + b"--b--", b"b", 2)
    assert good.text() == "ä"
    with pytest.raises(ApiError, match="a: is not UTF-8"):
        bad.text()


headers = st.lists(
    st.sampled_from(
        [
            b"content-disposition",
            b": ",
            b"form-data",
            b"; name=",
            b'"',
            b"a",
            b"name*0=a",
            b"content-type: multipart/mixed; boundary=c",
            b"content-transfer-encoding: base64",
            b"=?utf-8?q?a?=",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\0",
            b"\xff",
            b"--b",
            b"--b--",
            b"\r\n--b\r\n",
            b"\r\n\r\n",
        ]
    ),
    max_size=24,
).map(b"".join)


@given(body=headers.map(lambda rest: b"--b\r\n" + rest + b"\r\n--b--") | st.binary(max_size=60))
@example(b"--b\r\n\r\n\r\n--b--")
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        found: list[Any] = parts_of(body, b"b", 4)
    except ApiError as error:
        assert error.status == 400
        return
    assert len(found) <= 4
    for each in found:
        assert each.name and each.content in body and b"\r\n--b" not in each.content


@given(kind=st.text(max_size=80) | names.map(lambda name: f"multipart/form-data; boundary={name}"))
def test_any_type_has_a_boundary_or_is_refused(kind: str) -> None:
    try:
        assert 0 < len(boundary_of(kind)) <= MAX_BOUNDARY
    except ApiError as error:
        assert error.status == 400
