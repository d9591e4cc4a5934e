// The models, the form of a signature, and asking. The address ends with #MODEL/SIGNATURE.
import { draw, h } from "./answers.js";
import { send, snippets } from "./questions.js";

const POLL_MS = 2000;
const MESSAGES = 16; // as many places as a server puts into one batch

const at = (id) => document.getElementById(id);
const say = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };

let models = []; // as the server lists them
let model, signature; // the chosen ones of these
let drawnModels, drawnForm; // what these were made of, as JSON
let fields = []; // of the form: { name, kind, rows, element, read }
let talk = []; // the messages of a conversation
let turn = 0; // counts questions: the answer to an earlier one is late

async function poll() {
  try {
    if (!document.hidden) ({ models } = await (await fetch("page/models.json")).json());
    follow();
    say("server", "");
  } catch (error) {
    say("server", `The server does not answer: ${error.message}`);
  }
  setTimeout(poll, POLL_MS);
}

const decoded = (part) => { try { return decodeURIComponent(part); } catch { return part; } };
const link = (isChosen, ...names) => h("a", { ariaCurrent: isChosen ? "true" : null,
  href: `#${names.map(encodeURIComponent).join("/")}` }, names.at(-1));

function drawLinks(id, nodes) {
  const hadFocus = at(id).contains(document.activeElement);
  at(id).replaceChildren(...nodes);
  if (hadFocus) at(id).querySelector("[aria-current]")?.focus();
}

// Shows what can be asked now: a version may have come, or the last one may be gone.
function follow() {
  const [first, second] = location.hash.slice(1).split("/").map(decoded);
  const name = first || models[0]?.name;
  model = models.find((one) => one.name === name) ?? { name, versions: [], signatures: [] };
  signature = model.signatures.find((one) => one.name === second) ?? model.signatures[0];
  const state = model.versions[0]?.state ?? "no version";
  say("state", signature ? "" : `${name} cannot be asked now: ${state}`);
  at("question").hidden = !signature;
  if (drawnModels !== (drawnModels = JSON.stringify([name, models]))) {
    drawLinks("models", models.map((one) => h("li", {}, link(one === model, one.name),
      ...one.versions.map(({ version, state: now, error }) =>
        h("small", {}, `version ${version} ${now}${error && `: ${error}`}`)))));
  }
  if (!signature || drawnForm === (drawnForm = JSON.stringify([name, signature]))) return;
  drawLinks("signatures", model.signatures.map((one) => link(one === signature, name, one.name)));
  const written = Object.fromEntries(fields.map((one) => [one.name, one.element.value]));
  for (const id of ["inputs", "options"]) at(id).replaceChildren();
  fields = signature.fields.map(makeField);
  for (const { name: field, kind, option, element } of fields) {
    if (kind === "text") element.value = written[field] ?? "";
    at(option ? "options" : "inputs").append(h("label", {}, field, element));
  }
  at("lines").hidden = !splits();
}

// A text has a large field, a number one of its own; what has more axes is written as JSON.
function makeField({ name, kind, start, ...others }) {
  const isNumber = kind === "number";
  const type = isNumber ? "number" : "text";
  const element = kind === "text" ? h("textarea", { name, rows: 4 })
    : h("input", { name, type, step: "any", required: isNumber });
  element.defaultValue = kind === "json" ? JSON.stringify(start) : start;
  const convert = { number: Number, json: JSON.parse }[kind] ?? String;
  const read = () => {
    try { return convert(element.value); } catch (e) { throw Error(`${name}: ${e.message}`); }
  };
  return { name, kind, ...others, element, read };
}

const splits = () => signature.outputs.includes("embedding")
  && fields.some(({ name, kind }) => name === "text" && kind === "text");

function drawTalk(messages) {
  talk = messages;
  at("talk").replaceChildren(...talk.map(({ role, content }) => h("li", { className: role },
    h("small", {}, role), h("div", { className: "text", dir: "auto" }, content))));
}

const bodyOf = (name, inputs) => JSON.stringify({ signature_name: name, inputs }, null, 1);

function readQuestion() {
  const values = Object.fromEntries(fields.map(({ name, read }) => [name, read()]));
  const lines = splits() ? values.text.split("\n").filter((line) => line.trim()) : [];
  const question = { model: model.name, method: signature.method, values, lines };
  if (signature.method !== "predict") {
    const example = values.example ?? JSON.stringify(values); // as written: 1.0 is a float
    const name = JSON.stringify(signature.name);
    return { ...question, body: `{"signature_name": ${name}, "examples": [${example}]}` };
  }
  const inputs = Object.fromEntries(fields.map(({ name, rows }) =>
    [name, rows ? Array(lines.length || 1).fill(values[name]) : values[name]]));
  if (lines.length) inputs.text = lines;
  if (!signature.chat) return { ...question, body: bodyOf(signature.name, inputs) };
  const { message, system, ...options } = inputs;
  const said = [{ role: "system", content: system }, ...talk,
    { role: "user", content: message }].filter(({ content }) => content);
  // First a place without a message, as TensorFlow Serving may fill up a row with what is there.
  const unused = Array(Math.max(MESSAGES - said.length, 1)).fill("");
  const [role, content] = ["role", "content"].map(
    (key) => [[...unused, ...said.map((one) => one[key])]]);
  return { ...question, body: bodyOf(signature.name, { role, content, ...options }) };
}

// A function that asks another signature about a text; undefined where it takes more than that.
function asker(name) {
  const other = model.signatures.find((one) => one.name === name);
  if (`${other?.fields.map((one) => one.name)}` !== "text") return undefined;
  const question = { model: model.name, method: "predict" };
  return (text) => send({ ...question, body: bodyOf(name, { text: [text] }) }, other.outputs);
}

async function ask(event) {
  event.preventDefault();
  const mine = turn += 1;
  const { chat, outputs: names } = signature; // the model may be gone when it has answered
  at("said").className = "";
  say("said", "asking …");
  let [nodes, texts] = [[]];
  try {
    const question = readQuestion();
    texts = await snippets(question);
    if (mine !== turn) return;
    for (const id of ["curl", "grpcurl", "python"]) at(id).textContent = texts[id] ?? texts.error;
    for (const button of document.querySelectorAll(".copy")) button.textContent = "Copy";
    const begin = performance.now();
    const outputs = await send(question, names);
    if (mine !== turn) return;
    say("said", `answered in ${(performance.now() - begin).toFixed(0)} ms`);
    const rest = chat ? asTalk(question.values, outputs) : outputs;
    nodes = draw(rest, question, asker);
  } catch (error) {
    if (mine !== turn) return;
    at("said").className = "problem";
    say("said", error.message);
  }
  at("answer").replaceChildren(...nodes);
  at("answered").hidden = !texts;
}

// Moves message and answer into the conversation; returns the other outputs.
function asTalk({ message }, { content: [content], ...others }) {
  drawTalk([...talk, { role: "user", content: message }, { role: "assistant", content }]);
  const { element } = fields.find(({ name }) => name === "message");
  if (element.value === message) element.value = ""; // else it is the next one already
  return others;
}

function copy({ target: button }) {
  getSelection().selectAllChildren(button.nextElementSibling);
  // Also where `navigator.clipboard` is not: in frames, and from other machines without TLS.
  button.textContent = document.execCommand("copy") ? "Copied" : "Selected: now Ctrl + C";
}

function startAnew() {
  turn += 1;
  at("answered").hidden = true;
  say("said", "");
  drawTalk([]);
}

addEventListener("hashchange", () => { startAnew(); follow(); });
at("question").addEventListener("submit", ask);
at("question").addEventListener("reset", startAnew);
at("question").addEventListener("invalid", () => { at("options").parentNode.open = true; }, true);
at("question").addEventListener("keydown", ({ key, ctrlKey, metaKey }) => {
  if (key === "Enter" && (ctrlKey || metaKey)) at("question").requestSubmit();
});
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", copy);
poll();
