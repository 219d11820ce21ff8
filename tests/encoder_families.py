"""Tiny encoders of many families, with random weights: what people name as ``classifier.model``."""

from pathlib import Path
from typing import Any

import torch
from tiny_encoder import WORDS
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
"""With the ids 0 to 3, as RoBERTa has them."""

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2}
_LLAMA = {**_SHAPE, "num_key_value_heads": 1, "head_dim": 16}
_BART = {
    **{f"{side}_{name}": num for side in ("encoder", "decoder") for name, num in (("layers", 1), ("ffn_dim", 64))},
    "d_model": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_start_token_id": 2,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "bert": _SHAPE,
    "roberta": {**_SHAPE, "max_position_embeddings": 66},
    "xlm-roberta": {**_SHAPE, "max_position_embeddings": 66},
    "camembert": {**_SHAPE, "max_position_embeddings": 66},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {**_SHAPE, "embedding_size": 24},
    "albert": {**_SHAPE, "embedding_size": 24},
    "mpnet": {**_SHAPE, "max_position_embeddings": 66},
    "deberta": {**_SHAPE, "pos_att_type": ["p2c", "c2p"], "relative_attention": True},
    "deberta-v2": {
        **_SHAPE,
        "pos_att_type": ["p2c", "c2p"],
        "relative_attention": True,
        "position_biased_input": False,
    },
    "deberta-v3": {
        **_SHAPE,
        "pos_att_type": ["p2c", "c2p"],
        "relative_attention": True,
        "position_biased_input": False,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "modernbert": {**_SHAPE, "local_attention": 8, "global_attn_every_n_layers": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "big_bird": {**_SHAPE, "block_size": 4, "num_random_blocks": 1},
    "longformer": {**_SHAPE, "max_position_embeddings": 66, "attention_window": 8},
    "fnet": {key: num for key, num in _SHAPE.items() if key != "num_attention_heads"},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _BART,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "llama": _LLAMA,
    "qwen3": _LLAMA,
}
"""Family -> what makes its default configuration tiny."""

WITHOUT_PADDING = ("gpt2", "llama")
"""Families saved here, as they are published, without a padding token; Qwen's has one, in its tokenizer alone."""


def save_tokenizer(folder: Path, family: str) -> None:
    """A tokenizer of whole words with the family's frame around a text."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frame = {"gpt2": "$A", "llama": "<s> $A", "qwen3": "$A", "xlnet": "$A </s> <s>:2"}.get(family, "<s> $A </s>")
    frame = "$A </s>" if family.endswith("t5") else frame
    if frame != "$A":
        tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<s>", 0), ("</s>", 2)])
    named = {"eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    if family not in WITHOUT_PADDING:
        named["pad_token"] = "<pad>"
    if family == "xlnet":
        named |= {"padding_side": "left", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def configuration(family: str, **fields: Any) -> Any:
    """A tiny configuration whose special tokens are those of ``save_tokenizer``."""
    ids = {"bos_token_id": 0, "pad_token_id": None if family in (*WITHOUT_PADDING, "qwen3") else 1, "eos_token_id": 2}
    name = "deberta-v2" if family == "deberta-v3" else family
    return AutoConfig.for_model(name, vocab_size=24, **ids, **CONFIGURATIONS[family], **fields)


def save_family(folder: Path, family: str) -> str:
    """Write an encoder that was not fine-tuned; returns the folder as a reference."""
    save_tokenizer(folder, family)
    torch.manual_seed(0)
    AutoModel.from_config(configuration(family)).save_pretrained(folder)
    return str(folder)


def save_family_classifier(folder: Path, family: str, categories: tuple[str, ...]) -> str:
    """Write a checkpoint as somebody else may have made it, whose labels are well spread over the categories."""
    save_tokenizer(folder, family)
    torch.manual_seed(1)
    names: dict[str, Any] = {"id2label": dict(enumerate(categories))}
    names |= {"label2id": {name: n for n, name in enumerate(categories)}}
    names |= {"decoder_start_token_id": 1} if family == "t5" else {}  # the encoder's own configuration names none
    model = AutoModelForSequenceClassification.from_config(configuration(family, **names))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return str(folder)
