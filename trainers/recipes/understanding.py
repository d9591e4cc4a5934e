"""Recipes of encoders: pre-training, classification, tagging, question answering.

All train from nothing on two CPU cores. `--set=finetune.init_from=runs/wikitext` starts the BERT
ones from the weights (and the vocabulary) of `wikitext_bert_mlm`.
"""

from __future__ import annotations

import dataclasses

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.optim.config import OptimizerConfig, muon
from zoo.text.config import TextConfig


def _adamw(learning_rate: float, **changes) -> OptimizerConfig:
    settings = {"schedule": "linear", "warmup_steps": 100, "final_fraction": 0.0, "beta_2": 0.98}
    return OptimizerConfig(name="adamw", learning_rate=learning_rate, **(settings | changes))


def wikitext_bert_mlm() -> TrainConfig:
    """BERT pre-training by masked words on 2.4 MB of WikiText-2, a tenth of it held out.

    python -m trainers --recipe=wikitext_bert_mlm --workdir=runs/wikitext --data_dir=DATA

    13 CPU-minutes. Validation loss 4.31 a masked word piece (perplexity 74); there is no published
    figure for this cut. `--set=data.train=csl/train` reads the texts of
    a labelled set instead, so that a model gets used to them before it sees labels.
    """
    return TrainConfig(
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
    )


def banking77_bert() -> TrainConfig:
    """Which of 77 things a bank's customer asks about.

    python -m trainers --recipe=banking77_bert --workdir=runs/banking77 --data_dir=DATA

    5 CPU-minutes. Test accuracy 0.895; TF-IDF and logistic regression: 0.888.
    """
    return TrainConfig(
        recipe="banking77_bert",
        task="classify",
        preset="bert_small_cpu",
        model={"dropout": 0.2},
        data=DataConfig(
            train="banking77/train",
            test="banking77/test",
            tokenizer="wordpiece",
            max_vocabulary_size=4000,
        ),
        text=TextConfig(max_length=64),
        head={"pooling": "mean"},
        optimizer=muon(3e-3, weight_decay=0.1),
        label_smoothing=0.1,
        batch_size=32,
        steps=1500,
        evaluate_every=300,
        jit_compile=False,
    )


def polarity_bert() -> TrainConfig:
    """Whether a sentence of a film review is for or against.

    python -m trainers --recipe=polarity_bert --workdir=runs/polarity --data_dir=DATA

    3 CPU-minutes. Test accuracy 0.770; TF-IDF and logistic regression: 0.758.
    """
    return TrainConfig(
        recipe="polarity_bert",
        task="classify",
        preset="bert_small_cpu",
        model={"dropout": 0.2},
        data=DataConfig(
            train="sentence_polarity/train",
            test="sentence_polarity/test",
            tokenizer="wordpiece",
            max_vocabulary_size=8000,
        ),
        text=TextConfig(max_length=64),
        head={"pooling": "mean"},
        optimizer=muon(2e-3, weight_decay=0.1),
        batch_size=32,
        steps=600,
        evaluate_every=100,
        jit_compile=False,  # a compilation for each bucket costs more than it gives
    )


def csl_bert() -> TrainConfig:
    """Which of 13 fields a Chinese paper belongs to, by its title.

    python -m trainers --recipe=csl_bert --workdir=runs/csl --data_dir=DATA

    4 CPU-minutes. Test accuracy 0.749; TF-IDF and logistic regression do better, 0.779.
    """
    return TrainConfig(
        recipe="csl_bert",
        task="classify",
        preset="bert_small_cpu",
        model={"dropout": 0.2},
        data=DataConfig(
            train="csl/train",
            validation="csl/dev",
            test="csl/test",
            tokenizer="wordpiece",
            max_vocabulary_size=6000,
        ),
        text=TextConfig(max_length=64),
        head={"pooling": "mean"},
        optimizer=muon(3e-3, weight_decay=0.1),
        batch_size=32,
        steps=1000,
        evaluate_every=200,
        jit_compile=False,  # a compilation for each bucket costs more than it gives
    )


def wnut17_bert() -> TrainConfig:
    """Rare names of 6 kinds in posts.

    python -m trainers --recipe=wnut17_bert --workdir=runs/wnut17 --data_dir=DATA

    4 CPU-minutes. Test entity F1 0.134; logistic regression on word forms: 0.137.
    """
    return TrainConfig(
        recipe="wnut17_bert",
        task="tag",
        preset="bert_small_cpu",
        model={"dropout": 0.2},
        data=DataConfig(
            train="wnut17/train",
            validation="wnut17/dev",
            test="wnut17/test",
            tokenizer="wordpiece",
            max_vocabulary_size=4000,
            lowercase=False,
        ),
        text=TextConfig(max_length=128),
        optimizer=muon(2e-3, weight_decay=0.1),
        batch_size=16,
        steps=1200,
        evaluate_every=200,
        jit_compile=False,  # a compilation for each bucket costs more than it gives
    )


def drcd_bert() -> TrainConfig:
    """Questions about Chinese (traditional script) encyclopedia articles.

    python -m trainers --recipe=drcd_bert --workdir=runs/drcd --data_dir=DATA

    8 CPU-minutes, from 3,200 questions. Test exact match 0.056, F1 0.142: so few do not teach
    reading from nothing. Word overlap alone, untrained: 0.058 and 0.236.
    """
    return TrainConfig(
        recipe="drcd_bert",
        task="span",
        preset="bert_small_cpu",
        model={"context_length": 384, "dropout": 0.1},
        data=DataConfig(
            train="drcd/dev",
            test="drcd/test",
            tokenizer="wordpiece",
            max_vocabulary_size=6000,
        ),
        text=TextConfig(max_length=384),
        optimizer=muon(2e-3, weight_decay=0.1),
        batch_size=8,
        steps=600,
        evaluate_every=200,
        jit_compile=False,
    )


def polarity_lstm() -> TrainConfig:
    """The polarity of film reviews by a bidirectional LSTM.

    python -m trainers --recipe=polarity_lstm --workdir=runs/polarity_lstm --data_dir=DATA

    2 minutes. Test accuracy 0.763; TF-IDF and logistic regression: 0.758.
    """
    return TrainConfig(
        recipe="polarity_lstm",
        task="classify",
        preset="lstm_encoder_cpu",
        data=DataConfig(
            train="sentence_polarity/train",
            test="sentence_polarity/test",
            tokenizer="wordpiece",
            max_vocabulary_size=8000,
        ),
        text=TextConfig(max_length=64),
        optimizer=_adamw(2e-3),
        batch_size=32,
        steps=2000,
        evaluate_every=200,
        jit_compile=False,
    )


def wnut17_lstm() -> TrainConfig:
    """Rare names of 6 kinds in posts, by a bidirectional LSTM.

    python -m trainers --recipe=wnut17_lstm --workdir=runs/wnut17_lstm --data_dir=DATA

    2 CPU-minutes. Test entity F1 0.094; logistic regression on word forms: 0.137.
    """
    return TrainConfig(
        recipe="wnut17_lstm",
        task="tag",
        preset="lstm_encoder_cpu",
        data=DataConfig(
            train="wnut17/train",
            validation="wnut17/dev",
            test="wnut17/test",
            tokenizer="wordpiece",
            max_vocabulary_size=4000,
            lowercase=False,
        ),
        text=TextConfig(max_length=128),
        optimizer=_adamw(3e-3),
        batch_size=16,
        steps=1600,
        evaluate_every=200,
        jit_compile=False,
    )


UNDERSTANDING_RECIPES = (
    wikitext_bert_mlm,
    banking77_bert,
    polarity_bert,
    csl_bert,
    wnut17_bert,
    drcd_bert,
    polarity_lstm,
    wnut17_lstm,
)
