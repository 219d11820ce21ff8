"""How long an endpoint asks to be left alone, in each form of saying so."""

import time
from email.utils import formatdate

import pytest

from llambert.engines.openai.retry_after import retry_after


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ({"retry-after": "2"}, "", 2),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "20s"}, "", 20),
        ({"retry-after": "1m2.5s"}, "", 62.5),
        ({"retry-after-ms": "350", "retry-after": "1"}, "", 0.35),
        ({"retry-after": "-5"}, "", 0),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "Wed, 99 Foo"}, "", None),
        ({}, '{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34s"}]}}', 34),
        ({}, "Rate limit reached. Please try again in 9m38.5s. Need more?", 578.5),
        ({}, "Please try again in 350ms.", 0.35),
        ({}, "Please try again in a while", None),
        ({}, "", None),
    ],
)
def test_every_form_is_read(headers, content, expected):
    assert retry_after(headers, content) == (None if expected is None else pytest.approx(expected))


def test_a_date_is_read():
    assert 50 < retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}, "") <= 60
    assert retry_after({"retry-after": formatdate(time.time() - 60, usegmt=True)}, "") == 0
