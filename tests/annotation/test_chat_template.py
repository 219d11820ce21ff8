"""Templates that think or date themselves: the same prompt on every day, and an answer where it is scored."""

import re
from datetime import datetime

import pytest
import transformers.utils.chat_template_utils as transformers_templates

from llambert.annotation.prompts import Prompt, Renderer, Shot
from llambert.annotation.verbalizer import RejectReason, Verbalizer
from llambert.annotation.verbalizer.reasoning import open_thought
from llambert.errors import InputError
from tests.fixtures.chat_templates import DEEPSEEK_R1, GPT_OSS, LLAMA3_2, QWEN3
from tests.fixtures.tiny_llm import CHATML, tiny_tokenizer

ANSWERS = {"positive": "positive", "negative": "negative"}
# The user's own words about thoughts are none of the template's.
PROMPT = Prompt(
    system="Do not write <think>.",
    template="{text}\nPositive? <think> is forbidden.",
    shots=(Shot(text="A dull mess.", label="negative"),),
)
CLOSED, FINAL = "<think>\n\n</think>\n\n", "<|channel|>final<|message|>"


def renderer(template, answer_prefix="", **settings) -> Renderer:
    return Renderer(PROMPT, ANSWERS, None, tiny_tokenizer(template), settings, answer_prefix)


@pytest.mark.parametrize(
    ("template", "settings", "answer_prefix", "end"),
    [
        (QWEN3, {"enable_thinking": False}, "", "<|im_start|>assistant\n" + CLOSED),
        (QWEN3, {"enable_thinking": False}, "Answer:", f"<|im_start|>assistant\n{CLOSED}Answer:"),
        (QWEN3, {}, CLOSED, "<|im_start|>assistant\n" + CLOSED),
        (QWEN3, {}, CLOSED + "Answer:", f"<|im_start|>assistant\n{CLOSED}Answer:"),
        (QWEN3, {}, "<think>\nEasy.\n</think>\n\n", "<|im_start|>assistant\n<think>\nEasy.\n</think>\n\n"),
        (GPT_OSS, {"reasoning_effort": "low"}, FINAL, "<|start|>assistant" + FINAL),
        (GPT_OSS, {}, f"<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant{FINAL}", FINAL),
        (LLAMA3_2, {}, "", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        (LLAMA3_2, {}, "Answer:", "<|start_header_id|>assistant<|end_header_id|>\n\nAnswer:"),
        (DEEPSEEK_R1, {}, "</think>\n\n", "<|Assistant|><think>\n</think>\n\n"),
        (CHATML, {}, "", "<|im_start|>assistant\n"),
    ],
)
def test_a_prompt_after_which_the_answer_begins_may_be_scored(template, settings, answer_prefix, end):
    made = renderer(template, answer_prefix, **settings)
    made.require_answer_next()
    assert made.encode("Fine.", 500).text.endswith(end)
    assert made.open_thought == ""


@pytest.mark.parametrize(
    ("template", "settings", "answer_prefix", "message"),
    [
        (QWEN3, {}, "", r'writes "<think>\\n\\n</think>" or a .*chat_template_kwargs: {enable_thinking: false}, or .*'),
        (QWEN3, {"enable_thinking": True}, "Answer:", r'answer_prefix: "<think>\\n\\n</think>\\n\\nAnswer:"$'),
        (QWEN3, {}, "<think>\nThis is", r"ends inside a thought \(<think>\).*enable_thinking"),
        (GPT_OSS, {}, "", r'set annotator.answer_prefix: "<\|channel\|>final<\|message\|>"$'),
        (GPT_OSS, {}, "Answer:", r'set annotator.answer_prefix: "<\|channel\|>final<\|message\|>Answer:"$'),
        (GPT_OSS, {}, "<|channel|>analysis<|message|>", r"ends inside a thought \(analysis\)"),
        (DEEPSEEK_R1, {}, "", r'ends inside a thought \(<think>\).*ends the thought: "</think>\\n\\n"$'),
        (DEEPSEEK_R1, {}, "Answer:", r"ends inside a thought"),
    ],
)
def test_a_prompt_after_which_a_thought_begins_is_refused_with_what_to_set(template, settings, answer_prefix, message):
    with pytest.raises(InputError) as caught:
        renderer(template, answer_prefix, **settings).require_answer_next()
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [QWEN3, GPT_OSS])
def test_what_a_refusal_says_to_set_is_taken(template):
    with pytest.raises(InputError) as caught:
        renderer(template).require_answer_next()
    said = re.search(r'answer_prefix: ("[^"]*")$', str(caught.value))
    renderer(template, said[1][1:-1].replace("\\n", "\n")).require_answer_next()


class _OtherDay(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime(2031, 12, 24, tzinfo=tz)


@pytest.mark.parametrize(
    ("template", "day", "set_day"), [(LLAMA3_2, "26 Jul 2024", "1 May 2025"), (GPT_OSS, "2024-07-26", "2025-05-01")]
)
def test_a_template_that_asks_for_todays_date_writes_the_same_prompt_on_every_day(template, day, set_day, monkeypatch):
    today = renderer(template).render("Fine.")
    monkeypatch.setattr(transformers_templates, "datetime", _OtherDay)
    tokenizer = tiny_tokenizer(template)
    own = tokenizer.apply_chat_template([{"role": "user", "content": "Fine."}], tokenize=False)
    assert re.search("2031", own)  # what the template would say by itself
    another_day = renderer(template)
    assert another_day.render("Fine.") == today
    assert day in today
    assert len(another_day.notes) == 1
    assert day in another_day.notes[0] or "26 Jul 2024" in another_day.notes[0]
    told = renderer(template, date_string=set_day)
    assert set_day in told.render("Fine.")
    assert told.notes == []


@pytest.mark.parametrize("template", [CHATML, QWEN3, DEEPSEEK_R1])
def test_other_templates_are_told_nothing_of_the_day_and_there_is_no_note(template):
    assert renderer(template).notes == []
    with pytest.raises(InputError, match=r"kwargs.date_string: the model's chat template does not read"):
        renderer(template, date_string="1 May 2025")


def test_a_setting_that_the_template_does_not_read_is_refused_with_the_nearest_it_reads():
    with pytest.raises(
        InputError, match=r"kwargs.enable_thinkin: .*does not read it; did you mean 'enable_thinking'\?"
    ):
        renderer(QWEN3, enable_thinkin=False)
    with pytest.raises(InputError, match="chat_template_kwargs: the model has no chat template"):
        renderer(None, enable_thinking=False)


@pytest.mark.parametrize("format", ["completion", "llama2"])
def test_an_answer_prefix_ends_prompts_of_every_format(format):
    made = Renderer(PROMPT.model_copy(update={"format": format}), ANSWERS, 0, tiny_tokenizer(), {}, " Answer:")
    assert made.render("Fine.").endswith(" Answer:")
    made.require_answer_next()


def test_a_response_that_began_inside_a_thought_is_read_without_it_and_cut_off_there_is_truncated():
    made, read = renderer(DEEPSEEK_R1), Verbalizer({name: [name] for name in ANSWERS}).read
    assert made.open_thought == "<think>\n"
    assert read(made.open_thought + "It is positive, or not.</think>\n\nNegative.").category == "negative"
    cut_off = made.open_thought + "The answer is positive. But wait"
    assert read(cut_off, "length").reject_reason is RejectReason.TRUNCATED
    assert read(cut_off).reject_reason is RejectReason.TRUNCATED


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>\n", "<think>\n"),
        ("<think>\n\n</think>\n\n", ""),
        ("</think>", ""),
        ("a <think>b</think> c [THINK] d", "[THINK] d"),
        ("<|channel|>analysis<|message|>Hm", "analysisHm"),
        ("<|channel|>analysis<|message|>Hm<|end|>", ""),
        ("<|channel|>final<|message|>", ""),
        ("", ""),
    ],
)
def test_the_thought_a_prompt_ends_inside(text, thought):
    assert open_thought(text) == thought
