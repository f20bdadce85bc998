// Conversations as files: JSON, which can be read back with all branches, and Markdown, which people read.

import { newConversation, newId, path, words } from "./tree.js";

const ID = /^[\w-]{1,64}$/; // ids become part of selectors
const ROLES = ["system", "user", "assistant", "tool"];
const NAMES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };

export const toJson = (conversations) =>
  JSON.stringify({ format: "openqwen.chat.2", conversations }, null, 2);

/** The branch that is shown. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system?.trim()) parts.push(`**${NAMES.system}**`, conversation.system.trim());
  for (const node of path(conversation)) {
    parts.push(`**${NAMES[node.role]}**${node.model ? ` (${node.model})` : ""}`, words(node));
    for (const { pictures } of node.observations ?? [])
      parts.push(...pictures.map(({ name, url }) => `![${name}](${url})`));
    for (const { function: called } of node.tool_calls ?? [])
      parts.push(`\`${called.name}(${called.arguments})\``);
  }
  return `${parts.join("\n\n")}\n`;
}

/** A name for a file from a title. */
export const fileName = (title) =>
  title
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60) || "conversation";

/**
 * The conversations of a file: ours, or lists of {"role", "content"} messages. Throws what a person can
 * read.
 */
export function fromJson(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("this file is not JSON");
  }
  const found = data?.conversations ?? (data?.messages ? [data] : data);
  if (!Array.isArray(found) || !found.length)
    throw new Error('no "conversations" and no "messages" in this file');
  return found.map((one, number) => {
    const read = one?.nodes ? tree(one) : list(one?.messages);
    if (!read) throw new Error(`conversation ${number + 1} is not one`);
    const title =
      typeof one.title === "string" ? one.title : words(Object.values(read.nodes)[0]).slice(0, 60);
    const known = { title, system: typeof one.system === "string" ? one.system : (read.system ?? "") };
    return { ...newConversation(""), ...known, nodes: read.nodes, leaf: read.leaf };
  });
}

const right = (m) =>
  ROLES.includes(m?.role) &&
  (typeof m.content === "string" || m.content === null || Array.isArray(m.content));
const scored = (pair) => Array.isArray(pair) && typeof pair[0] === "string" && Number.isFinite(pair[1]);
const token = (t) => scored(t) && Array.isArray(t[2]) && t[2].every(scored);

const drawn = (p) => typeof p?.name === "string" && typeof p?.url === "string";
const observed = (o) =>
  Number.isInteger(o?.at) &&
  Number.isInteger(o.length) &&
  Array.isArray(o.pictures) &&
  o.pictures.every(drawn);

function calls({ tool_calls: given }) {
  if (!Array.isArray(given)) return [];
  const read = ({ id, function: f }) => ({
    id: String(id ?? ""),
    type: "function",
    function: { name: f.name, arguments: String(f.arguments ?? "") },
  });
  return given.filter((call) => typeof call?.function?.name === "string").map(read);
}

/** What of a foreign message we keep: nothing that is not checked. */
function message(m) {
  const content = Array.isArray(m.content)
    ? m.content.filter((part) => typeof part === "object" && part)
    : (m.content ?? "");
  const kept = { role: m.role, content };
  if (calls(m).length) kept.tool_calls = calls(m);
  for (const name of ["model", "tool_call_id", "group"])
    if (typeof m[name] === "string") kept[name] = m[name];
  for (const name of ["reward", "rate", "count"]) if (Number.isFinite(m[name])) kept[name] = m[name];
  if (Array.isArray(m.tokens) && m.tokens.every(token)) kept.tokens = m.tokens;
  if (Array.isArray(m.observations) && m.observations.every(observed)) {
    kept.observations = m.observations.map(({ at, length, error, pictures }) => ({
      at,
      length,
      error: error === true,
      pictures: pictures.map(({ name, url }) => ({ name, url })),
    }));
    kept.agent = true;
  }
  if (["stored", "chosen"].includes(m.preferred)) kept.preferred = m.preferred;
  return kept;
}

function list(given) {
  if (!Array.isArray(given) || !given.length || !given.every(right)) return null;
  const [first, ...rest] = given;
  const system = first.role === "system" ? words(first) : undefined;
  const nodes = {};
  let leaf = null;
  for (const [order, m] of (system === undefined ? given : rest).entries()) {
    const id = newId();
    nodes[id] = { id, parent: leaf, order, ...message(m) };
    leaf = id;
  }
  return leaf && { nodes, leaf, system };
}

function tree({ nodes, leaf }) {
  const kept = {};
  for (const [order, node] of Object.values(nodes).entries()) {
    if (!right(node) || !ID.test(node.id)) return null;
    kept[node.id] = {
      id: node.id,
      parent: node.parent ?? null,
      order: Number(node.order ?? order),
      ...message(node),
    };
  }
  const whole = Object.values(kept).every(({ parent }) => parent === null || Object.hasOwn(kept, parent));
  const rooted = Object.values(kept).every((node) => ends(kept, node));
  return whole && rooted && Object.hasOwn(kept, leaf) ? { nodes: kept, leaf } : null;
}

/** Whether the way up from a message ends. */
function ends(nodes, node) {
  let steps = Object.keys(nodes).length;
  for (let at = node; at.parent !== null && steps >= 0; steps--) at = nodes[at.parent];
  return steps >= 0;
}
