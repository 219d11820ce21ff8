import pytest

from llambert import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x_1$", r"\$x_1\$"),
        ("a | b", r"a \| b"),
        ("a\nb", "a b"),
        ("<b>*`_x_", r"\<b\>\*\`\_x\_"),
        ("\u202e\x00", "\\\\u202e\\\\u0000"),
        ("record_id", "record_id"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("0.95", "0.95"),
        ("-0.5", "-0.5"),
        ("![](http://x)", r"!\[\](http&#58;//x)"),
        ("www.x.org", "www&#46;x.org"),
        ("<script>&lt;", r"\<script\>&amp;lt;"),
        ("\u200b\u2066=", r"\\u200b\\u2066="),
        ("x" * 20_000, "x" * 9_999 + "…"),
    ],
)
def test_mark_up_in_a_text_is_shown(text, shown):
    assert markdown.escape(text) == shown


def test_a_cell_never_becomes_two():
    assert markdown.table(["category", "records"], [["a | b\nc", "1"]]) == [
        "| category | records |",
        "| --- | ---: |",
        r"| a \| b c | 1 |",
    ]
