"""LoRA adapters in the format of Hugging Face's PEFT, in and out."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.config import Fields, to_dict
from zoo.files import BundleError, existing, inside, write_json
from zoo.weights.assign import listed, model_weights
from zoo.weights.families import HUGGINGFACE
from zoo.weights.family import Family, resolved
from zoo.weights.huggingface.writing import problems_of, tables_of
from zoo.weights.locations import ADAPTER_FILE, HUB, PACKAGE, locate, writer_of
from zoo.weights.safetensors_files import PICKLE, WeightFiles, write_weights

WEIGHTS_FILE = "adapter_model.safetensors"
_START = "base_model.model."  # two models of PEFT's around the base
_HEAD = "lm_head.weight"  # of all classes of transformers 5, whatever its files call it
_KEY = re.compile(r"base_model\.model\.(.+?)(?:\.base_layer|\.lora_([AB]))?\.(weight|bias)")
# Fields that are read, or change no number once the factors are there; others must be off.
_KNOWN = {"peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"}
_KNOWN |= {"rank_pattern", "alpha_pattern", "target_modules", "bias", "init_lora_weights"}
_KNOWN |= {"exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}
_KNOWN |= {"task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout"}
_KNOWN |= {"fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config", "loftq_config"}
_REQUIRED = (
    ("peft_type", ("LORA",), "other adapters are no low-rank factors"),
    ("bias", ("none",), "PEFT does not keep all of them"),
    ("init_lora_weights", (True, False, "gaussian", "eva", "orthogonal"), "it changes the base"),
)
_TASKS = dict.fromkeys(("classify", "pair", "regress"), "SEQ_CLS")
_TASKS |= {"lm": "CAUSAL_LM", "tag": "TOKEN_CLS", "span": "QUESTION_ANS"}
# Fields of ours in which a model may differ from its base.
_MAY_DIFFER = ("dropout", "initializer_range", "context_length", "use_pooler", "pooler_activation")


def base_of(adapter: Path, base: str | os.PathLike[str] | None) -> Path:
    """The folder of an adapter's base: `base`, or what it names, in its folder or on the Hub."""
    if base is None:
        fields, name = Fields.read(inside(adapter, ADAPTER_FILE)), "base_model_name_or_path"
        base, revision = fields.text(name, ""), fields.text("revision")
        try:
            folder = inside(adapter, base, where=f"{fields.where}: {name}")
        except BundleError as error:
            raise BundleError(f"{error}. Or name it: zoo.load(adapter, base=...)") from None
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", base):
            raise BundleError(
                f"{fields.where}: {name} is {base!r:.80}, neither a folder in {adapter} nor a name "
                "on the Hub. Name the base: zoo.load(adapter, base=...)"
            )
        at = f"@{revision}" if revision else ""
        base = folder if folder.exists() else f"{HUB}{base}{at}"
    folder = locate(base)
    if writer_of(folder) not in ("transformers", "peft"):
        raise BundleError(f"{folder}: no model of transformers, which is what {adapter} needs")
    return folder


class AdaptedFiles:
    """Tensors of a base, with an adapter's factors added in when they are read.

    A product of factors has the shape of the base's tensor, whatever is fused or turned here.
    """

    def __init__(self, files: WeightFiles, adapter: Path, family: Family, is_tied: bool):
        fields = Fields.read(inside(adapter, ADAPTER_FILE))
        for name in fields.values.keys() - _KNOWN:
            fields.require(name, (None, False, [], {}), "it gives the factors another meaning")
        for name, allowed, why in _REQUIRED:
            fields.require(name, allowed, why)
        path = existing(adapter, WEIGHTS_FILE, advice=f"An adapter_model.bin is {PICKLE}.")
        self.path, self._base, self._adapter = files.path, files, WeightFiles(path)
        # Tensor of the base -> what the adapter has: "" in its place, "A" and "B" to be added.
        self._keys: dict[str, dict[str, str]] = {}
        self._scales: dict[str, float] = {}
        stored = family.stored_names(files.names(), files.path)
        # What is added to a tied embedding would be added to the output, too.
        tables = [name for ours, name in family.layers.items() if ours.endswith("_embedding")]
        unknown = []
        for key in self._adapter.names():
            found = _KEY.fullmatch(key)
            module, kind, weight = found.groups("") if found else [""] * 3
            module = module.removeprefix(family.prefix)
            name = f"{module}.{weight}"
            tensor = stored.get(family.untied_head if name == _HEAD else name, "")
            keys = self._keys.setdefault(tensor, {})
            if not tensor or kind in keys or (module in tables and (is_tied or kind)):
                unknown.append(key)
            keys[kind] = key
        if unknown:
            raise BundleError(f"{path}: the base takes no tensors {listed(unknown)}")
        rank_of, alpha_of = _chooser(fields, "rank_pattern"), _chooser(fields, "alpha_pattern")
        rank, alpha = fields.whole("r", 8), fields.number("lora_alpha", 8.0)
        power = 0.5 if fields.flag("use_rslora", False) else 1.0
        targets, blocks = _targets(fields), family.block.partition("{")[0]
        self._turned = set()  # of the "Conv1D" of GPT-2
        for name, tensor in stored.items():
            keys, shape = self._keys.get(tensor, {}), files.shape(tensor)
            suffixes = _suffixes(family.prefix + name.rpartition(".")[0])
            is_matrix = len(shape) == 2
            is_target = is_matrix and name.startswith(blocks) and not suffixes.isdisjoint(targets)
            expected = {"": shape} if "" in keys else {}
            if keys.keys() - {""} or (is_target and not keys):
                its_rank = rank_of(suffixes, rank)
                self._scales[tensor] = alpha_of(suffixes, alpha) / its_rank**power
                rows, columns = shape if is_matrix else (0, 0)
                if family.dense == "same" and name != family.untied_head:
                    self._turned.add(tensor)
                    rows, columns = columns, rows
                expected |= {"A": (its_rank, columns), "B": (rows, its_rank)}
            found = {kind: self._adapter.shape(key) for kind, key in keys.items()}
            if found != expected:
                raise BundleError(f"{path}: {name} has factors {found}, and needs {expected}")

    def names(self) -> list[str]:
        """The names of all tensors."""
        return self._base.names()

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        values = {kind: self._adapter.read(key) for kind, key in self._keys.get(name, {}).items()}
        value = values[""] if "" in values else self._base.read(name)
        if "A" in values:
            added = self._scales[name] * (values["B"] @ values["A"])
            value = value + (added.T if name in self._turned else added)
        return value


def _targets(fields: Fields) -> set[str]:
    """Names of modules that all have factors, as far as the config says so without patterns."""
    targets = fields.values.get("target_modules")
    if any(fields.values.get(name) for name in ("exclude_modules", "layers_to_transform")):
        targets = None
    return {x for x in targets if isinstance(x, str)} if isinstance(targets, list) else set()


def _chooser(fields: Fields, name: str) -> Callable[[set[str], Any], Any]:
    """What a "rank_pattern" or "alpha_pattern" has for a module's names, or a default."""
    part = Fields(fields.values.get(name) or {}, f"{fields.where}: {name}")
    for key in part.values:
        if not re.fullmatch(r"[\w.]+", key):
            raise BundleError(f"{part.where}: {key!r:.80} is a pattern; read are names of modules")
    order = {key: place for place, key in enumerate(part.values)}  # the first counts
    read = part.whole if name == "rank_pattern" else part.number

    def choose(suffixes: set[str], default: Any) -> Any:
        key = min(suffixes & order.keys(), key=order.__getitem__, default="")
        return read(key, default)

    return choose


def _suffixes(module: str) -> set[str]:
    """A module's names: "a.b.c", "b.c" and "c"; the longest that is known has seven parts."""
    parts = module.rsplit(".", 8)
    return {".".join(parts[start:]) for start in range(len(parts))}


def write_adapter(folder: Path, model: keras.Model, tokenizer_kind: str, base: str) -> None:
    """Writes the low-rank factors of a model trained from `base`, and its head, for PEFT.

    A ValueError says why PEFT cannot put them on that base.
    """
    source = locate(base) if base.startswith((HUB, PACKAGE)) else Path(base)
    if writer_of(source) != "transformers":
        raise ValueError(f"{base} is no model of transformers")
    if model.task not in _TASKS:
        raise ValueError(f"PEFT has no task {model.task!r}")
    fields = Fields.read(inside(source, "config.json"))
    model_type, ours = fields.text("model_type"), model.backbone.config
    family = HUGGINGFACE[model_type]
    theirs = family.config(**family.read_options(fields))
    problems = problems_of(model, tokenizer_kind, model_type) + [
        f"model.{name} is {resolved(ours, name)!r}, and {resolved(theirs, name)!r} in {base}"
        for name in to_dict(ours)
        if name not in _MAY_DIFFER and resolved(ours, name) != resolved(theirs, name)
    ]
    if problems:
        raise ValueError("; ".join(problems))
    tensors, saved, rank = {}, set(), 0
    weights, tables = model_weights(model), tables_of(model, model_type)
    for name, variable in weights.items():
        layer, _, kind = name.rpartition("/")
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        if kind == "lora_kernel_b":
            a = keras.ops.convert_to_numpy(weights[f"{layer}/lora_kernel_a"]).T  # (r, in)
            table, rank = tables[f"{layer}/kernel"], len(a)
            # The columns of what lies side by side here are the rows of matrices there.
            for tensor, b in table.to_tensors(value):
                module = _START + tensor.removesuffix(".weight")
                tensors[f"{module}.lora_A.weight"] = a
                tensors[f"{module}.lora_B.weight"] = b if table.layout == "linear" else b.T
        elif variable.trainable and kind != "lora_kernel_a" and name in tables:
            for tensor, array in tables[name].to_tensors(value):
                tensor = _HEAD if tensor == family.untied_head else tensor
                tensors[_START + tensor] = array
                saved.add(tensor.removeprefix(family.prefix).split(".")[0])
    hub, _, revision = base.removeprefix(HUB).partition("@")
    on_hub = base.startswith(HUB)
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]
    write_weights(folder, tensors.items(), WEIGHTS_FILE)
    content = {
        "peft_type": "LORA",
        "task_type": _TASKS[model.task],
        "base_model_name_or_path": hub if on_hub else str(source.resolve()),
        "revision": revision or None,
        "r": rank,
        "lora_alpha": layers[0].lora_alpha,
        "target_modules": [
            part
            for layer, names in family.block_layers.items()
            if f"block_0/{layer}/lora_kernel_a" in weights
            for part in names.split()
        ],
        "modules_to_save": sorted(saved) or None,
        "fan_in_fan_out": family.dense == "same",
        "inference_mode": True,
    }
    write_json(folder / ADAPTER_FILE, content, indent=2)
