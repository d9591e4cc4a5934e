"""The notebooks run as they stand, with settings that take seconds in place of their own."""

import ast
import json
import os
import random
import re
import socket
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import zoo
from trainers.config import with_overrides
from trainers.metrics import MetricsLog
from trainers.recipes import find_recipe
from zoo.text.chat_form import ChatForm, Joint

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ANSI = re.compile(r"\x1b\[[0-9;]*m")
TINY_MODEL = ["model.num_layers=1", "model.num_heads=2", "model.hidden_dim=8", "jit_compile=false"]
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60

pytestmark = [pytest.mark.timeout(900), pytest.mark.tensorflow_only]


class Notebook:
    """A notebook of the repository whose parameters were replaced, and a kernel to run it.

    Args:
        name: file name without its ending.
        folder: Path, where the kernel works and writes.
        parameters: all names of the parameter cell with their values.
    """

    def __init__(self, name, folder, **parameters):
        self.name = name
        self.folder = folder
        self.cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
        self.cell("parameters").source = replaced(self.cell("parameters").source, parameters)

    def cell(self, identity):
        return next(cell for cell in self.cells if cell.id == identity)

    def insert(self, before, source, **metadata):
        """A cell of the test's own; `before=None` puts it at the end."""
        index = len(self.cells) if before is None else self.cells.index(self.cell(before))
        self.cells.insert(index, nbformat.v4.new_code_cell(source, metadata=metadata))

    def run(self, **environment):
        """Runs all cells; what fails is an AssertionError with the cell and what it printed."""
        notebook = nbformat.v4.new_notebook(cells=self.cells)
        place = {"metadata": {"path": str(self.folder)}}
        client = NotebookClient(notebook, kernel_name="python3", resources=place, timeout=600)
        try:
            client.execute(env=kernel_environment(self.folder, environment))
        except CellExecutionError as error:
            raise AssertionError(f"{self.name}.ipynb: {ANSI.sub('', str(error))}") from None
        return self

    def printed(self, identity):
        """What a cell wrote to its standard output."""
        outputs = self.cell(identity).outputs
        return "".join(one.text for one in outputs if one.get("name") == "stdout")

    def frame(self, identity):
        """The address in the frame that a cell displayed."""
        (html,) = (one.data["text/html"] for one in self.cell(identity).outputs if "data" in one)
        return re.search(r'<iframe[^>]* src="([^"]+)"', re.sub(r"\s+", " ", html))[1]

    def shown(self, identity):
        """Kinds of what a cell displayed."""
        return {kind for one in self.cell(identity).outputs for kind in one.get("data", ())}


def kernel_environment(folder, changes):
    # The first would keep ipykernel from catching what commands print; the notebooks set the other.
    left_out = ("PYTEST_CURRENT_TEST", "KERAS_BACKEND")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / ".ipython"), "NO_COLOR": "1"}
    return {**kept, **own, "CUDA_VISIBLE_DEVICES": "", **changes}


def replaced(source, parameters):
    """The parameter cell with other values: the same names, so that none is forgotten."""
    assert assigned(source) == set(parameters)
    imports = [line for line in source.splitlines() if line.startswith(("from ", "import "))]
    return "\n".join(imports + [f"{name} = {value!r}" for name, value in parameters.items()])


def assigned(source):
    targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id for many in targets for target in many}


@pytest.fixture(autouse=True)
def own_jupyter(tmp_path, monkeypatch):
    """No kernel, setting or history of the person who runs the tests."""
    for name in ("RUNTIME_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / ".jupyter" / name))


def free_port(first):
    """One of 5,000 ports, below the range from which the system takes ports for others."""
    while True:
        port = random.randrange(first, first + 5_000)
        with socket.socket() as one:
            if one.connect_ex(("localhost", port)):
                return port


def served(folder, **changes):
    """Parameters of export_and_serve.ipynb."""
    values = {
        "FOLDER": str(folder),
        "BUNDLE": "",
        "SETTINGS": [],
        "SERVED": str(folder / "served"),
        "NAME": "tiny",
        "GRPC_PORT": free_port(20_000),
        "REST_PORT": free_port(25_000),
        "QUESTION": {"text": "the quick "},
    }
    return {**values, **changes}


def test_there_are_four():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"pretrain_gpt_tpu", "finetune_bert", "export_and_serve", "tune_chat"}


def test_a_clone_needs_no_install_and_other_folders_install_the_repository(tmp_path):
    cells = (cell.source for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells)
    (cell,) = {source for source in cells if "REPOSITORY =" in source}  # the same in all
    code = f"""
import subprocess
subprocess.run = lambda command, check: print("installs", command[-1])
exec({cell!r})
import importlib.util
print("found", importlib.util.find_spec("trainers") is not None)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = {}
    for folder in (FOLDER, tmp_path):
        command = [sys.executable, "-c", code]
        found[folder] = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        ).stdout
    assert found[FOLDER] == "found True\n"
    assert found[tmp_path] == "installs /content/keras-lm-zoo[tensorflow]\nfound False\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_clean_and_explained(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in code[:2]] == ["install", "parameters"]
    assert code[1].metadata == {"tags": ["parameters"]}
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert "code,code" not in ",".join(kinds), "a code cell without a word before it"
    assert all(len(cell.source.splitlines()) <= 30 for cell in code), "short cells"


def test_ruff_reads_notebooks():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *command, "--no-cache", FOLDER], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["/kaggle/working", "/content", "."])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_as_they_are_stored(path, place, monkeypatch):
    cells = nbformat.read(path, as_version=4).cells
    values = {}
    monkeypatch.setattr(Path, "is_dir", lambda self: str(self) == place)
    exec(next(cell.source for cell in cells if cell.id == "parameters"), values)
    assert values["FOLDER"] == place
    for name in {"WORKDIR", "SERVED"} & set(values):
        assert values[name].startswith(f"{place}/")
    recipes = {"finetune_bert": ("polarity_bert", "polarity_minilm")}
    recipes["tune_chat"] = ("polarity_minilm",)  # no recipe: one that begins from weights
    for recipe in recipes.get(path.stem, (values.get("RECIPE", "python_gpt_quick"),)):
        with_overrides(find_recipe(recipe), values["SETTINGS"])


def test_without_the_package_the_first_cell_installs_it(tmp_path):
    notebook = Notebook("export_and_serve", tmp_path, **served(tmp_path))
    notebook.cells = notebook.cells[:3]  # title, about the installation, installation
    install = notebook.cell("install")
    install.source, count = re.subn('REPOSITORY = ".*?"', 'REPOSITORY = "./clone"', install.source)
    assert count == 1
    notebook.insert("install", "import sys\n\nsys.modules['trainers'] = None  # it is not found")
    with pytest.raises(AssertionError, match=r"(?s)pip.*install.*\./clone.*non-zero exit status"):
        notebook.run()


# Before training: the run is stopped at its sixth step, as by the button, and counts its steps.
STOP = """
from trainers.recorder import Recorder

steps, at_step_end = [], Recorder.on_train_batch_end


def stop_once(self, batch, logs=None):
    at_step_end(self, batch, logs)
    steps.append(self.step)
    if len(steps) == 6:
        raise KeyboardInterrupt


Recorder.on_train_batch_end = stop_once
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["", "jax"])
def test_pretraining(tmp_path, backend):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    workdir = tmp_path / "runs" / "gpt"
    notebook = Notebook(
        "pretrain_gpt_tpu",
        tmp_path,
        FOLDER=str(tmp_path),
        WORKDIR=str(workdir),
        RECIPE="shakespeare_gpt_cpu",
        SETTINGS=[
            *TINY_MODEL,
            *("model.context_length=16", "batch_size=4", "steps=8", "evaluate_every=4"),
            *("data.train=text.txt", 'sample_prompts=["the "]', "sample_tokens=8"),
        ],
        DATA_DIR=None,
        PROMPT="the quick ",
    )
    training = notebook.cell("train").source
    notebook.insert("train", STOP)
    notebook.insert("train", training, tags=["raises-exception"])
    notebook.insert("about-report", "print(steps)")
    index = notebook.cells.index(notebook.cell("train"))
    stopped, counted = notebook.cells[index - 1], notebook.cells[index + 1]
    notebook.run(**({"KERAS_BACKEND": backend} if backend else {}))
    assert stopped.outputs[-1].ename == "KeyboardInterrupt"
    assert counted.outputs[0].text.strip() == "[1, 2, 3, 4, 5, 6, 5, 6, 7, 8]"
    assert f"with {backend or 'tensorflow'}" in notebook.printed("backend")
    assert "global batch 4" in notebook.printed("config")
    assert [record["step"] for record in MetricsLog(workdir).read()] == [4, 8]
    assert {"image/png", "text/markdown"} <= notebook.shown("report")
    assert notebook.printed("sample").startswith("the quick ")
    assert zoo.load(workdir).config.task == "lm"


def finetuning(folder, **changes):
    """Parameters of finetune_bert.ipynb."""
    tiny = [*TINY_MODEL, "model.intermediate_dim=16", "model.context_length=32"]
    values = {
        "FOLDER": str(folder),
        "WORKDIR": str(folder / "runs" / "first"),
        "CSV": "",
        "TEXT_COLUMN": "review",
        "LABEL_COLUMN": "stars",
        "INIT_FROM": None,
        "SETTINGS": [
            *tiny,
            *("steps=4", "evaluate_every=2", "batch_size=8"),
            *("text.max_length=16", "data.buckets=[16]", "data.max_vocabulary_size=100"),
        ],
        "TEXTS": ["A fine film.", "\u597d"],
    }
    return {**values, **changes}


def check_finetuning(notebook, workdir, labels):
    assert (workdir / "confusion.png").stat().st_size > 1000
    assert "image/png" in notebook.shown("confusion")
    scores = notebook.printed("scores").splitlines()
    assert re.fullmatch(r" *validation +model +baseline", scores[0])
    assert re.fullmatch(r" *accuracy +[01]\.\d{3} +[01]\.\d{3}", scores[1])
    answers = notebook.printed("predict").splitlines()
    assert len(answers) == 2
    assert all(re.match(rf"[01]\.\d{{3}}  ({labels})  ", line) for line in answers)
    assert zoo.load(workdir).config.task == "classify"


@pytest.mark.slow
def test_finetuning(tmp_path):
    notebook = Notebook("finetune_bert", tmp_path, **finetuning(tmp_path)).run()
    check_finetuning(notebook, tmp_path / "runs" / "first", "praise|complaint")
    rows = (tmp_path / "reviews.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "review,stars" and len(rows) == len(set(rows)) == 1 + 1920
    assert "The film was not good.,complaint" in rows and "The film was good.,praise" in rows


@pytest.mark.slow
def test_finetuning_of_an_own_table_from_an_earlier_model(tmp_path):
    own = tmp_path / "own.csv"
    lines = (f"{word} {number},{word}" for word in ("yes", "no", "well") for number in range(30))
    table = "text,label\n" + "\n".join(lines)
    own.write_text(table, encoding="utf-8")
    Notebook("finetune_bert", tmp_path, **finetuning(tmp_path)).run()
    changes = {
        "CSV": str(own),
        "TEXT_COLUMN": "text",
        "LABEL_COLUMN": "label",
        "INIT_FROM": str(tmp_path / "runs" / "first"),
        "WORKDIR": str(tmp_path / "runs" / "second"),
        "SETTINGS": ["steps=4", "evaluate_every=2", "text.max_length=16", "batch_size=8"],
    }
    notebook = Notebook("finetune_bert", tmp_path, **finetuning(tmp_path, **changes)).run()
    check_finetuning(notebook, tmp_path / "runs" / "second", "yes|no|well")
    assert own.read_text(encoding="utf-8") == table
    config = json.loads((tmp_path / "runs" / "second" / "train_config.json").read_text("utf-8"))
    assert config["finetune"]["init_from"] == changes["INIT_FROM"]


SERVING = ("export_and_serve", "tune_chat")
# Run in the kernel while the server of the notebook runs: what its frame shows.
LOOK = """
import urllib.request

with urllib.request.urlopen("http://localhost:%s/" % {port}) as found:
    print(found.status, found.read().decode())
"""


def check_page(notebook):
    """The notebook shows a frame, whose address answered with the page."""
    address = notebook.frame("page")
    assert notebook.printed("page") == f"{address}\n"
    (look,) = (cell for cell in notebook.cells if cell.source.startswith("\nimport urllib"))
    (told,) = look.outputs
    assert told.text.startswith("200 ") and "<h1>Served models</h1>" in told.text


def test_each_notebook_that_serves_shows_the_page():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        serves = any("export.server" in cell.source for cell in cells if cell.cell_type == "code")
        assert serves == (path.stem in SERVING) == any(cell.id == "page" for cell in cells)


@pytest.mark.parametrize("name", SERVING)
@pytest.mark.parametrize("in_colab", [True, False])
def test_the_page_in_colab_goes_by_its_proxy(name, in_colab, monkeypatch, capsys):
    """Colab's own function, as google.colab.output has it, in place of an address."""
    asked, shown = [], []

    def serve_kernel_port_as_iframe(
        port, path="/", width="100%", height="400", cache_in_notebook=False
    ):
        asked.append((port, path, width, height, cache_in_notebook))

    if in_colab:
        output = types.ModuleType("google.colab.output")
        output.serve_kernel_port_as_iframe = serve_kernel_port_as_iframe
        colab = types.ModuleType("google.colab")
        colab.output = output
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.setitem(sys.modules, "google.colab.output", output)
    monkeypatch.setattr("IPython.display.display", shown.append)
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    (source,) = (cell.source for cell in cells if cell.id == "page")
    names = {"sys": sys, "REST_PORT": 8501, "display": shown.append}
    exec(source, names | {"server": types.SimpleNamespace(rest_port=8501)})
    if in_colab:
        assert asked == [(8501, "/", "100%", "700", False)] and not shown
        assert capsys.readouterr().out == ""
    else:
        assert not asked and [frame.src for frame in shown] == ["http://localhost:8501/"]


@pytest.mark.slow
def test_tuning_a_chat_model(tmp_path):
    words = "user assistant What do you on Monday I count the ships mend nets"
    tokenizer = zoo.BytePairTokenizer.train(
        [words], 300, special_tokens=["<|im_end|>"], end="<|im_end|>"
    )
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "context_length": 128}
    joints = {"start>user": "user\n", "user>assistant": "<|im_end|>assistant\n"}
    joints |= {"user>generate": joints["user>assistant"], "assistant>user": "<|im_end|>user\n"}
    joints |= {"assistant>end": "<|im_end|>"}
    form = ChatForm({key: Joint(text) for key, text in joints.items()})
    model = zoo.build(zoo.GPTConfig(tokenizer.vocabulary_size, **shape))
    zoo.save(tmp_path / "base", model, tokenizer, chat=form)
    notebook = Notebook(
        "tune_chat",
        tmp_path,
        FOLDER=str(tmp_path),
        WORKDIR=str(tmp_path / "runs"),
        SERVED=str(tmp_path / "served"),
        DATA="",
        INIT_FROM=str(tmp_path / "base"),
        SETTINGS=["steps=4", "evaluate_every=2", "finetune.lora_rank=2", "jit_compile=false"],
        QUESTIONS=["Why?", "When?"],
    )
    notebook.insert("about-chat", LOOK.format(port="server.rest_port"))
    notebook.run()
    check_page(notebook)
    assert notebook.printed("stop") == "all requests finished: True\n"
    assert "20 conversations of 40 messages" in notebook.printed("train")
    assert "text/markdown" in notebook.shown("report")
    lines = notebook.printed("chat").splitlines()
    assert lines[0] == "> Why?" and "> When?" in lines
    assert zoo.load(tmp_path / "runs").config.chat == form


def classifier(folder):
    tokenizer = zoo.WordPieceTokenizer.train([TEXT], 60)
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "context_length": 16}
    shape |= {"intermediate_dim": 16, "vocabulary_size": tokenizer.vocabulary_size}
    model = zoo.build("bert_tiny", "classify", {"num_classes": 2}, **shape)
    text = zoo.TextConfig(max_length=16)
    return zoo.save(folder, model, tokenizer, labels=["bad", "good"], text=text)


# Run in the kernel after all cells.
CHECK = """
import numpy as np

assert not {"tensorflow", "keras"} & set(sys.modules)
assert set(answer) == set(rest_answer)
for name, value in answer.items():
    told = np.array(rest_answer[name])
    if value.dtype == object:
        value = np.vectorize(lambda text: text.decode("utf-8", "replace"))(value)
        assert told.tolist() == value.tolist(), name
    else:
        np.testing.assert_allclose(told, value, rtol=1e-5, err_msg=name)
"""


def check_serving(notebook, signatures):
    told = notebook.printed("grpc").splitlines()
    assert {line.partition("(")[0] for line in told if ") -> " in line} == set(signatures)
    check_page(notebook)
    assert "no differences" in notebook.printed("verify")
    assert notebook.printed("stop").strip() == "the server ended with exit code 0"
    with zipfile.ZipFile(notebook.folder / "served" / "tiny.zip") as archive:
        assert "tiny/1/saved_model.pb" in archive.namelist()
        assert archive.testzip() is None
    docker = notebook.printed("take").splitlines()[-1]
    assert docker.startswith("docker run ") and " tensorflow/serving:" in docker


@pytest.mark.slow
def test_serving_a_classifier(tmp_path):
    bundle = str(classifier(tmp_path / "bundle").folder)
    values = served(tmp_path, BUNDLE=bundle, QUESTION={"text": "the quick brown"})
    notebook = Notebook("export_and_serve", tmp_path, **values)
    notebook.insert(None, CHECK)
    notebook.insert("about-grpc", LOOK.format(port="REST_PORT"))
    notebook.run()
    assert not notebook.printed("train")
    assert re.search(r"^  0\.\d{3}  good$", notebook.printed("grpc"), re.MULTILINE)
    check_serving(notebook, ["serving_default", "predict", "classify", "regress"])


@pytest.mark.slow
def test_serving_the_model_that_it_trains_itself(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    settings = [*TINY_MODEL, "model.context_length=16", "batch_size=4", "sample_tokens=8"]
    settings += ["data.train=text.txt", "steps=4", "evaluate_every=2"]
    notebook = Notebook("export_and_serve", tmp_path, **served(tmp_path, SETTINGS=settings))
    notebook.insert(None, CHECK)
    notebook.insert("about-grpc", LOOK.format(port="REST_PORT"))
    notebook.run()
    assert "--recipe=python_gpt_quick" in notebook.printed("train")
    assert "\n\nthe quick " in notebook.printed("grpc")
    check_serving(notebook, ["serving_default", "generate", "score", "next_token"])
