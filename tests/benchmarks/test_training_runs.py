"""Runs take turns of equal length, and what each took is its own."""

import dataclasses
import types

import pytest

from benchmarks import training_runs
from benchmarks.table import Table
from trainers.recipes import find_recipe


class FakeRun:
    """Counts its steps; its loss falls by one a segment."""

    def __init__(self, steps):
        self.config = types.SimpleNamespace(steps=steps)
        self.step, self.made = 0, []

    def train(self, steps):
        self.step += steps

    def go_on(self):
        self.made.append(self.step)

    def evaluate(self):
        return 10 - self.step / training_runs.SEGMENT


def test_runs_take_turns_until_ours_is_done():
    ours, peer = FakeRun(3 * training_runs.SEGMENT), FakeRun(0)
    cpu = {}
    curve = list(training_runs.in_turns({"ours": ours, "torch": peer}, cpu))
    segment = training_runs.SEGMENT
    assert [(step, loss) for step, _, loss in curve] == [
        (segment, 9),
        (2 * segment, 8),
        (3 * segment, 7),
    ]
    assert peer.step == ours.step == 3 * segment
    assert ours.made == [0, segment, 2 * segment]  # batches of the steps that follow
    seconds = [one for _, one, _ in curve]
    assert seconds == sorted(seconds)
    assert seconds[-1] == cpu["ours"]


def test_our_steps_are_compared_with_all_others(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    runs = {name: FakeRun(0) for name in ("torch", "ours", "recipe")}
    for name, run in runs.items():
        work = {"torch": 40_000, "ours": 10_000, "recipe": 20_000}[name]
        run.train = lambda steps, work=work: sum(range(work * steps))
    table = Table("steps", 1, "steps", peers=("torch",))
    said = training_runs.add_steps(
        table, runs, {"ours": "same", "recipe": "recipe"}, steps=5, tokens=100
    )
    assert [line["case"] for line in table._lines] == ["same", "recipe"]
    assert all(list(line["peers"]) == ["torch"] for line in table._lines)
    assert said.startswith("ms a step: torch ")


def test_parts_on_their_own_have_a_file_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    monkeypatch.setattr(training_runs, "pin", lambda threads: None)

    def part(table):
        table.add("case", 1.0, {"torch": 2.0}, unit="s")
        return "measured"

    def make(suffix):
        return Table(f"train{suffix}", 1, "training", ("torch",))

    parts = {"steps": part, "runs": part}
    training_runs.main(make, parts, [])
    training_runs.main(make, parts, ["runs"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.json", "train_runs.json"]


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.parametrize("recipe", ["shakespeare_gpt_cpu", "shakespeare_lstm_cpu"])
def test_a_run_in_pieces_is_the_run(recipe, tmp_path):
    text = "".join(chr(97 + (i * i) % 7) + "\n" * (i % 40 == 0) for i in range(4000))
    (tmp_path / "text.txt").write_text(text)
    found = find_recipe(recipe)
    config = dataclasses.replace(
        found,
        data=dataclasses.replace(found.data, train=str(tmp_path / "text.txt")),
        model={"hidden_dim": 8, "context_length": 8, "num_layers": 1}
        | ({"num_heads": 2} if "gpt" in recipe else {}),
        batch_size=2,
        steps=8,
        evaluate_every=8,
        jit_compile=False,
    )
    whole, pieces = training_runs.KerasRun(config), training_runs.KerasRun(config)
    whole.train(8)
    for _ in range(2):
        pieces.go_on()
        pieces.train(4)
    assert pieces.evaluate() == pytest.approx(whole.evaluate(), abs=1e-6)
