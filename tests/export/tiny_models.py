"""Tiny models of every task, family and tokenizer, as bundles to export."""

from pathlib import Path

import keras

import zoo
from zoo.models.build import build
from zoo.text.config import CleaningConfig, TextConfig
from zoo.tokenizers import BytePairTokenizer, SentencePieceTokenizer, WordPieceTokenizer

PIECES = Path(__file__).parents[1] / "zoo" / "fixtures" / "sentencepiece" / "unigram.model"
TEXT = "To be, or not to be: that is the question."
NAMES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
ROLES = {**NAMES, "unknown": "<unk>"}
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "wrote", "in", "zurich", "cafe", "##s"),
    *("the", "a", "##n", "not", ".", "!", "<", ">", "\u6625", "\u7720"),
]
CLEANING = CleaningConfig(
    html=True, control_characters=True, unicode="nfkc", lowercase=True, urls="mask",
    emails="remove", stop_words=("the",), whitespace=True,
)  # fmt: skip
HEADS = {  # task -> options of the head, labels
    "mlm": ({}, ()),
    "classify": ({"num_classes": 2}, ("bad", "g\u00fct")),
    "pair": ({"num_classes": 3}, ("no", "may be", "yes")),
    "tag": ({"num_tags": 3}, ("O", "B-PER", "I-PER")),
    "span": ({}, ()),
    "embed": ({"pooling": "mean"}, ()),
    "regress": ({}, ()),
}


def make_tokenizer(kind, task):
    if kind == "characters":
        return zoo.CharacterTokenizer.train([TEXT])
    if kind == "bytes":
        return zoo.ByteTokenizer()
    if kind == "wordpiece":
        return WordPieceTokenizer(WORDS)
    if kind == "sentencepiece":
        found = {} if task == "lm" else {"roles": NAMES, "parse_special": True}
        return SentencePieceTokenizer.from_file(PIECES, **found)
    if task == "lm":
        return BytePairTokenizer.train([TEXT], 270)
    return BytePairTokenizer.train(
        [TEXT], 270, special_tokens=[*ROLES.values()], roles=ROLES, parse_special=True,
        pair_separators=2, end="</s>",
    )  # fmt: skip


def make_bundle(folder, task, family, kind, cleaned=False):
    """Of one layer, with weights large enough that its answers differ from text to text."""
    keras.utils.set_random_seed(1)
    tokenizer = make_tokenizer(kind, task)
    shape = {"context_length": 16, "num_layers": 1, "hidden_dim": 8, "initializer_range": 0.5}
    shape["vocabulary_size"] = tokenizer.vocabulary_size
    if family == "lstm":
        config = zoo.LSTMConfig(**shape)
    else:
        config = {"gpt": zoo.GPTConfig, "bert": zoo.BertConfig}[family](**shape, num_heads=2)
    head, labels = HEADS.get(task, ({}, ()))
    model = zoo.build(config) if task == "lm" else build(config, task, head)
    text = TextConfig(max_length=16, cleaning=CLEANING) if cleaned else None
    start = 0 if task == "lm" and kind == "wordpiece" else None
    return zoo.save(folder, model, tokenizer, start, labels=labels, text=text)
