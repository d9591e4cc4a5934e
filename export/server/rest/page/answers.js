// Answers as people read them. What a model says becomes text nodes, never markup.
import { textOf } from "./questions.js";

const LIKELIEST = 10;
const REST_MS = 200; // of the pointer on a token, before what else was likely is asked for
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

// An element with these properties; a child that is a string becomes text.
export function h(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const paragraph = (...children) => h("p", { dir: "auto", className: "text" }, ...children);
const status = () => h("p", { role: "status" });

// The outputs that make a picture, those that it shows as well, and who draws it.
const PICTURES = [
  [["completion"], ["text"], continued],
  [["tokens", "log_probabilities"], [], scored],
  [["text", "score"], [], sideBySide],
  [["tags", "start", "end"], ["tokens", "scores"], tagged],
  [["answer", "start", "end"], [], found],
  [["classes", "scores"], ["label"], ({ classes, scores }) => bars(classes, scores)],
  [["tokens", "probabilities"], [], candidates],
];

// `values` are the inputs as they were written, `lines` those of several rows; `asker(signature)`
// asks about other texts.
export function draw({ embedding, ...outputs }, { values, lines }, asker) {
  if (embedding) return [similarities(lines, embedding), table(outputs)];
  const row = Object.fromEntries(Object.entries(outputs).map(
    ([name, value]) => [name, value?.length === 1 ? value[0] : value]));
  const [needs, shows, picture] = PICTURES.find(([names]) => names.every((name) => name in row))
    ?? [[], [], () => ""];
  const rest = Object.entries(row).filter(([name]) => ![...needs, ...shows].includes(name));
  return [picture(row, values, asker), table(Object.fromEntries(rest))];
}

const number = (value, digits) => Number(value).toFixed(digits); // they come as strings, too: "NaN"

function shown(value) {
  if (typeof value === "object") return JSON.stringify(value);
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
}

const table = (outputs) => h("table", {}, h("tbody", {}, ...Object.entries(outputs).map(
  ([name, value]) => h("tr", {}, h("th", { scope: "row" }, name),
    h("td", { dir: "auto", className: "text" }, shown(value))))));

// For the style sheet: how long a bar is, how strong a colour.
function share(element, value) {
  element.style.setProperty("--share", Math.min(1, Math.max(0, value)));
  return element;
}

// Tokens begin with spaces, and may be line breaks.
const visible = (token) =>
  token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(empty)";
const named = (token, chance) => `“${visible(token)}” ${number(chance, 3)}`;

function bars(names, values) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]).slice(0, LIKELIEST);
  const rows = order.map((i) => h("tr", {}, h("th", { scope: "row", dir: "auto" }, names[i]),
    h("td", {}, share(h("span", { className: "bar" }), values[i])),
    h("td", { className: "number" }, number(values[i], 3))));
  const title = names.length > LIKELIEST ? `The likeliest of ${names.length}` : "";
  return h("table", { className: "bars" }, h("caption", {}, title), h("tbody", {}, ...rows));
}

// next_token: (K,); fill_mask: (M, K).
function candidates({ tokens, probabilities }) {
  if (!Array.isArray(tokens[0])) return bars(tokens.map(visible), probabilities);
  return h("div", { className: "sides" }, ...tokens.map((names, i) => h("div", {},
    h("h3", {}, `Mask ${i + 1}`), bars(names.map(visible), probabilities[i]))));
}

// Spans are byte offsets into the text's UTF-8, in order.
function marked(text, spans) {
  const bytes = encoder.encode(text);
  const piece = (start, end) => decoder.decode(bytes.subarray(start, end));
  const nodes = spans.flatMap(({ start, end, label }, i) => [piece(spans[i - 1]?.end ?? 0, start),
    h("mark", {}, ...(label ? [h("bdi", {}, label), " "] : []), piece(start, end))]);
  return paragraph(...nodes, piece(spans.at(-1)?.end ?? 0, bytes.length));
}

// Words of one entity (B-X, I-X ...) are one mark, as sure as its first word.
function tagged({ tags, start, end, scores }, { text }) {
  const spans = [];
  for (const [i, tag] of tags.entries()) {
    if (tag.startsWith("I-") && spans.at(-1)?.word === i - 1) {
      Object.assign(spans.at(-1), { end: end[i], word: i });
    } else if (tag && tag !== "O") {
      const label = `${tag.replace(/^[BI]-/, "")} ${number(scores[i], 2)}`;
      spans.push({ label, start: start[i], end: end[i], word: i });
    }
  }
  return marked(text, spans);
}

function found({ answer, start, end }, { context }) {
  const said = end > start ? answer : "No answer in this text";
  const spans = end > start ? [{ start, end }] : [];
  return h("div", {}, paragraph(h("strong", {}, said)), marked(context, spans));
}

function sideBySide({ text: written }, { text }) {
  const side = (name, words) => h("div", {}, h("h3", {}, name), paragraph(words));
  return h("div", { className: "sides" }, side("Text", text), side("Answer", written));
}

function similarities(lines, vectors) {
  const length = (vector) => Math.hypot(...vector) || 1;
  const cosine = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0) / length(a) / length(b);
  const cell = (value) => share(h("td", { className: "number" }, number(value, 2)), value);
  const head = vectors.map((_, i) => h("th", { scope: "col", className: "number" }, `${i + 1}`));
  const rows = vectors.map((vector, i) => h("tr", {},
    h("th", { scope: "row", dir: "auto" }, `${i + 1} ${lines[i] ?? ""}`),
    ...vectors.map((other) => cell(cosine(vector, other)))));
  return h("div", { className: "scrolls", tabIndex: 0, role: "region", ariaLabel: "Similarities" },
    h("table", { className: "similarities" },
      h("caption", {}, `Cosines of vectors of ${vectors[0].length} numbers`),
      h("thead", {}, h("tr", {}, h("td"), ...head)), h("tbody", {}, ...rows)));
}

// The text goes on in place; its tokens come when they are scored.
function continued({ completion }, { text }, asker) {
  const told = status();
  const place = paragraph(h("span", { className: "prompt" }, text), h("span", {}, completion));
  const score = completion && asker("score");
  if (score) score(text + completion).then(({ tokens: [tokens], log_probabilities: [logs] }) => {
    const size = encoder.encode(completion).length;
    place.replaceChildren(...pieces(text + completion, tokens, logs, size, told, asker));
  }).catch((error) => { told.textContent = error.message; });
  return h("div", {}, place, told);
}

function scored({ tokens, log_probabilities: logs, token_count: count }, _, asker) {
  const told = status();
  const list = tokens.slice(0, count); // without the end of a target
  return h("div", {}, paragraph(...pieces("", list, logs, Infinity, told, asker)), told);
}

// The last tokens of a text, `size` bytes, each with its probability and, where one looks at it,
// what else was likely; those that share a character are one. Before them the rest of the text.
function pieces(text, tokens, logs, size, told, asker) {
  const list = [];
  let [bytes, sum, behind] = ["", 0, tokens.join("").length];
  for (const [i, token] of tokens.entries()) {
    bytes += token;
    sum += logs[i];
    if (!bytes || (tokens[i + 1]?.charCodeAt() & 0xC0) === 0x80) continue;
    behind -= bytes.length;
    if (behind < size) list.push({ word: textOf(bytes), chance: Math.exp(sum) });
    [bytes, sum] = ["", 0];
  }
  const words = list.map(({ word }) => word);
  const prompt = text.slice(0, text.length - words.join("").length);
  let waiting; // a pointer that rests: what is looked at later counts
  return [h("span", { className: "prompt" }, prompt), ...list.map(({ word, chance }, i) => {
    const title = named(word, chance);
    const next = asker("next_token");
    const look = async ({ target }) => {
      clearTimeout(waiting);
      told.textContent = target.title;
      if (!next || target.title !== title) return;
      try {
        const answer = await next(prompt + words.slice(0, i).join(""));
        const likely = answer.tokens[0].map((one, k) => named(one, answer.probabilities[0][k]));
        // Its own number from the same answer, if it is there: `score` may read one token more.
        const own = likely[answer.tokens[0].indexOf(word)] ?? title;
        target.title = `${own} – likeliest: ${likely.slice(0, 5).join(", ")}`;
        if (told.textContent === title) told.textContent = target.title;
      } catch (error) {
        told.textContent = error.message;
      }
    };
    const rest = ({ target }) => (waiting =
      setTimeout(() => { if (target.matches(":hover")) look({ target }); }, REST_MS));
    const step = ({ key, target }) => {
      if (key === "ArrowRight") target.nextElementSibling?.focus();
      if (key === "ArrowLeft") target.previousElementSibling?.focus();
    };
    const events = { onfocus: look, onpointerenter: rest, onkeydown: step };
    const tabIndex = i ? -1 : 0;
    return share(h("span", { className: "piece", tabIndex, title, ...events }, word), chance);
  })];
}
