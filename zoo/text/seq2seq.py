"""Encoder-decoders with strings on both sides: translations and summaries."""

import dataclasses
import functools

import keras
import tensorflow as tf

from zoo.generation.beam_search import BeamOptions, Rules, beam_search
from zoo.generation.loop import SamplingOptions, target_log_probabilities
from zoo.generation.options import SEQ2SEQ_OPTIONS, Option
from zoo.text.base import TextModel, on_backend, scored, signature
from zoo.text.config import Seq2SeqConfig
from zoo.text.lm import write_in_place
from zoo.tokenizers import Tokenizer


def search_options(model: "TextSeq2Seq") -> dict[str, Option]:
    """The options of a search, with the model's own defaults."""
    search = model.config.search
    return {
        name: dataclasses.replace(option, default=getattr(search, name, option.default))
        for name, option in SEQ2SEQ_OPTIONS.items()
    }


_write = functools.partial(signature, options=search_options)


class TextSeq2Seq(TextModel):
    """Writes and scores targets of sources.

    Args:
        tokenizer, model: a zoo.Translator or Summarizer, and the tokenizer of its ids.
        config: Seq2SeqConfig; by default a source ends with the tokenizer's `end_id`, and a target
            begins with it.

    Raises:
        ValueError: an id of `config` is none of the model, or leaves no room for text.
    """

    def __init__(
        self, tokenizer: Tokenizer, model: keras.Model, config: Seq2SeqConfig | None = None
    ):
        super().__init__(tokenizer, model)
        if config is None:
            end = (tokenizer.end_id,)
            config = Seq2SeqConfig(source_end=end, target_start=end)
        ids = (*config.source_start, *config.source_end, *config.target_start)
        ids += config.search.banned_ids
        if not all(0 <= index < model.vocabulary_size for index in ids):
            raise ValueError(
                f"seq2seq: ids must be in 0 to {model.vocabulary_size - 1}. Received: {ids}"
            )
        longest = min(config.max_source or model.context_length, model.context_length)
        self.room = longest - len(config.source_start) - len(config.source_end)
        if self.room < 1 or len(config.target_start) >= model.context_length:
            raise ValueError(f"seq2seq: {config} leaves no room for text in {longest} tokens")
        self.config = config

    def sources(self, text) -> tf.RaggedTensor:
        """Source ids [B, None] of strings [B], cut to what is read."""
        return self.framed(self.source_ids(text))

    def source_ids(self, text) -> tf.RaggedTensor:
        """Ids [B, None] of strings [B], of which `room` are read, and what stands around them."""
        if self.config.prefix:
            text = tf.strings.join([self.config.prefix, text])
        return self.tokenizer.encode(text)

    def framed(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Ids of texts [B, None] as those of sources, cut to what is read."""
        return self._around(ids[:, : self.room], self.config.source_start, self.config.source_end)

    def targets(self, target) -> tf.RaggedTensor:
        """Target ids [B, None] of strings [B], with what begins and what ends them, cut."""
        ids = self._around(
            self.tokenizer.encode_target(target), self.config.target_start, (self.tokenizer.end_id,)
        )
        return ids[:, : self.model.context_length + 1]  # the last one is only predicted

    def _around(self, ids: tf.RaggedTensor, before, after) -> tf.RaggedTensor:
        rows = ids.nrows()
        parts = [tf.tile(tf.constant([part], ids.dtype), [rows, 1]) for part in (before, after)]
        edges = [tf.RaggedTensor.from_tensor(part) for part in parts]
        return tf.concat([edges[0], tf.cast(ids, tf.int32), edges[1]], axis=1)

    def written(self, text, options):
        """Targets of sources [B].

        Args:
            text: [B] strings, any bytes; of a text longer than the model's context, or than
                `config.max_source`, the beginning is read.
            **options: [B] or [1] each, as `zoo.generation.options.SEQ2SEQ_OPTIONS` lists them:
                `max_new_tokens` (cut to the context), `min_new_tokens`, `num_beams`,
                `length_penalty` (more favours longer texts), whose defaults are those of
                `config.search`, and for one beam `temperature` (0 is greedy), `top_k`, `top_p`,
                `seed` as of a language model.

        Returns:
            dict: `text` [B], `score` [B] float32 (its log-probability / tokens **
            `length_penalty`, end of text counted), `token_count` [B] int32 (without it), and of
            all beams, the best first, `texts` [B, K] and `scores` [B, K], where K is the largest
            `num_beams`; a row with fewer has "" and 0 there. `truncated` [B] bool: whether only
            the beginning of the text was read.

        Raises:
            tf.errors.InvalidArgumentError, TypeError: an option is out of range, or unknown.
        """
        ids = self.source_ids(text)
        room = self.model.context_length - len(self.config.target_start) + 1
        options["max_new_tokens"] = tf.minimum(options["max_new_tokens"], room)
        search = on_backend(self._search, *_padded(self.framed(ids)), options)
        token_ids, lengths, scores = search
        width = tf.shape(scores)[1]
        flat = tf.RaggedTensor.from_tensor(
            tf.reshape(token_ids, [-1, tf.shape(token_ids)[2]]), tf.reshape(lengths, [-1])
        )
        texts = self.tokenizer.decode(self.tokenizer.whole_characters(flat))
        texts = tf.reshape(texts, [-1, width])
        return {
            "text": texts[:, 0],
            "score": scores[:, 0],
            "token_count": lengths[:, 0],
            "texts": texts,
            "scores": scores,
            "truncated": ids.row_lengths() > self.room,
        }

    def _search(self, token_ids, mask, options):
        """Ids (B, K, N), lengths and scores (B, K) of what is written for sources (B, S)."""
        on_tensorflow = keras.backend.backend() == "tensorflow"
        ops = keras.ops
        size = (lambda x: x) if on_tensorflow else int
        unknown_id, search = self.tokenizer.unknown_id, self.config.search
        sampling = {name: options[name] for name in SamplingOptions._fields if name in options}
        beams = BeamOptions(
            SamplingOptions(**sampling),
            *(options[name] for name in ("num_beams", "length_penalty", "min_new_tokens")),
        )
        found = beam_search(
            self.model.decoder(token_ids, mask),
            self.config.target_start,
            beams,
            size(ops.max(options["num_beams"])),
            size(ops.maximum(ops.max(options["max_new_tokens"]), 0)),
            end_ids=self.tokenizer.end_ids,
            banned_ids=self.spare_ids() + ([] if unknown_id is None else [unknown_id]),
            write=write_in_place if on_tensorflow else ops.scatter_update,
            rules=Rules(**{name: getattr(search, name) for name in Rules._fields}),
        )
        return tuple(found)

    def scored(self, text, target):
        """How likely each target is, given its source.

        Returns:
            dict: `log_likelihood` [B] (float32, nats, end of text counted), `token_count` [B]
            (int32, without it), `perplexity` [B] (float32, of the tokens and the end), `tokens` and
            `log_probabilities` [B, T] of the target as a language model's `score` has them, the end
            by its name, `truncated` [B] (bool, whether only the beginning of text or target was
            read).
        """
        ids, targets = self.source_ids(text), self.targets(target)
        first = len(self.config.target_start)

        def of_targets(token_ids, mask, targets):
            inputs = {"token_ids": token_ids, "padding_mask": mask, "target_ids": targets[:, :-1]}
            hidden = self.model.backbone(inputs, training=False)
            return target_log_probabilities(self.model.backbone, hidden, targets[:, 1:])

        found = on_backend(of_targets, *_padded(self.framed(ids)), targets.to_tensor())
        # One that was cut to the context has lost its end.
        last = tf.gather(targets.flat_values, targets.row_splits[1:] - 1)
        has_end = last == self.tokenizer.end_id
        predicted = targets[:, first:]
        return {
            "token_count": tf.cast(predicted.row_lengths(), tf.int32) - tf.cast(has_end, tf.int32),
            **scored(self.tokenizer, predicted, found[:, first - 1 :]),
            "truncated": (ids.row_lengths() > self.room) | ~has_end,
        }


def _padded(ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Ids (B, S) int32 and which of them are real, bool."""
    return ids.to_tensor(), tf.sequence_mask(ids.row_lengths())


class TextTranslator(TextSeq2Seq):
    """A `TextSeq2Seq` of translations."""

    @_write
    def translate(self, text, **options):
        """The same text in another language; arguments and outputs as of `written`."""
        return self.written(text, options)

    @signature
    def score(self, text, target):
        """How likely each target is, given its source; outputs as of `scored`."""
        return self.scored(text, target)


class TextSummarizer(TextSeq2Seq):
    """A `TextSeq2Seq` of summaries."""

    @_write
    def summarize(self, text, **options):
        """A shorter text; arguments and outputs as of `written`."""
        return self.written(text, options)

    @signature
    def score(self, text, target):
        """How likely each target is, given its source; outputs as of `scored`."""
        return self.scored(text, target)


SEQ2SEQ_MODELS: dict[str, type[TextSeq2Seq]] = {
    "translate": TextTranslator,
    "summarize": TextSummarizer,
}
