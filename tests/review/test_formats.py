"""What is no file of answers is refused."""

import csv
import io
import json

import pytest

from llambert.errors import InputError
from llambert.review.formats import read, to_csv
from llambert.review.items import Sample


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,answer\n1,positive\n", "a.csv: no column item"),
        ("a.json", "[{]", "a.json: is no export"),
        ("a.json", '[{"x": 1}]', "a.json: is no export"),
        ("a.csv", "item,answer\nI,positive\nI,negative\n", "answered item I twice"),
    ],
)
def test_files_that_are_no_answers_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read([str(tmp_path / name)])


def answers_of(tmp_path, name, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read([str(tmp_path / name)])


def studio(*annotations):
    return {"data": {"item": "I"}, "annotations": list(annotations)}


def choice(*chosen, **more):
    return {"completed_by": 3, "result": [{"from_name": "answer", "value": {"choices": list(chosen)}}], **more}


@pytest.mark.parametrize(
    ("name", "content", "given", "left_out"),
    [
        ("a.json", [studio(choice("good"))], {"annotator 3": {"I": "good"}}, {}),
        ("a.json", [studio(choice("good", "bad"))], {}, {"several answers to one question": 1}),
        ("a.json", [studio(choice(was_cancelled=True))], {}, {"skipped by the annotator": 1}),
        ("a.json", [studio(choice()), studio(), studio({"completed_by": 3, "result": None})], {}, {"no answer": 3}),
        (
            "a.json",
            [studio(choice("good"), choice("bad", completed_by={"id": 4, "email": "k@x"}))],
            {"annotator 3": {"I": "good"}, "k@x": {"I": "bad"}},
            {},
        ),
        ("a.json", [], {}, {}),
        ("a.json", [{"item": "I", "answer": "good", "annotator": 3}], {"annotator 3": {"I": "good"}}, {}),
        ("a.json", [{"item": "I", "answer": {"choices": ["good"]}}], {"a": {"I": "good"}}, {}),
        (
            "a.json",
            [{"item": "I", "answer": {"choices": ["good", "bad"]}}, {"item": "J"}],
            {},
            {"several answers to one question": 1, "no answer": 1},
        ),
        (
            "a.csv",
            'item,answer,annotator\nI,"{""choices"": [""a"", ""b""]}",3\n',
            {},
            {"several answers to one question": 1},
        ),
        (
            "a.csv",
            "item,answer,annotator\nI,good,3\nJ\n,bad,3\n",
            {"annotator 3": {"I": "good"}},
            {"no answer": 1, "no item number": 1},
        ),
        ("a.tsv", "item\ttext\tanswer\nI\t" + "x" * 200_000 + "\tgood\n", {"a": {"I": "good"}}, {}),
        ("a.json", [{"id": "I", "responses": None}, {"id": "J", "responses": {}}], {}, {"no answer": 2}),
        (
            "a.json",
            [
                {
                    "id": "I",
                    "responses": {
                        "answer": [
                            {"value": "good", "user_id": "u", "status": "submitted"},
                            {"value": "bad", "user_id": "v", "status": "draft"},
                            {"value": None, "user_id": "w", "status": "discarded"},
                        ]
                    },
                }
            ],
            {"u": {"I": "good"}},
            {"response is draft": 1, "response is discarded": 1},
        ),
        (
            "a.json",
            [{"id": "I", "responses": [{"user_id": "u", "values": {"answer": {"value": "good"}}}]}],
            {"u": {"I": "good"}},
            {},
        ),
        (
            "kim.jsonl",
            '{"item": "I", "label": ["good"]}\n{"item": "J", "label": []}\n{"meta": {"item": "K"}, "label": ["bad"]}\n',
            {"kim": {"I": "good", "K": "bad"}},
            {"no answer": 1},
        ),
    ],
)
def test_every_entry_of_an_export_is_an_answer_or_counted_by_reason(tmp_path, name, content, given, left_out):
    found = answers_of(tmp_path, name, content)
    assert (found.given, dict(found.left_out)) == (given, left_out)


@pytest.mark.parametrize("content", ["", "[1]", '[{"item": "I", "answer": {"rating": 3}}]', '{"a": 1}\n{', "[" * 9999])
def test_what_is_no_export_is_one_line(tmp_path, content):
    with pytest.raises(InputError) as caught:
        answers_of(tmp_path, "a.json", content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "blank", ["", "\u200b", "\ufeff", " ", "\u00a0", "\u202e", "\u2066", "\u3164", "\u2800", "\x01"]
)
@pytest.mark.parametrize("sign", ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", "\ufe661", "\u22121"])
def test_a_cell_that_might_be_a_formula_is_guarded_and_read_back_as_it_was(tmp_path, blank, sign):
    sample = Sample(["I"], [blank + sign], "?", ["'" + sign, sign])
    row = next(csv.DictReader(io.StringIO(to_csv(sample).removeprefix("\ufeff"), newline="")))
    assert row["text"] == "'" + blank + sign
    for answer, cell in (("'" + sign, "''" + sign), (sign, "'" + sign), ("good", "good")):
        written = io.StringIO()
        csv.writer(written).writerows([["item", "answer"], ["I", cell]])
        assert answers_of(tmp_path, "a.csv", written.getvalue()).given == {"a": {"I": answer}}
