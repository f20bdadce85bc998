// Drawing: the conversation, its messages, and the list of conversations.

import { badge, columns, group, groups, head } from "./compare.js";
import { $, copy, el, entry, iconButton, textButton } from "./dom.js";
import { showTokens } from "./inspector.js";
import { grow, growBlocks } from "./markdown.js";
import { running } from "./reply.js";
import { callNodes, contentNodes, reactBlocks, reactParts } from "./tools.js";
import { path, siblings, words } from "./tree.js";

/** What is shown and not kept: messages opened as tokens, the message being edited. */
export const shown = { tokens: new Set(), editing: null, draft: "" };

// The list

export function drawList(conversations, current, { open, remove }) {
  const needle = $("search").value.trim().toLowerCase();
  const found = conversations.filter((c) => !needle || matches(c, needle));
  const items = found.map((c) => {
    const writing = [...running.values()].some((reply) => reply.conversation === c);
    const button = textButton(c.title, () => open(c), {
      class: "open",
      "aria-current": c === current ? "true" : null,
      title: c.title,
    });
    return el(
      "li",
      { class: writing ? "writing" : null },
      button,
      iconButton("trash", `Delete ${c.title}`, () => remove(c)),
    );
  });
  $("list").replaceChildren(...items);
  $("none").hidden = found.length > 0;
  $("none").textContent = conversations.length ? "Nothing found" : "No conversations yet";
}

function matches(conversation, needle) {
  const texts = [conversation.title, ...Object.values(conversation.nodes).map(words)];
  return texts.some((text) => text.toLowerCase().includes(needle));
}

// The conversation

/** Draws everything. server: what it can do; actions: what the buttons do. */
export function drawLog(conversation, server, actions) {
  const nodes = conversation ? path(conversation) : [];
  const items = nodes.flatMap((node, i) => {
    if (node.role === "tool" && nodes.slice(0, i).some((m) => m.tool_calls)) return []; // on the card of its call
    return [message(conversation, nodes, i, server, actions)];
  });
  keepFocus(() => $("log").replaceChildren(...items));
  $("welcome").hidden = nodes.length > 0;
}

/** Draws anew what may hold the focus, and gives it back to what stands in the same place. */
function keepFocus(redraw) {
  const places = (item) => [...item.querySelectorAll("button, a, textarea, [tabindex]")];
  const item = document.activeElement.closest("#log [data-id]");
  const place = item ? places(item).indexOf(document.activeElement) : -1;
  redraw();
  if (place < 0) return;
  const again = document.querySelector(`#log [data-id="${item.dataset.id}"]`);
  if (again) places(again)[place]?.focus({ preventScroll: true });
}

function message(conversation, nodes, i, server, actions) {
  const node = nodes[i];
  const together = group(conversation, node);
  if (together.length > 1 && i === nodes.length - 1) return side(conversation, together, server, actions);
  if (shown.editing === node.id)
    return el("li", { class: "user", "data-id": node.id }, editor(node, actions));
  const context = { results: following(nodes, i), answer: i === nodes.length - 1 ? actions.answer : null };
  const inside =
    node.role === "user"
      ? [el("div", { class: "bubble" }, words(node))]
      : node.role === "tool"
        ? [el("div", { class: "card" }, ...contentNodes(node.content))]
        : reply(node, context, server.models.length > 1);
  return el("li", { class: node.role, "data-id": node.id }, ...inside, toolbar(conversation, node, actions));
}

function side(conversation, nodes, server, actions) {
  const draw = (node) => [
    ...reply(node, { results: [] }, false, false),
    toolbar(conversation, node, actions, false),
  ];
  const inside = columns(nodes, draw, actions.prefer, server.preferences);
  const turns = el(
    "div",
    { class: "toolbar" },
    ...switcher(groups(conversation, nodes[0]), nodes[0], actions),
  );
  return el("li", { class: "assistant side" }, inside, turns);
}

const following = (nodes, i) => {
  const end = nodes.findIndex((node, at) => at > i && node.role !== "tool");
  return nodes.slice(i + 1, end < 0 ? nodes.length : end);
};

/** The nodes of an assistant's message. */
function reply(node, context, named, rewarded = true) {
  const body = el("div", { class: "text" });
  fill(body, node, context);
  return [
    named && node.model ? el("strong", { class: "name" }, node.model) : null,
    body,
    node.error ? el("p", { class: "error", role: "alert" }, node.error) : null,
    el(
      "p",
      {
        class: "meta",
        title: node.wait === undefined ? null : `first token after ${node.wait.toFixed(2)} s`,
      },
      facts(node),
      rewarded && node.reward !== undefined ? badge(node.reward) : null,
    ),
  ].filter(Boolean);
}

function fill(body, node, { results = [], answer = null } = {}) {
  const react = node.tool_calls ? null : reactParts(words(node), node.observations, node.agent);
  const writing = running.has(node.id);
  body.classList.toggle("writing", writing);
  const tokens = shown.tokens.has(node.id) && node.tokens?.length;
  if (tokens) showTokens(body, node.tokens);
  else if (react) growBlocks(body, reactBlocks(react, node.id, node.agent && writing));
  else if (typeof node.content !== "string") body.replaceChildren(...contentNodes(node.content));
  else grow(body, node.content);
  if (node.tool_calls)
    body.append(...callNodes(node.tool_calls, results, answer && ((call, text) => answer(call, text))));
  if (node.tool_calls || tokens) delete body.sources; // grow() begins anew
}

// How a reply with tools can end without an answer.
const ENDS = {
  invented: "the model wrote a tool's result itself",
  loop: "the model made the same call again and again",
  steps: "no answer after so many calls",
  unfinished: "the model stopped before a call or an answer",
};

function facts(node) {
  const parts = [];
  if (node.count) parts.push(`${node.count} token${node.count === 1 ? "" : "s"}`);
  if (node.rate) parts.push(`${node.rate >= 100 ? node.rate.toFixed(0) : node.rate.toFixed(1)} tokens/s`);
  if (node.stopped) parts.push("stopped");
  if (node.finish === "length") parts.push("cut at the longest reply");
  if (entry(ENDS, node.ended)) parts.push(ENDS[node.ended]);
  if (!running.has(node.id) && !words(node) && !node.tool_calls && !node.error && !node.stopped)
    parts.push("empty reply");
  return parts.join(" · ");
}

/** Shows what a reply has grown by; nothing else of the page is touched. */
export function update(node) {
  const item = document.querySelector(`[data-id="${node.id}"]`);
  if (!item) return;
  fill(item.querySelector(".text"), node);
  item.querySelector(".meta").firstChild.textContent = facts(node);
}

/** Shows the reward of a reply, and of those beside it which is best. */
export function showReward(conversation, node) {
  const nodes = group(conversation, node);
  for (const [i, one] of nodes.entries())
    document.querySelector(`.column[data-id="${one.id}"] > header`)?.replaceWith(head(nodes, i));
  const meta = document.querySelector(`#log > [data-id="${node.id}"] .meta`);
  if (!meta?.querySelector(".reward")) meta?.append(badge(node.reward));
}

function toolbar(conversation, node, actions, branches = true) {
  const bar = el("div", { class: "toolbar" });
  if (branches) bar.append(...switcher(siblings(conversation, node), node, actions));
  if (running.has(node.id)) return bar;
  const button = iconButton("copy", "Copy message", () => copy(words(node), button));
  if (words(node)) bar.append(button);
  if (node.role === "user") bar.append(iconButton("edit", "Edit message", () => actions.edit(node)));
  if (node.role === "assistant") {
    bar.append(iconButton("again", "Write again", () => actions.again(node)));
    const pressed = String(shown.tokens.has(node.id));
    if (node.tokens?.length)
      bar.append(
        iconButton("tokens", "Inspect tokens", () => actions.inspect(node), { "aria-pressed": pressed }),
      );
  }
  return bar;
}

function switcher(all, node, { show }) {
  if (all.length < 2) return [];
  const at = all.indexOf(node);
  const step = (by, name, label) =>
    iconButton(name, label, () => show(all[at + by]), { disabled: !all[at + by] });
  const where = el("span", { class: "where" }, `${at + 1}/${all.length}`);
  return [step(-1, "left", "Previous branch"), where, step(1, "right", "Next branch")];
}

function editor(node, { save, cancel }) {
  const rows = Math.min(12, shown.draft.split("\n").length + 1);
  const field = el(
    "textarea",
    { "aria-label": "Edit message", rows, oninput: () => (shown.draft = field.value) },
    shown.draft,
  );
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save(node, field.value);
    }
  });
  queueMicrotask(() => field.focus()); // once it is in the page
  const buttons = el(
    "div",
    { class: "buttons" },
    textButton("Cancel", cancel),
    textButton("Send", () => save(node, field.value), { class: "main" }),
  );
  return el("div", { class: "editor" }, field, buttons);
}

/** A line that goes away by itself, with one thing to do about it. */
export function toast(text, label, action) {
  const node = el("div", { class: "toast", role: "status" }, text);
  if (label) node.append(textButton(label, () => (node.remove(), action())));
  $("toasts").append(node);
  setTimeout(() => node.remove(), 7000);
}
