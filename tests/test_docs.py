"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *sorted(set(ROOT.glob("*.md")) - {ROOT / "CHANGELOG.md"}),  # which names what went
    *(ROOT / "docs").glob("*.md"),
    ROOT / "deploy" / "README.md",
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_files_and_modules_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    folders = "zoo|trainers|export|tests|tools|benchmarks|docs|deploy|examples"
    for name in re.findall(rf"`((?:{folders})/[\w/]+(?:\.(?:py|md|json))?)`", text):
        assert (ROOT / name).exists() or name == "benchmarks/results", name
    for module in re.findall(
        r"python -m ((?:zoo|trainers|export|tools|benchmarks|examples)[\w.]*)", text
    ):
        place = ROOT.joinpath(*module.rstrip(".").split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_functions_of_the_walks_exist():
    text = (ROOT / "docs" / "walks.md").read_text(encoding="utf-8")
    first, second = text.split("## From --set")
    steps = [re.findall(r"^\d+\. `(\S+):(\w+)`", part, re.MULTILINE) for part in (first, second)]
    assert 5 < len(steps[0]) <= 12
    assert 3 < len(steps[1]) <= 6
    for file, name in [*steps[0], *steps[1]]:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", code, re.MULTILINE), f"{file}: {name}"


def test_every_task_of_the_command_line_is_in_the_readme():
    from trainers.config import TASK_NAMES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == TASK_NAMES
