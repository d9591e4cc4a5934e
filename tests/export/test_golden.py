"""Golden pairs: stored as they are, and compared with what a server may rightly vary."""

import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import zoo
from export.golden.compare import differences
from export.golden.pairs import GoldenPair, read_golden_pairs, strings, write_golden_pairs
from export.golden.replay import problems_of, replay, summary
from export.golden.requests import make_golden_pairs, to_examples
from zoo.bundle import bundle_in_memory

INPUTS = {"question": strings([b"Who\0", b"\xff"]), "context": strings([b"Ada", b""])}
OUTPUTS = {
    "tokens": strings([b"a", b"b", b"c", b""]).reshape(2, 2),
    "start": np.int32([[0, 4], [0, -1]]),
    "scores": np.float32([[0.5, 0.25], [0.75, 0.0]]),
    "score": np.float32([0.5, np.nan]),
}
PAIR = GoldenPair("answer", INPUTS, OUTPUTS)


def narrow(pair, width=1):
    cut = {name: v[:, :width] if v.ndim > 1 else v for name, v in pair.outputs.items()}
    return GoldenPair(pair.signature, pair.inputs, cut)


def test_pairs_come_back_from_their_file(tmp_path):
    path = tmp_path / "folder" / "golden.jsonl"
    write_golden_pairs([PAIR, narrow(PAIR, 0)], path)
    first, second = read_golden_pairs(path)
    assert first.inputs["question"].tolist() == [b"Who\0", b"\xff"]
    assert differences(PAIR, first.outputs) == ([], 0)
    assert second.outputs["tokens"].shape == (2, 0)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"golden\.jsonl.*1.*not a golden pair"):
        read_golden_pairs(path)


def test_a_difference_names_the_texts_whatever_the_inputs_are_called():
    wrong = {**OUTPUTS, "start": OUTPUTS["start"] + np.int32([[0, 0], [1, 0]])}
    (line,), _ = differences(PAIR, wrong)
    assert line.startswith("answer.start[1, 0]: got ")
    assert line.endswith("golden np.int32(0), for question b'\\xff', context b''")


def test_padding_alone_may_be_cut_from_a_row_alone():
    first, second = PAIR.split()
    assert differences(second, narrow(second).outputs, cut_padding=True) == ([], 0)
    assert len(differences(second, narrow(second).outputs)[0]) == 3
    # The first row has a word there.
    assert len(differences(first, narrow(first).outputs, cut_padding=True)[0]) == 3


def test_padding_alone_may_be_more_in_a_row_that_shared_a_batch():
    wide = {**narrow(PAIR.part(0, 1)).outputs}
    golden = GoldenPair("answer", PAIR.part(0, 1).inputs, wide)
    padded = {
        **wide,
        "tokens": strings([b"a", b""]).reshape(1, 2),
        "start": np.int32([[0, -1]]),
        "scores": np.float32([[0.5, 0.0]]),
    }
    assert differences(golden, padded, cut_padding=True) == ([], 0)
    more = {**padded, "start": np.int32([[0, 7]])}
    (line,), _ = differences(golden, more, cut_padding=True)
    assert line == "answer.start: shape (1, 2), golden (1, 1)"


def test_deviation_is_in_units_of_the_tolerance():
    half = {**OUTPUTS, "score": OUTPUTS["score"] + np.float32([3e-5, 0])}
    assert differences(PAIR, half) == ([], pytest.approx(0.5, rel=0.01))


def rows_asked(inputs):
    return [index for index in (0, 1) if INPUTS["context"][index] in inputs["context"]]


def test_replay_asks_cold_warm_row_by_row_and_at_once():
    def ask(signature, inputs):
        rows = rows_asked(inputs)
        answer = {name: value[rows] for name, value in OUTPUTS.items()}
        return answer if rows != [1] else narrow(GoldenPair("", {}, answer)).outputs

    replays = replay([PAIR], ask, clients=2)
    assert [(one.name, len(one.milliseconds)) for one in replays] == [
        ("cold", 1),
        ("rows alone", 2),
        ("warm", 1),
        ("2 clients", 2),
    ]
    assert problems_of(replays) == []
    assert len(replay([PAIR], ask)) == 2
    assert summary(replays).count("\n") == 4

    def wrong(signature, inputs):
        return {**ask(signature, inputs), "score": np.float32([0.25] * len(inputs["context"]))}

    lines = problems_of(replay([PAIR], wrong, clients=2))
    assert len(lines) == 2 * (2 + 2)
    assert lines[0].startswith("cold: answer.score[0]: got np.float32(0.25), golden")
    assert lines[-1].startswith("2 clients: answer.score[0]: got np.float32(0.25)")


def test_what_a_server_refuses_as_too_many_rows_is_asked_in_parts():
    answers = {name: np.concatenate([value] * 2) for name, value in OUTPUTS.items()}
    pair = GoldenPair("answer", {"text": strings([b"0", b"1", b"2", b"3"])}, answers)

    def ask(signature, inputs):
        if len(inputs["text"]) > 3:
            raise ValueError("Task size 4 is larger than maximum input batch size 3")
        rows = [*map(int, inputs["text"])]
        return {name: value[rows] for name, value in answers.items()}

    replays = replay([pair], ask, clients=2)
    assert [(one.most_rows, len(one.milliseconds)) for one in replays] == [
        (3, 2),
        (0, 4),
        (3, 2),
        (0, 4),
    ]
    assert problems_of(replays) == []
    assert summary(replays).count("in parts of 3 rows") == 2

    def refuse(signature, inputs):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        replay([pair], refuse)


def test_rows_that_depend_on_who_asks_at_the_same_time_are_found():
    """As if a server gave a client the answer of another one."""
    asking, lock = [], threading.Lock()
    both = threading.Barrier(2)

    def ask(signature, inputs):
        rows = rows_asked(inputs)
        if len(rows) == 1:
            with lock:
                asking.append(rows)
                at_once = len(asking) > 2  # the first two come one after the other
            if at_once:
                both.wait(timeout=10)
                rows = [1 - rows[0]]
        return {name: value[rows] for name, value in OUTPUTS.items()}

    cold, alone, warm, together = replay([PAIR], ask, clients=2)
    assert cold.problems == alone.problems == warm.problems == []
    assert together.problems


def test_examples_hold_each_text_and_leave_empty_ones_out():
    first, second = map(tf.train.Example.FromString, to_examples(INPUTS))
    assert first.features.feature["question"].bytes_list.value[:] == [b"Who\0"]
    assert list(second.features.feature) == ["question"]


@pytest.mark.tensorflow_only
def test_long_texts_do_not_grow_with_the_context():
    """Attention over five texts of a context of 8,192 took 14 GB."""
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8}
    model = zoo.build(zoo.GPTConfig(257, 100_000, **sizes))
    pairs = make_golden_pairs(bundle_in_memory(Path("m"), model, zoo.ByteTokenizer()))
    assert {pair.signature for pair in pairs} == {"generate", "score", "next_token"}
    assert 256 < max(len(text) for pair in pairs for text in pair.inputs["text"]) < 1024
