"""Models with random weights, a tokenizer of whole words, and texts whose number of tokens is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

MAX_LENGTH = 512
CATEGORIES = ["positive", "negative"]
NUM_CUES = 8
CUES = {category: [f"{category}{number}" for number in range(NUM_CUES)] for category in CATEGORIES}
FILLERS = [f"w{number}" for number in range(1_000)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
VOCABULARY = [*SPECIAL, *FILLERS, *CUES["positive"], *CUES["negative"], "0", "1", "Text", "Answer", ":"]
NUM_SPECIAL_TOKENS = 2  # of each text: <s> and </s>


@dataclass(frozen=True)
class Sizes:
    """How large everything is. Of models: layers, hidden size, heads, size between; None: the shape of the section."""

    trained_encoder: tuple[int, int, int, int]
    large_encoder: tuple[int, int, int, int] | None
    llm: tuple[int, int, int, int]
    num_train: int
    learning_rate: float
    num_compared: int
    num_prompts: int
    num_texts: int
    """Of IMDb's lengths that are labelled for speed. Of 27 tokens: twice as many; in float32: an eighth of both."""
    num_steps: int
    batch_size: int
    max_length: int
    product: int


FULL = Sizes(
    trained_encoder=(4, 256, 4, 1024),
    large_encoder=None,
    llm=(30, 576, 9, 1536),
    num_train=8_000,
    learning_rate=5e-4,
    num_compared=4_000,
    num_prompts=512,
    num_texts=4_096,
    num_steps=40,
    batch_size=32,
    max_length=MAX_LENGTH,
    product=8_192,
)
QUICK = Sizes(
    trained_encoder=(1, 64, 2, 128),
    large_encoder=(1, 32, 2, 64),
    llm=(2, 48, 3, 96),
    num_train=1_200,
    learning_rate=4e-3,
    num_compared=200,
    num_prompts=48,
    num_texts=64,
    num_steps=6,
    batch_size=4,
    max_length=64,
    product=256,
)


def word_tokenizer(template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    """A token a word, special ones as in ``template``; as in RoBERTa's vocabulary the padding token is 1."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    # <unk> is no special token here: the engine refuses texts that read as one, and probes with words of any kind.
    names = dict(zip(("bos_token", "pad_token", "eos_token"), SPECIAL, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **names)


def shape(layers: int, hidden: int, heads: int, between: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": between,
    }


def encoder_config(family: str, size: tuple[int, int, int, int] | None) -> PreTrainedConfig:
    """Of ``roberta`` or ``modernbert``; None: the shape of roberta-large or ModernBERT-base, its vocabulary too."""
    names = {"id2label": dict(enumerate(CATEGORIES)), "label2id": {name: i for i, name in enumerate(CATEGORIES)}}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    vocabulary = {} if size is None else {"vocab_size": len(VOCABULARY)}
    if family == "modernbert":
        return ModernBertConfig(
            **ids, **names, **vocabulary, cls_token_id=0, sep_token_id=2, **(shape(*size) if size else {})
        )
    return RobertaConfig(
        **ids,
        **names,
        **({"vocab_size": 50_265} | vocabulary),
        **shape(*(size or (24, 1024, 16, 4096))),
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )


def build_encoder(family: str, size: tuple[int, int, int, int] | None, device: torch.device) -> PreTrainedModel:
    """A classifier with random weights, made on the device: on a CPU 355 million take a while."""
    torch.manual_seed(0)
    kinds = {"roberta": RobertaForSequenceClassification, "modernbert": ModernBertForSequenceClassification}
    with device:
        model: PreTrainedModel = kinds[family](encoder_config(family, size))
    return model


def save_encoder(folder: Path, family: str, size: tuple[int, int, int, int] | None, device: torch.device) -> str:
    """A checkpoint that ``Classifier`` loads."""
    build_encoder(family, size, device).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def imdb_lengths(num: int, longest: int = MAX_LENGTH) -> np.ndarray:
    """Numbers of tokens like those of IMDb's reviews: log-normal, 230 in the median, cut at ``longest``."""
    drawn = np.random.default_rng(0).lognormal(np.log(230), 0.65, num).astype(int)
    return np.clip(drawn * longest // MAX_LENGTH, NUM_SPECIAL_TOKENS + 1, longest)


def texts_of_lengths(lengths: np.ndarray) -> list[str]:
    """A text of random words for each number of tokens, special ones included."""
    random = np.random.default_rng(1)
    words = np.array(FILLERS)
    return [" ".join(words[random.integers(len(words), size=length - NUM_SPECIAL_TOKENS)]) for length in lengths]


def labelled_texts(num: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of 10 to 34 words with 1, 3 or 5 cue words; the label is that of most of them, so margins differ."""
    random = np.random.default_rng(seed)
    texts, labels = [], np.zeros(num, dtype=np.int64)
    for row in range(num):
        num_cues = 2 * int(random.integers(3)) + 1
        of_negative = random.random(num_cues) < 0.5
        labels[row] = int(of_negative.sum() * 2 > num_cues)
        cues = [CUES[CATEGORIES[int(is_negative)]][random.integers(NUM_CUES)] for is_negative in of_negative]
        words = [*cues, *(FILLERS[i] for i in random.integers(len(FILLERS), size=int(random.integers(9, 30))))]
        random.shuffle(words)
        texts.append(" ".join(words))
    return texts, labels


def save_doubtful_llm(folder: Path, size: tuple[int, int, int, int], prompts: list[str], std: float) -> None:
    """A Llama that answers 0 or 1 and doubts: both logits are about 20, their difference has mean 0 and ``std``.

    The first channel of its states is a constant that no layer changes, and gives the answers their large logits, of
    which bfloat16 knows steps of 0.125. A direction of the other channels, scaled by the states that ``prompts`` end
    in, makes the difference.
    """
    layers, hidden, heads, between = size
    config = LlamaConfig(
        vocab_size=len(VOCABULARY) if hidden < 100 else 49_152,
        **shape(layers, hidden, heads, between),
        num_key_value_heads=max(1, heads // 3),
        max_position_embeddings=2_048,
        initializer_range=0.04,
        tie_word_embeddings=False,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    tokenizer = word_tokenizer("<s> $A")
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    zero, one = (VOCABULARY.index(answer) for answer in "01")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        ids = [torch.tensor([tokenizer(prompt)["input_ids"]]) for prompt in prompts]
        states = torch.stack([model.model(row).last_hidden_state[0, -1] for row in ids])
        rest, mean = states[:, 1:], states[:, 1:].mean(dim=0)
        direction = torch.randn(hidden - 1)
        direction -= mean * (direction @ mean) / (mean @ mean)
        direction *= std / (rest @ direction).std()
        constant = states[:, 0].mean()
        head = model.lm_head.weight
        head[:, 0] = -20.0 / constant
        head[[zero, one], 0] = 20.0 / constant
        head[one, 1:] = head[zero, 1:] + direction
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
