// A question as the body of a REST request, and as curl, grpcurl and Python, to copy. It is
// { model, version, signature, inputs: { name: { dtype, value } } }; version "" is the newest.

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
// Where a TensorProto has its values; those of all other types are in int_val.
const FIELDS = {
  DT_FLOAT: "float_val", DT_DOUBLE: "double_val", DT_STRING: "string_val", DT_BOOL: "bool_val",
  DT_INT64: "int64_val", DT_UINT32: "uint32_val", DT_UINT64: "uint64_val",
};
const fieldOf = (dtype) => FIELDS[dtype] ?? "int_val";

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const toBase64 = (text) =>
  btoa(Array.from(encoder.encode(text), (byte) => String.fromCharCode(byte)).join(""));

// A default as it stands in the metadata, for one row: a value, or a list of them.
export function rowOfDefault({ dtype, tensor_shape: { dim }, ...tensor }) {
  let values = tensor[fieldOf(dtype)];
  if (dtype === "DT_STRING") values = values.map((one) => decoder.decode(bytesOf(one)));
  if (dtype.includes("INT")) values = values.map(Number); // JSON has 64 bits as strings
  return dim.length > 1 ? values.slice(0, Number(dim[1].size)) : values[0];
}

export const pathOf = ({ model, version }) =>
  `v1/models/${encodeURIComponent(model)}${version && `/versions/${version}`}`;

export function bodyOf({ signature, inputs }) {
  const values = Object.entries(inputs).map(([name, { value }]) => [name, value]);
  return { signature_name: signature, inputs: Object.fromEntries(values) };
}

// JSON comes by stdin, as an argument must be shorter than 128 kB. No line of it is EOF.
const withInput = (command, json) => `${command} <<'EOF'\n${JSON.stringify(json, null, 1)}\nEOF`;

export function curl(question, base) {
  const address = `${new URL(pathOf(question), base)}:predict`.replaceAll("'", "%27");
  return withInput(`curl '${address}' --data-binary @-`, bodyOf(question));
}

function tensorOf({ dtype, value }) {
  const dim = [];
  for (let part = value; Array.isArray(part); part = part[0]) dim.push({ size: part.length });
  const values = [value].flat(Infinity).map(dtype === "DT_STRING" ? toBase64 : (one) => one);
  return { dtype, tensor_shape: { dim }, [fieldOf(dtype)]: values };
}

export function grpcurl({ model, version, signature, inputs }, grpc, host) {
  const spec = { name: model, signature_name: signature, version: version || undefined };
  const tensors = Object.entries(inputs).map(([name, input]) => [name, tensorOf(input)]);
  const flags = (grpc.tls ? "-cacert ca.pem" : "-plaintext")
    + (grpc.reflection ? "" : " -protoset export/client/serving.binpb");
  const method = "tensorflow.serving.PredictionService/Predict";
  return withInput(`grpcurl ${flags} -d @ ${host}:${grpc.port} ${method}`,
    { model_spec: spec, inputs: Object.fromEntries(tensors) });
}

function literal(value, dtype) {
  if (Array.isArray(value)) return `[${value.map((one) => literal(one, dtype)).join(", ")}]`;
  if (dtype === "DT_BOOL") return value ? "True" : "False";
  return dtype === "DT_FLOAT" && Number.isInteger(value) ? value.toFixed(1) : JSON.stringify(value);
}

// The client makes int32 and float32 of Python's numbers; other types are said.
function array({ dtype, value }) {
  const list = literal(value, dtype);
  if (["DT_STRING", "DT_FLOAT", "DT_INT32", "DT_BOOL"].includes(dtype)) return list;
  return `numpy.array(${list}, "${dtype.slice(3).toLowerCase().replace("double", "float64")}")`;
}

export function python({ model, version, signature, inputs }, grpc, host) {
  const tls = grpc.tls ? ', tls=Tls("ca.pem")' : "";
  const which = JSON.stringify(signature) + (version && `, ${version}`);
  const lines = Object.entries(inputs).map(
    ([name, one]) => `    ${JSON.stringify(name)}: ${array(one)},`);
  const imports = lines.some((line) => line.includes(": numpy.array(")) ? "import numpy\n" : "";
  return `${imports}from export.client import Client${tls && ", Tls"}

inputs = {
${lines.join("\n")}
}
with Client("${host}:${grpc.port}"${tls}) as client:
    answer = client.predict(${JSON.stringify(model)}, inputs, ${which})
print(answer.outputs)`;
}
