// A conversation: a tree of messages. An edited or regenerated message is a new branch beside the old one,
// and the path from the first message to `leaf` is what is shown and sent.
//
//   { id, title, system, created, updated, leaf, nodes: { [id]: { id, parent, role, content, ... } } }

export const newId = () =>
  crypto.getRandomValues(new Uint32Array(4)).reduce((text, part) => text + part.toString(36), "");

export function newConversation(system) {
  const now = Date.now();
  return { id: newId(), title: "New chat", system, created: now, updated: now, leaf: null, nodes: {} };
}

/** Adds a message below `parent` (an id, or null for a first one) and goes there. */
export function add(conversation, parent, message) {
  const node = { id: newId(), parent, order: Object.keys(conversation.nodes).length, ...message };
  conversation.nodes[node.id] = node;
  conversation.leaf = node.id;
  conversation.updated = Date.now();
  return node;
}

/** The messages shown, first to last. */
export function path(conversation, leaf = conversation.leaf) {
  const nodes = [];
  for (let node = conversation.nodes[leaf]; node; node = conversation.nodes[node.parent]) nodes.unshift(node);
  return nodes;
}

/** The messages below one (null: the first ones), oldest first. */
export function children(conversation, parent) {
  const found = Object.values(conversation.nodes).filter((node) => node.parent === parent);
  return found.sort((a, b) => a.order - b.order);
}

/** A message and its alternatives. */
export const siblings = (conversation, node) => children(conversation, node.parent);

/** Shows the branch that a message is on, down to its newest end. */
export function goTo(conversation, id) {
  conversation.leaf = id;
  for (let below; (below = children(conversation, conversation.leaf)).length;)
    conversation.leaf = below.at(-1).id;
}

/** Takes out a message that has nothing below it. */
export function drop(conversation, node) {
  delete conversation.nodes[node.id];
  if (conversation.leaf === node.id) conversation.leaf = node.parent;
}

/** A path as the server takes it. */
export function messages(conversation, nodes) {
  const system = conversation.system?.trim();
  const sent = nodes.map(({ role, content, tool_calls, tool_call_id }) => ({
    role,
    content,
    ...(tool_calls && { tool_calls }),
    ...(tool_call_id && { tool_call_id }),
  }));
  return system ? [{ role: "system", content: system }, ...sent] : sent;
}

/** The words of a message, for search, copying and titles. */
export function words({ content }) {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => part.text ?? "").join("");
}
