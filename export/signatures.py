"""What a SavedModel serves: the signatures of each task, strings in and named outputs out.

| task | signature | inputs | outputs |
|---|---|---|---|
| lm | `generate` * | `text`, and with defaults `max_new_tokens`, `temperature`, `top_k`, `top_p`,
  `seed` | `text`, `completion`, `token_count`, `log_probability` |
| lm | `score` | `text` | `log_likelihood`, `token_count`, `perplexity` |
| lm | `next_token` | `text` | `tokens`, `probabilities` |
| mlm | `fill_mask` * | `text` | `tokens`, `probabilities`, `text` |
| classify, pair | `predict` * | `text` (pair: and `text_pair`) | `label`, `scores`, `classes` |
| classify, pair | `classify` | tf.Examples | `classes`, `scores` |
| classify, pair of two classes | `regress` | tf.Examples | `outputs`: the second one's score |
| tag | `tag` * | `text` | `tokens`, `tags`, `start`, `end`, `scores` |
| span | `answer` * | `question`, `context` | `answer`, `start`, `end`, `score` |
| embed | `embed` * | `text` | `embedding` |
| regress | `predict` * | `text` (for pairs: and `text_pair`) | `outputs` |
| regress | `regress` | tf.Examples | `outputs` |

The signature with a * is `serving_default`, too. Signatures of tf.Examples answer the Classify and
Regress requests of TensorFlow Serving; their input `inputs` holds serialized tf.Examples whose
bytes features are named as the text inputs are (a missing feature is an empty text).

`zoo.text.lm.TextLM` and the classes in `zoo.text` document each input and output.
"""

from __future__ import annotations

import tensorflow as tf

from export import CLASSIFY_METHOD, REGRESS_METHOD
from zoo.bundle import Bundle
from zoo.text.base import TextEncoder
from zoo.text.models import TEXT_MODELS

_Functions = dict[str, tf.types.experimental.PolymorphicFunction]


class ServedModule(tf.Module):
    """The object that is written as a SavedModel: weights and signatures, nothing of Keras.

    Args:
        bundle: zoo Bundle of any task.

    Attributes:
        functions: signature name -> tf.function.
        methods: signature name -> method name, of those that read tf.Examples.
        aliases: "serving_default" -> the signature that it is another name of.

    Raises:
        ValueError: a task without signatures.
    """

    def __init__(self, bundle: Bundle):
        super().__init__()
        task = bundle.config.task
        # Tracked as plain variables: the Keras object graph is of no use to a server.
        self.model_variables = [variable.value for variable in bundle.model.variables]
        self.methods = {}
        if task == "lm":
            functions = bundle.lm.functions
            self.functions = {"serving_default": functions["generate"], **functions}
        elif task in TEXT_MODELS:
            functions = dict(bundle.text_model.functions)
            default = next(iter(functions.values()))
            examples = example_signatures(task, bundle.text_model)
            self.functions = {"serving_default": default, **functions, **examples}
            methods = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}
            self.methods = {name: methods[name] for name in examples}
        else:
            known = ", ".join(["lm", *TEXT_MODELS])
            raise ValueError(f"no signatures for task {task!r}; known: {known}")
        default = self.functions["serving_default"]
        (name,) = (n for n, f in self.functions.items() if f is default and n != "serving_default")
        self.aliases = {"serving_default": name}


def input_names(function: tf.types.experimental.PolymorphicFunction) -> list[str]:
    """The input names of a graph function of strings, in order."""
    return [spec.name for spec in function.input_signature]


def example_signatures(task: str, text_model: TextEncoder) -> _Functions:
    """The signatures that read tf.Examples: for classes `classify`, for a number `regress`.

    A model of two classes has both, as TensorFlow's binary classifiers always had: `regress` is the
    probability of the second class.
    """
    if task not in ("classify", "pair", "regress"):
        return {}
    predict = text_model.functions["predict"]
    features = {
        name: tf.io.FixedLenFeature([], tf.string, default_value="")
        for name in input_names(predict)
    }

    def read(outputs_of):
        def answer(inputs):
            parsed = tf.io.parse_example(inputs, features)
            return outputs_of(predict(*(parsed[name] for name in features)))

        inputs = tf.TensorSpec([None], tf.string, name="inputs")
        return tf.function(answer, input_signature=[inputs], autograph=False)

    if task == "regress":
        return {"regress": read(lambda outputs: {"outputs": outputs["outputs"]})}
    signatures = {
        "classify": read(lambda outputs: {name: outputs[name] for name in ("classes", "scores")})
    }
    if len(text_model.labels) == 2:
        signatures["regress"] = read(lambda outputs: {"outputs": outputs["scores"][:, 1]})
    return signatures
