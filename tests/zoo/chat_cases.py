"""Random conversations for the tests of chat forms, and how a text of one is recorded."""

import hashlib
import random

COUNT = 1000
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_WORDS = ["", " ", "\n", "\t", "hi", "Tell me.", "\u4f60\u597d", "\u00e9", "\U0001f600", "<|user|>"]
_WORDS += [
    "[/INST]",
    "</s>",
    "{{ x }}",
    "{% raw %}",
    "&lt;",
    "'",
    '"',
    "\\n",
    "\r\n",
    "\u2003",
    "\x1c",
]


def conversations(seed):
    """(messages, add_generation_prompt): maybe a system message, then turns that alternate."""
    rng = random.Random(seed)
    for _ in range(COUNT):
        roles = ["system"] * rng.randint(0, 1) + ["user", "assistant"] * 4
        count = roles.count("system") + rng.randint(1, 8)
        messages = [
            {"role": role, "content": "".join(rng.choices(_WORDS, k=rng.randint(0, 6)))}
            for role in roles[:count]
        ]
        yield messages, rng.random() < 0.5


def digest(text):
    """Eight characters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
