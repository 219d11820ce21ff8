"""What a vLLM engine is started with, and a start that says in one line why it failed."""

import contextlib
import dataclasses
import difflib
import multiprocessing.connection
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before vLLM is imported: an engine reports to nobody.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

from llambert.classifier.loading import loading
from llambert.classifier.weights import build_without_memory
from llambert.engines.answers import TokenSampling
from llambert.engines.transformers import load_model
from llambert.engines.vllm.head_precision import config_overrides
from llambert.errors import InputError, loading_fault
from llambert.passing_faults import PassingFault, is_passing, is_passing_line
from llambert.recipe import AnnotatorRecipe
from llambert.storage.file_hashes import cache_folder
from llambert.storage.model_folder import check_model_folder
from llambert.storage.reference import content_identity, local_copy, path_without_wildcards

# Arguments that decide how fast an engine is and what it holds, never what it answers.
_PERFORMANCE_ARGS = frozenset(
    {
        "async_scheduling",
        "block_size",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "disable_custom_all_reduce",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "num_gpu_blocks_override",
    }
)
# What other fields of the recipe set, and what the engine relies on.
_RECIPE_FIELDS = {
    "model": "model",
    "tokenizer": "model",
    "revision": "revision",
    "tokenizer_revision": "revision",
    "dtype": "dtype",
    "trust_remote_code": "trust_remote_code",
    "max_model_len": "max_model_len",
    "tensor_parallel_size": "tensor_parallel_size",
    "seed": "decoding.seed",
    "logprobs_mode": "mode",
    "distributed_executor_backend": "tensor_parallel_size",
    "skip_tokenizer_init": "mode",
}
# Shots and template are the same for every record, so their blocks are computed once; long prompts are read
# in pieces, so that short answers of others do not wait for them. Pickled weights are refused.
_DEFAULTS: dict[str, Any] = {
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "disable_log_stats": True,
    "load_format": "safetensors",
}
# On a CPU vLLM takes 92 % of the memory for keys and values, or does not start; VLLM_CPU_KVCACHE_SPACE (GiB)
# and the recipe's kv_cache_memory_bytes go before this. With SmolLM2-135M in float32: 11,000 tokens.
_CPU_CACHE_BYTES = 1 << 30
_QUANTIZED_VALUES_PER_BYTE = 8  # a weight takes a bit at least
# What vLLM 0.32 compiles with nvcc when it starts or first answers, without asking whether there is one: FlashInfer's
# sampler (every draw of ours is seeded, so it is not used) and its all-reduce (Hopper's multicast), DeepGEMM (FP8 on
# Hopper and newer). The rest of FlashInfer turns itself off (has_flashinfer in vllm/utils/flashinfer.py).
_COMPILED_WITH_NVCC = ("VLLM_USE_FLASHINFER_SAMPLER", "VLLM_ALLREDUCE_USE_FLASHINFER", "VLLM_USE_DEEP_GEMM")
_START_FAULTS = (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError, AssertionError)
_ERROR_LINE = re.compile(r"(?:^|\s)((?:\w+\.)*\w+(?:Error|Exception): .+)$")
_SECONDARY_ERROR = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|root cause")


def engine_args(annotator: AnnotatorRecipe, location: str) -> dict[str, Any]:
    """Arguments of ``vllm.EngineArgs`` for a recipe whose model is at ``location``.

    ``annotator.engine_args`` may hold what never changes an answer, ``annotator.model_args`` the rest;
    ``InputError`` for an unknown name, or one in the wrong section of the two.
    """
    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for section, values in (("engine_args", annotator.engine_args), ("model_args", annotator.model_args)):
        for name in values:
            _check(section, name, known)
    tensor_parallel_size = annotator.tensor_parallel_size
    if annotator.gpus_per_replica not in (0, tensor_parallel_size):
        raise InputError(
            f"annotator.gpus_per_replica: {annotator.gpus_per_replica}, but the model is spread over "
            f"tensor_parallel_size {tensor_parallel_size}; make them equal"
        )
    on_cpu: dict[str, Any] = {}
    if not annotator.gpus_per_replica:
        on_cpu = {"kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        if annotator.mode == "generate" and TokenSampling.of(annotator.decoding).temperature > 0:
            # After a piece of a prompt vLLM 0.32 turns a seeded draw's generator back, and dies: a CPU's cannot.
            on_cpu["enable_chunked_prefill"] = False
    return {
        **_DEFAULTS,
        **on_cpu,
        **annotator.engine_args,
        **annotator.model_args,
        "hf_overrides": config_overrides(annotator, location),
        "model": location,
        "dtype": annotator.dtype,
        "trust_remote_code": annotator.trust_remote_code,
        "max_model_len": annotator.max_model_len,
        "seed": TokenSampling.of(annotator.decoding).seed,
        "tensor_parallel_size": tensor_parallel_size,
        # Inside a Ray actor vLLM would ask Ray for more workers: the replica's actor holds its GPUs.
        "distributed_executor_backend": "mp" if tensor_parallel_size > 1 else "uni",
        "logprobs_mode": "raw_logprobs",  # before temperature and penalties
    }


def _check(section: str, name: str, known: set[str]) -> None:
    where = f"annotator.{section}.{name}"
    if name in _RECIPE_FIELDS:
        raise InputError(f"{where}: is said by annotator.{_RECIPE_FIELDS[name]}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise InputError(
            f"{where}: vLLM has no such engine argument" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if section == "engine_args" and name not in _PERFORMANCE_ARGS:
        raise InputError(f"{where}: can change the responses; write it under annotator.model_args")
    if section == "model_args" and name in _PERFORMANCE_ARGS:
        raise InputError(f"{where}: cannot change a response; write it under annotator.engine_args")


def compile_nothing_without_nvcc() -> None:
    """Let vLLM do without what it would compile, where CUDA's compiler is not installed."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if shutil.which("nvcc") is None and not os.path.exists(f"{home}/bin/nvcc"):
        for variable in _COMPILED_WITH_NVCC:
            os.environ.setdefault(variable, "0")


def start_engine(annotator: AnnotatorRecipe, args: dict[str, Any], log: Path) -> LLMEngine:
    """A running engine; ``InputError`` with the cause in one line if it does not start, ``PassingFault`` of a device.

    What the engine's own process prints, now and later, goes to the file ``log``: its first failure is
    reported there alone.
    """
    compile_nothing_without_nvcc()
    try:
        with _output_to(log):
            # By context vLLM chooses how many tokens and sequences a batch holds where the recipe does not say: that
            # of LLMEngine itself has no entry in its table (EngineArgs.get_batch_defaults) and gets 2,048 and 128.
            engine = LLMEngine.from_engine_args(EngineArgs(**args), usage_context=UsageContext.LLM_CLASS)
    except _START_FAULTS as error:
        printed = last_error(log)  # by the engine's own process, whose exception is known by this line alone
        kind = PassingFault if is_passing(error) or (printed and is_passing_line(printed)) else InputError
        reason = printed or loading_fault(error, "annotator")
        raise kind(f"annotator.model: vLLM cannot start {annotator.model}: {reason} (all of it: {log})") from error
    _raise_on_death(engine)
    return engine


def _raise_on_death(engine: LLMEngine) -> None:
    """Make ``step`` raise ``EngineDeadError`` when the engine's process dies: vLLM 0.32 leaves it waiting for ever."""
    engine.get_supported_tasks()  # asked once and remembered: another question without an answer after a death
    client: Any = engine.engine_core
    sentinels = client.resources.engine_manager.sentinels()
    outputs = client.outputs_queue

    def wait() -> None:
        multiprocessing.connection.wait(sentinels)
        outputs.put_nowait(EngineDeadError())

    threading.Thread(target=wait, name="vllm-death", daemon=True).start()


def new_log() -> Path:
    """A file for what an engine's processes print."""
    descriptor, name = tempfile.mkstemp(prefix="llambert-vllm-", suffix=".log")
    os.close(descriptor)
    return Path(name)


def last_error(log: Path) -> str | None:
    """The last error in the log that is not just the report of another one."""
    found = None
    for line in log.read_text(errors="replace").splitlines():
        match = _ERROR_LINE.search(line.rstrip())
        if match and not _SECONDARY_ERROR.search(line):
            found = match[1]
    return found


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Standard output and error of this process and of those it starts go to ``log``, to its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)
        os.close(file)


def _require_plausible_size(location: str) -> None:
    """``UnfitModel`` if config.json describes a larger model than its weights, for which vLLM would take the memory.

    A family that transformers cannot build without code of the folder's own is left to vLLM.
    """
    values, _ = PreTrainedConfig.get_config_dict(location)
    if values.get("model_type") not in CONFIG_MAPPING:
        return
    config = AutoConfig.from_pretrained(location)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    values_per_byte = _QUANTIZED_VALUES_PER_BYTE if getattr(config, "quantization_config", None) else 1
    build_without_memory(
        lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32), location, values_per_byte
    )


def model_location(annotator: AnnotatorRecipe) -> str:
    """Where vLLM finds the recipe's model; a ``.gguf`` file is turned into safetensors once.

    vLLM 0.32 reads no GGUF. The dequantized model and its tokenizer are kept below ``LLAMBERT_CACHE``
    (default ``~/.cache/llambert``) under the file's content identity, whole before they get their name. vLLM looks
    for a folder's weights by a pattern, so its path must not hold wildcards.
    """
    location = local_copy(annotator.model, annotator.revision)
    if not location.endswith(".gguf"):
        with loading(f"annotator.model: {annotator.model}", "annotator"):
            check_model_folder(location, quantized=True)
            _require_plausible_size(location)
        return path_without_wildcards(location)
    cache = cache_folder()
    target = cache / f"{content_identity(annotator.model)}-{annotator.dtype}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=cache) as partial:
            for saved in load_model(annotator.model_copy(update={"gpus_per_replica": 0}), reordered=False):
                saved.save_pretrained(f"{partial}/model")
            try:
                os.rename(f"{partial}/model", target)
            except OSError:
                assert target.exists(), f"{partial}/model could not be renamed to {target}"
    return str(target)
