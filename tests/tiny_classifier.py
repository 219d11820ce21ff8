"""A real, tiny BERT classifier made on the spot: two layers, random weights, a word list of its own."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

WORDS = ["the", "a", "film", "is", "not", "good", "bad", "dull", "moving", "never", "comes", "alive", "great", "plot"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'")
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys([*WORDS, *LETTERS]),
    *(f"##{letter}" for letter in LETTERS if letter.isalnum()),
]
MAX_LENGTH = 64


def save_tiny_classifier(folder: Path, categories: tuple[str, ...] = ("positive", "negative"), seed: int = 0) -> Path:
    """Write a checkpoint folder: 64 tokens at most, probabilities well spread over the categories."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_LENGTH).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.4,
        id2label=dict(enumerate(categories)),
        label2id={category: i for i, category in enumerate(categories)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def tiny_texts(num: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 40 words of the word list."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 41, (num,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=generator).tolist())
        for length in lengths
    ]
