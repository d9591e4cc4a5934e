"""How weights of an encoder that were trained before are tuned to labels, by their shape: the rate,
and what is left alone. docs/figures.md has the scores of the runs that it follows. It stands apart
from `trainers.optim`, which imports Keras, for own files and recipes.
"""

from typing import Literal

from trainers.config import OptimizerConfig, adamw
from zoo.models.configs import LSTMConfig, ModelConfig

# Measured at a width of 384. Wider ones fall to the rates that they are published with: BERT base
# (768) 2e-5 to 5e-5, large (1024) 3e-5 (Devlin et al., 2019, arXiv:1810.04805); narrower ones rise
# to theirs, 3e-4 at most (Turc et al., 2019, arXiv:1908.08962).
_RATE, _WIDTH, _HIGHEST = 2e-4, 384, 3e-4
# Classes with thousands of texts each MiniLM learned by heart at that rate: film reviews came to
# 0.826 (950 steps, the best evaluation that of step 380), at half of it to 0.840 (600 steps).
_GENTLE = 0.5
# So many weights of a vocabulary are left alone, such as the 96 M of multilingual E5 small: AdamW
# would go through all of them at every step. Fewer are worth it: MiniLM's 12 M frozen, film reviews
# came to 0.819, else to 0.841 (test, 600 steps).
_MANY = 50_000_000


def tuned(
    model: ModelConfig, gentle: bool = False
) -> tuple[OptimizerConfig, Literal["none", "embeddings"]]:
    """The optimizer, whose warm-up is the run's to choose, and `FineTuneConfig.freeze`.

    `gentle` halves the rate, for classes with thousands of texts each.

    Example:
        >>> from zoo.presets import preset_config
        >>> optimizer, freeze = tuned(preset_config("bert_base"))
        >>> optimizer.learning_rate, freeze
        (5e-05, 'none')
    """
    width = model.output_dim if isinstance(model, LSTMConfig) else model.hidden_dim
    rate = min(_RATE * (_WIDTH / width) ** 2, _HIGHEST)
    rate *= _GENTLE if gentle else 1
    frozen = model.vocabulary_size * model.token_dim > _MANY
    return adamw(rate, weight_decay=0.01), "embeddings" if frozen else "none"
