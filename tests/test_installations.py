"""What pip installs: all that is imported, on each Python, and nothing in place of a TPU's JAX."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_layering import FILES, PACKAGES
from tests.test_notebooks import TEXT, TINY_MODEL, Notebook

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# What the machine brings, and what comes with keras, tensorflow and keras-nlp.
BROUGHT = {"jax", "torch", "h5py", "google", "keras_hub"}
# A machine with TPUs: JAX and TensorFlow are there, and not the newest.
IMAGE = ("jax==0.7.2", "tensorflow-cpu==2.20.0")

pytestmark = pytest.mark.tensorflow_only


def plain(name):
    """A distribution's name as PyPI spells it."""
    return name.lower().replace("_", "-")


def names(requirements):
    """Those of lines such as "tensorflow>=2.21,<2.22"."""
    return {plain(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in requirements}


def test_pyproject_names_what_is_imported_and_what_requirements_pin():
    extras = PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"]) | names(extras["tensorflow"])
    lines = (ROOT / "requirements.in").read_text("utf-8").splitlines()
    assert declared - {"keras"} == names(line for line in lines if line[:1] not in ("#", ""))
    imported = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {*PACKAGES, *sys.stdlib_module_names, *BROUGHT}
    providers = importlib.metadata.packages_distributions()
    for module in imported:
        found = {plain(name) for name in providers[module]}
        assert found & declared, f"{module} of {found}: in no list of pyproject.toml"


def interpreter(version):
    """The path of a Python of this version; skips the test where there is none."""
    known = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in filter(None, (shutil.which(f"python{version}"), *known)):
        done = subprocess.run([path, "--version"], capture_output=True, text=True)
        if done.stdout.startswith(f"Python {version}."):  # pyenv's shims name what is not there
            return path
    pytest.skip(f"this machine has no Python {version}")


class Environment:
    """A new virtual environment that knows nothing of the tests' own."""

    def __init__(self, folder, version):
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        # Its own copy: building a package writes into the folder.
        self.clone = folder / "clone"
        kept = shutil.ignore_patterns(".git", ".venv", "runs", "served", "build", "*.egg-info")
        shutil.copytree(ROOT, self.clone, ignore=kept)
        subprocess.run(
            [UV, "venv", "--quiet", "--seed", "--python", interpreter(version), folder / "venv"],
            check=True,
        )

    def install(self, *requirements):
        subprocess.run(
            [UV, "pip", "install", "-q", "--python", self.python, *requirements], check=True
        )

    def versions(self):
        command = [UV, "pip", "list", "--format=json", "--python", self.python]
        listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return {one["name"]: one["version"] for one in listed}

    def run(self, *arguments, **environment):
        """What a command says; it sees no other packages than those of this environment."""
        dropped = ("PYTHONPATH", "KERAS_BACKEND", "XLA_FLAGS")
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=kept | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def train(environment, workdir, *more, **variables):
    (environment.folder / "text.txt").write_text(TEXT, encoding="utf-8")
    settings = [*TINY_MODEL, "steps=4", "evaluate_every=2", "batch_size=4", "sample_tokens=8"]
    settings += ["data.train=text.txt", "model.context_length=16", *more]
    command = ["-m", "trainers", "--recipe=python_gpt_quick", f"--workdir={workdir}"]
    environment.run(*command, *(f"--set={setting}" for setting in settings), **variables)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_each_python_trains_and_exports(version, tmp_path):
    environment = Environment(tmp_path, version)
    environment.install(f"{environment.clone}[tensorflow]")
    subprocess.run([UV, "pip", "check", "-q", "--python", environment.python], check=True)
    train(environment, "gpt", "data.tokenizer=bytepair", "data.max_vocabulary_size=300")
    rows = "".join(f"{word} {number},{word}\n" for number in range(40) for word in ("yes", "no"))
    (tmp_path / "own.csv").write_text("text,label\n" + rows, encoding="utf-8")
    own = ["--task=classify", "--data=own.csv", "--workdir=own"]  # WordPiece, by TF Text
    environment.run("-m", "trainers", *own, "--set=steps=4", "--set=evaluate_every=2")
    for workdir in ("gpt", "own"):
        printed = environment.run("-m", "export", f"--workdir={workdir}", f"--out=served/{workdir}")
        assert "golden answers verified" in printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tpu_machine_keeps_its_jax_and_its_tensorflow(tmp_path):
    environment = Environment(tmp_path, "3.12")
    environment.install(*IMAGE)
    before = environment.versions()
    environment.install(f"{environment.clone}[jax]")
    environment.install("--no-deps", "tensorflow-text==2.20.*")
    after = environment.versions()
    changed = {name for name in before if before[name] != after[name]} - {"keras"}
    assert not changed and "tensorflow" not in after
    train(environment, "gpt", KERAS_BACKEND="jax")
    assert "on jax 0.7.2" in (tmp_path / "gpt" / "report.md").read_text("utf-8")
    # Exported where TensorFlow Serving's packages are.
    command = [sys.executable, "-m", "export", f"--workdir={tmp_path}/gpt", f"--out={tmp_path}/out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_a_notebook_installs_the_package_beside_jax(version, tmp_path, monkeypatch):
    environment = Environment(tmp_path, version)
    environment.install(IMAGE[0], "ipykernel")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [str(environment.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "image", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    workdir = tmp_path / "runs"
    notebook = Notebook(
        "pretrain_gpt_tpu",
        tmp_path,
        FOLDER=str(tmp_path),
        WORKDIR=str(workdir),
        RECIPE="python_gpt_quick",
        SETTINGS=[
            *TINY_MODEL,
            *("model.context_length=16", "batch_size=4", "steps=4", "evaluate_every=2"),
            *("data.train=text.txt", "sample_tokens=8"),
        ],
        DATA_DIR=None,
        PROMPT="the quick ",
    )
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    install = notebook.cell("install")
    source = f'REPOSITORY = "{environment.clone}[tensorflow]"'
    install.source, count = re.subn('REPOSITORY = ".*?"', source, install.source)
    assert count == 1
    notebook.run(KERAS_BACKEND="jax", PYTHONPATH="")
    assert environment.versions()["jax"] == "0.7.2"
    assert notebook.printed("sample").startswith("the quick ")
