// Answers as people read them. What a model says becomes text nodes, never markup.
import { bytesOf } from "./questions.js";

const LIKELIEST = 10;
const MOST_WORDS = 64; // whose probabilities are asked for
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

// An element; an attribute that is a function listens, a child that is a string becomes text.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const paragraph = (...children) => h("p", { dir: "auto", class: "text" }, ...children);
const small = (text) => h("small", {}, text);

// The outputs that make a picture, those that it shows as well, and who draws it.
const PICTURES = [
  [["completion"], ["text"], continued],
  [["texts", "scores"], ["text", "score"], sideBySide],
  [["tags", "start", "end"], ["tokens", "scores"], tagged],
  [["answer", "start", "end"], ["score"], found],
  [["classes", "scores"], ["label"], ({ classes, scores }) => bars(classes, scores)],
  [["tokens", "probabilities"], [], candidates],
];

// `question.rows` has the texts of each row; `score` and `next` ask the model about other texts.
export function draw(question, { embedding, ...outputs }) {
  const count = question.rows.length;
  if (embedding) return [similarities(question.rows, embedding), table(outputs)];
  const values = Object.values(outputs);
  if (!values.every((one) => one?.length === count)) return [table(outputs)];
  return rowsOf(outputs, count).map((row, i) => {
    const texts = question.rows[i];
    const found = PICTURES.find(([needs]) => needs.every((name) => name in row));
    const [needs, shows, picture] = found ?? [[], [], () => ""];
    const rest = Object.entries(row).filter(([name]) => ![...needs, ...shows].includes(name));
    const title = count > 1 ? [h("h3", { dir: "auto" }, Object.values(texts)[0])] : [];
    const others = table(Object.fromEntries(rest));
    return h("article", {}, ...title, picture(row, texts, question), others);
  });
}

export const rowsOf = (outputs, count) => Array.from({ length: count }, (_, i) =>
  Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, values[i]])));

// Numbers come as strings, too: "NaN".
const number = (value) => String(Number(Number(value).toPrecision(4)));

function shown(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
  if (value?.b64) return `${decoder.decode(bytesOf(value.b64))} (base64 ${value.b64})`;
  return typeof value === "string" ? value : JSON.stringify(value);
}

function table(outputs) {
  const rows = Object.entries(outputs).map(([name, value]) => h("tr", {},
    h("th", { scope: "row" }, name), h("td", { dir: "auto", class: "text" }, shown(value))));
  return h("table", {}, h("tbody", {}, ...rows));
}

// For the style sheet: how long a bar is, how strong a colour.
function share(element, value) {
  element.style.setProperty("--share", Math.min(1, Math.max(0, value)));
  return element;
}

// Tokens begin with spaces, and may be line breaks.
const visible = (token) =>
  token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(empty)";
const named = (token, chance) => `“${visible(token)}” ${Number(chance).toFixed(3)}`;

function bars(names, values) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]).slice(0, LIKELIEST);
  const rows = order.map((i) => h("tr", {}, h("th", { scope: "row", dir: "auto" }, names[i]),
    h("td", {}, share(h("span", { class: "bar" }), values[i])),
    h("td", { class: "number" }, Number(values[i]).toFixed(3))));
  const more = names.length - order.length;
  return h("div", {}, h("table", { class: "bars" }, h("tbody", {}, ...rows)),
    more > 0 ? small(`and ${more} less likely ones`) : "");
}

// next_token: (K,); fill_mask: (M, K), with places of "" where another row has more masks.
function candidates({ tokens, probabilities }) {
  if (!Array.isArray(tokens[0])) return bars(tokens.map(visible), probabilities);
  const masks = tokens.map((names, i) => h("div", { hidden: !names[0] && "" },
    h("h3", {}, `Mask ${i + 1}`), bars(names.map(visible), probabilities[i])));
  return h("div", { class: "sides" }, ...masks);
}

// Spans are byte offsets into the text's UTF-8, in order.
function marked(text, spans) {
  const bytes = encoder.encode(text);
  const piece = (start, end) => decoder.decode(bytes.subarray(start, end));
  const nodes = spans.flatMap(({ start, end, label }, i) => [piece(spans[i - 1]?.end ?? 0, start),
    h("mark", {}, piece(start, end), ...(label ? [" ", h("bdi", {}, label)] : []))]);
  return paragraph(...nodes, piece(spans.at(-1)?.end ?? 0, bytes.length));
}

// Words of one entity (B-X, I-X ...) are one mark.
function tagged({ tags, start, end, scores = [] }, { text }) {
  const spans = [];
  for (const [i, tag] of tags.entries()) {
    if (tag === "" || tag === "O") continue;
    const kind = tag.replace(/^[BI]-/, "");
    const last = spans.at(-1);
    if (tag.startsWith("I-") && last?.kind === kind && last.word === i - 1) {
      Object.assign(last, { end: end[i], word: i });
    } else {
      const label = `${kind} ${Number(scores[i]).toFixed(2)}`;
      spans.push({ kind, label, start: start[i], end: end[i], word: i });
    }
  }
  return marked(text, spans);
}

function found({ answer, start, end, score }, { context }) {
  const spans = end > start ? [{ start, end }] : [];
  const said = h("strong", {}, spans.length ? answer : "No answer in this text");
  const title = paragraph(said, " ", small(`score ${number(score)}`));
  return h("div", {}, title, marked(context, spans));
}

function sideBySide({ texts, scores, text, score }, { text: source }, { signature }) {
  const title = { translate: "Translation", summarize: "Summary" }[signature] ?? "Answer";
  const side = (name, words) => h("div", {}, h("h3", {}, name), paragraph(words));
  const beams = texts.map((words, i) => words && h("li", { dir: "auto" },
    `${words} (${number(scores[i])})`)).slice(1).filter(Boolean);
  return h("div", {}, h("div", { class: "sides" }, side("Text", source), side(title, text)),
    small(`score ${number(score)}`),
    beams.length ? h("details", {}, h("summary", {}, "Other beams"), h("ol", {}, ...beams)) : "");
}

function similarities(rows, vectors) {
  const size = `of ${vectors[0].length} numbers`;
  if (vectors.length === 1) return h("p", {}, `1 vector ${size}: write more lines to compare`);
  const length = (vector) => Math.hypot(...vector) || 1;
  const cosine = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0) / length(a) / length(b);
  const head = rows.map((_, i) => h("th", { scope: "col", class: "number" }, `${i + 1}`));
  const lines = rows.map((texts, i) => h("tr", {},
    h("th", { scope: "row", dir: "auto" }, `${i + 1} ${Object.values(texts)[0]}`),
    ...vectors.map((other) => {
      const value = cosine(vectors[i], other);
      return share(h("td", { class: "number" }, value.toFixed(2)), value);
    })));
  return h("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Similarities" },
    h("table", { class: "similarities" },
      h("caption", {}, `Cosines of ${vectors.length} vectors ${size}`),
      h("thead", {}, h("tr", {}, h("td"), ...head)), h("tbody", {}, ...lines)));
}

// The text goes on in place; the probabilities of its words are asked for when they are wanted.
function continued({ completion, token_count: count }, { text }, { score, next }) {
  const words = h("span", { class: "completion" }, completion);
  const told = h("p", { role: "status" });
  const show = async () => {
    told.textContent = "asking …";
    try {
      const parts = wordsOf(completion, count);
      words.replaceChildren(...await likelihoods(text, parts, score, next, told));
      words.firstChild.focus();
    } catch (error) {
      told.textContent = error.message;
    }
  };
  const button = h("button", { type: "button", click: show }, "Probabilities");
  return h("div", {}, paragraph(h("span", { class: "prompt" }, text), words), told,
    score && completion ? button : "");
}

// Words with the blank before them, as tokens have it; characters, where tokens are as short.
function wordsOf(text, count) {
  const parts = (granularity) =>
    Array.from(new Intl.Segmenter("en", { granularity }).segment(text), ({ segment }) => segment);
  const characters = parts("grapheme");
  if (count > 0.7 * characters.length) return characters;
  const cut = "\uffff"; // is in no text
  return parts("word").join(cut).replace(/(?<=^|\uffff)(\s+)\uffff/g, "$1").split(cut);
}

// Each word's probability after all before it. Whoever steps onto one sees what else was likely.
async function likelihoods(prompt, words, score, next, told) {
  const some = words.slice(0, MOST_WORDS);
  const before = [...some, ""].map((_, i) => prompt + some.slice(0, i).join(""));
  const sums = await score(before);
  const nodes = some.map((word, i) => {
    const gain = sums[i + 1].log_likelihood - sums[i].log_likelihood;
    const chance = Math.min(1, Math.exp(gain));
    const tokens = sums[i + 1].token_count - sums[i].token_count;
    const title = named(word, chance) + (tokens > 1 ? `, ${tokens} tokens` : "");
    const focus = async () => {
      told.textContent = title;
      if (!next) return;
      const [row] = await next([before[i]]);
      const likely = row.tokens.slice(0, 5).map((one, k) => named(one, row.probabilities[k]));
      if (told.textContent === title) told.textContent += ` – likeliest: ${likely.join(", ")}`;
    };
    const keydown = ({ key, target }) => {
      if (key === "ArrowRight") target.nextElementSibling?.focus();
      if (key === "ArrowLeft") target.previousElementSibling?.focus();
    };
    const attributes = { class: "piece", tabindex: i ? "-1" : "0", title, focus, keydown };
    return share(h("span", attributes, word), chance);
  });
  return [...nodes, words.slice(MOST_WORDS).join("")];
}
