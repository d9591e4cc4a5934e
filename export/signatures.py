"""What a SavedModel serves: the signatures of each task, strings in and named outputs out.

| task | signature | inputs | outputs |
|---|---|---|---|
| lm | `generate` = `serving_default` | `text`, and with defaults `max_new_tokens`, `temperature`,
  `top_k`, `top_p`, `seed` | `text`, `completion`, `token_count`, `log_probability` |
| lm | `score` | `text` | `log_likelihood`, `token_count`, `perplexity` |
| lm | `next_token` | `text` | `tokens`, `probabilities` |

`zoo.text_lm.TextLM` documents each input and output.
"""

from __future__ import annotations

import tensorflow as tf

from zoo.bundle import Bundle
from zoo.request_options import DEFAULT_OPTIONS, OPTIONS
from zoo.text_lm import TEXT, TextLM


class ServedModule(tf.Module):
    """The object that is written as a SavedModel: weights and signatures, nothing of Keras.

    Args:
        bundle: zoo Bundle with task "lm".

    Attributes:
        functions: signature name -> tf.function.

    Raises:
        ValueError: a task without signatures.
    """

    def __init__(self, bundle: Bundle):
        super().__init__()
        if bundle.config.task not in _SIGNATURES:
            raise ValueError(
                f"no signatures for task {bundle.config.task!r}; known: {', '.join(_SIGNATURES)}"
            )
        # Tracked as plain variables: the Keras object graph is of no use to a server.
        self.model_variables = [variable.value for variable in bundle.model.variables]
        self.functions = _SIGNATURES[bundle.config.task](bundle.lm)


def _lm_signatures(lm: TextLM) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    defaults = {
        name: tf.constant([value], OPTIONS[name].dtype) for name, value in DEFAULT_OPTIONS.items()
    }

    # Default values that are tensors become `SignatureDef.defaults`, which TensorFlow Serving
    # fills in for inputs that a gRPC request leaves out.
    @tf.function(input_signature=[TEXT, *OPTIONS.values()], autograph=False)
    def generate(
        text,
        max_new_tokens=defaults["max_new_tokens"],
        temperature=defaults["temperature"],
        top_k=defaults["top_k"],
        top_p=defaults["top_p"],
        seed=defaults["seed"],
    ):
        return lm.generate_function(text, max_new_tokens, temperature, top_k, top_p, seed)

    return {
        "serving_default": generate,
        "generate": generate,
        "score": lm.score_function,
        "next_token": lm.next_token_function,
    }


_SIGNATURES = {"lm": _lm_signatures}
