"""Computing activations twice changes memory, and no number: not with dropout, on no backend."""

import keras
import numpy as np
import pytest

import zoo
from zoo.models.attention_options import RelativeAttention

SHAPE = {"hidden_dim": 8, "num_heads": 2, "num_layers": 2, "context_length": 6, "dropout": 0.3}


def trained(task: str, remat: bool) -> tuple[list[float], list[np.ndarray]]:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    ids = random.integers(0, 9, (4, 6)).astype("int32")
    if task == "lm":
        model = zoo.build("gpt_char_cpu", vocabulary_size=9, **SHAPE)
        inputs, labels = ids, random.integers(0, 9, (4, 6))
    elif task == "translate":  # relative positions, and states of the source
        options = {"positions": "relative", "decoder_layers": 1, "initializer_range": 0.3}
        # No SiLU: TensorFlow joins its operations in one of the two graphs, and rounds otherwise.
        config = zoo.EncoderDecoderConfig(9, **SHAPE, **options, activation="gelu")
        model = zoo.build(config, task)
        inputs, labels = {"token_ids": ids, "target_ids": ids}, random.integers(0, 9, (4, 6))
    else:
        head = {"num_classes": 2, "dropout": 0.0}
        # Weights large enough that those of distances show.
        options = {"relative_attention": RelativeAttention(5, norm=True), "initializer_range": 0.3}
        model = zoo.build("bert_tiny", task, head, vocabulary_size=9, **options, **SHAPE)
        inputs, labels = {"token_ids": ids, "padding_mask": ids > 2}, random.integers(0, 2, 4)
    model.backbone.remat = remat
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, jit_compile=keras.backend.backend() == "jax")
    losses = [model.train_on_batch(inputs, labels) for _ in range(4)]
    return [float(value) for value in losses], model.get_weights()


@pytest.mark.parametrize(
    "task",
    [
        "lm",
        *(
            pytest.param(task, marks=pytest.mark.tensorflow_only)
            for task in ("classify", "translate")
        ),
    ],
)
def test_the_same_losses_and_weights(task):
    (losses, weights), (again, weights_again) = trained(task, False), trained(task, True)
    np.testing.assert_allclose(again, losses, rtol=1e-6, atol=1e-6)
    assert losses[-1] != losses[0]
    for one, other in zip(weights, weights_again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
