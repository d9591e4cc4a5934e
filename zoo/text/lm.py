"""A causal language model with strings on both sides: the one path for Python and for serving.

`TextLM` joins tokenizer and model in TensorFlow graph operations. `Bundle` calls its functions
from Python and `export` writes the very same functions into a SavedModel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from zoo.generation.loop import SamplingOptions, generate
from zoo.generation.options import OPTIONS, complete_options, options_by_row
from zoo.generation.scoring import log_likelihood, next_token_probabilities
from zoo.text.base import (
    Outputs,
    at_least_one,
    require_known_ids,
    rows_of,
    run,
    string_function,
    to_backend,
    to_tensorflow,
)
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import cut_character_bytes

# `next_token` gives this many candidates, or the whole vocabulary where it is smaller.
CANDIDATES = 10


class TextLM(tf.Module):
    """Generates, scores and predicts the next token of strings.

    Args:
        tokenizer: zoo.tokenizers.Tokenizer.
        model: zoo.models.causal_lm.CausalLM.
        start_id: int. What an empty text reads, since a model needs something to continue.
            Defaults to the tokenizer's `end_id`, which stands before every document.

    Attributes:
        functions: signature name -> graph function; the first one is the default signature.

    Example:
        >>> import zoo
        >>> model = zoo.build("lstm_char_cpu", vocabulary_size=257)
        >>> lm = TextLM(zoo.ByteTokenizer(), model)
        >>> lm.generate(["ROMEO:"], max_new_tokens=[2])["text"].shape
        TensorShape([1])
    """

    def __init__(self, tokenizer: Tokenizer, model: keras.Model, start_id: int | None = None):
        super().__init__(name="text_lm")
        require_known_ids(tokenizer, model)
        self.tokenizer = tokenizer
        self.model = model
        self.start_id = tokenizer.end_id if start_id is None else start_id
        if not 0 <= self.start_id < model.vocabulary_size:
            raise ValueError(
                f"start_id={self.start_id} is no id: the model has 0 to {model.vocabulary_size - 1}"
            )
        self.functions = {
            "generate": _generate_function(self._generate),
            "score": string_function(self._score, "text"),
            "next_token": string_function(self._next_token, "text"),
        }

    def generate(self, text, **options) -> dict[str, tf.Tensor]:
        """Continues each text.

        Args:
            text: [B] strings, any bytes. "" starts from `start_id`. Of a text longer than
                `model.context_length` tokens the last ones are read.
            max_new_tokens: [B] or [1] int, at least 0; clamped to 4096. Defaults to 64.
            temperature: [B] or [1] float, finite, at least 0; 0 is greedy. Defaults to 0.
            top_k: [B] or [1] int, at least 0; 0 is off. Defaults to 0.
            top_p: [B] or [1] float in (0, 1]; 1 is off. Defaults to 1.
            seed: [B] or [1] int. The same seed draws the same tokens; negative draws afresh each
                time. Defaults to -1.

        Returns:
            dict of [B] tensors: `text` (the text given, byte for byte, and its completion),
            `completion`, `token_count` (int32, new tokens, end of text not counted),
            `log_probability` (float32, of the new tokens under the model itself, at temperature 1
            without top-k or top-p; end of text counted). A UTF-8 character that generation stopped
            in the middle of is left out of `text` and `completion`; its tokens count in the other
            two. Bytes of the prompt, and others that are no UTF-8, stay as they are.

        Raises:
            tf.errors.InvalidArgumentError: an option is out of range; the message names it.
            TypeError: unknown option.
        """
        return run(self.functions["generate"], text, **complete_options(options))

    def score(self, text) -> dict[str, tf.Tensor]:
        """How likely each text is, as the continuation of an empty one.

        Args:
            text: [B] strings, any bytes and any length.

        Returns:
            dict of [B] tensors: `log_likelihood` (float32, nats, sum over tokens), `token_count`
            (int32), `perplexity` (float32, exp(-log_likelihood / token_count); 1 for "").
        """
        return run(self.functions["score"], text)

    def next_token(self, text) -> dict[str, tf.Tensor]:
        """The likeliest next tokens of each text.

        Returns:
            dict: `tokens` [B, K] strings (special ids by name), `probabilities` [B, K] float32,
            likeliest first; K is 10 or the vocabulary size, whichever is smaller. A token of a
            byte-level tokenizer may be a part of a character: its bytes stand there as they are,
            so that text and token are the continuation; JSON cannot hold them, gRPC can.
        """
        return run(self.functions["next_token"], text)

    def _generate(self, text, options):
        max_steps = tf.maximum(tf.reduce_max(options["max_new_tokens"]), 0)
        token_ids, lengths = self._prompt(text)
        on_tensorflow = keras.backend.backend() == "tensorflow"
        result = generate(
            self.model,
            to_backend(token_ids),
            to_backend(lengths),
            SamplingOptions(**{name: to_backend(value) for name, value in options.items()}),
            max_steps if on_tensorflow else int(max_steps),
            end_id=self.tokenizer.end_id,
            banned_ids=self._ids_without_text(),
            write=write_in_place if on_tensorflow else keras.ops.scatter_update,
        )
        new_ids = tf.RaggedTensor.from_tensor(
            to_tensorflow(result.token_ids), to_tensorflow(result.lengths)
        )
        completion = self.tokenizer.decode(self.tokenizer.whole_characters(new_ids))
        joined = tf.strings.join([text, completion])
        # The prompt may have begun the character: its own bytes stay.
        size = tf.strings.length(completion)
        cut = tf.minimum(cut_character_bytes(joined), size)
        completion = tf.strings.substr(completion, tf.zeros_like(size), size - cut)
        return {
            "text": tf.strings.join([text, completion]),
            "completion": completion,
            "token_count": to_tensorflow(result.lengths),
            "log_probability": to_tensorflow(result.log_probability),
        }

    def _ids_without_text(self) -> tuple[int, ...]:
        """The unknown token, and what a model with room for more ids has beyond the tokenizer's."""
        spare = range(self.tokenizer.vocabulary_size, self.model.vocabulary_size)
        unknown_id = self.tokenizer.unknown_id
        return (*spare, *([] if unknown_id is None else [unknown_id]))

    def _score(self, text):
        ids = self.tokenizer.encode(text)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        total = to_tensorflow(
            log_likelihood(
                self.model, to_backend(ids.to_tensor()), to_backend(lengths), self.start_id
            )
        )
        mean = total / tf.cast(tf.maximum(lengths, 1), tf.float32)
        return {"log_likelihood": total, "token_count": lengths, "perplexity": tf.exp(-mean)}

    def _next_token(self, text):
        token_ids, lengths = self._prompt(text)
        ids, probabilities = next_token_probabilities(
            self.model,
            to_backend(token_ids),
            to_backend(lengths),
            min(CANDIDATES, self.model.vocabulary_size),
        )
        return {
            "tokens": self.tokenizer.tokens(to_tensorflow(ids)),
            "probabilities": to_tensorflow(probabilities),
        }

    def _prompt(self, text):
        """Token ids (B, P), padded on the right, and lengths (B,), at least 1."""
        ids = self.tokenizer.encode(text)
        is_empty = tf.cast(tf.equal(ids.row_lengths(), 0), tf.int64)
        starts = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(is_empty)], self.start_id), is_empty
        )
        ids = tf.concat([starts, ids], axis=1)
        return ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)


def _generate_function(body: Callable[..., Outputs]):
    """`body(text, options)` as a graph function of `text` [B] string and each of `OPTIONS`.

    Their defaults become `SignatureDef.defaults` when it is exported, which TensorFlow Serving
    fills in for inputs that a gRPC request leaves out.
    """

    def generate(text, *values):
        padded = at_least_one(text)
        rows = tf.shape(text)[0], tf.shape(padded)[0]
        options = options_by_row(dict(zip(OPTIONS, values)), *rows)
        return rows_of(text, body(padded, options))

    def parameter(name, default=inspect.Parameter.empty):
        return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)

    # What TensorFlow reads names and defaults from.
    defaults = {name: tf.constant([o.default], o.dtype) for name, o in OPTIONS.items()}
    generate.__signature__ = inspect.Signature(
        [parameter("text"), *(parameter(name, value) for name, value in defaults.items())]
    )
    specs = [tf.TensorSpec([None], tf.string, "text")]
    specs += [tf.TensorSpec([None], option.dtype, name) for name, option in OPTIONS.items()]
    return tf.function(generate, input_signature=specs, autograph=False)


def write_in_place(cache, indices, rows):
    """`tf.tensor_scatter_nd_update` without the copy that its kernel always makes.

    This one writes into its input where nobody else holds that, but can only add.
    """
    updates = rows - tf.gather_nd(cache, indices)
    return tf.raw_ops.ScatterNdNonAliasingAdd(input=cache, indices=indices, updates=updates)
