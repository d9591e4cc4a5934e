"""The requests of golden pairs, every kind of text that a model may meet, and of the warm-up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export import DEFAULT_SIGNATURE
from export.golden.pairs import GoldenPair, strings
from export.signatures import default_inputs, example_answers, functions_of, input_names
from zoo.bundle import Bundle
from zoo.generation.options import OPTIONS, PROMPT, SEQ2SEQ_OPTIONS
from zoo.text.chat_form import MESSAGES

Arrays = dict[str, np.ndarray]

# The first run of a signature prepares its graph, which takes seconds; the first one at a size
# lets oneDNN choose its kernels. These are parts of the longest text that is read in one piece.
_LENGTHS = (0.125, 0.5, 1.0)
# Floating-point operations of all these requests together: some 10 s of one core. A large model is
# warmed up at its smaller sizes alone, rather than for minutes at each load.
_BUDGET = 3e11
# Long texts are longer than the context, which is then read in windows, if that has at most so many
# tokens, else this long; beside others they are cut, for each row of a batch is padded to the
# longest (five of 824 tokens of SmolLM2 took 7 CPU-s and 0.9 GB of logits each time).
_LONG, _LONG_OF_LARGE = 1024, 256
_LONG_BYTES = 600
_LINE = b"To be, or not to be\n"
_WORDS = b"It was the best of times, it was the worst of times. " * 4


def make_golden_pairs(bundle: Bundle) -> list[GoldenPair]:
    """Asks the Keras model about texts of every kind it may meet."""
    if bundle.config.task == "lm":
        return _lm_pairs(bundle)
    return _seq2seq_pairs(bundle) if bundle.config.seq2seq else _text_pairs(bundle)


def _asked(bundle: Bundle, requests: Sequence[tuple[str, Arrays]]) -> list[GoldenPair]:
    """What the bundle answers to (signature, inputs)."""
    # A session will rewrite the graph before it answers; here that would take as long again.
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        return [
            GoldenPair(signature, inputs, _arrays(getattr(bundle.served, signature)(**inputs)))
            for signature, inputs in requests
        ]
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


def _seq2seq_pairs(bundle: Bundle) -> list[GoldenPair]:
    """Texts alone, and in one batch with mixed options: greedy, by beams, and sampled."""
    batch, task = strings(_prompts(bundle)[:5]), bundle.config.task
    several = {
        "max_new_tokens": [24, 8, 16, 0, 8],
        "min_new_tokens": [0, 0, 12, 0, 8],
        "num_beams": [4, 1, 2, 1, 3],
        "length_penalty": [1.0, 1.0, 0.6, 1.0, 2.0],
        "temperature": [0.0, 0.8, 0.0, 0.0, 1.2],
        "top_k": [0, 0, 0, 0, 5],
        "top_p": [1.0, 0.9, 1.0, 1.0, 0.5],
        "seed": [0, 1, 2, 3, 4],
    }
    options = {name: SEQ2SEQ_OPTIONS[name].array(values) for name, values in several.items()}
    sampled = options | {"num_beams": np.ones(5, np.int32)}
    few = {"max_new_tokens": np.array([24], np.int32)}
    requests = [
        (task, {"text": batch[:1], **few}),
        (task, {"text": batch[:1], **{name: value[:1] for name, value in options.items()}}),
        (task, {"text": batch, **options}),
        (task, {"text": batch, **sampled}),
        ("score", {"text": batch, "target": np.roll(batch, 1)}),
    ]
    return _asked(bundle, requests)


def _lm_pairs(bundle: Bundle) -> list[GoldenPair]:
    """Texts alone, and in one batch with mixed options: greedy, and sampled with a seed."""
    chinese = "\u6625\u7720\u4e0d\u89c9\u6653".encode()
    long = _long_text(bundle)
    batch = strings([b"The ", b"", long[:_LONG_BYTES], chinese, b"\xff\x00 not UTF-8"])
    alone = {"text": strings([long])}
    several = {
        "max_new_tokens": [24, 8, 16, 0, 8],
        "temperature": [0.0, 0.8, 1.0, 0.0, 1.2],
        "top_k": [0, 0, 5, 0, 0],
        "top_p": [1.0, 0.9, 1.0, 1.0, 0.5],
        "min_p": [0.0, 0.0, 0.01, 0.0, 0.0],
        "repetition_penalty": [1.0, 1.0, 1.2, 1.0, 0.9],
        "stop": [
            ["", "", "", ""],
            ["e", "\n", "", ""],
            ["ab", " ", "", ""],
            *[["", "", "", ""]] * 2,
        ],
        "seed": [0, 1, 2, 3, 4],
    }
    options = {name: OPTIONS[name].array(values) for name, values in several.items()}
    requests = [
        ("generate", {"text": batch[:1]}),
        ("generate", {**alone, **{name: value[2:3] for name, value in options.items()}}),
        ("generate", {"text": batch, **options}),
        *(
            (name, inputs)
            for name in ("score", "next_token")
            for inputs in (alone, {"text": batch})
        ),
        *(_chats(bundle, options) if "chat" in functions_of(bundle) else ()),
    ]
    return _asked(bundle, requests)


def _long(bundle: Bundle) -> int:
    context = bundle.model.context_length
    return context if context <= _LONG else _LONG_OF_LARGE


def _long_text(bundle: Bundle) -> bytes:
    return _LINE * (1 + _long(bundle) // 6)  # six tokens or more


def _chats(bundle: Bundle, options: Arrays) -> list[tuple[str, Arrays]]:
    """Conversations alone and in one batch, some too long, with the options of five rows."""
    tokens = b"".join(name.encode() for name in bundle.tokenizer.special_tokens)
    questions = [
        b"Hello",
        b" \n",
        _long_text(bundle),
        "\u6625\u7720\u4e0d\u89c9\u6653".encode(),
        tokens,
    ]
    talks = [[("user", question)] for question in questions]
    form = bundle.lm.form
    if form.has("user", "assistant") and form.has("assistant", "user"):
        talks[2:] = [[*talk, ("assistant", b"Well. "), ("user", b"Why?")] for talk in talks[2:]]
    if form.has("start", "system") and form.has("system", "user"):
        talks[1::2] = [[("system", b"Be kind."), *talk] for talk in talks[1::2]]
    talks = [talk + [("", b"")] * (MESSAGES - len(talk)) for talk in talks]
    role = strings([[role.encode() for role, _ in talk] for talk in talks])
    whole, cut = (
        strings([[content[:most] for _, content in talk] for talk in talks])
        for most in (None, _LONG_BYTES)
    )
    alone = [{"role": role[i : i + 1], "content": whole[i : i + 1]} for i in (0, 2)]
    inputs = [*alone, {"role": role, "content": cut, **options}]
    return [("chat", one) for one in inputs]


def _text_pairs(bundle: Bundle) -> list[GoldenPair]:
    """Each signature of an understanding task with one row, and with a batch of mixed lengths."""
    prompts, pairs = _prompts(bundle), []
    for signature, function in functions_of(bundle).items():
        # Several inputs meet in other combinations: each list begins elsewhere.
        batch = {
            name: strings(prompts[3 * place :] + prompts[: 3 * place])
            for place, name in enumerate(input_names(function))
        }
        # A text alone leaves out what it may.
        names = [b"", *map(str.encode, bundle.config.text.prompts)]
        options = {PROMPT: strings([*names, *reversed(names)] * len(prompts))[: len(prompts)]}
        options = options if PROMPT in default_inputs(function) else {}
        one = {name: values[:1] for name, values in batch.items()}
        for pair in _asked(bundle, [(signature, one), (signature, batch | options)]):
            pairs.append(pair)
            if signature == "predict":
                examples = {"inputs": strings(to_examples(pair.inputs))}
                for name, answer in example_answers(bundle).items():
                    pairs.append(GoldenPair(name, examples, answer(pair.outputs)))
    return pairs


def to_examples(inputs: Arrays) -> list[bytes]:
    """Rows of strings as serialized tf.Examples; an empty text is a missing feature."""
    examples = []
    for row in zip(*inputs.values()):
        example = tf.train.Example()
        for name, value in zip(inputs, row):
            if value:
                example.features.feature[name].bytes_list.value.append(value)
        examples.append(example.SerializeToString(deterministic=True))
    return examples


def _prompts(bundle: Bundle) -> list[bytes]:
    prompts = [
        b"Ada Lovelace wrote the first program in London.",
        b"",
        b" \t\n ",
        b"A long text that goes on and on, much like this one. " * (1 + _long(bundle) // 6),
        "\u00c9lodie's na\u00efve cafe\u0301 in Z\u00fcrich".encode(),
        "\U0001f469\u200d\U0001f680 flies to \U0001f1ef\U0001f1f5!".encode(),
        "\u6625\u7720\u4e0d\u89c9\u6653\uff0cLi Bai \u8bf4\u3002".encode(),
        b"\xff\xfe not \xc3 UTF-8 \x00.",
        b"<p>AT&amp;T &lt;b&gt; http://example.org/?a=b</p>",
    ]
    if bundle.config.task != "mlm":
        return prompts
    # Without a mask, with one, with two, and with one far behind the first window.
    tokenizer = bundle.tokenizer
    (name,) = (n for n, i in tokenizer.special_tokens.items() if i == tokenizer.mask_id)
    mask = name.encode()
    return [
        mask + b" wrote the first " + mask + b".",
        *prompts[1:3],
        prompts[3] + mask,
        *(prompt + b" " + mask for prompt in prompts[4:]),
    ]


def _arrays(outputs: dict[str, tf.Tensor]) -> Arrays:
    return {name: value.numpy() for name, value in outputs.items()}


def warmup_requests(bundle: Bundle, pairs: Sequence[GoldenPair]) -> list[GoldenPair]:
    """The golden requests row by row, each signature of texts at three lengths, and the default."""
    functions = functions_of(bundle)
    longest = bundle.config.text.max_length if bundle.config.text else bundle.model.context_length
    tokens_of_words = max(bundle.tokenizer.encode([_WORDS]).flat_values.shape[0], 1)
    budget = _BUDGET / (2 * bundle.config.parameters * len(functions))  # tokens of each signature
    # Row by row: a warm-up request of more rows than `max_batch_size`, which may be 1, is refused,
    # and that keeps a server from loading the model.
    requests = [row for pair in pairs for row in pair.split()]
    sizes = sorted({max(int(part * longest), 1) for part in _LENGTHS})
    for number, tokens in enumerate(sizes):
        budget -= tokens
        if budget < 0 and number:
            break
        length = max(len(_WORDS) * tokens // tokens_of_words, 1)
        text = (_WORDS * (1 + length // len(_WORDS)))[:length]
        for signature, function in functions.items():
            # With all options: a server that batches puts no defaults beside several texts.
            inputs = {name: value.numpy() for name, value in default_inputs(function).items()}
            if "max_new_tokens" in inputs:
                inputs["max_new_tokens"] = np.array([2], np.int32)
            if signature == "chat":
                rest = [b""] * (MESSAGES - 1)
                inputs["role"] = strings([[b"user", *rest]])
                inputs["content"] = strings([[text, *rest]])
            else:
                inputs |= {name: strings([text]) for name in input_names(function)}
            requests.append(GoldenPair(signature, inputs, {}))
    first = next(iter(functions.values()))
    if default_inputs(first):  # the default signature takes texts alone, which is prepared anew
        inputs = {name: strings([_LINE]) for name in input_names(first)}
        requests.append(GoldenPair(DEFAULT_SIGNATURE, inputs, {}))
    return requests


def write_warmup(requests: Sequence[GoldenPair], path: Path) -> None:
    """Writes requests as a TFRecord file of PredictionLog, which TensorFlow Serving replays."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for pair in requests:
            log = prediction_log_pb2.PredictionLog()
            if pair.signature in ("classify", "regress"):  # the signatures of tf.Examples
                request = getattr(log, f"{pair.signature}_log").request
                for serialized in pair.inputs["inputs"]:
                    request.input.example_list.examples.add().MergeFromString(serialized)
            else:
                request = log.predict_log.request
                for name, value in pair.inputs.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            request.model_spec.name = "default"  # a server ignores the name in a warm-up record
            request.model_spec.signature_name = pair.signature
            writer.write(log.SerializeToString(deterministic=True))
