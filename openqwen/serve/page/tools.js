// Tool calls, their results and pictures as cards: those of OpenAI's messages, and those that a Qwen model
// writes into its reply as text (Thought, Action, Action Input, Observation, Final Answer; report §A.3).

import { el, icon, textButton } from "./dom.js";
import { codeBlock, markdown, picture } from "./markdown.js";

const LABEL = /^(Thought|Action Input|Action|Observation|Final Answer):/gm;

/** The labelled parts of a ReAct reply, [label, text] each; null for a reply that is none. */
export function reactParts(text) {
  const labels = [...text.matchAll(LABEL)];
  const has = (name) => labels.some((label) => label[1] === name);
  if (!has("Action Input") && !(has("Thought") && has("Final Answer"))) return null;
  const parts = labels.map((label, i) => [
    label[1],
    text.slice(label.index + label[0].length, labels[i + 1]?.index).trim(),
  ]);
  const before = text.slice(0, labels[0].index).trim();
  return before ? [["", before], ...parts] : parts;
}

/** The nodes of a ReAct reply: thoughts in small print, a card for each call, then the answer. */
export function reactNodes(parts) {
  const nodes = [];
  let call = null;
  for (const [label, text] of parts) {
    if (label === "Action") nodes.push((call = card(text)));
    else if (label === "Action Input" && call) fill(call, "Input", argumentNode(text));
    else if (label === "Observation" && call) result(call, markdown(text));
    else if (label === "Thought") nodes.push(el("p", { class: "thought" }, text));
    else nodes.push(...markdown(text));
  }
  return nodes;
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

function shownPicture(address) {
  return (
    picture(address, "Picture from the tool") ??
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

function result(node, nodes) {
  node.querySelector(".state").textContent = "answered";
  fill(node, "Result", el("div", { class: "text" }, ...nodes));
}

/** Arguments: JSON in readable form, with code as code; anything else as it stands. */
function argumentNode(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    const fence = /^```(\w*)\n([\s\S]*?)\n?```$/.exec(text.trim()); // the code interpreter's form
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
