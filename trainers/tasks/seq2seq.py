"""Tasks "translate" and "summarize": an encoder-decoder writes the target of each source."""

import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from keras import ops

from trainers.config import Seq2SeqTraining, TrainConfig
from trainers.data.examples import TextPairs, grouped_split
from trainers.data.parallel import are_alike, pair_groups, shared_texts
from trainers.data.pipeline import BucketPlan
from trainers.metrics import write_scores
from trainers.report.baselines import sentences
from trainers.report.sections import Comparison, writing_sections
from trainers.report.text_scores import (
    chrf_of_each,
    extractive_oracle,
    rouge_of_each,
    translation_scores,
)
from trainers.tasks.encoder import EncoderTask, predict_all
from trainers.tokenizers import language_model_tokenizer
from zoo.config import ConfigError
from zoo.text.base import on_backend
from zoo.text.config import SearchConfig
from zoo.text.seq2seq import SEQ2SEQ_MODELS
from zoo.tokenizers import Tokenizer

_AT_ONCE = 4096  # texts that are encoded together
_EVALUATED = 64  # pairs that are evaluated together
# Of pairs, the shortest first, in each bucket and those before it. Of quarters, as texts have them,
# half of the slots are empty: a few sentences are five times as long as most.
_SHARES = (0.15, 0.35, 0.55, 0.75, 0.88, 0.96, 0.99, 1)
_ASKED = 16  # pairs that tell which way weights translate
_BEAMS = 4  # of models from nothing
_ROOM = 10  # tokens that a written target may have more than the longest of training


class Seq2SeqTask(EncoderTask):
    """Next tokens of the target, given the source and the right ones before (teacher forcing).

    Sources are cut as they are when served. A pair whose target is too long does not train: a cut
    one would teach not to end. Pairs that share a source or a target stay on one side of a split.
    """

    unit = "pairs"
    loss_unit = "nats a token"
    fingerprint_columns = ("source", "target", "references")

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        scores = ("bleu", "chrf") if config.task == "translate" else ("rouge1", "rouge2", "rougeL")
        scores = scores if config.seq2seq.validation_rows else ()
        copies = config.task == "translate"
        self.baseline_method = "the source as it is" if copies else "the source's first sentence"
        self.metrics = {"val_loss": "min"}
        self.metrics |= {f"val_{name}": "max" for name in ("accuracy", *scores)}
        super().__init__(config, data_dir)
        self._warn_of_data()
        if config.task == "translate" and config.finetune.init_from is not None:
            self._warn_of_direction()

    def split(self, examples, share):
        return grouped_split(pair_groups(examples), share, self.config.seed)

    def _warn_of_data(self) -> None:
        """Of what is read, and perhaps should not be."""
        train, source = self.train, self.config.data.train
        same = sum(map(str.__eq__, train.source, train.target))
        if 2 * same > len(train):
            message = "%s: %d of %d targets are their sources: are the columns right?"
            logging.warning(message, source, same, len(train))
        elif self.config.task == "translate" and are_alike(train):
            message = "%s: sources (%r) and targets (%r) look like one language: are the columns "
            message += "right?"
            logging.warning(message, source, train.source[0][:40], train.target[0][:40])
        longer = sum(map(len, train.target)) > sum(map(len, train.source))
        if self.config.task == "summarize" and longer:
            message = "%s: the summaries are longer than their sources: are the columns swapped? "
            message += "--set=data.reverse=true swaps them"
            logging.warning(message, source)
        for examples, name in ((self.validation, "validation"), (self.test, "test")):
            if examples is not None and (shared := shared_texts(train, examples)):
                message = "%s: %d of %d %s pairs have a source or target that trains, too"
                logging.warning(message, source, shared, len(examples), name)

    def _warn_of_direction(self) -> None:
        """Of weights that translate the other way."""
        some = self.train.select(np.arange(min(len(self.train), _ASKED)))
        back = dataclasses.replace(some, source=some.target, target=some.source, references=None)
        losses = [self.forced_scores(pairs)["loss"] for pairs in (some, back)]
        if losses[0] > 2 * losses[1]:
            logging.warning(
                "%s: the weights of %s write the sources rather than the targets (%.2f and %.2f "
                "nats a token of the first %d): are the columns swapped? --set=data.reverse=true "
                "swaps them",
                *(self.config.data.train, self.config.finetune.init_from),
                *(losses[1], losses[0], len(some)),
            )

    def vocabulary_texts(self):
        return [*self.train.source, *self.train.target]

    def choose_tokenizer(self, initial, data_dir):
        data = self.config.data
        if initial is not None and data.vocabulary is not None:
            raise ConfigError(
                "data.vocabulary cannot be set with finetune.init_from, whose tokenizer is kept"
            )
        known = language_model_tokenizer(data) if initial is None else initial.tokenizer
        known = known if isinstance(known, Tokenizer) else known(self.vocabulary_texts())
        if known.end_id is None:
            raise ConfigError(
                f"task {self.config.task!r} needs a token that ends a text, and the vocabulary of "
                f"data.vocabulary={data.vocabulary!r} has none"
            )
        return known

    def make_text_model(self, initial):
        served, options = SEQ2SEQ_MODELS[self.config.task], self.config.seq2seq
        known = None if initial is None else initial.config.seq2seq
        text_model = served(self.tokenizer, self.model, known)
        form = text_model.config
        search = SearchConfig(num_beams=_BEAMS) if initial is None else form.search
        form = _with_given(form, options, "prefix", "max_source")
        found = ("num_beams", "length_penalty", "no_repeat_ngram_size")
        form = dataclasses.replace(form, search=_with_given(search, options, *found))
        return served(self.tokenizer, self.model, form), {"seq2seq": form}

    def encode(self):
        """Keeps the ids of training pairs; gives the tokens of the longer side of each (N,)."""
        ids = self._encoded(self.text_model.source_ids, self.train.source)
        targets = self._encoded(self.text_model.targets, self.train.target)
        with tf.device("CPU"):
            sources = self.text_model.framed(ids)
        lengths = sources.row_lengths().numpy(), targets.row_lengths().numpy() - 1
        most = self.config.seq2seq.max_target or self.model.context_length
        given = len(self.text_model.config.target_start) - 1
        # One that was cut to the context has lost its end.
        whole = tf.gather(targets.flat_values, targets.row_splits[1:] - 1) == self.tokenizer.end_id
        kept = np.flatnonzero(whole.numpy() & (lengths[1] - given <= most))
        if not len(kept):
            raise ValueError(
                f"{self.config.data.train}: all targets are longer than {most} tokens; set "
                "seq2seq.max_target or model.context_length to more"
            )
        self.too_long = len(self.train) - len(kept)
        self.cut_sources = int((ids.row_lengths().numpy()[kept] > self.text_model.room).sum())
        self.sources, self.targets = tf.gather(sources, kept), tf.gather(targets, kept)
        self.lengths = np.stack([length[kept] for length in lengths], axis=1)  # (N, 2)
        return self.lengths.max(axis=1)

    def _encoded(self, encode, texts: Sequence[str]) -> tf.RaggedTensor:
        with tf.device("CPU"):  # string operations run there
            parts = [encode(texts[at : at + _AT_ONCE]) for at in range(0, len(texts), _AT_ONCE)]
            return tf.concat(parts, axis=0)

    def make_plan(self, lengths):
        """As of the longer sides; each bucket pads sources, and targets, to its own longest."""
        config = self.config
        buckets = config.data.buckets or tuple(
            sorted({int(size) for size in np.quantile(lengths, _SHARES, method="higher")})
        )
        bucket = np.minimum(np.searchsorted(buckets, lengths), len(buckets) - 1)
        # What a bucket cannot fill moves up to the next.
        below = (self.lengths[bucket <= index] for index in range(len(buckets)))
        sizes = [rows.max(axis=0) if len(rows) else (1, 1) for rows in below]
        self.buckets, self.sizes = tf.constant(buckets, tf.int64), tf.constant(sizes, tf.int64)
        tokens = self.lengths.sum(axis=1)
        return BucketPlan(lengths, config.batch_size, buckets, config.seed, tokens)

    def make_batch(self, step, rows, length):
        size = self.sizes[tf.searchsorted(self.buckets, [length])[0]]
        sources, targets = tf.gather(self.sources, rows), tf.gather(self.targets, rows)
        return self._padded(sources, targets, size)

    def _padded(self, sources, targets, size=None):
        """Inputs, labels (B, T), weights (B, T) of ids; `size` (2,) is S, T, else the longest."""
        shapes = [None, None] if size is None else [(-1, size[0]), (-1, size[1] + 1)]
        source_ids, ids = sources.to_tensor(shape=shapes[0]), targets.to_tensor(shape=shapes[1])
        inputs = {
            "token_ids": source_ids,
            "padding_mask": tf.sequence_mask(sources.row_lengths(), tf.shape(source_ids)[1]),
            "target_ids": ids[:, :-1],
        }
        first = len(self.text_model.config.target_start) - 1  # what is given is not learnt
        place = tf.range(tf.shape(ids, tf.int64)[1] - 1)[None]
        learnt = (place >= first) & (place < targets.row_lengths()[:, None] - 1)
        return inputs, ids[:, 1:], tf.cast(learnt, tf.float32)

    def evaluate(self, logs):
        found = self.forced_scores(self.validation)
        if rows := self.config.seq2seq.validation_rows:
            some = self._some(self.validation, rows)
            found |= self.scores(some, self.written(some, num_beams=1))
        return {f"val_{name}": value for name, value in found.items()}

    def forced_scores(self, examples: TextPairs) -> dict[str, float]:
        """Nats a token, its end included, and the share of right tokens, after the right ones."""
        sources = self._encoded(self.text_model.sources, examples.source)
        targets = self._encoded(self.text_model.targets, examples.target)
        order = np.argsort((sources.row_lengths() + targets.row_lengths()).numpy(), kind="stable")
        total = np.zeros(3)
        for start in range(0, len(order), _EVALUATED):
            rows = order[start : start + _EVALUATED]
            batch = self._padded(tf.gather(sources, rows), tf.gather(targets, rows))
            total += np.array([float(x) for x in on_backend(self._forced, *batch)])
        return {"loss": total[0] / total[2], "accuracy": total[1] / total[2]}

    @functools.cached_property
    def _forced(self):
        """Sums over a batch: nats, right tokens, tokens."""

        def sums(inputs, labels, weights):
            logits = self.model(inputs, training=False)
            losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            right = ops.cast(ops.argmax(logits, axis=-1) == ops.cast(labels, "int32"), "float32")
            return ops.sum(losses * weights), ops.sum(right * weights), ops.sum(weights)

        return tf.function(sums, reduce_retracing=True) if _on_tensorflow() else sums

    def _some(self, examples: TextPairs, rows: int | None) -> TextPairs:
        """So many of them, by chance: data are often sorted by length."""
        if rows is None or rows >= len(examples):
            return examples
        chosen = np.random.default_rng(self.config.seed).permutation(len(examples))[:rows]
        return examples.select(np.sort(chosen))

    def written(self, examples: TextPairs, **options: float) -> list[str]:
        """What is served for every source, by `options`."""
        most = min(int(self.lengths[:, 1].max()) + _ROOM, self.model.context_length)
        signature = getattr(self.text_model, self.config.task)
        given = {name: [value] for name, value in {"max_new_tokens": most, **options}.items()}
        write = functools.partial(signature, **given)

        def keep(rows, outputs):
            return {"text": outputs["text"].numpy()}

        found = predict_all(write, examples.source, keep=keep)["text"]
        return [text.decode("utf-8", "replace") for text in found]

    def answers(self, examples):
        return self.written(examples)

    def scores(self, examples, answers):
        references = _references(examples)
        if self.config.task == "translate":
            return translation_scores(answers, references)[0]
        each = rouge_of_each(answers, references)
        return {name: float(values.mean()) for name, values in each.items()}

    def baseline(self, examples):
        if self.config.task == "translate":
            return self.scores(examples, examples.source)
        return self.scores(examples, [sentences(text)[0] for text in examples.source])

    def report(self, saved, validation, steps):
        split = "validation" if self.test is None else "test"
        whole = getattr(self, split)
        examples = self._some(whole, self.config.seq2seq.report_rows)
        answers = self.answers(examples)
        model = self.scores(examples, answers)
        forced = self.forced_scores(whole)
        model |= {"loss": forced["loss"], "accuracy_of_tokens": forced["accuracy"]}
        baseline = self.baseline(examples) if self.config.baseline else None
        rows = f"{len(examples):,} {self.unit}"
        comparison = Comparison(split, rows, model, baseline, self.baseline_method)
        write_scores(saved.folder, split=split, model=model, baseline=baseline)
        return comparison, self.sections(comparison, examples, answers, saved.folder)

    def sections(self, comparison, examples, answers, folder):
        search, references = self.text_model.config.search, _references(examples)
        about = f"Written with {search.num_beams} beam(s), length penalty {search.length_penalty}"
        if self.config.task == "translate":
            _, signature = translation_scores(answers, references)
            about += f". BLEU is sacreBLEU's, {signature}; both are from 0 to 100."
            score, of_each = "chrf", chrf_of_each(answers, references)
        else:
            about += ". ROUGE is rouge-score's F1, from 0 to 1, with the nearest reference"
            if self.config.baseline:
                oracle = self.scores(examples, extractive_oracle(examples.source, references))
                write_scores(folder, oracle=oracle)
                found = ", ".join(f"{name} {value:.4f}" for name, value in oracle.items())
                about += (
                    "; the sentence of each source that is nearest to the reference, which no "
                    f"program can know, has {found}"
                )
            about += "."
            score, of_each = "rouge1", rouge_of_each(answers, references)["rouge1"]
        return writing_sections(comparison, examples, answers, score, of_each, about)

    def data_summary(self):
        data, read = self.config.data, [self.train]  # a part of a file knows what the file lacks
        read += [self.validation] if data.validation else []
        read += [self.test] if data.test else []
        notes = {
            "without a source or target, left out": sum(part.empty for part in read),
            "training targets too long, left out": self.too_long,
            f"training sources cut to {self.text_model.room} tokens": self.cut_sources,
        }
        notes = [f"{count:,} {what}" for what, count in notes.items() if count]
        summary = super().data_summary()
        return summary + (f" ({'; '.join(notes)})" if notes else "")


def _with_given(config, options: Seq2SeqTraining, *names: str):
    """A config with those of the fields that are given."""
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return dataclasses.replace(config, **given)


def _references(examples: TextPairs) -> list[list[str]]:
    return examples.references or [[text] for text in examples.target]


def _on_tensorflow() -> bool:
    return keras.backend.backend() == "tensorflow"
