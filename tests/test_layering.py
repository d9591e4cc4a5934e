"""The house's rules: imports run one way, no cycles, short files, names that say something."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zoo", "trainers", "export")
# What each package may import of the others.
ALLOWED = {"zoo": set(), "trainers": {"zoo"}, "export": {"zoo"}}
# Rooms of zoo that TensorFlow may enter; the rest runs on every Keras backend.
TENSORFLOW_ROOMS = (
    "zoo/tokenizers/",
    "zoo/text/",
    "zoo/generation/options.py",
    "zoo/bundle.py",
    "zoo/weights/locations.py",
)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported_modules(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports; `from a import b` is a.b if that is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in MODULES else node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_rules(path):
    relative = path.relative_to(ROOT)
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500, "split it by meaning"
    assert not re.fullmatch(r"(utils?|helpers?|misc|common)\.py", path.name)
    modules = imported_modules(path)
    packages = {name.split(".")[0] for name in modules} & set(PACKAGES)
    assert packages - {relative.parts[0]} <= ALLOWED[relative.parts[0]]
    if relative.parts[0] == "zoo" and not relative.as_posix().startswith(TENSORFLOW_ROOMS):
        assert not {name for name in modules if name.split(".")[0] == "tensorflow"}
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_no_import_cycles():
    """Over all imports: at the top of files, under TYPE_CHECKING and inside functions."""
    graph = {name: imported_modules(path) & set(MODULES) for name, path in MODULES.items()}
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, " -> ".join([*under_way[under_way.index(name) :], name])
        if name in done:
            return
        under_way.append(name)
        for imported in graph[name]:
            visit(imported)
        done.add(under_way.pop())

    for name in MODULES:
        visit(name)


def test_zoo_builds_models_without_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None  # an import of it raises ImportError
sys.modules["tensorflow_text"] = None
import numpy as np
import zoo
assert zoo.PRESETS and zoo.TextConfig(max_length=8)
assert "keras" not in sys.modules
import keras  # with our classes, so that models in .keras files are found
assert keras.saving.get_registered_object("zoo>CausalLM")
model = zoo.build("lstm_char_cpu", vocabulary_size=5, hidden_dim=4)
assert model(np.zeros((1, 3), "int32")).shape == (1, 3, 5)
assert zoo.build("gpt_char_cpu", vocabulary_size=5, hidden_dim=8).count_params() > 0
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=120)


def test_every_public_name_is_there():
    import zoo

    for name in zoo.__all__:
        assert getattr(zoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoo.nothing
