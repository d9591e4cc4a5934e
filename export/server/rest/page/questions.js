// A question, { model, method, body }, as a REST request, and as curl, grpcurl and Python to copy.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const byteDecoder = new TextDecoder("x-user-defined"); // one character a byte, in its low 8 bits

export const textOf = (bytes) =>
  decoder.decode(Uint8Array.from(bytes, (one) => one.charCodeAt() & 255));

// TensorFlow Serving writes NaN and Infinity as they are, which is no JSON: here they are strings.
function parse(text) {
  const words = /("(?:[^"\\]+|\\.)*")|-?\b(?:NaN|Infinity)\b/g;
  return JSON.parse(text.replace(words, (word, string) => string ?? `"${word}"`));
}

// All addresses are relative, as a proxy may put the page below a path of its own.
const pathOf = ({ model, method }) => `v1/models/${encodeURIComponent(model)}:${method}`;

// The outputs of a signature that has these names. Strings have U+FFFD for bytes that are no UTF-8;
// tokens that are scored, which may be parts of characters, are what `textOf` reads.
export async function send(question, names) {
  const response = await fetch(pathOf(question), { method: "POST", body: question.body });
  const bytes = await response.arrayBuffer();
  const isJson = response.headers.get("Content-Type") === "application/json";
  const { outputs, results, error } = isJson ? parse(decoder.decode(bytes))
    : { error: response.statusText };
  if (error) throw new Error(`${response.status} ${error}`);
  if (question.method === "classify") {
    const [classes, scores] = [0, 1].map((k) => results.map((row) => row.map((pair) => pair[k])));
    return { classes, scores };
  }
  if (names.length === 1) return { [names[0]]: outputs ?? results };
  if (outputs.log_probabilities) outputs.tokens = parse(byteDecoder.decode(bytes)).outputs.tokens;
  return outputs;
}

// The server knows the request that gRPC takes.
export async function snippets(question) {
  const address = `${new URL(pathOf(question), document.baseURI)}`.replaceAll("'", "%27");
  // JSON comes by stdin, as an argument must be shorter than 128 kB. No line of it is EOF.
  const curl = `curl '${address}' --data-binary @- <<'EOF'\n${question.body}\nEOF`;
  const sent = { method: "POST", body: question.body };
  return { curl, ...await (await fetch(`page/${pathOf(question)}`, sent)).json() };
}
