"""The files in deploy/ against the schemas of Kubernetes, Compose and KServe."""

import copy
import functools
import importlib.resources
import json
import pathlib
import re
from unittest import mock

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The oldest release with all that is written, and the newest one that there are schemas of.
RELEASES = ["1.27", kubernetes_validate.latest_version()]
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|Mi|Gi)?")
_cached = functools.cache(kubernetes_validate.utils.schema_contents)


FILES = {
    path.relative_to(ROOT / "deploy").as_posix(): path.read_text()
    for path in (ROOT / "deploy").rglob("*.yaml")
}
OBJECTS = [f for f in FILES if f.startswith("kubernetes/") and "kustomization" not in f]


def documents(*names):
    """What is in these files, by their names."""
    return [pytest.param(yaml.safe_load(FILES[name]), id=name) for name in sorted(names)]


COMPOSE_FILE, KSERVE_FILE = "compose.yaml", "kserve/inference_service.yaml"


def check_kubernetes(document, release=RELEASES[-1]):
    with mock.patch.object(kubernetes_validate.utils, "schema_contents", _cached):
        kubernetes_validate.validate(document, release, strict=True)


def compose_schema():
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return json.loads((vendored / "compose-spec.json").read_text())


COMPOSE = jsonschema.validators.validator_for(compose_schema())(compose_schema())

# KServe's own fields, by hand from the v1beta1 API of kserve 0.21 (V1beta1InferenceService,
# V1beta1PredictorSpec, V1beta1ModelSpec): only those we may write. Those of a container are
# Kubernetes' own.
_STRING, _COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def strict(properties, required):
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def kserve_schema():
    release = f"v{RELEASES[-1]}"
    folder = f"kubernetes-json-schema/{release}-local-strict"
    definitions = _cached(f"{folder}/_definitions.json", RELEASES[-1])["$defs"]
    of_container = definitions["io.k8s.api.core.v1.Container"]["properties"]
    model = {
        "modelFormat": strict({"name": _STRING, "version": _STRING}, ["name"]),
        "runtime": _STRING,
        "runtimeVersion": _STRING,
        "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
        "storageUri": {"type": "string", "pattern": "^[a-z0-9+.-]+://.+"},
        "args": of_container["args"],
        "resources": of_container["resources"],
    }
    predictor = {
        "minReplicas": _COUNT,
        "maxReplicas": _COUNT,
        "model": strict(model, ["modelFormat", "storageUri"]),
    }
    top = {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": strict({"name": _STRING}, ["name"]),
        "spec": strict({"predictor": strict(predictor, ["model"])}, ["predictor"]),
    }
    return strict(top, list(top)) | {"$defs": definitions}


KSERVE = jsonschema.Draft202012Validator(kserve_schema())


# --- What is written is valid


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("document", documents(*OBJECTS))
def test_kubernetes_takes_the_files(document, release):
    check_kubernetes(document, release)


@pytest.mark.parametrize("document", documents(COMPOSE_FILE))
def test_compose_takes_the_files(document):
    COMPOSE.validate(document)


@pytest.mark.parametrize("document", documents(KSERVE_FILE))
def test_kserve_takes_the_files(document):
    KSERVE.validate(document)


@pytest.mark.parametrize("document", documents(*OBJECTS, KSERVE_FILE))
def test_quantities_are_quantities(document):
    """Kubernetes' schema takes any string for one."""
    found = [
        value
        for path, value in leaves(document)
        if path[-1] in ("cpu", "memory", "storage") and {"requests", "limits"} & {*path}
    ]
    kind = document["kind"]
    assert bool(found) == (
        kind in ("Deployment", "InferenceService", "Pod", "PersistentVolumeClaim")
    )
    assert all(_QUANTITY.fullmatch(value) for value in found)


def test_there_is_one_of_each_and_kustomize_lists_them():
    kinds = [yaml.safe_load(FILES[name])["kind"] for name in OBJECTS]
    assert sorted(kinds) == sorted(
        ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"]
        + ["PersistentVolumeClaim", "Pod"]
    )
    listed = yaml.safe_load(FILES["kubernetes/kustomization.yaml"])["resources"]
    by_hand = {"upload.yaml"}  # a pod for a moment
    assert {f"kubernetes/{name}" for name in {*listed} | by_hand} == set(OBJECTS)


# --- And what is not valid is found: each value of the wrong type, each field that is unknown


def leaves(node, path=()):
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def mappings(node, path=()):
    if isinstance(node, dict):
        yield path
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from mappings(value, (*path, key))


def changed(document, path, change):
    document = copy.deepcopy(document)
    *parents, last = path
    change(functools.reduce(lambda node, key: node[key], parents, document), last)
    return document


def refused(check, document):
    try:
        check(document)
    except jsonschema.ValidationError:
        return True
    return False


# Mappings whose keys are free.
_FREE = {
    "environment",
    "labels",
    "annotations",
    "matchLabels",
    "data",
    "requests",
    "limits",
    "services",
}

CHECKED = [
    *((check_kubernetes, *one.values) for one in documents(*OBJECTS)),
    *((KSERVE.validate, *one.values) for one in documents(KSERVE_FILE)),
    *((COMPOSE.validate, *one.values) for one in documents(COMPOSE_FILE)),
]


@pytest.mark.parametrize(("check", "document"), CHECKED)
def test_a_value_of_the_wrong_type_is_found(check, document):
    def nest(parent, key):
        parent[key] = {"nested": {"twice": 1}}

    paths = [path for path, _ in leaves(document)]
    assert paths
    if "kind" in document:  # by these the schema itself is found
        paths = [path for path in paths if path not in {("kind",), ("apiVersion",)}]
    assert [path for path in paths if not refused(check, changed(document, path, nest))] == []


@pytest.mark.parametrize(("check", "document"), CHECKED)
def test_an_unknown_field_is_found(check, document):
    def add(parent, key):
        parent[key]["nosuchfield"] = "x"

    # Below a root, so that the document itself is one of the mappings.
    rooted = {"": document}
    paths = [path for path in mappings(rooted) if path and path[-1] not in _FREE]
    if document.get("kind") == "Service":
        paths.remove(("", "spec", "selector"))  # labels, too
    assert paths
    missed = [path for path in paths if not refused(check, changed(rooted, path, add)[""])]
    assert missed == []


def test_a_missing_field_is_found():
    deployment = yaml.safe_load(FILES["kubernetes/deployment.yaml"])
    del deployment["spec"]["selector"]
    assert refused(check_kubernetes, deployment)
    service = yaml.safe_load(FILES[KSERVE_FILE])
    del service["spec"]["predictor"]["model"]["modelFormat"]["name"]
    assert refused(KSERVE.validate, service)
