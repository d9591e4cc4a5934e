"""Golden pairs: stored as they are, and compared with what a server may rightly vary."""

import numpy as np
import pytest
import tensorflow as tf

from export.golden import GoldenPair, differences, read_golden_pairs, write_golden_pairs
from export.golden_requests import strings, to_examples
from export.verify import replay

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
    assert differences(PAIR, first.outputs) == []
    assert second.outputs["tokens"].shape == (2, 0)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"golden\.jsonl.*1.*not a golden pair"):
        read_golden_pairs(path)


def test_a_difference_names_the_texts_whatever_the_inputs_are_called():
    wrong = {**OUTPUTS, "start": OUTPUTS["start"] + np.int32([[0, 0], [1, 0]])}
    (line,) = differences(PAIR, wrong)
    assert line.startswith("answer.start[1, 0]: got ")
    assert line.endswith("golden np.int32(0), for question b'\\xff', context b''")


def test_padding_alone_may_be_cut_from_a_row_alone():
    assert differences(PAIR.row(1), narrow(PAIR.row(1)).outputs, cut_padding=True) == []
    assert len(differences(PAIR.row(1), narrow(PAIR.row(1)).outputs)) == 3
    # The first row has a word there.
    assert len(differences(PAIR.row(0), narrow(PAIR.row(0)).outputs, cut_padding=True)) == 3


def test_replay_asks_the_batch_and_each_row():
    def ask(signature, inputs):
        rows = [index for index in (0, 1) if INPUTS["context"][index] in inputs["context"]]
        answer = {name: value[rows] for name, value in OUTPUTS.items()}
        return answer if rows != [1] else narrow(GoldenPair("", {}, answer)).outputs

    assert replay([PAIR], ask) == []
    (line,) = replay([PAIR], lambda *request: {**ask(*request), "score": np.float32([0.5])[:1]})[:1]
    assert line == "answer.score: shape (1,), golden (2,)"


def test_examples_hold_each_text_and_leave_empty_ones_out():
    first, second = map(tf.train.Example.FromString, to_examples(INPUTS))
    assert first.features.feature["question"].bytes_list.value[:] == [b"Who\0"]
    assert list(second.features.feature) == ["question"]
