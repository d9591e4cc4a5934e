"""How texts are read: part of a training config and of a bundle; it needs no TensorFlow."""

import dataclasses
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

from zoo.config import ConfigError, Size, config_dataclass

# Words that say little about a topic. Negations are left out: "not" turns a review around.
_ENGLISH = (
    "a about after all also am an and any are as at be because been before being between both but "
    "by can could did do does doing during each for from further had has have having he her here "
    "hers herself him himself his how i if in into is it its itself just me more most my myself "
    "of on once only or other our ours ourselves out over own same she should so some such than "
    "that the their theirs them themselves then there these they this those through to too until "
    "up very was we were what when where which while who whom why will with would you your yours "
    "yourself yourselves i'm i've it's that's you're we're they're"
)
ENGLISH_STOP_WORDS: tuple[str, ...] = tuple(_ENGLISH.split())

Treatment = Literal["keep", "mask", "remove"]
Beams = Annotated[int, Field(ge=1, le=16)]
LengthPenalty = Annotated[float, Field(ge=-8, le=8)]
Repeats = Annotated[int, Field(ge=0, le=32)]


@config_dataclass
class CleaningConfig:
    """What `clean` does to a text; by default nothing. The steps run in this order.

    Attributes:
        html: tags, comments, scripts and styles are removed and character references decoded,
            once. It is no protection against hostile HTML.
        control_characters: control characters, byte order marks, soft hyphens and marks of writing
            direction are removed; tabs and line ends become spaces. Zero-width joiners stay.
        unicode: "none", "nfc" (one spelling for each accented letter) or "nfkc" (one also for
            full-width letters, ligatures and the like).
        lowercase: capital letters become small ones, in every script.
        urls: "keep", "mask" (`url_mask` instead) or "remove" (a space instead), for addresses that
            begin with http://, https://, ftp:// or www.
        emails: the same for e-mail addresses, with `email_mask`.
        url_mask: a word that is one piece in the vocabularies of BERT, as "<url>" is not.
        email_mask: the same in place of an e-mail address.
        stop_words: removed in any case, only as whole words; such as `ENGLISH_STOP_WORDS`. A word
            ends where letters, digits, "_" and inner apostrophes do.
        whitespace: runs of spaces of any kind become one space; none at the ends.
    """

    html: bool = False
    control_characters: bool = False
    unicode: Literal["none", "nfc", "nfkc"] = "none"
    lowercase: bool = False
    urls: Treatment = "keep"
    emails: Treatment = "keep"
    url_mask: str = "link"
    email_mask: str = "email"
    stop_words: tuple[str, ...] = ()
    whitespace: bool = False

    def __post_init__(self) -> None:
        for name in ("url_mask", "email_mask"):
            mask = getattr(self, name)
            if mask.split() != [mask]:
                raise ConfigError(f"{name} must be text without spaces. Received: {mask!r}")
        for word in self.stop_words:
            if not all(part and all(map(_is_word_character, part)) for part in word.split("'")):
                raise ConfigError(
                    "stop_words must be words of letters and digits (inner ' and _ allowed), "
                    f"one each. Received: {word!r}"
                )


def _is_word_character(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LMN"


@config_dataclass
class TextConfig:
    """How text is read, the same in training and in serving.

    Attributes:
        max_length: tokens of one window, special ones included; at most the model's
            `context_length`. Longer texts are read in several windows.
        stride: tokens from one window's start to the next one's; None means half a window.
        cleaning: CleaningConfig. Refused by the tasks whose answers are offsets into the text.
        pairs: whether a regression reads two texts at once (a pair classifier always does).
        max_question_length: tokens of a question that are read.
        max_answer_length: tokens of the longest answer.
        no_answer: whether a question may have none (SQuAD 2.0).
        prompts: name -> text that stands before a text, such as {"query": "query: "}, of task
            embed: a request names one.
        default_prompt: the name of the one where a request names none; None is no prompt.
    """

    max_length: Annotated[int, Field(ge=8)] = 128
    stride: int | None = None
    cleaning: CleaningConfig = dataclasses.field(default_factory=CleaningConfig)
    pairs: bool = False
    max_question_length: Size = 64
    max_answer_length: Size = 30
    no_answer: bool = False
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None

    def __post_init__(self) -> None:
        if "" in self.prompts:
            raise ConfigError('text.prompts: a prompt needs a name, and "" names none')
        if self.default_prompt is not None:
            self.require_prompt("text.default_prompt", self.default_prompt)
        if self.stride is not None and not 1 <= self.stride <= self.max_length - 2:
            raise ConfigError(
                "text.stride must be between 1 and text.max_length - 2. "
                f"Received: {self.stride} with max_length {self.max_length}"
            )

    def require_prompt(self, field: str, name: str) -> None:
        """Raises ConfigError, which names the field, unless there is a prompt of that name."""
        if name not in self.prompts:
            raise ConfigError(
                f"{field} must name one of text.prompts, {', '.join(self.prompts) or 'none'}. "
                f"Received: {name!r:.80}"
            )

    def window_size(self, pairs: bool = False, separators: int = 1) -> int:
        """Tokens of text in one window, special tokens taken off."""
        return self.max_length - special_count(pairs, separators)

    def window_stride(self) -> int:
        """Tokens between the starts of two windows, with `None` resolved."""
        return max(self.window_size() // 2, 1) if self.stride is None else self.stride


@config_dataclass
class SearchConfig:
    """How targets are searched for. The first four are defaults, which a request may override.

    Attributes:
        max_new_tokens: tokens of a target at most, its end counted; cut to the context.
        min_new_tokens: tokens before which no target ends.
        num_beams: texts that are extended side by side; 1 is greedy.
        length_penalty: log-probabilities are divided by tokens ** this.
        early_stopping: when a search by beams ends. False: when the best open text, at its length
            now, is not better than the worst of `num_beams` found ones; "never": nor at the
            greatest length; True: with `num_beams` found ones, however good the open ones are.
        no_repeat_ngram_size: so many tokens in a row occur once at most in a target; 0 is off.
        forced_end: whether the last of `max_new_tokens` is the end, at no cost, whatever the model
            says.
        banned_ids: ids that are never written.
        renormalize: whether the probabilities of all ids that may come next add up to 1.
    """

    max_new_tokens: Size = 256
    min_new_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    num_beams: Beams = 1
    length_penalty: LengthPenalty = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: Repeats = 0
    forced_end: bool = False
    banned_ids: tuple[int, ...] = ()
    renormalize: bool = False


@config_dataclass
class Seq2SeqConfig:
    """How an encoder-decoder's source and target are put together, in training and in serving.

    Attributes:
        prefix: text before every source, such as T5's "summarize: ".
        source_start: ids before a source, such as a language's.
        source_end: ids after it.
        target_start: ids that every target begins with; the first is never predicted, the others
            are given, too, such as a language's (mBART).
        max_source: tokens of a source that are read, these ids included; of a longer one the
            beginning. None means as many as the model can.
        search: SearchConfig.
    """

    prefix: str = ""
    source_start: tuple[int, ...] = ()
    source_end: tuple[int, ...] = ()
    target_start: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    max_source: Size | None = None
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)


def special_count(pairs: bool, separators: int = 1) -> int:
    """Special tokens around a text, or around a pair: a tokenizer has its `pair_separators`."""
    return 2 + separators if pairs else 2
