"""`python -m trainers`: each mistake one clear line; killed and stopped runs go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags, logging
from absl.testing import flagsaver

import zoo
from trainers.__main__ import main
from trainers.config import with_overrides
from trainers.loop import train
from trainers.recipes import RECIPES, find_recipe
from trainers.recorder import Preempted, TrainingDiverged
from zoo.output import quiet_imports

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "--recipe=shakespeare_lstm_cpu"


def run_main(*arguments):
    """`main` with these flags, in this process."""
    with flagsaver.flagsaver():
        flags.FLAGS(["trainers", *arguments])
        main(["trainers"])


def message_of(*arguments):
    with pytest.raises(SystemExit) as caught:
        run_main(*arguments)
    message = caught.value.code  # Python prints a text and exits with 1
    assert isinstance(message, str)
    assert message.startswith("trainers: ")
    assert "\n" not in message
    return message


def test_list_shows_every_recipe(capsys):
    run_main("--list")
    shown = capsys.readouterr().out
    for name in RECIPES:
        assert f"\n{name}\n    " in "\n" + shown
        assert f"python -m trainers --recipe={name} --workdir=" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--recipe; --list shows the recipes"),
        ([RECIPE], "--workdir is needed"),
        (["--task=lm", "--workdir=W"], "--workdir is needed, and --task with --data"),
        ([RECIPE, "--task=lm", "--data=D", "--workdir=W"], "--task with --data"),
        ([RECIPE, "--data=D", "--workdir=W"], "--set=data.train=FILE gives it yours"),
        ([RECIPE, "--workdir=W", "--set=data.reverse=true"], "data.reverse is for tasks translate"),
        (["--task=classify", "--data=none.csv", "--workdir=W"], "--data=none.csv: no such file"),
        (["--recipe=shakespear_gpt_cpu", "--workdir=W"], "Did you mean shakespeare_gpt_cpu?"),
        ([RECIPE, "--workdir=W", "--set=stepz=3"], "--set=stepz=3: no key 'stepz'; known: "),
        ([RECIPE, "--workdir=W", "--set=steps=many"], "steps: Input should be a valid integer"),
        ([RECIPE, "--workdir=W", "--set=steps=7"], "steps must be a multiple of evaluate_every"),
        ([RECIPE, "--workdir=W", "--set=preset=lstm"], "unknown preset 'lstm'"),
        ([RECIPE, "--workdir=W", "--set=data.encoding=klingon"], "unknown text encoding 'klingon'"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in message_of(*arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (None, [], "no file at"),
        (b"", [], "no text in 1 file(s)"),
        (b"too short to fill a window", [], "fewer than context_length + 1 = 65"),
        (b"\x00\x01\x02\xff" * 999, [], "corpus.txt"),
        ("h\u00e9 ".encode("latin-1") * 999, ["data.invalid=strict"], "corpus.txt"),
        (b"text " * 999, ["data.start_text=Z"], "data.start_text must be one token"),
    ],
)
def test_a_bad_corpus_is_one_line(content, settings, expected, tmp_path):
    corpus = tmp_path / "corpus.txt"
    if content is not None:
        corpus.write_bytes(content)
    workdir = tmp_path / "run"
    settings = [f"data.train={corpus}", 'data.start_text=""', *settings]
    arguments = [RECIPE, f"--workdir={workdir}", *(f"--set={setting}" for setting in settings)]
    assert expected in message_of(*arguments)
    # The same command with the corpus mended may use the same workdir.
    assert set(os.listdir(workdir)) == {".lock", "train_config.json"}


def test_a_mistake_is_answered_without_tensorflow():
    """In half a second of CPU time; importing TensorFlow alone takes ten times as long."""
    code = """
import sys
from absl import flags
from trainers.__main__ import main
for arguments in (["--help_config"], ["--recipe=nix", "--workdir=W"],
                  ["--recipe=polarity_bert", "--workdir=W", "--set=data.text_colum=x"]):
    flags.FLAGS(["trainers", *arguments])
    try:
        main(["trainers"])
    except SystemExit as error:
        print(error.code)
    flags.FLAGS["help_config"].value = False
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "data.limits.row_bytes = 16777216" in result.stdout
    assert "unknown recipe 'nix'" in result.stdout
    assert "no key 'data.text_colum'" in result.stdout


def test_what_an_import_prints_is_held_back_unless_it_fails(capfd):
    with quiet_imports():
        os.write(2, b"I0000 noise\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), quiet_imports():
        os.write(2, b"E0000 cannot load libx\n")
        raise ImportError
    assert capfd.readouterr().err == "E0000 cannot load libx\n"


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainers.__main__._train", interrupted)
    with pytest.raises(SystemExit) as caught:
        run_main(RECIPE, "--workdir=W")
    assert caught.value.code == 130
    assert "stopped; the same command goes on from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TrainingDiverged("the loss is nan at step 5"), 3, "the loss is nan at step 5"),
        (Preempted(), 75, "told to stop, and saved; the same command goes on from here"),
    ],
)
def test_endings_have_their_own_exit_codes(monkeypatch, capsys, tmp_path, error, code, said):
    def end(*arguments):
        raise error

    monkeypatch.setattr("trainers.loop.train", end)
    with pytest.raises(SystemExit) as caught:
        run_main(RECIPE, f"--workdir={tmp_path}")
    assert caught.value.code == code
    assert capsys.readouterr().err == f"trainers: {said}\n"


def test_the_verbosity_flag_counts():
    before = logging.get_verbosity()
    try:
        message_of("--verbosity=-1")
        assert logging.get_verbosity() == logging.WARNING
    finally:
        logging.set_verbosity(before)


def start(workdir, settings):
    return subprocess.Popen(
        [sys.executable, "-m", "trainers", RECIPE, f"--workdir={workdir}"]
        + [f"--set={setting}" for setting in settings],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that runs the tests in the background has them, and this, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def checkpointed_step(workdir):
    written = sorted((workdir / "checkpoints").glob("step-*.json"))
    return int(written[-1].stem.removeprefix("step-")) if written else 0


def wait_for_checkpoint(process, workdir):
    while process.poll() is None:
        if checkpointed_step(workdir):
            return
        time.sleep(0.02)
    pytest.fail(process.communicate()[0])


def test_a_stopped_run_goes_on(tmp_path, text_file, monkeypatch):
    """Ctrl-C ends the command; `test_survival.py` kills runs in every other way, and compares."""
    settings = [f"data.train={text_file}", "steps=200", "evaluate_every=20", "batch_size=4"]
    settings += ["model.hidden_dim=8", "model.context_length=16", "model.dropout=0.2"]
    settings += ["sample_prompts=[]", "jit_compile=false"]
    workdir = tmp_path / "stopped"

    with start(workdir, settings) as process:
        wait_for_checkpoint(process, workdir)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "trainers: stopped; the same command goes on from the last checkpoint" in output
    assert "Traceback" not in output
    assert "after the process started" in output
    assert not [line for line in output.splitlines() if line[:6] in ("I0000 ", "WARNIN")]

    said = []
    monkeypatch.setattr("absl.logging.info", lambda message, *args: said.append(message % args))
    step = checkpointed_step(workdir)
    resumed = train(with_overrides(find_recipe("shakespeare_lstm_cpu"), settings), workdir)
    assert any(f"resumed at step {step} from" in message for message in said)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(20, 201, 20))
    assert zoo.load(workdir).config.parameters == resumed.config.parameters
