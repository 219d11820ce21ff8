"""A head in float32 for what is scored in 16 bits, which vLLM computes if the model's configuration says so."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llambert.errors import InputError
from llambert.recipe import AnnotatorRecipe

_KEY = "head_dtype"
# The weights of a head, or of embeddings that may be the head as well, in any but their plain form.
_QUANTIZED_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_tokens)\.(?!weight$|bias$)[^.]+$")


def config_overrides(annotator: AnnotatorRecipe, location: str) -> dict[str, Any]:
    """vLLM's ``hf_overrides`` for a recipe whose model is at ``location``: the recipe's own, and a head in float32.

    vLLM 0.32 reads ``head_dtype`` of the configuration, and for the language model inside a multimodal one that of
    the inner configuration (``VllmConfig.with_hf_config``). It refuses a quantized head when it first computes one:
    ``InputError`` here, before it loads the model. The recipe's own ``head_dtype`` is left as it is.
    """
    own = annotator.model_args.get("hf_overrides", {})
    if not isinstance(own, dict):
        raise InputError("annotator.model_args.hf_overrides: should be a mapping of configuration names to values")
    if not annotator.scores_in_half_precision or _KEY in own:
        return own
    if weight := _quantized_head(Path(location)):
        raise InputError(
            f"annotator.model: the head of {annotator.model} is quantized ({weight}), and mode {annotator.mode!r} "
            "computes it in float32: name a model whose head is not, or accept ties, which parse rejects, with "
            "annotator.model_args.hf_overrides: {head_dtype: model}"
        )
    overrides = {**own, _KEY: "float32"}
    if inner := _inner_config(location):
        overrides[inner] = {_KEY: "float32", **own.get(inner, {})}
    return overrides


def _quantized_head(folder: Path) -> str | None:
    """The name of a weight by which a model's folder has a quantized head; None where it has none."""
    for index in folder.glob("*.safetensors.index.json"):
        names = json.loads(index.read_text())["weight_map"]
        return next(filter(_QUANTIZED_HEAD.search, names), None)
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            if found := next(filter(_QUANTIZED_HEAD.search, weights.keys()), None):
                return found
    return None


def _inner_config(location: str) -> str | None:
    """The name of the language model's configuration inside that of a multimodal model; None of any other model."""
    values, _ = PreTrainedConfig.get_config_dict(location)
    if values.get("model_type") not in CONFIG_MAPPING:
        return None  # code of the folder's own, or a family that vLLM alone knows
    config = AutoConfig.from_pretrained(location)
    text = config.get_text_config()
    return next((name for name, value in vars(config).items() if value is text), None)
