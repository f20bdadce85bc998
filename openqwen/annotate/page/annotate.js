// The annotation page. Replies are shown by the chat page's renderer, which makes nodes and never markup.

import { $, el, textButton } from "./dom.js";
import { markdown } from "./markdown.js";
import { drop, keep, waiting } from "./outbox.js";
import { WORDS } from "./words.js";

const NAME = "openqwen.annotator";
const LANGUAGE = "openqwen.annotate.language";
const LETTERS = "ABCDEFGHI";
const FLAGS = ["broken", "unsafe"];
const FIRST_WAIT = 1000; // milliseconds until an answer is sent again, twice as long each time
const LONGEST_WAIT = 15_000;

let language = localStorage.getItem(LANGUAGE) ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let shown = null; // what the server sent: the item and how far this annotator is
let draft = null; // what is said so far: {cards: {name: {place, score, flags}}, comment}
let current = 0; // the card that keys are about
let busy = false;

const words = () => WORDS[language];
const annotator = () => $("annotator").value.trim();
const nameOfDraft = (study, who, item) => `openqwen.annotate.draft/${study}/${who}/${item}`;
const draftName = () => nameOfDraft(shown.study, shown.annotator, shown.item.id);
const cards = () => shown?.item?.cards ?? [];
const missing = () => cards().filter(({ name }) => !draft.cards[name].place).length;

function say(text) {
  $("status").textContent = text;
  $("status").hidden = !text;
}

// Drawing

function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = words()[node.dataset.word];
  $("progress").setAttribute("aria-label", words().progress);
  $("annotator").placeholder = words().yourName;
  const other = language === "zh" ? "en" : "zh";
  $("language").textContent = WORDS[other].name;
  $("language").lang = other === "zh" ? "zh-CN" : "en";
  const keys = words().keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]);
  $("guide").replaceChildren(el("p", {}, words().guide), el("dl", {}, ...keys));
}

function message({ role, content }) {
  const text = el("div", { class: "text" }, ...markdown(content));
  return el("div", { class: "message" }, el("div", { class: "role" }, words()[role] ?? role), text);
}

function card({ name, text }, i) {
  const said = draft.cards[name];
  const letter = LETTERS[i];
  const places = cards().map((_, n) =>
    textButton(String(n + 1), () => place(i, n + 1), { role: "radio" }),
  );
  const flags = FLAGS.map((flag) => textButton(words()[flag], () => toggle(i, flag), { "aria-pressed": "false" }));
  const scores = ["", ...Array(10).keys()].map((n) =>
    n === ""
      ? el("option", { value: "" }, words().noScore)
      : el("option", { value: n + 1, selected: said.score === n + 1 }, String(n + 1)),
  );
  const score = el("select", { "aria-label": words().scoreOf(letter) }, ...scores);
  score.onchange = () => change(() => (said.score = score.value ? Number(score.value) : null));
  const shownText = text.trim() ? markdown(text) : [el("p", { class: "empty" }, words().empty)];
  const node = el(
    "li",
    { class: "sheet", tabindex: -1, "aria-label": words().reply(letter) },
    el(
      "div",
      { class: "places", role: "radiogroup", "aria-label": words().place(letter) },
      el("h3", {}, words().reply(letter)),
      ...places,
    ),
    el("div", { class: "text", tabindex: 0 }, ...shownText),
    el("div", { class: "flags" }, ...flags, el("label", {}, words().score, " ", score)),
  );
  node.addEventListener("focusin", () => mark(i));
  return node;
}

function mark(i) {
  current = i;
  [...$("cards").children].forEach((node, n) => node.setAttribute("aria-current", String(n === i)));
}

function state() {
  for (const [i, node] of [...$("cards").children].entries()) {
    const said = draft.cards[cards()[i].name];
    node
      .querySelectorAll("[role=radio]")
      .forEach((button, n) => button.setAttribute("aria-checked", String(said.place === n + 1)));
    node
      .querySelectorAll("[aria-pressed]")
      .forEach((button, n) => button.setAttribute("aria-pressed", String(said.flags.includes(FLAGS[n]))));
  }
  const left = shown?.item ? missing() : 0;
  $("missing").textContent = left ? words().missing(left) : "";
  $("submit").disabled = busy || !shown?.item || left > 0;
  $("back").disabled = busy || !shown?.before;
  $("annotator").disabled = busy;
  for (const control of $("item").querySelectorAll("button, select, textarea")) control.disabled = busy;
}

function draw() {
  translate();
  $("item").hidden = !shown?.item;
  $("end").hidden = !shown || Boolean(shown.item);
  $("count").textContent = shown ? words().count(shown.done, shown.total) : "";
  $("progress").max = shown?.total || 1;
  $("progress").value = shown?.done ?? 0;
  $("cards").replaceChildren();
  if (shown?.item) {
    const topic = words().topics[shown.item.topic] ?? shown.item.topic;
    const messages = shown.item.messages.filter(({ content }) => content.trim());
    $("instruction").replaceChildren(...(topic ? [el("h2", {}, topic)] : []), ...messages.map(message));
    $("cards").append(...cards().map(card));
    $("comment").value = draft.comment;
    mark(current);
  }
  state();
}

function open(reply) {
  shown = { ...reply, annotator: annotator() };
  current = 0;
  if (shown.item) {
    const nothing = () => ({ place: null, score: null, flags: [] });
    const empty = Object.fromEntries(cards().map(({ name }) => [name, nothing()]));
    draft = shown.item.answer ?? { cards: empty, comment: "" };
    const saved = localStorage.getItem(draftName());
    if (saved) draft = JSON.parse(saved);
  }
  draw();
  scrollTo(0, 0);
}

// What the annotator does

function change(what) {
  if (busy) return;
  what();
  try {
    localStorage.setItem(draftName(), JSON.stringify(draft));
  } catch (error) {
    console.warn("the draft is in this page only", error);
  }
  state();
}

const place = (i, n) => change(() => (draft.cards[cards()[i].name].place = n));

function toggle(i, flag) {
  const said = draft.cards[cards()[i].name];
  const others = said.flags.filter((other) => other !== flag);
  change(() => (said.flags = said.flags.includes(flag) ? others : [...others, flag]));
}

function look(i) {
  mark(i);
  $("cards").children[i].focus({ preventScroll: true });
  $("cards").children[i].scrollIntoView({ block: "nearest" });
}

/** A place for the marked card; the next one without a place is marked. */
function rank(n) {
  if (busy || n > cards().length) return;
  place(current, n);
  const order = cards().map((_, i) => (current + 1 + i) % cards().length);
  const next = order.find((i) => !draft.cards[cards()[i].name].place);
  if (next !== undefined) look(next);
}

// The server

class Refused extends Error {}

async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body && post);
  const reply = await response.json();
  if (response.ok) return reply;
  const detail = typeof reply.detail === "string" ? reply.detail : JSON.stringify(reply.detail);
  throw response.status < 500 ? new Refused(detail) : new Error(detail);
}

const pause = (milliseconds) =>
  new Promise((resolve) => {
    addEventListener("online", resolve, { once: true });
    setTimeout(resolve, milliseconds);
  });

/** The reply to a request, however often it takes; `tell` says why it is tried again. */
async function insist(path, body, tell) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      const reply = await ask(path, body);
      say("");
      return reply;
    } catch (error) {
      if (error instanceof Refused) throw error;
      say(tell(error.message));
      await pause(wait);
    }
  }
}

const nextPath = (item) =>
  `/next?annotator=${encodeURIComponent(annotator())}${item ? `&item=${encodeURIComponent(item)}` : ""}`;

/** Does one thing at a time: keys and buttons wait meanwhile. */
async function alone(work) {
  if (busy) return;
  busy = true;
  state();
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(words().refused(error.message)); // after whatever was shown since
  } finally {
    busy = false;
    state();
  }
}

/** Sends what waits; each answer leaves the outbox when the server has it, or says that it will not have it. */
async function send(study, kept = true) {
  for (const answer of waiting(study))
    try {
      await insist("/answer", answer, (reason) => words()[kept ? "waiting" : "noStorage"](reason));
      drop(answer);
      localStorage.removeItem(nameOfDraft(study, answer.annotator, answer.item));
    } catch (error) {
      if (error instanceof Refused) drop(answer); // its draft stays
      throw error;
    }
}

const show = async (item) => open(await insist(nextPath(item), undefined, (reason) => words().failed(reason)));

async function begin() {
  localStorage.setItem(NAME, annotator());
  if (!annotator()) {
    shown = null;
    draw();
    say(words().whoAreYou);
    $("annotator").focus();
    return;
  }
  await alone(async () => {
    const { study } = await insist(nextPath(), undefined, (reason) => words().failed(reason));
    try {
      await send(study);
    } finally {
      await show();
    }
  });
}

async function submit() {
  if (busy || !shown?.item || missing()) return;
  const { study, annotator, item } = shown;
  const answer = { study, key: crypto.randomUUID(), annotator, item: item.id, ...draft };
  await alone(async () => {
    await send(shown.study, keep(answer));
    await show();
  });
}

const back = () => shown?.before && alone(() => show(shown.before));

// Keys and buttons

function speak() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem(LANGUAGE, language);
  draw();
}

function guide() {
  $("guide").hidden = !$("guide").hidden;
  $("help").setAttribute("aria-expanded", String(!$("guide").hidden));
}

const step = (by) => cards().length && look((current + by + cards().length) % cards().length);
const KEYS = {
  s: submit,
  p: back,
  l: speak,
  "?": guide,
  c: () => $("comment").focus(),
  x: () => cards().length && toggle(current, "broken"),
  u: () => cards().length && toggle(current, "unsafe"),
  arrowleft: () => step(-1),
  arrowright: () => step(1),
};

document.onkeydown = (event) => {
  if (event.key === "Enter" && event.ctrlKey) return submit();
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target === $("annotator"))) event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  const act = /^[1-9]$/.test(key) ? () => rank(Number(key)) : KEYS[key];
  if (!act) return;
  event.preventDefault();
  act();
};
$("submit").onclick = submit;
$("back").onclick = back;
$("language").onclick = speak;
$("help").onclick = guide;
$("annotator").onchange = begin;
$("comment").oninput = () => change(() => (draft.comment = $("comment").value));

$("annotator").value = new URLSearchParams(location.search).get("annotator") ?? localStorage.getItem(NAME) ?? "";
draw();
begin();
