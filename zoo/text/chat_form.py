"""The form of a chat prompt: what stands between the contents of its messages, as data."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic.dataclasses import dataclass

# Places for messages in the requests that a server can put into one batch.
MESSAGES = 16
# What a message comes after, and what comes after the last one.
START, GENERATE, END = "start", "generate", "end"
ROLES = ("system", "user", "assistant")

Strip = Literal["none", "left", "right", "both"]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Joint:
    """What goes from one message to the next one.

    Attributes:
        text: what stands between their contents.
        strip: on which sides whitespace around the content of the next one goes.
        joined: whether, when that leaves nothing, whitespace at the end of `text` goes, too: some
            templates put the system message before the user's and strip both together.
    """

    text: str
    strip: Strip = "none"
    joined: bool = False


@dataclass(frozen=True)
class ChatForm:
    """How conversations become one text, by what follows on what.

    A message's text depends on its role and on that before it alone. So a system message may stand
    in a turn of its own or in that of the user, a default one is a part of what stands before the
    first user's, and a first or last turn may differ from others.

    Attributes:
        joints: "start>user", "user>assistant", "assistant>end", "user>generate" and so on. What is
            not among them a conversation cannot have.
    """

    joints: dict[str, Joint]

    def has(self, before: str, after: str) -> bool:
        """Whether a role may follow on another."""
        return f"{before}>{after}" in self.joints

    def joint(self, before: str, after: str) -> Joint:
        """The joint of two roles, or a ValueError that says that they do not follow."""
        found = self.joints.get(f"{before}>{after}")
        if found is None:
            known = ", ".join(sorted(self.joints))
            raise ValueError(
                f"a conversation of this model has no {after!r} after {before!r}; it has {known}"
            )
        return found


def render(form: ChatForm, messages: Messages, generate: bool = True) -> str:
    """The text of a conversation; with `generate` up to where the assistant's answer begins.

    Example:
        >>> form = ChatForm({"start>user": Joint("Q: "), "user>generate": Joint(" A:")})
        >>> render(form, [{"role": "user", "content": "Why?"}])
        'Q: Why? A:'
    """
    parts, before = [], START
    for message in messages:
        joint = form.joint(before, message["role"])
        before = message["role"]
        content = stripped(message["content"], joint.strip)
        parts += [joint.text.rstrip() if joint.joined and not content else joint.text, content]
    return "".join([*parts, form.joint(before, GENERATE if generate else END).text])


def stripped(content: str, strip: Strip) -> str:
    """Content without whitespace on the sides that `strip` names."""
    if strip in ("left", "both"):
        content = content.lstrip()
    return content.rstrip() if strip in ("right", "both") else content
