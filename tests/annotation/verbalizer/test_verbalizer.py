"""Responses as LLMs write them, and what each must be read as."""

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llambert.annotation.verbalizer import Reading, Verbalizer
from llambert.errors import InputError

SENTIMENT = Verbalizer({"positive": ["positive"], "negative": ["negative"]})
YES_NO = Verbalizer({"yes": ["yes"], "no": ["no"]})
RELATED = Verbalizer({"related": ["related", "yes"], "unrelated": ["not related", "unrelated", "no"]})
NEWS = Verbalizer(
    {
        "world": ["World"],
        "sports": ["Sports", "sport"],
        "business": ["Business"],
        "sci/tech": ["Sci/Tech", "science", "technology"],
    }
)
LETTERS = Verbalizer({"first": ["A"], "second": ["B"], "third": ["C"]})
SHARED = Path(__file__).resolve().parents[4] / "shared"
RECORDED = SHARED / "data" / "imdb" / "responses_llama2_70b_train_25k.jsonl.gz"


ANSWERS = Path(__file__).parent / "answers.jsonl"
MORE_ANSWERS = SHARED / "cases" / "answers.jsonl"


def misread(answers: list[dict], wanted: str) -> list[tuple]:
    """The answers read as a category that nobody would read (``wrong``), or rejected though clear (``lost``)."""
    found = []
    for answer in answers:
        category = (
            Verbalizer(answer["answer_words"]).read(answer["response"], answer.get("finish_reason", "stop")).category
        )
        is_wrong = category is not None
        if category not in answer["allowed"] and is_wrong == (wanted == "wrong"):
            found.append((answer["response"], category, answer["allowed"]))
    return found


def answers_of_the_project() -> list[dict]:
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    answer_words = {row["categories_of"]: row["answer_words"] for row in rows if "categories_of" in row}
    return [{**row, "answer_words": answer_words[row["of"]]} for row in rows if "of" in row]


def test_two_thousand_answers_are_read_as_a_careful_person_reads_them():
    answers = answers_of_the_project()
    assert len(answers) > 2_300
    assert misread(answers, "wrong") == []
    assert misread(answers, "lost") == []


def test_answers_collected_elsewhere_are_read_as_a_careful_person_reads_them():
    if not MORE_ANSWERS.is_file():
        pytest.skip(f"needs {MORE_ANSWERS.name}, which is not part of the project")
    rows = [json.loads(line) for line in MORE_ANSWERS.read_text(encoding="utf-8").splitlines()]
    answers = [{**row, "answer_words": row["categories"]} for row in rows]
    assert len(misread(answers, "wrong")) <= 2
    assert len(misread(answers, "lost")) <= 3


def outcome(verbalizer: Verbalizer, response: str | None, finish_reason: str = "stop") -> str:
    reading = verbalizer.read(response, finish_reason)
    assert (reading.category is None) != (reading.reject_reason is None)
    return str(reading.category or reading.reject_reason)


@pytest.mark.parametrize(
    "response",
    [
        "Negative.",
        "  NEGATIVE!!!",
        "**Negative**",
        "`negative`",
        "The answer is “negative”.",
        '{"sentiment": "negative", "confidence": 0.9}',
        "<answer>negative</answer>",
        "Ｎｅｇａｔｉｖｅ",
        "Sure! Here's my answer: negative",
        "I would classify this as negative",
        "I'm sorry, but the review is negative.",
        "As an AI, I would call this negative.",
        "Negative.\n\nThe reviewer mentions some positive things",
        "Negative, although it has positive moments",
        "The review has positive and negative aspects, but overall the sentiment is negative.",
        "Is this review positive or negative? Negative",
        "Options: positive, negative. Answer: negative",
        "more negative than positive",
        "less positive than negative",
        "negative rather than positive",
        "negative (not positive)",
        "<think>It could be positive.</think>negative",
    ],
)
def test_an_answer_is_found_whatever_stands_around_it(response):
    assert outcome(SENTIMENT, response) == "negative"


@pytest.mark.parametrize(
    "response",
    [
        "not positive",
        "The sentiment is not positive",
        "It isn’t really all that positive.",
        "I do not think this is a positive review",
        "There are no positive aspects",
        "far from positive",
        "anything but positive",
        "less than positive",
        "Not positive, negative",
        "non-positive",
    ],
)
def test_denying_one_of_two_categories_means_the_other(response):
    assert outcome(SENTIMENT, response) == "negative"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("not negative", "positive"),
        ("not only positive, but glowing", "positive"),
        ("no doubt positive", "positive"),
        ("I don't think it is not positive", "positive"),
        ("The reviewer did not like the acting and gives a negative review", "negative"),
        # Other words between negation and mention, or a hedge: nothing can be said.
        ("The reviewer did not like this negative film", "no_category"),
        ("The sentiment does not lean positive", "no_category"),
        ("not entirely positive", "no_category"),
        ("Neither positive nor negative", "no_category"),
        ("not positive or negative", "no_category"),
        ("The review is not positive, although it has a positive scene or two.", "negative"),
    ],
)
def test_a_negation_governs_what_it_reaches_and_no_more(response, expected):
    assert outcome(SENTIMENT, response) == expected


def test_denials_among_many_categories_count_only_if_one_is_left():
    assert outcome(NEWS, "not sports") == "no_category"
    assert outcome(NEWS, "Not sports, not business, not world") == "sci/tech"
    assert outcome(NEWS, "It is not about sports but business") == "business"


@pytest.mark.parametrize(
    "response",
    [
        "positive/negative",
        "Positive and negative",
        "positive, negative",
        "Positive.\nNegative.",
        "a mix of positive and negative",
        "It has positive, negative and mixed remarks",
        "postive and negative",
        "Positive: the acting. Negative: the plot.",
    ],
)
def test_several_categories_are_ambiguous(response):
    assert outcome(SENTIMENT, response) == "ambiguous"


@pytest.mark.parametrize("response", ["postive", "positivee", "posotive", "psoitive", "I think it is postive", "pos"])
def test_a_word_one_edit_away_or_broken_off_is_read_as_meant(response):
    assert outcome(SENTIMENT, response) == "positive"


@pytest.mark.parametrize(
    ("verbalizer", "response", "expected"),
    [
        (SENTIMENT, "nonnegative", "no_category"),  # a word inside another word
        (SENTIMENT, "negatron", "no_category"),  # two edits
        (YES_NO, "yess", "yes"),
        (YES_NO, "The eyes have it", "no_category"),  # one edit from "yes", but a short word in prose
        (YES_NO, "know", "no_category"),
        (YES_NO, "not", "no_category"),
        (NEWS, "I would say sports", "sports"),  # "would" is one edit from "world"
        (NEWS, "busines", "business"),
        (NEWS, "wrold", "world"),
        (Verbalizer({"hat": ["hat"], "cat": ["cat"]}), "bat", "no_category"),  # one edit from both
        (Verbalizer({"moral": ["moral"], "neither": ["neutral"]}), "amoral", "no_category"),  # no slip: the opposite
    ],
)
def test_a_misspelling_must_point_at_one_category_alone(verbalizer, response, expected):
    assert outcome(verbalizer, response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("not related", "unrelated"),
        ("It is related", "related"),
        ("The concept is not directly related to the nervous system", "unrelated"),
        ("not unrelated", "related"),
        ("No, not related", "unrelated"),
        ("No related findings", "unrelated"),
        ("not relatd", "unrelated"),
        ("not rel", "unrelated"),
        ("related or not related", "ambiguous"),
    ],
)
def test_the_longest_answer_phrase_wins(response, expected):
    assert outcome(RELATED, response) == expected


@pytest.mark.parametrize(
    ("verbalizer", "response", "expected"),
    [
        (YES_NO, "No it isn't", "no"),
        (YES_NO, "The answer is no because it lies elsewhere", "no"),
        (YES_NO, "not yes", "no"),
        (YES_NO, "Yes, there is no doubt", "yes"),
        (YES_NO, "There is no clear answer", "no_category"),
        (YES_NO, "No idea", "no_category"),
        (YES_NO, "No answer.", "no_category"),
        (YES_NO, "N", "no_category"),
        (YES_NO, "Yes or no", "ambiguous"),
        (LETTERS, "B) the second", "second"),
        (LETTERS, "Option C", "third"),
        (LETTERS, "Answer: a", "first"),
        (LETTERS, "A or B", "ambiguous"),
        (LETTERS, "A positive review", "no_category"),
        (LETTERS, "It is about plan B", "no_category"),
    ],
)
def test_everyday_words_are_answers_only_where_answers_stand(verbalizer, response, expected):
    assert outcome(verbalizer, response) == expected


@pytest.mark.parametrize(
    ("response", "finish_reason", "expected"),
    [
        (None, "stop", "empty"),
        (" \n*...", "stop", "empty"),
        ("It's neither", "stop", "no_category"),
        ("mixed", "stop", "no_category"),
        ("As an AI language model I cannot", "stop", "refused"),
        ("As an AI language model, I", "length", "refused"),
        ("I cannot determine whether the review is positive or negative.", "stop", "refused"),
        ("I'm sorry, I can't label this review as negative", "stop", "refused"),
        ("The movie review discusses a film that portray", "stop", "no_category"),
        ("The movie review discusses a film that portray", "length", "truncated"),
        ("<think>It could be positive", "length", "truncated"),
        ("The sentiment is posit", "length", "positive"),
        ("The sentiment is posit", "stop", "no_category"),
        ("positive/neg", "length", "ambiguous"),
    ],
)
def test_what_has_no_category_has_a_reason(response, finish_reason, expected):
    assert outcome(SENTIMENT, response, finish_reason) == expected


@pytest.mark.parametrize(
    "response",
    [
        "The pacing is off, so negative?\n</think>\n\nPositive",
        "<think>negative</think><think>still negative</think>positive",
        "<Thinking>\nnegative\n</Thinking>\npositive",
        "<reasoning>negative at first</reasoning><answer>positive</answer>",
        "[THINK]negative[/THINK]positive",
        "negative[/THINK]positive",
        "<|channel|>analysis<|message|>negative?<|end|><|start|>assistant<|channel|>final<|message|>positive<|return|>",
        "analysisSounds negative. No: positive.assistantfinalPositive",
        "Reasoning: the opening is negative.\nAnswer: positive",
        "Reasoning: the opening is negative.\nAnswer: positive\n\nSo it goes.",
        "## Reasoning\nThe opening is negative.\n\n## Answer\npositive",
        "**Thinking**\nThe opening is negative. Therefore the label is positive.",
    ],
)
def test_reasoning_is_never_evidence(response):
    assert outcome(SENTIMENT, response) == "positive"


@pytest.mark.parametrize(
    ("response", "finish_reason"),
    [
        ("<think>It sounds positive", "stop"),
        ("[THINK]It sounds positive", "stop"),
        ("analysisWe should say positive", "stop"),
        ("<|channel|>analysis<|message|>positive", "stop"),
        ("<think>one</think><think>It sounds positive", "stop"),
        ("", "length"),  # all of it thoughts, which the endpoint kept to itself
        (None, "length"),
    ],
)
def test_a_response_that_ended_inside_its_thoughts_is_truncated(response, finish_reason):
    assert outcome(SENTIMENT, response, finish_reason) == "truncated"


@pytest.mark.parametrize(
    "response",
    [
        "Is it positive? Not really.",
        "positive: false",
        "positive: 0 %",
        "P(positive) = 0.03",
        "Positive does not apply.",
        "Positive would be wrong.",
        "Positive is incorrect.",
        "The opposite of positive.",
        "I doubt this is positive.",
        "seldom positive",
        "few positive words",
        "little positive to report",
        "If it were positive, it would not complain.",
        "Positive. Not!",
    ],
)
def test_a_category_taken_back_is_not_the_answer(response):
    assert outcome(SENTIMENT, response) != "positive"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"positive": false, "negative": true}', "negative"),
        ('{"positive": 0.2, "negative": 0.8}', "negative"),
        ('{"label": "negative", "reason": "nothing positive"}', "negative"),
        ('{"label": null, "reason": "positive and negative"}', "no_category"),
        ('{"positive": 0.5, "negative": 0.5}', "ambiguous"),
        ('[{"label": "positive", "score": 0.1}, {"label": "negative", "score": 0.9}]', "negative"),
        ('{"reason": "positive words, but', "no_category"),
    ],
)
def test_json_is_read_by_its_values(response, expected):
    assert outcome(SENTIMENT, response) == expected


@pytest.mark.parametrize("dash", ["-", "‐", "‑", "–", "—", "−", " - ", " – ", "– "])
def test_any_dash_in_a_category_is_a_hyphen(dash):
    toxicity = Verbalizer({"toxic": ["toxic"], "non-toxic": ["non-toxic"]})
    assert outcome(toxicity, f"non{dash}toxic") == "non-toxic"


@pytest.mark.parametrize("response", ["Science & Technology", "science and technology", "Science, and technology"])
def test_a_longer_category_never_loses_to_its_prefix(response):
    topics = Verbalizer({"science": ["science"], "both": ["science and technology"]})
    assert outcome(topics, response) == "both"


@pytest.mark.parametrize(
    ("answer_words", "response", "expected"),
    [
        ({"good": ["अच्छा"], "bad": ["बुरा"]}, "अच्छा", "good"),
        ({"good": ["अच्छा"], "bad": ["बुरा"]}, "बारे में", "no_category"),  # the vowel signs alone tell the words apart
        ({"good": ["अच्छा"], "bad": ["बुरा"]}, "यह अच्छा नहीं है", "no_category"),
        ({"good": ["ดี"], "bad": ["เลว"]}, "ดู", "no_category"),
        ({"good": ["正面"], "bad": ["负面"]}, "这不是正面的", "no_category"),
        ({"good": ["positiva"], "bad": ["negativa"]}, "Nunca positiva", "no_category"),
        ({"good": ["positive"], "bad": ["négative"]}, "La critique n'est pas positive.", "no_category"),
        ({"good": ["positiv"], "bad": ["negativ"]}, "Ich glaube nicht, dass sie positiv ist.", "no_category"),
    ],
)
def test_words_are_words_in_every_script_and_foreign_negations_reject(answer_words, response, expected):
    assert outcome(Verbalizer(answer_words), response) == expected


STARS = Verbalizer({str(n): [str(n)] for n in range(1, 6)})
POINTS = Verbalizer({str(n): [str(n)] for n in range(6)})
BINARY = Verbalizer({"0": ["0"], "1": ["1"]})


@pytest.mark.parametrize(
    ("verbalizer", "response", "expected"),
    [
        (STARS, "4 out of 5", "4"),
        (STARS, "3/5", "3"),
        (STARS, "2 stars", "2"),
        (STARS, "On a scale of 1 to 5: 4", "4"),
        (STARS, "7/10", "no_category"),
        (STARS, "1) The cast is fine", "no_category"),
        (STARS, "1. Weak plot\n2. Dull\nRating: 2", "2"),
        (STARS, "4.5", "no_category"),
        (STARS, "I'd say 3 or 4", "ambiguous"),
        (POINTS, "Relevant (+1), clear (+1).\n\nEducational score: 2", "2"),
        (BINARY, "class_1", "1"),
        (BINARY, "0.0", "0"),
        (BINARY, "1.0", "1"),
        (BINARY, "The label is 0, not 1", "0"),
        (BINARY, "0.5", "no_category"),
    ],
)
def test_ratings_are_told_from_other_numbers(verbalizer, response, expected):
    assert outcome(verbalizer, response) == expected


@pytest.mark.parametrize(
    ("answer_words", "response"),
    [({"anger": ["anger"]}, "danger"), ({"spam": ["spam"]}, "scam"), ({"no": ["no"]}, "now"), ({"10": ["10"]}, "100")],
)
def test_another_word_is_no_misspelling(answer_words, response):
    assert outcome(Verbalizer({**answer_words, "rest": ["rest"]}), response) == "no_category"


def test_signs_behind_a_word_belong_to_it():
    languages = Verbalizer({"C": ["C"], "C++": ["C++"], "C#": ["C#"]})
    assert [outcome(languages, word) for word in ("C++", "c#", "C.")] == ["C++", "C#", "C"]


def test_a_letter_at_a_cut_is_no_answer():
    assert outcome(LETTERS, "The review is a", "length") == "truncated"
    assert outcome(LETTERS, "A", "length") == "first"


def test_scripts_without_blanks_are_read():
    chinese = Verbalizer({"positive": ["正面"], "negative": ["负面"]})
    assert outcome(chinese, "这条评论是正面的。") == "positive"


@pytest.mark.parametrize("answer_words", [{"plus": ["+"], "minus": ["-"]}, {"yes": ["Sci/Tech"], "no": ["sci-tech"]}])
def test_answer_words_that_cannot_be_told_apart_are_refused(answer_words):
    with pytest.raises(InputError, match="answer word"):
        Verbalizer(answer_words)


@given(st.text(alphabet=st.sampled_from("pos itvenga.,?!\n'-notbu "), max_size=80), st.sampled_from(["stop", "length"]))
@settings(max_examples=300, deadline=None)
def test_every_response_ends_as_one_or_the_other(response, finish_reason):
    assert outcome(SENTIMENT, response, finish_reason)


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_reading(response):
    assert outcome(NEWS, response)


@pytest.mark.parametrize(
    "unit",
    ["no ", "not yes, ", "i cannot ", "\n", ", and", "- ", ". unable", "if yes ", "yes is not ", "yes: no, ", "{", "[{",
     "<think>", "</think>", "<|channel|>final", "reasoning: x\n", "5 out of ", "1. ", "1 + ", "? ", "yes? "],
)  # fmt: skip
@pytest.mark.parametrize("verbalizer", [YES_NO, POINTS])
def test_a_long_response_is_read_in_time_proportional_to_its_length(verbalizer, unit):
    started = time.process_time()
    outcome(verbalizer, unit * 40_000)
    assert time.process_time() - started < 6  # what is quadratic takes minutes


def test_the_recorded_responses_read_as_the_reference_reads_them():
    if not RECORDED.is_file():
        pytest.skip(f"needs the recorded Llama-2-70b responses, {RECORDED.name}")
    with gzip.open(RECORDED, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    readings = [SENTIMENT.read(row["response"]) for row in rows]
    assert len(rows) == 25_000
    assert all(
        reading == Reading(row["reference_label"])
        for reading, row in zip(readings, rows, strict=True)
        if row["reference_label"]
    )
    unread = [
        (row["response"], reading)
        for reading, row in zip(readings, rows, strict=True)
        if not row["reference_label"] and reading.category is None
    ]
    assert sorted(response.strip()[:9] for response, _ in unread) == ["Sure! Her", "The movie"]  # they hold no answer


@pytest.mark.parametrize("response", ['{"label": ２ so', '{"label": 007 }', '{"label": "posi\ttive", "score": ९ }'])
def test_a_field_that_json_does_not_allow_ends_no_run(response):
    assert outcome(SENTIMENT, response, "length") == "truncated"
