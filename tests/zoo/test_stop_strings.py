"""Stop strings: the same tokens, text and probability as a free completion's, up to there."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import zoo
from zoo.generation.loop import SamplingOptions, generate
from zoo.generation.options import complete_options, options_by_row
from zoo.text.base import on_backend
from zoo.text.stop_strings import StopStrings
from zoo.tokenizers import BytePairTokenizer, SentencePieceTokenizer
from zoo.tokenizers.base import cut_character_bytes

SENTENCEPIECE = Path(__file__).parent / "fixtures" / "sentencepiece" / "bpe.model"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
STEPS = 24
# The second has a byte that begins a character; the last one what others stop at.
PROMPTS = [b"a", b"\xe4", b"", b"cab cab"]
OPTIONS = {"max_new_tokens": STEPS, "temperature": 1.0, "seed": [3, 1, 4, 8]}
WORDS = "abcabcab cabbage cab \u00e9\u00e9 \u00e9a"


def make_lm(tokenizer, config):
    keras.utils.set_random_seed(0)
    shape = {"context_length": 16, "num_layers": 1, "hidden_dim": 8, "initializer_range": 0.3}
    options = {"num_heads": 2} if config is zoo.GPTConfig else {}
    model = zoo.build(config(vocabulary_size=tokenizer.vocabulary_size, **shape, **options))
    return zoo.TextLM(tokenizer, model)


# JAX compiles anew for each call.
@pytest.fixture(scope="module", params=["bytes", "words"] if ON_TENSORFLOW else ["bytes"])
def lm(request):
    """Of a byte a token, and of tokens with several bytes and with none."""
    if request.param == "bytes":
        return make_lm(zoo.ByteTokenizer(), zoo.LSTMConfig)
    names = ["<x>", "<end>"]
    tokenizer = BytePairTokenizer.train([WORDS], 275, special_tokens=names, end="<end>")
    return make_lm(tokenizer, zoo.GPTConfig)


@pytest.fixture(scope="module")
def free(lm):
    """The bytes of each token that the rows of PROMPTS have without stop strings."""
    rows = tf.constant(len(PROMPTS))
    options = options_by_row(complete_options(OPTIONS), rows, rows)
    del options["stop"]

    def tokens(token_ids, lengths, options):
        ends = lm.tokenizer.end_ids
        sampling = SamplingOptions(**options)
        return generate(lm.model, token_ids, lengths, sampling, STEPS, end_ids=ends)

    result = on_backend(tokens, *lm._prompt(tf.constant(PROMPTS)), options)
    pieces = lm.tokenizer.pieces()
    return [
        [pieces[token] for token in row[:length]]
        for row, length in zip(result.token_ids.numpy(), result.lengths.numpy())
    ]


def ask(lm, rows=(0, 1, 2, 3), **options):
    outputs = lm.generate(
        [PROMPTS[row] for row in rows],
        **{**OPTIONS, "seed": [OPTIONS["seed"][row] for row in rows], **options},
    )
    return {name: value.numpy().tolist() for name, value in outputs.items()}


def expected(prompt, pieces, stops):
    """Text, tokens and reason by the definition."""
    text, count, reason = b"", 0, "stop" if len(pieces) < STEPS else "length"
    for piece in pieces:
        text += piece
        count += 1
        places = [text.find(stop) for stop in stops if stop and stop in text]
        if places:
            text, reason = text[: min(places)], "stop"
            break
    cut = int(cut_character_bytes(tf.constant([prompt + text]))[0])
    return text[: len(text) - min(cut, len(text))], count, reason.encode()


def check(lm, free, stops):
    """`stops` has a list for each row; answers with what was said."""
    width = max(map(len, stops))
    rows = [[*row, *[b""] * (width - len(row))] for row in stops]
    outputs = ask(lm, stop=rows)
    for row, prompt in enumerate(PROMPTS):
        wanted = expected(prompt, free[row], stops[row])
        names = ("completion", "token_count", "finish_reason")
        assert tuple(outputs[name][row] for name in names) == wanted
        assert outputs["text"][row] == prompt + outputs["completion"][row]
    return outputs


def test_each_row_ends_at_its_own(lm, free):
    """Inside of the completion, at its end, all of it, and not at what is in the prompt alone."""
    first, second, third, _ = (b"".join(pieces) for pieces in free)
    stops = [[first[5:8], b"\0\0\0"], [second], [b"never", third[-1:], third[2:3]], [b"cab cab"]]
    outputs = check(lm, free, stops)
    assert outputs["finish_reason"][:3] == [b"stop"] * 3
    assert outputs["completion"][1] == b""
    # As the same number of tokens without a stop string.
    counts = ask(lm, max_new_tokens=outputs["token_count"])
    np.testing.assert_allclose(
        outputs["log_probability"], counts["log_probability"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.tensorflow_only
def test_without_stop_strings_nothing_changes(lm, free):
    assert [len(pieces) for pieces in free] == [STEPS] * 4
    plain = ask(lm)
    assert plain == ask(lm, stop=[["", "", "", ""]])
    if ON_TENSORFLOW:
        assert plain == ask(lm, stop="") == ask(lm, stop=np.zeros([1, 0], object))
        assert plain == ask(lm, stop=[["not", "\0there"]])
    check(lm, free, [[b""]] * 4)


@pytest.mark.tensorflow_only
# The fixtures are shared on purpose: every example asks the same model.
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_parts_of_completions_stop_there(lm, free, data):
    stops = []
    for pieces in free:
        text = b"".join(pieces)
        begin, size = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(1, 12))
        others = data.draw(st.lists(st.binary(max_size=3), max_size=3))
        stops.append([text[begin : begin + size], *others])
    outputs = check(lm, free, stops)
    # And alone, whatever the neighbours stop at.
    row = data.draw(st.integers(0, 3))
    alone = ask(lm, [row], stop=[stops[row]])
    for name, values in outputs.items():
        if name != "log_probability":
            assert alone[name] == values[row : row + 1]


@given(st.binary(min_size=1, max_size=30), st.lists(st.binary(max_size=3), min_size=1, max_size=4))
@example("a\u4f60b".encode(), ["\u4f60".encode()[:2]])  # ends within a character
@example(b"aab", [b"ab", b"b"])  # the first to begin counts
def test_the_place_in_a_text(text, stops):
    tokenizer = zoo.ByteTokenizer()
    finder = StopStrings(tokenizer, tf.constant([stops]))
    state, counts, ended = finder.read(tf.constant([[*text]]), tf.constant([len(text)]))
    found = [text[:end] for end in range(len(text) + 1)]
    found = next((part for part in found if any(s and s in part for s in stops)), None)
    assert bool(ended[0]) == (found is not None)
    if found is not None:
        begins = min(found.find(stop) for stop in stops if stop and stop in found)
        assert (int(counts[0]), int(state.surplus[0])) == (len(found), len(found) - begins)


@pytest.mark.tensorflow_only
def test_a_row_that_stops_ends_the_loop(lm, free, monkeypatch):
    """Eagerly each step is a call: no more of them than the longest row has tokens."""
    calls = []
    decode = lm.model.decode_token
    monkeypatch.setattr(lm.model, "decode_token", lambda *a: calls.append(1) or decode(*a))
    monkeypatch.setattr(lm, "_write", lm._continued)
    ask_eagerly = lm.functions["generate"].python_function
    options = complete_options({**OPTIONS, "stop": [[b"".join(row[3:5])] for row in free]})
    counts = ask_eagerly(tf.constant(PROMPTS), *options.values())["token_count"].numpy()
    assert len(calls) == counts.max() - 1 < STEPS - 1


def test_wrong_values(lm):
    errors = (tf.errors.InvalidArgumentError, "stop must be at most 16 strings of at most 128")
    for stop in ("x" * 129, [["a"] * 17]):
        with pytest.raises(errors[0], match=errors[1]):
            lm.generate(["a"], stop=stop)
    for stop in (["a", "b"], [["a"], ["b", "c"]], [[["a"]]]):
        with pytest.raises(ValueError, match=r"^stop"):
            lm.generate(["a", "b"], stop=stop)


@pytest.mark.tensorflow_only
def test_sentencepiece_completions_are_cut_in_their_own_text():
    """Its decoding replaces bytes that are no text, and keeps the space before the first word."""
    lm = make_lm(SentencePieceTokenizer.from_file(SENTENCEPIECE), zoo.LSTMConfig)
    rows, rng = 40, np.random.default_rng(0)
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": list(range(rows))}
    whole = [text.decode() for text in lm.generate(["a"] * rows, **options)["completion"].numpy()]
    stops = []
    for text in whole:
        begin = int(rng.integers(0, len(text) - 1))
        part = text[begin : begin + int(rng.integers(1, 6))]
        # What replaces bytes is no text that a token has.
        stops.append([max(part.split("\ufffd"), key=len) or "none"])
    cut = lm.generate(["a"] * rows, stop=stops, **options)
    completions = [text.decode() for text in cut["completion"].numpy()]
    for text, completion, (stop,), reason in zip(
        whole, completions, stops, cut["finish_reason"].numpy()
    ):
        assert completion == text.partition(stop)[0]
        assert stop not in text or reason == b"stop"
    assert any("\ufffd" in completion for completion in completions)
    assert any(text[0] == " " for text in whole)
    first = [[text[:2]] for text in whole]
    spaced = lm.generate(["a"] * rows, stop=first, **options)["completion"].numpy().tolist()
    assert b"" in spaced
