// The list of models, the form of a signature, and asking. All addresses are relative, as a proxy
// may put the page below a path of its own.
import { draw, h, rowsOf } from "./answers.js";
import { bodyOf, curl, grpcurl, pathOf, python, rowOfDefault } from "./questions.js";

const POLL_MS = 2000;
const ROWS_AT_ONCE = 16; // of the page's own questions: any server's batches have room for them
const MESSAGES = 16; // as many places as a server puts into one batch
const FIRST = ["system", "message", "question", "context", "text", "text_pair", "target"];
const TEXT = { dtype: "DT_STRING", tensor_shape: { dim: [{}] } };

const at = (id) => document.getElementById(id);
const say = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };
const option = (value, now, text = value) =>
  h("option", { value, selected: value === now && "" }, text);

const [model = "", signature = ""] = location.hash.slice(1).split("/").map(decodeURIComponent);
const chosen = { model, version: "", signature }; // version "" is the newest
let listing = { grpc: null, models: [] };
let drawnModels, loaded, drawnForm; // what these were made of, as JSON
let signatures = {}; // of the chosen version, from its metadata
let fields = []; // of the form: { name, dtype, isText, isMain, perRow, element, read }
let talk = []; // the messages of a conversation
let turn = 0; // counts questions: the answer to an earlier one is late

async function poll() {
  if (!document.hidden) {
    try {
      listing = await (await fetch("page/models.json")).json();
      say("server", "");
      drawModels();
      await load();
    } catch (error) {
      say("server", `The server does not answer: ${error.message}`);
    }
  }
  setTimeout(poll, POLL_MS);
}

function drawModels() {
  if (drawnModels === (drawnModels = JSON.stringify(listing.models))) return;
  chosen.model ||= listing.models[0]?.name ?? "";
  const choices = listing.models.map(({ name, versions }) => {
    const states = versions.map(({ version, state, error }) =>
      h("small", {}, `version ${version} ${state}${error && `: ${error}`}`));
    const change = () => choose({ model: name, version: "", signature: "" });
    const checked = name === chosen.model && "";
    const radio = h("input", { type: "radio", name: "model", value: name, checked, change });
    return h("label", {}, radio, h("b", {}, name), ...states);
  });
  const hadFocus = at("models").contains(document.activeElement);
  at("models").replaceChildren(h("legend", {}, "Models"), ...choices);
  if (hadFocus) at("models").querySelector(":checked")?.focus();
}

function choose(changes) {
  if ("model" in changes) talk = [];
  Object.assign(chosen, changes);
  turn += 1;
  at("answered").hidden = true;
  say("said", "");
  if ("signature" in changes && !("model" in changes)) drawForm();
  else load();
}

// Fits the form to what can be asked now: a version may have come, or the last one may be gone.
async function load() {
  const versions = listing.models.find(({ name }) => name === chosen.model)?.versions ?? [];
  const now = () => JSON.stringify([chosen.model, chosen.version, versions]);
  const wanted = now();
  if (wanted === loaded) return;
  const ready = versions.filter(({ state }) => state === "AVAILABLE").map((one) => one.version);
  const version = chosen.version || ready[0];
  const isReady = ready.includes(version);
  if (isReady) {
    const response = await fetch(`${pathOf({ model: chosen.model, version })}/metadata`);
    const answer = await response.json();
    if (!response.ok || wanted !== now()) return; // the next look finds what is there then
    signatures = answer.metadata.signature_def.signature_def;
  }
  loaded = wanted;
  const choices = [...new Set(["", ...ready, chosen.version])];
  at("version").replaceChildren(
    ...choices.map((one) => option(one, chosen.version, one || "newest")));
  at("question").hidden = !isReady;
  const { state } = versions.find((one) => one.version === version) ?? versions[0] ?? {};
  say("state", isReady ? "" : `${chosen.model} cannot be asked now: ${state ?? "no version"}`);
  if (isReady) drawSignatures();
}

function drawSignatures() {
  const tensors = (name) => Object.values(signatures[name].outputs).map((one) => one.name).sort();
  // Those of the Classify and Regress APIs do not say what is in their examples.
  let names = Object.keys(signatures).sort().filter(
    (name) => !name.startsWith("__") && signatures[name].method_name.endsWith("/predict"));
  const usual = "serving_default";
  const twin = usual in signatures && names.find(
    (name) => name !== usual && `${tensors(name)}` === `${tensors(usual)}`);
  if (twin) names = names.filter((name) => name !== usual);
  const first = ["chat", twin, usual].find((name) => names.includes(name)) ?? names[0];
  if (!names.includes(chosen.signature)) chosen.signature = first;
  at("signature").replaceChildren(...names.map((name) => option(name, chosen.signature)));
  drawForm();
}

function drawForm() {
  const { inputs, defaults, outputs } = signatures[chosen.signature];
  const place = [chosen.model, chosen.signature].map(encodeURIComponent);
  history.replaceState(null, "", `#${place.join("/")}`);
  const { role, content, ...others } = inputs;
  const isChat = Boolean(role && content);
  const shown = isChat ? { ...others, message: TEXT, system: { ...TEXT, start: "" } } : inputs;
  const rank = (name) => FIRST.indexOf(name) + 1 || FIRST.length + 1;
  const names = Object.keys(shown).sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  const specs = names.map((name) => [name, shown[name].dtype, shown[name].tensor_shape,
    defaults?.[name] ? rowOfDefault(defaults[name]) : shown[name].start]);
  if (drawnForm === (drawnForm = JSON.stringify([place, specs]))) return;
  const written = Object.fromEntries(fields.map(({ name, element }) => [name, element.value]));
  fields = specs.map((spec) => makeField(...spec));
  const texts = fields.filter(({ isText }) => isText);
  for (const { name, element } of texts) element.value = written[name] ?? "";
  for (const [id, isMain] of [["inputs", true], ["options", false]]) {
    const mine = fields.filter((one) => one.isMain === isMain);
    at(id).replaceChildren(...mine.map(({ name, element }) => h("label", {}, name, element)));
    at(id).parentElement.hidden = !mine.length;
  }
  at("each").hidden = texts.length !== 1 || isChat;
  at("by-line").checked = "embedding" in outputs;
  at("clear").hidden = !isChat;
  drawTalk();
}

// A text has a large field, a number one of its own; what has more axes is written as JSON.
function makeField(name, dtype, shape, start) {
  const rank = shape.unknown_rank ? Infinity : shape.dim.length;
  const isNumber = /INT|FLOAT|DOUBLE/.test(dtype) && rank < 2;
  const isString = dtype === "DT_STRING" && rank < 2;
  const isText = isString && rank === 1 && start === undefined;
  const step = dtype.includes("INT") ? "1" : "any";
  const kind = isNumber ? { type: "number", step, required: "" } : { type: "text" };
  const element = isText ? h("textarea", { name, rows: "4" }) : h("input", { name, ...kind });
  element.value = isNumber || isString ? start ?? "" : JSON.stringify(start ?? []);
  const read = () => (isNumber ? Number : isString ? String : JSON.parse)(element.value);
  const isMain = start === undefined || name === "system";
  return { name, dtype, isText, isMain, perRow: rank > 0 && rank < Infinity, element, read };
}

function drawTalk() {
  at("talk").replaceChildren(...talk.map(({ role, content }) => h("li", { class: role },
    h("small", {}, role), h("div", { class: "text", dir: "auto" }, content))));
}

function readQuestion() {
  const texts = fields.filter(({ isText }) => isText);
  let rows = [Object.fromEntries(texts.map(({ name, read }) => [name, read()]))];
  if (at("by-line").checked && !at("each").hidden) {
    const [{ name, read }] = texts;
    const lines = read().split("\n").filter((line) => line.trim());
    if (lines.length) rows = lines.map((line) => ({ [name]: line }));
  }
  const { message, system, ...inputs } = Object.fromEntries(fields.map((one) => {
    const perText = one.isText ? (row) => row[one.name] : one.read;
    return [one.name, { dtype: one.dtype, value: one.perRow ? rows.map(perText) : one.read() }];
  }));
  if (!message) return { ...chosen, rows, inputs };
  const said = [{ role: "system", content: system.value[0] }, ...talk,
    { role: "user", content: message.value[0] }].filter(({ content }) => content);
  // First a place without a message, as TensorFlow Serving may fill up a row with what is there.
  const unused = Array(Math.max(MESSAGES - said.length, 1)).fill("");
  for (const key of ["role", "content"]) {
    inputs[key] = { dtype: "DT_STRING", value: [[...unused, ...said.map((one) => one[key])]] };
  }
  return { ...chosen, rows, inputs };
}

// TensorFlow Serving writes NaN and Infinity as they are, which is no JSON: here they are strings.
function parse(text) {
  const words = /("(?:[^"\\]+|\\.)*")|-?\b(?:NaN|Infinity)\b/g;
  return JSON.parse(text.replace(words, (word, string) => string ?? `"${word}"`));
}

async function send(question) {
  const body = JSON.stringify(bodyOf(question));
  const response = await fetch(`${pathOf(question)}:predict`, { method: "POST", body });
  const json = await response.text(); // with U+FFFD for what is no UTF-8
  const isJson = response.headers.get("Content-Type") === "application/json";
  const { outputs, error } = isJson ? parse(json) : { error: response.statusText };
  if (error) throw new Error(`${response.status} ${error}`);
  const names = Object.keys(signatures[question.signature].outputs);
  return { json, outputs: names.length === 1 ? { [names[0]]: outputs } : outputs };
}

// A function that asks another signature about texts; undefined where it takes more than those.
function asker(signature, { model, version }) {
  if (Object.keys(signatures[signature]?.inputs ?? {}).join() !== "text") return undefined;
  return async (texts) => {
    const rows = [];
    for (let i = 0; i < texts.length; i += ROWS_AT_ONCE) {
      const value = texts.slice(i, i + ROWS_AT_ONCE);
      const inputs = { text: { dtype: "DT_STRING", value } };
      const { outputs } = await send({ model, version, signature, inputs });
      rows.push(...rowsOf(outputs, value.length));
    }
    return rows;
  };
}

async function ask(event) {
  event.preventDefault();
  const mine = turn += 1;
  at("said").className = "";
  say("said", "asking …");
  let nodes = [];
  let json = "";
  try {
    const question = readQuestion();
    showSnippets(question);
    const begin = performance.now();
    const answer = await send(question);
    if (mine !== turn) return;
    say("said", `answered in ${(performance.now() - begin).toFixed(0)} ms`);
    json = answer.json;
    const others = { score: asker("score", question), next: asker("next_token", question) };
    nodes = draw({ ...question, ...others }, asTalk(answer.outputs));
  } catch (error) {
    if (mine !== turn) return;
    at("said").className = "problem";
    say("said", error.message);
  }
  at("json").textContent = json;
  at("json").parentElement.hidden = !json;
  at("answer").replaceChildren(...nodes);
  at("answered").hidden = false;
}

// Moves message and answer into the conversation, if it is one; returns the other outputs.
function asTalk({ content, ...others }) {
  const message = fields.find(({ name }) => name === "message");
  if (!message || at("clear").hidden) return content ? { content, ...others } : others;
  talk.push({ role: "user", content: message.read() }, { role: "assistant", content: content[0] });
  message.element.value = "";
  drawTalk();
  return others;
}

function showSnippets(question) {
  at("curl").textContent = curl(question, document.baseURI);
  for (const [id, write] of Object.entries({ grpcurl, python })) {
    at(id).parentElement.hidden = !listing.grpc;
    if (listing.grpc) at(id).textContent = write(question, listing.grpc, location.hostname);
  }
}

async function copy({ target: button }) {
  const text = button.nextElementSibling;
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch { // in a frame, or from another machine without TLS
    getSelection().selectAllChildren(text);
    button.textContent = "Selected: now Ctrl + C";
  }
}

function clear() {
  talk = [];
  drawTalk();
}

for (const id of ["version", "signature"]) {
  at(id).addEventListener("change", ({ target }) => choose({ [id]: target.value }));
}
at("question").addEventListener("submit", ask);
at("question").addEventListener("keydown", ({ key, ctrlKey, metaKey }) => {
  if (key === "Enter" && (ctrlKey || metaKey)) at("question").requestSubmit();
});
at("clear").addEventListener("click", clear);
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", copy);
poll();
