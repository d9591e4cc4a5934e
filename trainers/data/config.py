"""Where the training data comes from and how it becomes batches: part of `TrainConfig`.

Nothing here imports TensorFlow or Keras, so that a mistaken setting is told at once.
"""

import codecs
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from zoo.config import ConfigError, Fraction, config_dataclass

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Known by one spelling: 1 and "1" are the same setting of a run.
Column = Annotated[str | int, AfterValidator(str)]
# The longest block of a mixture: a share below one in so many cannot be kept.
MAX_BLOCK = 10_000
_EXACT, _CLOSE = 1e-9, 5e-3
_TOO_LARGE = {
    "source_bytes": "more than {:,} bytes of text, unpacked, are to be held in memory. Read a part "
    "of running text with --set=data.max_bytes=..., or prepare it in pieces with "
    "python -m trainers.data.prepare",
    "row_bytes": "a row (line, record) of more than {:,} bytes. Cut it, or check that no line "
    "break or quote is missing",
    "download_bytes": "the download has more than {:,} bytes. Check the address",
}


def require(holds: bool, rule: str, value: Any) -> None:
    """Raises ConfigError with the rule and the value unless it holds."""
    if not holds:
        raise ConfigError(f"{rule}. Received: {value!r}")


# Tasks of encoder-decoders, which read a source and write its target.
SEQ2SEQ_TASKS = ("translate", "summarize")


def tokenizers_for(task: str) -> tuple[str, ...]:
    """What `data.tokenizer` may be for a task."""
    if task == "chat":  # it must tell control tokens from texts
        return ("bytepair",)
    if task in SEQ2SEQ_TASKS:
        return ("bytepair", "sentencepiece")
    own = ("character", "byte") if task == "lm" else ("wordpiece",)
    return (*own, "bytepair", "sentencepiece")


@config_dataclass
class Limits:
    """Sizes beyond which reading stops with an error, as bytes arrive; None is no limit.

    Attributes:
        source_bytes: text of a source (a file, folder or glob, unpacked) that is held in memory.
            `python -m trainers.data.prepare` reads larger ones in pieces.
        row_bytes: one row of a table, line of JSON, CoNLL or running text, or record, as UTF-8.
        download_bytes: a file from an address.
    """

    source_bytes: Positive | None = 1 << 30
    row_bytes: Positive | None = 1 << 24
    download_bytes: Positive | None = 1 << 34

    def check(self, name: str, size: int | str, where: str) -> None:
        """Raises ValueError if `size`, of a text its bytes, is over the limit called `name`."""
        limit = getattr(self, name)
        if limit is None:
            return
        if isinstance(size, str):
            size = len(size) if size.isascii() else len(size.encode("utf-8", "surrogatepass"))
        if size > limit:
            raise ValueError(
                f"{where}: {_TOO_LARGE[name].format(limit)}; or raise the limit with "
                f"--set=data.limits.{name}=... (null: no limit)."
            )


@config_dataclass
class AugmentConfig:
    """How often words of training texts change; by default never. EDA's rates are 0.05 to 0.1.

    Attributes:
        delete: share of words that are left out; a text keeps at least one.
        swap: share of words that change places with one another, all over the text.
        insert: new words for each word, put before or after it.
        replace: share of words with another one in their place.
        mask: share of words with `mask_token` in their place.
        mask_token: what stands for a masked word.
        unit: "word" (what spaces divide) or "character", for Chinese and for scripts without
            spaces; characters that are spaces stay.
        probability: share of texts that may change at all.
        vocabulary: words to draw new ones from, evenly. Empty: the words of the batch.

    A word suffers only one of delete, replace and mask, so that each keeps its rate.
    """

    delete: Fraction = 0.0
    swap: Fraction = 0.0
    insert: Fraction = 0.0
    replace: Fraction = 0.0
    mask: Fraction = 0.0
    mask_token: str = "[MASK]"
    unit: Literal["word", "character"] = "word"
    probability: Share = 1.0
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shares = (self.delete, self.replace, self.mask)
        rule = "delete, replace and mask must sum to at most 1: a word suffers only one"
        require(sum(shares) <= 1, rule, shares)
        for word in (self.mask_token, *self.vocabulary):
            rule = "mask_token and vocabulary must be words without spaces"
            require(word.split() == [word], rule, word)

    @property
    def is_off(self) -> bool:
        """True where nothing can change."""
        rates = (self.delete, self.swap, self.insert, self.replace, self.mask)
        return self.probability == 0 or not any(rates)


@config_dataclass
class MaskingConfig:
    """How much is masked for a masked language model, and how.

    Attributes:
        rate: share of a row's candidates that the model must predict; at least one is chosen.
        mask_share: of those, the share shown as the mask token.
        random_share: the share shown as a random token; the rest is shown as it is.
        whole_words: whether a word's pieces are chosen together or not at all.
    """

    rate: Annotated[float, Field(gt=0, le=1)] = 0.15
    mask_share: Share = 0.8
    random_share: Share = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        shares = (self.mask_share, self.random_share)
        require(sum(shares) <= 1, "mask_share and random_share must sum to at most 1", shares)


@config_dataclass
class MixedCorpus:
    """A corpus of `data.mixture`.

    Attributes:
        train: what `data.train` takes.
        weight: above 0, its part of what is read; weights need not add up to 1.
        name: what metrics and the report call it; "" is `train`.
        validation: what to validate on, None holds out a share of `train`.
        encoding, split, pattern, max_bytes, format, text_column: as in `DataConfig`, for this
            corpus; None is what `data` says.
    """

    train: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    name: str = ""
    validation: str | None = None
    encoding: str | None = None
    split: Literal["files", "lines", "rows"] | None = None
    pattern: str | None = None
    max_bytes: int | None = None
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "tfrecord"] | None = None
    text_column: Column | None = None

    def __post_init__(self) -> None:
        require(bool(self.train), "data.mixture: `train` of each corpus must name a text", "")

    @property
    def title(self) -> str:
        """Its name, in metrics and messages."""
        return self.name or self.train


@config_dataclass
class DataConfig:
    """Where the data comes from, how it is read, and how it becomes batches.

    Attributes:
        train: running text (tasks lm, mlm): a file, glob, folder, address, named corpus, or folder
            that `python -m trainers.data.prepare` made; labelled data: a file or a named set;
            of tasks translate and summarize also two text files, "SOURCES,TARGETS".
        validation: the same, for validation; None holds out part of `train`.
        mixture: MixedCorpus, corpora that are read in proportion to their weights, in place of
            `train`, which is "" or one of theirs (tasks lm, mlm); () reads `train` alone.
        test: labelled data that is looked at once, when training is over; None has no test.
        validation_fraction: share held out: of the characters of running text, of the examples
            (of each class alike) of labelled data.
        test_fraction: share of the examples held out as test where there is no `test`; 0.1 where
            `--set=data.train` takes the place of the data of a recipe that has a test.
        encoding: codec of the files.
        invalid: "replace" puts U+FFFD for bytes that are not valid, "strict" stops.
        split: "files" makes each file of running text a document, "lines" each line, "rows" the
            `text_column` of each row (CSV, TSV, JSON lines, Parquet, TFRecord, Hugging Face),
            "poems" each line of title TAB author TAB body, "articles" each article of WikiText.
        pattern: of the files in a folder, such as "*.txt"; None takes every file.
        max_bytes: reads no more running text than that; None reads all.
        start_text: one token's text, read in place of an empty prompt (task lm); "" is the
            end-of-text token, which stands before every document of a corpus of several.
        order: "windows" draws windows in random order, each once an epoch; "segments" draws
            segments of consecutive windows, and carries the state of an LSTM through each
            (truncated back-propagation through time).
        segment_windows: windows of a segment.
        window: tokens of a training window at most (tasks lm and chat); None: as the context.
        document_mask: whether tokens see those of their own document only, where a window holds
            several, and count positions from its start (a GPT, task lm).
        tokenizer: "character" (Unicode code points) or "byte" (needs no training), for task lm;
            "wordpiece" for the others; "bytepair" (GPT-2's and RoBERTa's kind) or "sentencepiece"
            (a model that there is) for all.
        max_vocabulary_size: of a vocabulary that is trained; None keeps all characters, and 8000
            pieces.
        min_count: characters seen less often become unknown; byte pairs seen less often, or once,
            are not merged.
        vocabulary: what to use in place of training: a `vocab.txt` (WordPiece), a `tokenizer.json`
            or a folder with it or with `vocab.json` and `merges.txt` (byte pairs), a `.model`
            (SentencePiece, which needs it).
        vocabulary_from: further text to train an encoder's vocabulary on; None: `train` only.
        lowercase: whether WordPiece lower-cases and strips accents.
        format: of rows: "auto" by name, or "csv", "tsv", "jsonl", "json" (an array), "parquet",
            "tfrecord"; of labelled data also "folders", a text per file in a folder per label.
        text_column, pair_column, label_column: names in the header, or numbers from 0, from the
            end with a minus sign. pair_column is the second text of tasks pair, embed and, where
            given, regress, and the target of translate and summarize.
        reverse: whether source and target of translate and summarize change places.
        prompt, pair_prompt: names in text.prompts of what stands before the texts of each column
            (task embed); None: text.default_prompt, "": none.
        id_column: only checked: ids that repeat are counted in a warning; None: there are none.
        header: "first" if the first line names the columns, "none" if there are no names; "auto"
            is "none" if all columns are given by number.
        quotes: whether quotes enclose fields; None: in CSV yes, in TSV no.
        token_column, tag_column: columns of a CoNLL file, by number as above or by name: of
            CoNLL-U, such as FORM and UPOS, or of a line that names them.
        separator: of the columns of a CoNLL file: "tab", "space" (any run of blanks), "auto"
            looks; of a table: "comma", "tab", "semicolon" or "pipe", "auto" goes by the format.
        scheme: of its tags: "auto", "bio", "iob1" (B- only between entities that touch), "iob2"
            (the same as "bio"), "bioes", or "raw" for parts of speech.
        mismatched: what becomes of answers that do not stand where the file says: "error", or
            "skip", which leaves them out, and questions with no other answer, with a warning; and
            of pairs without a source or a target (tasks translate and summarize).
        buckets: lengths to which batches are padded, ascending; () makes 4 up to
            `text.max_length`. Each is compiled once. Of pairs the longer of source and target
            counts, and each is padded to the longest of its side.
        class_weights: "none", "balanced" (n / (classes x count)) or "sqrt" (its root).
        augment: AugmentConfig, changes to training texts, other ones every epoch; off by default.
        masking: MaskingConfig, for task mlm.
        negative_windows: share kept of the windows without the answer (task span).
        limits: Limits, sizes beyond which reading stops with an error.
    """

    train: str
    mixture: tuple[MixedCorpus, ...] = ()
    validation: str | None = None
    test: str | None = None
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_fraction: Fraction = 0.0
    encoding: str = "utf-8"
    invalid: Literal["replace", "strict"] = "replace"
    split: Literal["files", "lines", "rows", "poems", "articles"] = "files"
    pattern: str | None = None
    max_bytes: Positive | None = None
    start_text: str = ""
    order: Literal["windows", "segments"] = "windows"
    segment_windows: Positive = 16
    window: Positive | None = None
    document_mask: bool = False
    tokenizer: Literal["character", "byte", "wordpiece", "bytepair", "sentencepiece"] = "character"
    max_vocabulary_size: int | None = None
    min_count: Positive = 1
    vocabulary: str | None = None
    vocabulary_from: str | None = None
    lowercase: bool = True
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "folders", "parquet", "tfrecord"] = (
        "auto"
    )
    text_column: Column = "text"
    pair_column: Column | None = None
    reverse: bool = False
    label_column: Column = "label"
    prompt: str | None = None
    pair_prompt: str | None = None
    id_column: Column | None = None
    header: Literal["auto", "first", "none"] = "auto"
    quotes: bool | None = None
    token_column: Column = "0"
    tag_column: Column = "-1"
    separator: Literal["auto", "tab", "space", "comma", "semicolon", "pipe"] = "auto"
    scheme: Literal["auto", "bio", "iob1", "iob2", "bioes", "raw"] = "auto"
    mismatched: Literal["error", "skip"] = "error"
    buckets: tuple[int, ...] = ()
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    negative_windows: Share = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self) -> None:
        try:
            codecs.getincrementaldecoder(self.encoding)
            b"a".decode(self.encoding, "replace")  # also refuses codecs not of text, such as hex
        except (LookupError, UnicodeError) as error:
            raise ConfigError(
                f"unknown text encoding {self.encoding!r}. Use a Python codec name, for example "
                "--set=data.encoding=utf-8 (or utf-16, latin-1, cp1252, gb18030, big5, shift_jis)."
            ) from error
        if self.mixture:
            self._check_mixture()
        else:
            require(bool(self.train), "data.train must name a text", self.train)
        ascending = [*self.buckets] == sorted({*self.buckets})
        ascending = ascending and min(self.buckets, default=4) >= 4
        require(ascending, "data.buckets must ascend from at least 4", self.buckets)

    def _check_mixture(self) -> None:
        titles = [corpus.title for corpus in self.mixture]
        rule = "data.mixture: two corpora have one name; set `name` of one of them"
        require(len(set(titles)) == len(titles), rule, titles)
        require(
            self.train in ("", *(corpus.train for corpus in self.mixture)),
            "data.mixture is read in place of data.train, which is none of its corpora: set "
            "--set=data.train= as well",
            self.train,
        )
        rule = "data.validation cannot be set with data.mixture: set `validation` of its corpora"
        require(self.validation is None, rule, self.validation)
        try:
            self.block()
        except ValueError as error:
            raise ConfigError(f"data.mixture: {error}") from None

    def block(self) -> dict[str, int]:
        """Name -> examples of each corpus of the mixture in every block."""
        return block_counts({corpus.title: corpus.weight for corpus in self.mixture})

    @property
    def named(self) -> str:
        """What the text is called, in messages."""
        return ", ".join(corpus.title for corpus in self.mixture) or self.train

    def corpora(self) -> "dict[str, DataConfig]":
        """Name -> how each corpus of the mixture is read by itself; without one {"": self}."""
        corpora = {"": self} if not self.mixture else {}
        for corpus in self.mixture:
            own = {name: value for name, value in vars(corpus).items() if value is not None}
            del own["name"], own["weight"]
            corpora[corpus.title] = dataclasses.replace(self, mixture=(), **own)
        return corpora


def block_counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Name -> examples in the smallest block with these shares, or within 0.5 % of each."""
    values = np.array([*weights.values()], np.float64)
    shares = values / values.max()  # no sum of large weights overflows
    shares = shares / shares.sum()
    sizes = np.arange(len(shares), max(MAX_BLOCK, len(shares)) + 1)
    wanted = sizes[:, None] * shares
    # Rounded first, so that 0.7 x 10 is 7 and not a little less; the largest remainders go up.
    counts = np.floor(np.round(wanted, 9)).astype(np.int64)
    order = np.argsort(counts - wanted, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    counts += ranks < (sizes - counts.sum(axis=1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # a weight 1e-300 times another
        errors = np.abs(counts / wanted - 1).max(axis=1)
    places = (np.flatnonzero(errors <= limit) for limit in (_EXACT, _CLOSE))
    place = next((found[0] for found in places if len(found)), -1)
    chosen = dict(zip(weights, counts[place].tolist()))
    for name, count, share in zip(weights, chosen.values(), shares):
        if not count:
            raise ValueError(
                f"the weight {weights[name]!r} of {name!r} is {share:.2g} of all, less than one "
                f"example in {MAX_BLOCK:,}; give it more, or leave it out"
            )
    return chosen


@config_dataclass
class PrepareConfig:
    """Settings of `python -m trainers.data.prepare`; they decide every byte of the result.

    Attributes:
        data: DataConfig: source (`train`), validation, how text is read, the tokenizer.
        task: "lm" or "mlm", what the tokenizer is for: an encoder's has [MASK] and others.
        tokenizer_from: folder of a tokenizer or a bundle, None to make or train one.
        tokenizer_mb: megabytes of text that a vocabulary is trained on, from all parts of the
            source; characters are always counted in all of it.
        shard_mb: megabytes of text that make a shard.
        record_tokens: ids of a record.
        seed: chooses the documents that validate.
    """

    data: DataConfig
    task: Literal["lm", "mlm"] = "lm"
    tokenizer_from: str | None = None
    tokenizer_mb: Annotated[float, Field(gt=0)] = 64.0
    shard_mb: Annotated[float, Field(gt=0)] = 64.0
    record_tokens: Positive = 1024
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def __post_init__(self) -> None:
        alone = not self.data.mixture
        require(alone, "data.mixture: prepare each corpus by itself", self.data.named)
        kinds = tokenizers_for(self.task)
        fits = self.tokenizer_from is not None or self.data.tokenizer in kinds
        rule = f"task {self.task!r} needs a tokenizer of kind {' or '.join(kinds)}"
        require(fits, rule, self.data.tokenizer)
