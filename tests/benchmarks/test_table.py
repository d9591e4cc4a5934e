"""The table of ours against the peers: what is printed, what is written, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import Timing, interleaved
from benchmarks.table import Table, gather, is_met, results_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    return tmp_path


def written(name="named", row=8, **line):
    table = Table(name, row, "BERT", peers=("torch", "onnx"), extra=("lines that differ",))
    defaults = {"ours": 100.0, "peers": {"torch": 150.0, "onnx": 120.0}, "unit": "ms"}
    table.add("float32", **(defaults | line))
    return json.loads(table.close("checked").read_text())


def test_line_is_printed_and_written(capsys):
    timings = {"ours": Timing(0.2, 0.1, 5), "torch": Timing(0.3, 0.15, 5)}
    record = written(goal=">= 1.1x", extra={"lines that differ": 0}, timings=timings)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| case | unit | ours | torch | onnx | lines that differ | ratio | goal |"
    assert printed[2] == "| float32 | ms | 100 | 150 | 120 | 0 | 1.20x (onnx) | >= 1.1x: met |"
    assert any(line.startswith("checked. ") for line in printed)
    (line,) = record["lines"]
    assert (line["best_peer"], line["met"], line["ratios"]["torch"]) == ("onnx", True, 1.5)
    assert line["timings"]["torch"] == {"wall": 0.3, "cpu": 0.15, "runs": 5}
    assert record["versions"]["keras"] and record["machine"] and len(record["load"]) == 2
    assert record["date"][:2] == "20"


def test_ratio_is_how_many_times_better():
    less = written(ours=2.0, peers={"torch": 3.0})["lines"][0]
    more = written(ours=3.0, peers={"torch": 2.0}, better="more")["lines"][0]
    assert less["ratios"] == more["ratios"] == {"torch": 1.5}


@pytest.mark.parametrize("better", ["less", "more"])
@given(
    ours=st.floats(1e-3, 1e6),
    peers=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=2),
)
def test_best_peer_is_hardest_to_beat(better, ours, peers):
    named = dict(zip(("torch", "onnx"), peers))
    line = written(ours=ours, peers=named, better=better, goal=">= 1x")["lines"][0]
    best = min(peers) if better == "less" else max(peers)
    assert line["peers"][line["best_peer"]] == best
    assert line["met"] == (ours <= best if better == "less" else ours >= best)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (">= 1.2x", True),
        (">= 1.21x", False),
        (">= 1.5x torch", True),
        (">= 1.6x torch", False),
        ("<= 100", True),
        ("<= 99.5", False),
        (">= 100", True),
    ],
)
def test_goal(goal, met):
    assert is_met(goal, 100.0, {"torch": 1.5, "onnx": 1.2}) is met


def test_peer_without_a_number_and_without_a_goal(capsys):
    line = written(peers={"onnx": 120.0})["lines"][0]
    assert line["goal"] is line["met"] is None
    assert "| float32 | ms | 100 | - | 120 |  | 1.20x |  |" in capsys.readouterr().out
    assert written(peers={}, goal="<= 5")["lines"][0]["met"] is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"peers": {"tourch": 1.0}}, "no column 'tourch'; the table has torch, onnx"),
        ({"extra": {"colour": 1}}, "no column 'colour'"),
        ({"ours": 0.0}, "float32: ours must be above 0"),
        ({"peers": {"torch": float("nan")}}, "torch must be above 0"),
        ({"better": "higher"}, "better must be"),
        ({"goal": "fast"}, "Received: 'fast'"),
        ({"goal": "1.3x"}, "Received: '1.3x'"),
        ({"goal": ">= 1x keras"}, "no number of 'keras'"),
        ({"goal": ">= 1x", "peers": {}}, "no peer to compare with"),
    ],
)
def test_bad_line_is_refused(line, message, folder):
    with pytest.raises(ValueError, match=message):
        written(**line)
    assert not list(folder.iterdir())


def test_gather_shows_lines_with_a_goal_by_row():
    written("later", row=9, goal="<= 50", ours=70.0)
    written("first", row=2, goal=">= 1x torch")
    written("told_only", row=4)
    head, _, first, second, _, place = gather().splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert first.startswith(
        "| 2 | BERT: float32 | ms | 100 | onnx 120 | 1.20x | >= 1x torch: met |"
    )
    assert second.startswith("| 9 |") and "<= 50: NOT met" in second
    assert place.startswith("a: ") and first.endswith(" a |")


def test_gather_names_a_file_that_is_no_result(folder):
    with pytest.raises(ValueError, match="no results in"):
        gather()
    for text in ("{", "[]", '{"format": 7}', '{"format": 1, "row": 3}'):
        (folder / "odd.json").write_text(text)
        with pytest.raises(ValueError, match=r"odd\.json is no result of a benchmark"):
            gather()


def test_default_folder(monkeypatch):
    monkeypatch.delenv("BENCH_OUT")
    assert results_folder().parts[-2:] == ("benchmarks", "results")


def test_settings_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(calls, runs=2)
    assert order == ["a", "b"] * 3
    assert timings["a"].runs == 2 and timings["a"].wall >= 0
