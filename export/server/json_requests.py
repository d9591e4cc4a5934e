"""JSON bodies of predict to PredictRequests, in row format (`instances`) or columnar (`inputs`).

The rules and the wording of the errors are TensorFlow Serving's. A body is first read as a whole,
fast; if anything about it is unusual it is read again value by value, which finds what is wrong
with which value.
"""

from collections.abc import Mapping, MutableMapping, Sequence

from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export.server.inference import invalid
from export.server.json_reading import Members, printable
from export.server.json_tensors import dense_tensor, exact_tensor, is_base64, write_tensor
from export.server.json_writing import echo
from export.server.status import ServingError


def format_error(value: object, what: str) -> ServingError:
    """The error for a body, or a part of it, that has another form than it should."""
    return invalid(f"JSON Value: {echo(value)} {what}")


def signature_name(body: object) -> str:
    """The signature that a body asks for; empty for the default one.

    Raises:
        ServingError: the body is not an object, or the name is not a string.
    """
    if not isinstance(body, Members):
        raise format_error(body, "Is not object")
    found, name = body.first("signature_name")
    if not found:
        return ""
    if not isinstance(name, str):
        raise format_error(
            body, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return printable(name)


def fill_tensors(
    body: Members,
    inputs: Mapping[str, meta_graph_pb2.TensorInfo],
    signature: str,
    tensors: MutableMapping[str, tensor_pb2.TensorProto],
) -> bool:
    """Fills the inputs of a PredictRequest.

    Args:
        body: Members. An object with `instances` (rows) or `inputs` (columns).
        inputs: Mapping[str, TensorInfo]. The inputs of the signature.
        signature: str. Its name, for messages.
        tensors: The `inputs` of the request, empty.

    Returns:
        Whether the body is in row format; the answer goes out in the same format.

    Raises:
        ServingError: INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype that JSON cannot fill.

    Example:
        >>> body = read_json(b'{"instances": [1.0, 2.0]}')
        >>> fill_tensors(body, signature_def.inputs, "serving_default", request.inputs)
        True
    """
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    has_rows, rows = body.first("instances")
    has_columns, columns = body.first("inputs")
    if has_rows and has_columns:
        raise format_error(
            body,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if has_rows:
        if not isinstance(rows, list):
            raise format_error(body, "Excepting 'instances' to be an list/array")
        if not rows:
            raise format_error(body, "No values in 'instances' array")
        _fill_rows(rows, {name: inputs[name].dtype for name in sorted(inputs)}, tensors)
    elif has_columns:
        _fill_columns(columns, {name: inputs[name].dtype for name in sorted(inputs)}, tensors)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    return has_rows


def _fill_rows(rows: list, dtypes: Mapping[str, int], tensors) -> None:
    names = list(dtypes)
    if not isinstance(rows[0], Members) and len(names) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_named(rows[0])
    columns = _columns(rows, names) if named else {names[0]: rows}
    read = {name: dense_tensor(column, dtypes[name]) for name, column in columns.items()}
    if not read or None in read.values():
        read = _row_by_row(rows, named, dtypes)
    for name, (shape, values) in read.items():
        write_tensor(tensors[name], dtypes[name], shape, values)


def _is_named(element: object) -> bool:
    return isinstance(element, Members) and not is_base64(element)


def _columns(rows: list, names: Sequence[str]) -> dict[str, list]:
    """The rows by name of input; empty unless every row has every name once and no other."""
    columns: dict[str, list] = {name: [] for name in names}
    for row in rows:
        if not _is_named(row) or len(row) != len(names):
            return {}
        for name, value in row:
            if name not in columns:
                return {}
            columns[name].append(value)
    return columns if all(len(column) == len(rows) for column in columns.values()) else {}


def _row_by_row(rows: list, named: bool, dtypes: Mapping[str, int]) -> dict[str, tuple]:
    first: dict[str, tuple[list[int], int]] = {}
    values: dict[str, list] = {}

    def add(item: object, name: str) -> None:
        if name not in dtypes:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape, found = exact_tensor(item, dtypes[name])
        wanted_shape, wanted = first.setdefault(name, (shape, len(found)))
        if len(found) != wanted:
            raise invalid(f"Expecting tensor size: {wanted} but got: {len(found)}")
        if shape != wanted_shape:
            raise invalid(f"Expecting shape {_shown(wanted_shape)} but got: {_shown(shape)}")
        values.setdefault(name, []).extend(found)

    for place, row in enumerate(rows):
        where = f"Failed to process element: {place}"
        if named and not _is_named(row):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        if not named and _is_named(row):
            raise invalid(f"Expecting value/list but got object at item {place} of input list")
        pairs = row if named else ((next(iter(dtypes)), row),)
        for key, value in pairs:
            name = _c_string(key)
            key_shown = f" key: {printable(name)}" if named else ""
            try:
                add(value, name)
            except ServingError as error:
                raise invalid(f"{where}{key_shown} of 'instances' list. Error: {error}") from error
        if named and {_c_string(key) for key, _ in row} != {*dtypes}:
            raise invalid(
                f"{where} of 'instances' list. JSON object: {echo(row)} keys must be equal to: "
                f"{','.join(dtypes)}"
            )
    return {name: ([len(rows), *first[name][0]], values[name]) for name in first}


def _c_string(name: str) -> str:
    return name.split("\0", 1)[0]  # where C++ takes a name for a C string, it ends at a NUL


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _fill_columns(columns: object, dtypes: Mapping[str, int], tensors) -> None:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = Members([(next(iter(dtypes)), columns)])
    for name, dtype in dtypes.items():
        found, item = columns.first(name)
        if not found:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        shape, values = dense_tensor(item, dtype) or exact_tensor(item, dtype)
        write_tensor(tensors[name], dtype, shape, values)
