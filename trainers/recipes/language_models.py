"""Recipes of tasks lm and mlm: running text."""

from __future__ import annotations

import dataclasses

from trainers.config import FineTuneConfig, OptimizerConfig, TrainConfig, muon
from trainers.data.config import DataConfig
from zoo.text.config import TextConfig

_SHAKESPEARE_PROMPTS = ("", "ROMEO:", "To be, or not to be")

# What it is and what it reached, then the run.
LANGUAGE_MODELS = (
    (
        """Character GPT, 0.80 M parameters, nanoGPT's CPU budget of 1.5 M tokens.

        2 minutes. Validation loss 1.529 on the whole last tenth; with seeds 1 and 2 1.525 and
        1.533 (nanoGPT at this budget: 1.886).
        """,
        TrainConfig(
            recipe="shakespeare_gpt_cpu",
            preset="gpt_char_cpu",
            data=DataConfig(train="tinyshakespeare", start_text="\n"),
            optimizer=muon(6e-3),
            batch_size=12,
            steps=2000,
            evaluate_every=250,
            sample_prompts=_SHAKESPEARE_PROMPTS,
        ),
    ),
    (
        """Character LSTM, 0.82 M parameters, the same budget, state carried between windows.

        1.5 minutes. Validation loss 1.491 (torch's nn.LSTM of this size with AdamW: 1.552).
        """,
        TrainConfig(
            recipe="shakespeare_lstm_cpu",
            preset="lstm_char_cpu",
            data=DataConfig(
                train="tinyshakespeare", start_text="\n", order="segments", segment_windows=4
            ),
            # A third iteration gives 0.017 and takes a fifth more time, see BUILD_NOTES.md.
            optimizer=muon(1e-2, newton_schulz_steps=2),
            batch_size=12,
            steps=2000,
            evaluate_every=250,
            sample_prompts=_SHAKESPEARE_PROMPTS,
        ),
    ),
    (
        """Character GPT, 10.6 M parameters, nanoGPT's one-GPU shape: for a GPU.

        Not measured yet: no GPU was at hand. nanoGPT's own run reaches 1.470 on an A100 in 3
        minutes.
        """,
        TrainConfig(
            recipe="shakespeare_gpt",
            preset="gpt_char",
            data=DataConfig(train="tinyshakespeare", start_text="\n"),
            optimizer=OptimizerConfig(
                name="adamw", learning_rate=1e-3, warmup_steps=100, final_fraction=0.1
            ),
            batch_size=64,
            steps=5000,
            evaluate_every=250,
            precision="mixed_bfloat16",
            sample_prompts=_SHAKESPEARE_PROMPTS,
            sample_tokens=500,
        ),
    ),
    (
        """GPT-2 (124 M parameters) goes on with Shakespeare: for a GPU, or patience.

        Reads the weights from the hub; `--set=finetune.init_from=FOLDER` takes downloaded ones.
        Not measured: neither GPU nor hub were at hand.
        """,
        TrainConfig(
            recipe="shakespeare_gpt2",
            preset="gpt2_small",
            model={"context_length": 256},
            data=DataConfig(train="tinyshakespeare"),
            finetune=FineTuneConfig(init_from="hf://openai-community/gpt2"),
            optimizer=OptimizerConfig(learning_rate=3e-5, schedule="cosine", warmup_steps=20),
            batch_size=8,
            steps=400,
            evaluate_every=100,
            sample_prompts=_SHAKESPEARE_PROMPTS,
        ),
    ),
    (
        """The quickstart: a small GPT on this machine's own Python standard library; no download.

        1 minute. Validation loss 1.190 a byte (1.72 bits a character) on Python 3.11's library.
        """,
        TrainConfig(
            recipe="python_gpt_quick",
            preset="gpt_quick",
            data=DataConfig(train="python_stdlib", max_bytes=4_000_000, tokenizer="byte"),
            optimizer=muon(1e-2, warmup_steps=50),
            batch_size=12,
            steps=1000,
            evaluate_every=250,
            sample_prompts=("import ", "def __init__(self", "    for "),
        ),
    ),
    (
        """Character GPT on classical Chinese poems, rare characters unknown.

        2.5 minutes. Validation loss 4.376 a character (6.39 bits); there is no published figure.
        """,
        TrainConfig(
            recipe="chinese_poetry_gpt",
            preset="gpt_char_cpu",
            model={"token_shift": 0},  # as measured; what token shift gives here was not
            data=DataConfig(train="chinese_poetry", min_count=2),
            optimizer=muon(6e-3),
            batch_size=12,
            steps=2000,
            evaluate_every=500,
            sample_prompts=("", "\u6625\u6653", "\u6c34\u8c03\u6b4c\u5934\n\u82cf\u8f7c\n"),
            sample_tokens=80,
        ),
    ),
    (
        """BERT pre-training by masked words on 2.4 MB of WikiText-2, a tenth of it held out.

        13 CPU-minutes. Validation loss 4.31 a masked word piece (perplexity 74); there is no
        published figure for this cut. `--set=data.train=csl/train` reads the texts of a labelled
        set instead, so that a model gets used to them before it sees labels.
        """,
        TrainConfig(
            recipe="wikitext_bert_mlm",
            task="mlm",
            preset="bert_small_cpu",
            data=DataConfig(train="wikitext2", tokenizer="wordpiece", max_vocabulary_size=8000),
            text=TextConfig(max_length=128),
            # The token embeddings go by AdamW, which needs smaller steps than the matrices.
            optimizer=dataclasses.replace(muon(6e-3), adam_lr_ratio=0.3),
            batch_size=16,
            steps=2000,
            evaluate_every=250,
            sample_prompts=("The [MASK] was released in the United States .",),
        ),
    ),
)
