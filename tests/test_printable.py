import os

import pytest

from llambert.errors import InputError, one_line
from llambert.printable import escaped, visible


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.txt", r"caf\xE9.txt"),
        (b"caf\xe9\\notes.txt", r"caf\xE9\x5Cnotes.txt"),
        (b"\xff\xfe", r"\xFF\xFE"),
        ("naïve \\ 映画.txt".encode(), "naïve \\ 映画.txt"),
        (b"100%25 #1;.txt", "100%25 #1;.txt"),
        (rb"caf\xE9.txt", r"caf\x5CxE9.txt"),
    ],
)
def test_bytes_that_are_not_utf_8_are_escaped_and_nothing_else(name, text):
    assert escaped(os.fsdecode(name)) == text
    assert escaped(os.fsdecode(name)).encode()


def test_two_names_never_become_one():
    names = [
        b"\xe9",
        rb"\xE9",
        rb"\x5CxE9",
        b"\\\xe9",
        rb"\x5C\xE9",
        b"\\",
        rb"\x5C",
        "é".encode(),
        b"\xc3\xe9",
        rb"\x",
    ]
    assert len({escaped(os.fsdecode(name)) for name in names}) == len(names)
    assert len({escaped(name) for name in ["\ud800", "\ud801", r"\uD800", "\udc41", r"\uDC41"]}) == 5


def test_a_message_takes_any_name():
    name = os.fsdecode(b"caf\xe9\\x.csv")
    assert str(InputError(f"{name}: no such file")) == r"caf\xE9\x.csv: no such file"
    assert one_line(ValueError(name)) == visible(name) == r"caf\xE9\x.csv"
