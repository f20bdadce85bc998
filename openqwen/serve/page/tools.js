// Tool calls, their results and pictures as cards: those of OpenAI's messages, and those that a Qwen model
// writes into its reply as text (Thought, Action, Action Input, Observation, Final Answer; report §A.3).

import { el, icon, textButton } from "./dom.js";
import { codeBlock, markdown, picture, textBlocks } from "./markdown.js";

const LABEL = /^(Thought|Action Input|Action|Observation|Final Answer):/gm;

/**
 * The labelled parts of a ReAct reply, [label, text, observation] each; null for a reply that is none.
 * observations: where tools' words stand, { at, length, error, pictures }; no label counts in them. begun:
 * one label makes it such a reply, for the others are still to come.
 */
export function reactParts(text, observations = [], begun = false) {
  const inside = (at) => observations.some((one) => at >= one.at && at < one.at + one.length);
  const labels = [...text.matchAll(LABEL)].filter(({ index }) => !inside(index));
  const has = (name) => labels.some((label) => label[1] === name);
  const whole = has("Action Input") || (has("Thought") && has("Final Answer"));
  if (!whole && !(begun && labels.length)) return null;
  const parts = labels.map((label, i) => {
    const from = label.index + label[0].length;
    const told = label[1] === "Observation" && observations.find(({ at }) => at === from + 1);
    if (told) return [label[1], text.slice(told.at, told.at + told.length), told];
    return [label[1], text.slice(from, labels[i + 1]?.index).trim()];
  });
  const before = text.slice(0, labels[0].index).trim();
  return before ? [["", before], ...parts] : parts;
}

const folded = new Set(); // cards that a person has closed

/**
 * The blocks of a ReAct reply: thoughts in small print, a card for each call, then the answer. id: of the
 * message; working: the last call, if it has no result, runs now.
 */
export function reactBlocks(parts, id, working) {
  const found = [];
  let call = null; // the parts of the card that is being filled
  const close = (runs) => {
    if (!call) return;
    const own = call;
    const place = `${id} ${found.length}`;
    const source = own.map(([label, text, told]) => [label, text, told?.error]);
    found.push([JSON.stringify([source, runs]), () => callCard(own, place, runs)]);
    call = null;
  };
  for (const part of parts) {
    const [label, text] = part;
    if (call && (label === "Action Input" || label === "Observation")) call.push(part);
    else {
      close(false);
      if (label === "Action") call = [part];
      else if (label === "Thought") {
        if (text) found.push([`Thought: ${text}`, () => el("p", { class: "thought" }, text)]);
      } else found.push(...textBlocks(text));
    }
  }
  close(working && call?.at(-1)[0] !== "Observation");
  return found;
}

function callCard(parts, place, runs) {
  const node = card(parts[0][1]);
  node.open = !folded.has(place);
  node.addEventListener("toggle", () => (node.open ? folded.delete(place) : folded.add(place)));
  if (runs) {
    node.querySelector(".state").textContent = "running";
    node.classList.add("running");
  }
  for (const [label, text, told] of parts.slice(1)) {
    if (label === "Action Input") fill(node, "Input", argumentNode(text));
    else if (told) result(node, told.pictures.length || text ? output(text, told.pictures) : [], told.error);
    else result(node, markdown(text));
  }
  return node;
}

/** What a tool said, letter by letter, with the pictures where it names them. */
function output(text, pictures) {
  const names = pictures.map(({ name }) => `picture: ${name}`);
  const lines = text.split("\n").filter((line) => !names.includes(line));
  const words = lines.join("\n").trim();
  return [
    words && el("pre", { class: "output", tabindex: 0 }, words),
    ...pictures.map(({ name, url }) => shownPicture(url, name)),
  ].filter(Boolean);
}

/**
 * The cards of a message's `tool_calls`. results: the tool messages that answer it; answer: takes (call,
 * text), or null.
 */
export function callNodes(calls, results, answer) {
  return calls.map((call, i) => {
    const node = card(call.function.name);
    fill(node, "Input", argumentNode(call.function.arguments));
    const found =
      results.find((message) => message.tool_call_id === call.id) ??
      (results.some((m) => m.tool_call_id) ? null : results[i]);
    if (found) result(node, contentNodes(found.content));
    else if (answer)
      fill(
        node,
        "Result",
        answerForm((text) => answer(call, text)),
      );
    return node;
  });
}

/** Content of any role: a text, or text and pictures as OpenAI's API has them. */
export function contentNodes(content) {
  if (typeof content === "string") return markdown(content);
  return (content ?? []).flatMap((part) => {
    if (part.type === "image_url") return [shownPicture(String(part.image_url?.url ?? ""))];
    return typeof part.text === "string" ? markdown(part.text) : [];
  });
}

function shownPicture(address, name = "Picture from the tool") {
  return (
    picture(address, name) ??
    el(
      "p",
      { class: "note" },
      "A picture elsewhere, which is not fetched: ",
      el("code", {}, address.slice(0, 200)),
    )
  );
}

function card(name) {
  const state = el("span", { class: "state" }, "called");
  return el(
    "details",
    { class: "card", open: true },
    el("summary", {}, icon("tool"), el("strong", {}, name), state),
  );
}

function fill(node, label, ...children) {
  node.append(el("div", { class: "card-part" }, el("span", { class: "label" }, label), ...children));
}

function result(node, nodes, failed = false) {
  node.querySelector(".state").textContent = failed ? "failed" : "answered";
  fill(node, "Result", el("div", { class: "text" }, ...nodes));
}

/** Arguments: JSON in readable form, with code as code; anything else as it stands. */
function argumentNode(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    // The code interpreter's form, whole or begun.
    const fence = /^```(\w*)\n([\s\S]*?)\n?`{0,3}$/.exec(text.trim());
    return fence ? codeBlock(fence[2], fence[1] || "python") : codeBlock(text);
  }
  if (typeof value?.code === "string" && Object.keys(value).length === 1)
    return codeBlock(value.code, "python");
  return codeBlock(JSON.stringify(value, null, 2), "json");
}

function answerForm(answer) {
  const field = el("textarea", {
    rows: 2,
    "aria-label": "Result of the tool",
    placeholder: "What the tool answers",
  });
  return el(
    "div",
    { class: "answer" },
    field,
    textButton("Give result", () => answer(field.value)),
  );
}
