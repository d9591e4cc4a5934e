"""A language model that answers conversations: the prompt is put together and cut in the graph."""

import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.text.base import signature
from zoo.text.chat_form import END, GENERATE, MESSAGES, START, ChatForm, Joint
from zoo.text.lm import TextLM
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.causal import CausalTokenizer

# The places that a conversation does not use have the role "".
_ONE_MESSAGE = {"role": ["user", *[""] * (MESSAGES - 1)], "content": [""] * MESSAGES}
# What `str.strip` removes.
_BLANKS = "".join(chr(point) for point in range(0x3001) if chr(point).isspace())


class TextChat(TextLM):
    """A TextLM that also answers conversations, in the form of its chat template.

    Args:
        tokenizer, model, start_id: as of TextLM; a tokenizer that finds special tokens in texts.
        form: ChatForm, as `zoo.text.chat_template.chat_form` makes it of a template.

    Example:
        >>> import zoo
        >>> from zoo.text.chat_form import ChatForm, Joint
        >>> tokenizer = zoo.BytePairTokenizer.train(["Why?"], 260)
        >>> model = zoo.build("gpt_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
        >>> form = ChatForm({"start>user": Joint("Q: "), "user>generate": Joint(" A:")})
        >>> TextChat(tokenizer, model, form).chat([["user"]], [["Why?"]])["content"].shape
        TensorShape([1])
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: keras.Model,
        form: ChatForm,
        start_id: int | None = None,
    ):
        super().__init__(tokenizer, model, start_id)
        if not isinstance(tokenizer, CausalTokenizer):
            raise ValueError(
                f"a {tokenizer.kind} tokenizer cannot tell a chat's control tokens from texts; "
                "byte pairs and byte fallback can"
            )
        for roles in ((START, "user"), ("user", GENERATE)):
            form.joint(*roles)
        self.form = form
        self._joints = _Joints(form, tokenizer)

    # M is the number of messages; see `signature`.
    @functools.partial(signature, defaults=_ONE_MESSAGE)
    def chat(self, role, content, **options):
        """Answers each conversation.

        Args:
            role: [B, M] strings, such as "system", "user" and "assistant", in an order that the
                chat template takes; "" where there is no message.
            content: [B, M] strings, any bytes. Special tokens in them are text.
            **options: those of `generate`.

        A conversation that leaves no room in the context for `max_new_tokens`, or for half a
        context if that is less, loses its oldest turns, from one user's message to the next one; a
        system message at its beginning stays. Tokens are counted part by part. If the last user's
        message is too long alone, it loses its start, though never more than what is above half of
        the room; what is too long then loses its first tokens, as every prompt.

        Returns:
            dict of [B] tensors: `content` (the answer), `token_count`, `log_probability` and
            `finish_reason` as of `generate`.

        Raises:
            tf.errors.InvalidArgumentError, TypeError: an option is out of range or unknown; a
                conversation is empty, ends with the assistant, or has an unknown role or an order
                that the template does not have; the message says the row.
        """
        ids = self.prompt(role, content, options["max_new_tokens"])
        prompt = self._started(ids, always=False)
        # Templates end with whole characters: nothing of them is in the answer's first one.
        outputs = self._write(tf.fill([tf.shape(role)[0]], ""), prompt, options)
        return {"content": outputs.pop("completion"), **outputs}

    def prompt(self, role, content, max_new_tokens) -> tf.RaggedTensor:
        """The ids [B, None] that `chat` reads; `max_new_tokens` is (B,) int32."""
        length = self.model.context_length
        room = length - tf.minimum(max_new_tokens, length // 2)  # (B,)
        talks = self._joints.shortened(self._joints.read(role, content), room)
        return self.tokenizer.encode_parts(*self._joints.parts(talks))

    def whole(self, role, content, last: str = GENERATE) -> tf.RaggedTensor:
        """As `prompt` of conversations of any length; `last` END: with what ends them, instead."""
        parts = self._joints.parts(self._joints.read(role, content, last))
        return self.tokenizer.encode_parts(*parts)

    def kept(self, role, content, room: tf.Tensor) -> tf.Tensor:
        """How many messages (B,) of ended conversations stay in `room` (B,): as in `chat`."""
        talks = self._joints.shortened(self._joints.read(role, content, END), room)
        return talks.roles.row_lengths() - 1


class _Talks(NamedTuple):
    """Conversations with the answer that comes next: RaggedTensors [B, None] of the same splits."""

    roles: tf.RaggedTensor  # int32; the last of each row is GENERATE, or END
    contents: tf.RaggedTensor  # the last of each row is ""

    def before(self) -> tf.Tensor:
        """What each message comes after, (N,) int32."""
        rows = self.roles.nrows()
        starts = tf.zeros([rows, 1], tf.int32)
        return tf.concat([starts, self.roles], axis=1)[:, :-1].flat_values


class _Joints:
    """The joints of a form as tables by two roles, and what they make of conversations.

    A role's number is its place in `names`, which begin with START and end with GENERATE.
    """

    def __init__(self, form: ChatForm, tokenizer: CausalTokenizer):
        roles = dict.fromkeys(role for key in form.joints for role in key.split(">"))
        self.roles = [role for role in roles if role not in (START, GENERATE, END)]
        self.names = [START, *self.roles, END, GENERATE]
        # Templates write such a prompt, but there is nothing to answer.
        allowed = {*form.joints} - {f"assistant>{GENERATE}"}
        self.known = ", ".join(sorted(allowed))
        pairs = [f"{before}>{after}" for before in self.names for after in self.names]
        joints = [form.joints.get(pair, Joint("")) for pair in pairs]
        self._tokenizer = tokenizer
        self.exist = np.array([pair in allowed for pair in pairs])
        self.texts = np.array([joint.text.encode() for joint in joints], object)
        # Where nothing is left of the content.
        ends = [joint.text.rstrip() if joint.joined else joint.text for joint in joints]
        self.bare_texts = np.array([text.encode() for text in ends], object)
        self.strip_left = np.array([joint.strip in ("left", "both") for joint in joints])
        self.strip_right = np.array([joint.strip in ("right", "both") for joint in joints])

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """How many tokens each joint has; asked for by prompts, as encoding takes a second."""
        texts = self.texts[:, None]
        with tf.init_scope():
            parts = tf.constant(texts, tf.string), tf.zeros(texts.shape, tf.bool)
            sizes = self._tokenizer.encode_parts(*parts).row_lengths()
            return sizes.numpy().astype(np.int32)

    def of(self, table: np.ndarray, before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        """The entries (N,) of a table for pairs of roles."""
        dtype = tf.string if table.dtype == object else None
        return tf.gather(tf.constant(table, dtype), before * len(self.names) + after)

    def read(self, role: tf.Tensor, content: tf.Tensor, last: str = GENERATE) -> _Talks:
        """Conversations of strings (B, M), checked."""
        is_message = tf.not_equal(role, "")
        lost = tf.logical_and(~is_message, tf.not_equal(content, ""))
        names = tf.ragged.boolean_mask(role, is_message)
        contents = tf.ragged.boolean_mask(content, is_message)
        same = tf.equal(names.flat_values[:, None], tf.constant(self.roles)[None])  # (N, R)
        # Unknown ones have the number of START, which comes after nothing.
        numbers = tf.cast(same, tf.int32) * tf.range(1, len(self.roles) + 1)
        numbers = names.with_flat_values(tf.reduce_sum(numbers, axis=1))
        rows = tf.shape(role)[0]
        ends = tf.fill([rows, 1], self.names.index(last))
        talks = _Talks(
            tf.concat([numbers, ends], axis=1),
            tf.concat([contents, tf.fill([rows, 1], "")], axis=1),
        )
        after, before = talks.roles.flat_values, talks.before()
        in_row = talks.roles.value_rowids()
        is_unknown = ~tf.reduce_any(same, axis=1)  # (messages,)
        wrong = tf.where(~self.of(self.exist, before, after))[:, 0]
        wrong_after, wrong_before = (
            tf.gather(tf.constant(self.names), tf.gather(x, wrong)) for x in (after, before)
        )
        problems = [  # rows, and what is wrong with each; TensorFlow would escape quotes
            (tf.where(lost)[:, 0], ["a content without a role"]),
            (tf.where(tf.equal(names.row_lengths(), 0))[:, 0], ["no messages"]),
            (
                tf.boolean_mask(names.value_rowids(), is_unknown),
                ["role ", tf.boolean_mask(names.flat_values, is_unknown)]
                + [f" is none of the model: {', '.join(self.roles)}"],
            ),
            (
                tf.gather(in_row, wrong),
                ["the model has no ", wrong_after, " after ", wrong_before, " in a conversation"]
                + [f"; it has {self.known}"],
            ),
        ]
        lines = [
            tf.strings.join(["row ", tf.strings.as_string(rows), ": ", *words])
            for rows, words in problems
        ]
        lines = tf.concat(lines, axis=0)
        none = tf.equal(tf.size(lines), 0)
        with tf.control_dependencies([tf.debugging.Assert(none, [lines[:1]])]):
            return _Talks(*map(tf.identity, talks))

    def parts(self, talks: _Talks) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """What the prompts consist of, for `encode_parts`: joints and contents by turns."""
        before, after = talks.before(), talks.roles.flat_values
        contents = self._stripped(talks)
        texts = self.of(self.texts, before, after)
        bare = self.of(self.bare_texts, before, after)
        texts = tf.where(tf.equal(contents, ""), bare, texts)
        parts = tf.reshape(tf.stack([texts, contents], axis=1), [-1])
        is_text = tf.tile([False, True], [tf.size(texts)])
        splits = 2 * talks.roles.row_splits
        return tuple(tf.RaggedTensor.from_row_splits(x, splits) for x in (parts, is_text))

    def _stripped(self, talks: _Talks) -> tf.Tensor:
        """Contents (N,) without the whitespace that the template takes off."""
        before, after, contents = talks.before(), talks.roles.flat_values, talks.contents
        contents = contents.flat_values
        sides = ((self.strip_left, rf"\A[{_BLANKS}]+"), (self.strip_right, rf"[{_BLANKS}]+\z"))
        for table, blanks in sides:
            if table.any():
                stripped = tf.strings.regex_replace(contents, blanks, "")
                contents = tf.where(self.of(table, before, after), stripped, contents)
        return contents

    def shortened(self, talks: _Talks, room: tf.Tensor) -> _Talks:
        """Conversations of about `room` (B,) tokens at most: see `TextChat.chat`."""
        roles, before, after = talks.roles, talks.before(), talks.roles.flat_values
        row, first = roles.value_rowids(), roles.row_starts()  # (N,), (B,)
        contents = self._stripped(talks)
        content_ids = self._tokenizer.encode_text(contents)
        content_sizes = tf.cast(content_ids.row_lengths(), tf.int32)
        joint_sizes = self.of(self.sizes, before, after)
        sizes = joint_sizes + content_sizes  # (N,)
        up_to = tf.cumsum(sizes)
        up_to_end = tf.gather(up_to, roles.row_limits() - 1)  # (B,)

        # Each row may begin, behind its system message, at its first turn or at any user's message.
        system = self.names.index("system") if "system" in self.names else -1
        has_head = tf.equal(tf.gather(after, first), system)  # (B,)
        head = tf.where(has_head, system, 0)  # the role; START without one
        head_size = tf.where(has_head, tf.gather(sizes, first), 0)
        place = tf.range(tf.size(after))
        opens = tf.cast(first, tf.int32) + tf.cast(has_head, tf.int32)  # (B,) the first turn
        row_head, row_opens = tf.gather(head, row), tf.gather(opens, row)
        may_begin = tf.equal(after, self.names.index("user")) & (place > row_opens)
        may_begin &= self.of(self.exist, row_head, after)
        may_begin |= tf.equal(place, row_opens)
        length = tf.gather(head_size + up_to_end, row) - up_to + content_sizes
        length += self.of(self.sizes, row_head, after)  # if it begins there
        fits = may_begin & (length <= tf.gather(room, row))

        by_row = roles.with_flat_values
        end = tf.size(after)
        begin = tf.reduce_min(by_row(tf.where(fits, place, end)), axis=1)
        too_long = tf.equal(begin, end)  # (B,)
        latest = tf.reduce_max(by_row(tf.where(may_begin, place, -1)), axis=1)
        begin = tf.where(too_long, latest, begin)
        over = tf.where(too_long, tf.gather(length, begin) - room, 0)
        kept = tf.maximum(tf.gather(content_sizes, begin) - over, room // 2)
        endings = self._ending(tf.gather(content_ids, begin), tf.where(too_long, kept, 0))

        row_begin = tf.gather(begin, row)
        is_cut = tf.equal(place, row_begin) & tf.gather(too_long, row)
        stays = (place >= row_begin) | (place < row_opens)
        whole = talks.contents.flat_values
        shorter = tf.where(is_cut, tf.gather(endings, row), whole)
        return _Talks(
            tf.ragged.boolean_mask(roles, by_row(stays)),
            tf.ragged.boolean_mask(by_row(shorter), by_row(stays)),
        )

    def _ending(self, ids: tf.RaggedTensor, count: tf.Tensor) -> tf.Tensor:
        """The text (B,) of the last `count` (B,) of ids [B, None], from a whole character on."""
        left = tf.cast(ids.row_lengths(), tf.int32) - count
        place = tf.ragged.range(tf.cast(ids.row_lengths(), tf.int32)).flat_values
        stays = ids.with_flat_values(place >= tf.gather(left, ids.value_rowids()))
        texts = self._tokenizer.decode_after(tf.ragged.boolean_mask(ids, stays))
        # Bytes that continue a character, of which there are three at most.
        padded = tf.strings.join([texts, "   "])
        begin = tf.io.decode_raw(tf.strings.substr(padded, 0, 3), tf.uint8, fixed_length=3)
        continues = tf.cast(tf.equal(begin & 0xC0, 0x80), tf.int32)  # (B, 3)
        skipped = tf.reduce_sum(tf.math.cumprod(continues, axis=1), axis=1)
        size = tf.strings.length(texts)
        return tf.strings.substr(texts, skipped, size - skipped)
