// Side by side: one question, several replies (base, SFT and RLHF, or two samples of one model), the reward
// model's score of each, and one click that says which is better. The server appends the choice to a file of
// comparisons that the reward stage trains on (report §3.2.1).

import { el, icon } from "./dom.js";
import { prompt, running } from "./reply.js";
import { key, settings } from "./settings.js";
import { ask } from "./stream.js";
import { add, newId, siblings, words } from "./tree.js";

/** The models that answer side by side; one chosen model answers twice. */
export function chosenModels(models) {
  const wanted = models.filter((name) => settings.columns?.includes(name) ?? true);
  const found = wanted.length ? wanted : models.slice(0, 1);
  return found.length > 1 ? found : [found[0], found[0]];
}

/** Adds one empty reply a model below a message. In a blind test their order is drawn. */
export function addGroup(conversation, parent, models) {
  const group = newId();
  const names = settings.blind ? shuffled(models) : models;
  const seed = settings.sampling.seed;
  const nodes = names.map((model, i) => {
    const again = names.indexOf(model) < i; // the same seed would give the same reply
    const own = seed !== undefined && again ? { seed: seed + i } : {};
    const twin = names.slice(0, i).filter((name) => name === model).length;
    return add(conversation, parent, {
      role: "assistant",
      content: "",
      model,
      group,
      twin,
      blind: settings.blind,
      ...own,
    });
  });
  conversation.leaf = nodes[0].id;
  return nodes;
}

function shuffled(items) {
  const dice = crypto.getRandomValues(new Uint32Array(items.length));
  return items
    .map((item, i) => [dice[i], item])
    .sort((a, b) => a[0] - b[0])
    .map(([, item]) => item);
}

/** The replies that stand beside one, itself included. */
export const group = (conversation, node) =>
  node.group ? siblings(conversation, node).filter((other) => other.group === node.group) : [node];

/** The first reply of each group that answers the same message. */
export function groups(conversation, node) {
  const name = (one) => one.group ?? one.id;
  const all = siblings(conversation, node);
  return all.filter((one, i) => all.findIndex((other) => name(other) === name(one)) === i);
}

export const judged = (nodes) => nodes.some((node) => node.preferred);

/** The name over a column: the model's, or a letter until the choice in a blind test is made. */
export function columnName(nodes, i) {
  const hidden = nodes[i].blind && !judged(nodes);
  const twice = nodes.filter((node) => node.model === nodes[i].model).length > 1;
  return hidden || twice ? `${hidden ? "Reply" : nodes[i].model} ${"ABCDEFGH"[i]}` : nodes[i].model;
}

/** The reward model's score of a finished reply. */
export async function score(conversation, node) {
  const { scores } = await ask("/score", key(), {
    messages: prompt(conversation, node),
    replies: [words(node)],
  });
  node.reward = scores[0];
}

/**
 * Stores that one reply is better than each of the others; equal and empty ones say nothing. Returns how
 * many pairs.
 */
export async function store(conversation, chosen, nodes) {
  const others = nodes.filter(
    (node) => node !== chosen && words(node).trim() && words(node).trim() !== words(chosen).trim(),
  );
  if (!others.length || !words(chosen).trim()) throw new Error("a choice needs two different replies");
  for (const rejected of others) {
    await ask("/preferences", key(), {
      messages: prompt(conversation, chosen),
      chosen: words(chosen),
      rejected: words(rejected),
      chosen_model: chosen.model,
      rejected_model: rejected.model,
      chosen_score: chosen.reward,
      rejected_score: rejected.reward,
      blind: Boolean(chosen.blind),
    });
  }
  return others.length;
}

/** What stands over a column: who wrote it and, unless the test is blind, its reward. */
export function head(nodes, i) {
  const { reward, blind } = nodes[i];
  const best = reward === Math.max(...nodes.map((node) => node.reward ?? -Infinity));
  const hidden = reward === undefined || (blind && !judged(nodes));
  return el(
    "header",
    {},
    el("strong", { class: "name" }, columnName(nodes, i)),
    hidden ? null : badge(reward, best),
  );
}

/**
 * The columns of a group. draw: gives the nodes of one reply; prefer: takes the better one; stores: it is
 * kept.
 */
export function columns(nodes, draw, prefer, stores) {
  const made = nodes.map((node, i) => {
    const label = stores ? "Prefer this" : "Go on with this";
    const button = el(
      "button",
      {
        type: "button",
        class: "prefer",
        disabled: nodes.some(({ id }) => running.has(id)), // a choice is between whole replies
        onclick: () => prefer(node),
        "aria-label": `${label}: ${columnName(nodes, i)}`,
      },
      icon("thumb"),
      label,
    );
    const foot = node.preferred
      ? el(
          "span",
          { class: "preferred" },
          icon("check"),
          node.preferred === "stored" ? "Preferred, stored" : "Chosen",
        )
      : judged(nodes)
        ? null
        : button;
    return el(
      "section",
      { class: "column", "data-id": node.id, "aria-label": columnName(nodes, i) },
      head(nodes, i),
      ...draw(node),
      el("footer", {}, foot),
    );
  });
  return el("div", { class: `columns of-${Math.min(nodes.length, 4)}` }, ...made);
}

/** The reward model's number. */
export const badge = (reward, best) =>
  el(
    "span",
    { class: best ? "reward best" : "reward", title: "The reward model's score" },
    `reward ${reward.toFixed(2)}`,
  );
