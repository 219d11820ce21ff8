"""A model's folder from anyone: what is refused before a library opens it. Only its own JSON files are read."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llambert.errors import UnfitModel, one_line
from llambert.printable import shortened
from llambert.storage.gguf_file import read_gguf_header
from llambert.untrusted import parse_json

_MAX_CONFIG_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 256 << 20  # the largest known, of 262,144 tokens, has 33 MB
_LARGEST_SIZE = 2**31  # of any integer in a config.json
_LARGEST_COUNT = 100_000  # of layers or labels, for each of which reading the configuration makes an object
_COUNTED = re.compile(r"layers?$|labels$|blocks$|(block|expert|head)_count$|block_sizes$|block_repeats$")
_POSITIVE = re.compile(r"^(num|n)_(hidden_|attention_)?(layers?|heads?)$|^(hidden|vocab|intermediate)_size$")
_DTYPES = (None, "auto", "float64", "float32", "float16", "bfloat16")
_BUILT_IN_ATTENTION = (None, "eager", "sdpa", "flex_attention")
_FILES = frozenset(
    f"{name}.json"
    for name in (
        *("config", "generation_config", "tokenizer", "tokenizer_config"),
        *("special_tokens_map", "added_tokens", "vocab", "chat_template"),
    )
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def check_model_folder(location: str, pickled: bool = False, quantized: bool = False) -> None:
    """``UnfitModel`` for a folder that asks for more than reading its own weights, tokenizer and configuration.

    Refused are files named outside the folder, pickled weights unless ``pickled``, adapters, weights that are quantized
    unless ``quantized``, kernels from the hub, and sizes that no model has. Of a GGUF file the header is checked.
    """
    folder = Path(location)
    is_gguf = folder.is_file() and folder.suffix == ".gguf"
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.exists() and not file.is_file() and not file.is_dir():  # what opens it would wait, or read without end
            raise UnfitModel(f"its {file.name} is a pipe, a socket or a device")
    # Beside a file too: transformers would load the base model that the adapter names.
    if ((folder.parent if is_gguf else folder) / "adapter_config.json").exists():
        raise UnfitModel("it holds an adapter (adapter_config.json), not a whole model: merge it into its base model")
    if is_gguf:
        numbers = read_gguf_header(folder)
        check_config_values({name: value for name, value in numbers.items() if not name.startswith("general.")})
    for file in sorted(folder.glob("*.json")):
        if file.name not in _FILES and not file.name.endswith(".index.json"):
            continue
        values = _read_json(file)
        if file.name.endswith(".index.json"):
            _check_index(file, values, pickled)
        elif file.name == "config.json":
            _check_config(values, quantized)
            named = values.get("transformers_weights")
            if named is not None and not (isinstance(named, str) and _is_plain(named, ".safetensors")):
                raise UnfitModel(
                    f"its config.json names the weights {_shown(named)}, no safetensors file of the folder"
                )
        elif file.name == "tokenizer.json":
            _check_tokenizer(values)
        elif file.name == "tokenizer_config.json":
            for named in values.get("fast_tokenizer_files") or ():
                if not (isinstance(named, str) and _is_plain(named, ".json")):
                    raise UnfitModel(f"its tokenizer_config.json names {_shown(named)}, no file of the folder")
    if not quantized:
        _refuse_reduced_weights(folder)


def num_weight_bytes(location: str) -> int:
    """Size of the weights of a model's folder or file."""
    path = Path(location)
    files = {file for pattern in _WEIGHTS for file in path.glob(pattern)} if path.is_dir() else {path}
    return sum(file.stat().st_size for file in files)


def check_config_values(values: Any) -> None:
    """``UnfitModel`` for sizes in a configuration that no model has, whose mere reading could take all memory."""
    for key, value in _items(values):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float) or "length" in key:
                continue
            limit = _LARGEST_COUNT if _COUNTED.search(key) else _LARGEST_SIZE if isinstance(number, int) else None
            if (limit is not None and abs(number) > limit) or (number <= 0 and _POSITIVE.search(key)):
                raise UnfitModel(f"its configuration says {shortened(key)}: {_shown(number)}, which no model has")


def _items(values: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a configuration and the configurations inside it."""
    remaining = [values]
    while remaining:
        found = remaining.pop()
        if isinstance(found, dict):
            yield from found.items()
            remaining += found.values()
        elif isinstance(found, list):
            remaining += found


def _read_json(file: Path) -> dict[str, Any]:
    limit = _MAX_CONFIG_BYTES if file.name.endswith("config.json") else _MAX_TOKENIZER_BYTES
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it is larger than {limit >> 20} MiB")
        values = parse_json(content)
        if not isinstance(values, dict):
            raise ValueError("it holds no mapping of names to values")
    except (OSError, ValueError) as error:
        raise UnfitModel(f"its {file.name} cannot be read: {one_line(error)}") from error
    return values


def _check_index(file: Path, values: dict[str, Any], pickled: bool) -> None:
    """``UnfitModel`` unless an index of weights names files of its folder alone, of the kind it is an index of."""
    is_pickled = pickled and not file.name.endswith(".safetensors.index.json")
    if not is_pickled and not file.name.endswith(".safetensors.index.json"):
        return  # of weights that are not read
    weights = values.get("weight_map")
    if not isinstance(weights, dict) or not weights or not isinstance(values.get("metadata", {}), dict):
        raise UnfitModel(f"its {file.name} is no index of weights: weight_map must name a file for each")
    ending = ".bin" if is_pickled else ".safetensors"
    present = set(os.listdir(file.parent))  # the largest models have a hundred thousand weights in a few hundred files
    for weight, name in weights.items():
        if not isinstance(name, str) or not _is_plain(name, ending):
            reason = f"only *{ending} files of the folder itself are read"
            raise UnfitModel(f"its {file.name} names {_shown(name)} for {shortened(weight)}: {reason}")
        if name not in present:
            raise UnfitModel(f"its {file.name} names {_shown(name)}, which is not in the folder: copy all of the model")


def _check_config(values: dict[str, Any], quantized: bool) -> None:
    check_config_values(values)
    for key, value in _items(values):
        if key in ("quantization_config", "compression_config") and value and not quantized:
            method = value.get("quant_method") if isinstance(value, dict) else None
            with_method = f" ({shortened(str(method))})" if method else ""
            raise UnfitModel(f"it is quantized{with_method}, which only engine vllm runs: name the unquantized model")
        if key.strip("_").removesuffix("_internal").endswith(("attn_implementation", "experts_implementation")):
            allowed = (*_BUILT_IN_ATTENTION, "batched_mm", "grouped_mm") if "experts" in key else _BUILT_IN_ATTENTION
            for name in value.values() if isinstance(value, dict) else [value]:
                if name not in allowed:
                    raise UnfitModel(f"its config.json asks for {key} {_shown(name)}, code from elsewhere: delete it")
        if key in ("use_kernels", "kernel_config", "fusion_config") and value:
            raise UnfitModel(f"its config.json asks for kernels ({key}), code from elsewhere: delete it")
        is_dtype = key in ("dtype", "torch_dtype") and not quantized and not isinstance(value, dict)
        if is_dtype and str(value).removeprefix("torch.") not in map(str, _DTYPES):
            reason = "weights are read in float32, bfloat16, float16 or float64"
            raise UnfitModel(f"its config.json says {key}: {_shown(value)}; {reason}")


def _check_tokenizer(values: dict[str, Any]) -> None:
    """``UnfitModel`` for a tokenizer that pads each text to more tokens than any model reads."""
    strategy = (values.get("padding") or {}).get("strategy") if isinstance(values.get("padding"), dict) else None
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else None
    if isinstance(fixed, int) and fixed > _LARGEST_COUNT * 10:
        raise UnfitModel(f"its tokenizer.json pads each text to {_shown(fixed)} tokens")


def _refuse_reduced_weights(folder: Path) -> None:
    """``UnfitModel`` for weights stored in eight bits or fewer, whose scales nothing here would apply."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as weights:
                for name in weights.keys():  # noqa: SIM118  # no mapping
                    if (dtype := weights.get_slice(name).get_dtype()).startswith(("F8", "F6", "F4")):
                        raise UnfitModel(
                            f"its weights {shortened(name)} are stored in {dtype}: name the unquantized model"
                        )
        except (SafetensorError, OSError) as error:
            raise UnfitModel(f"its {file.name} cannot be read: {one_line(error)}") from error


def _is_plain(name: str, ending: str) -> bool:
    """Whether a name is that of a file in the folder itself."""
    return name.endswith(ending) and not re.search(r"[/\\\0]|^\.", name)


def _shown(value: Any) -> str:
    return shortened(repr(value))
