"""A causal language model with strings on both sides: the one path for Python and for serving."""

import functools

import keras
import tensorflow as tf

from zoo.generation.loop import (
    SamplingOptions,
    Stopping,
    generate,
    log_probabilities,
    next_token_probabilities,
)
from zoo.models.heads import CausalLM
from zoo.text.base import CANDIDATES, TextModel, on_backend, scored, signature
from zoo.text.stop_strings import StopStrings
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import cut_character_bytes


class _Shared:
    """An object some of whose methods are other functions."""

    def __init__(self, wrapped, **methods):
        self.__dict__.update(methods)
        self._wrapped = wrapped

    def __getattr__(self, name: str):
        return getattr(self._wrapped, name)


_ONE_FUNCTION = {"_noinline": True}


def shared_blocks():
    """`DecoderBlock.decode` by one graph function for all blocks that differ in weights alone.

    30 blocks are then traced, stored and optimized as one. What they share (`slots`) must be the
    same at each call.
    """
    functions = {}

    def run(block, x, cache, slots):
        values = [tf.convert_to_tensor(variable) for variable in block.variables]
        kind = (block.attention.options, *((one.shape, one.dtype) for one in values))
        if kind not in functions:

            def read_block(values, x, cache):
                with keras.StatelessScope(list(zip(block.variables, values))):
                    return block.decode(x, cache, slots)

            functions[kind] = tf.function(
                read_block, autograph=False, experimental_attributes=_ONE_FUNCTION
            )
        return functions[kind](values, x, cache)

    return run


def prompt_reader(model: keras.Model):
    """`model`, reading prompts by one graph function that all signatures share, on TensorFlow.

    It is traced once, and not inlined: generation has it in two places, at its start and where a
    cache is full, and TensorFlow would prepare both.
    """
    if keras.backend.backend() != "tensorflow":
        return model

    @functools.partial(tf.function, autograph=False, experimental_attributes=_ONE_FUNCTION)
    def read(*inputs):
        options = {"run": shared_blocks()} if hasattr(model.backbone, "blocks") else {}
        return model.backbone.decode(*inputs, **options)

    def decode(token_ids, cache, position, lengths=None):
        if lengths is None:
            lengths = tf.fill(tf.shape(position), tf.shape(token_ids)[1])
        return read(token_ids, cache, position, lengths)

    reader = _Shared(model, backbone=_Shared(model.backbone, decode=decode))
    reader.decode = functools.partial(CausalLM.decode, reader)
    return reader


class TextLM(TextModel):
    """Generates, scores and predicts the next token of strings.

    Args:
        tokenizer, model: a zoo.CausalLM, and the tokenizer of its ids.
        start_id: what an empty text reads; by default the tokenizer's `start_id`, which stands
            before every text, or, if it has none, `end_id`, which stands before every document.

    Example:
        >>> import zoo
        >>> model = zoo.build("lstm_char_cpu", vocabulary_size=257)
        >>> lm = TextLM(zoo.ByteTokenizer(), model)
        >>> lm.generate(["ROMEO:"], max_new_tokens=[2])["text"].shape
        TensorShape([1])
    """

    def __init__(self, tokenizer: Tokenizer, model: keras.Model, start_id: int | None = None):
        super().__init__(tokenizer, model)
        if start_id is None:
            start_id = tokenizer.end_id if tokenizer.start_id is None else tokenizer.start_id
        self.start_id = start_id
        self._reader = prompt_reader(model)
        # One graph for all signatures that write.
        self._write = self._continued
        if keras.backend.backend() == "tensorflow":
            self._write = tf.function(self._continued, autograph=False)
        if not 0 <= self.start_id < model.vocabulary_size:
            raise ValueError(
                f"start_id={self.start_id} is no id: the model has 0 to {model.vocabulary_size - 1}"
            )

    @signature
    def generate(self, text, **options):
        """Continues each text.

        Args:
            text: [B] strings, any bytes. "" starts from `start_id`. Of a text longer than
                `model.context_length` tokens the last ones are read.
            **options: [B] or [1] each, as `zoo.generation.options.OPTIONS` lists them:
                `max_new_tokens` (64; clamped to 4096), `temperature` (0 is greedy), `top_k` (0 is
                off), `top_p` (1 is off), `min_p` (tokens less likely than this times the
                likeliest are not drawn; 0 is off), `repetition_penalty` (of tokens that are in
                prompt or completion already; 1 is off), `stop` (strings, [B, S] or [1, S], "" for
                none: a completion ends before the first of them), `seed` (-1 draws afresh each
                time).

        Returns:
            dict of [B] tensors: `text` (the text given, byte for byte, and its completion),
            `completion`, `token_count` (int32, end of text not counted), `log_probability`
            (float32, of the new tokens as the model has it, before temperature, penalty and
            filters; end of text counted), `finish_reason` ("stop" at end of text or a stop string,
            "length" at `max_new_tokens`). A UTF-8 character that generation stopped in the middle
            of is left out of `text` and `completion`, as a stop string is; their tokens count.

        Raises:
            tf.errors.InvalidArgumentError, TypeError: an option is out of range, or unknown.
        """
        outputs = self._write(text, self._prompt(text), options)
        return {"text": tf.strings.join([text, outputs["completion"]]), **outputs}

    def _continued(self, text, prompt, options):
        """All outputs of `generate` but `text`, for the ids and lengths of a prompt that ends with
        `text` (B,).
        """
        on_tensorflow = keras.backend.backend() == "tensorflow"
        options = dict(options)
        steps = tf.maximum(tf.reduce_max(options["max_new_tokens"]), 0)
        unknown_id = self.tokenizer.unknown_id
        banned = self.spare_ids() + ([] if unknown_id is None else [unknown_id])
        stop = StopStrings(self.tokenizer, options.pop("stop"))

        def generated(token_ids, lengths, options):
            return generate(
                self._reader,
                token_ids,
                lengths,
                SamplingOptions(**options),
                steps if on_tensorflow else int(steps),
                end_ids=self.tokenizer.end_ids,
                banned_ids=banned,
                write=write_in_place if on_tensorflow else keras.ops.scatter_update,
                stopping=Stopping(stop.begin(), stop.step) if on_tensorflow else None,
                take=tf.gather if on_tensorflow else None,
            )

        result = on_backend(generated, *prompt, options)
        state = result.stopping
        if not on_tensorflow:
            # No strings in a compiled loop: what comes after a stop string is made in vain.
            state, counts, ended = stop.read(result.token_ids, result.lengths)
            if tf.reduce_any(ended):
                # The same tokens once more, up to there, for the sum of their probabilities.
                most = tf.where(ended, counts, options["max_new_tokens"])
                result = on_backend(generated, *prompt, {**options, "max_new_tokens": most})
        # The end of text is not one of a row's tokens, so that at least one is missing.
        stopped = (result.lengths < options["max_new_tokens"]) | (state.surplus > 0)
        completion = self._completion(text, result, state.surplus)
        return {
            "completion": completion,
            "token_count": result.lengths,
            "log_probability": result.log_probability,
            "finish_reason": tf.where(stopped, "stop", "length"),
        }

    def _completion(self, text, result, surplus):
        """The text of new tokens without its last `surplus` (B,) bytes and without a part of a
        character at its end.
        """
        new_ids = tf.RaggedTensor.from_tensor(result.token_ids, result.lengths)
        whole_ids = self.tokenizer.whole_characters(new_ids)
        completion = self.tokenizer.decode_after(whole_ids)
        # Ids that are left out are of one byte each.
        gone = tf.cast(new_ids.row_lengths() - whole_ids.row_lengths(), tf.int32)
        completion = _without_end(completion, tf.maximum(surplus - gone, 0))
        # The prompt may have begun the character: its own bytes stay.
        return _without_end(completion, cut_character_bytes(tf.strings.join([text, completion])))

    @signature
    def score(self, text):
        """How likely each text is, as the continuation of an empty one.

        Returns:
            dict: `log_likelihood` [B] (float32, nats, sum over tokens), `token_count` [B] (int32),
            `perplexity` [B] (float32, exp(-log_likelihood / token_count); 1 for ""), `tokens`
            [B, T] strings, padded with "": each as it stands in the text, special ids by name, so
            that they make up the text if the tokenizer can give it back; `log_probabilities` [B, T]
            float32, nats, of each after all before it, padded with 0.
        """
        ids = self.tokenizer.encode(text)
        lengths = tf.cast(ids.row_lengths(), tf.int32)

        def of_tokens(token_ids, lengths):
            return log_probabilities(self._reader, token_ids, lengths, self.start_id)

        found = on_backend(of_tokens, ids.to_tensor(), lengths)
        return {"token_count": lengths, **scored(self.tokenizer, ids, found)}

    @signature
    def next_token(self, text):
        """The likeliest next tokens of each text.

        Returns:
            dict: `tokens` [B, K] strings (special ids by name), `probabilities` [B, K] float32,
            likeliest first; K is 10 or the vocabulary size, whichever is smaller. A token may be a
            part of a character: its bytes stand there as they are, which JSON cannot hold.
        """
        count = min(CANDIDATES, self.model.vocabulary_size)

        def likeliest(token_ids, lengths):
            return next_token_probabilities(self._reader, token_ids, lengths, count)

        ids, probabilities = on_backend(likeliest, *self._prompt(text))
        return {"tokens": self.tokenizer.tokens(ids), "probabilities": probabilities}

    def _prompt(self, text):
        """Token ids (B, P), padded on the right, and lengths (B,), at least 1."""
        ids = self.tokenizer.encode(text)
        return self._started(ids, always=self.tokenizer.start_id is not None)

    def _started(self, ids, always):
        """`_prompt` of ids [B, None], with `start_id` before all, or where there are none."""
        has_start = tf.cast(tf.equal(ids.row_lengths(), 0), tf.int64)
        if always:
            has_start = tf.ones_like(has_start)
        starts = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(has_start)], self.start_id), has_start
        )
        ids = tf.concat([starts, ids], axis=1)
        return ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)


def _without_end(strings, count):
    """Strings (B,) without their last `count` (B,) bytes, or all of a shorter one."""
    size = tf.strings.length(strings)
    return tf.strings.substr(strings, tf.zeros_like(size), tf.maximum(size - count, 0))


def write_in_place(cache, indices, rows):
    """`tf.tensor_scatter_nd_update` without the copy that its kernel always makes."""
    # This one writes into its input where nobody else holds that, but can only add.
    updates = rows - tf.gather_nd(cache, indices)
    return tf.raw_ops.ScatterNdNonAliasingAdd(input=cache, indices=indices, updates=updates)
