// One reply being written: from the request to the finished message.

import { agentField, using } from "./agent.js";
import { compact } from "./inspector.js";
import { key, request } from "./settings.js";
import { ask, chat } from "./stream.js";
import { messages, path } from "./tree.js";

/** Replies being written: message id -> { conversation, stop() }. */
export const running = new Map();

/** What a reply answers, as the server takes it. Replies that failed before their first word are left out. */
export function prompt(conversation, node) {
  const above = path(conversation, node.parent).filter(
    (m) => m.role !== "assistant" || m.content || m.tool_calls,
  );
  return messages(conversation, above);
}

/** Stops the replies of a conversation: each connection is closed, at which the server stops too. */
export function stop(conversation) {
  for (const reply of running.values()) if (reply.conversation === conversation) reply.stop();
}

export const busy = (conversation) =>
  [...running.values()].some((reply) => reply.conversation === conversation);

/**
 * Writes `node`, an assistant message without content. changed(node): called for each piece. Never throws.
 */
export async function write(conversation, node, changed) {
  const controller = new AbortController();
  running.set(node.id, { conversation, stop: () => controller.abort() });
  const clock = { begun: performance.now(), first: null, last: null };
  node.agent = using();
  try {
    const agent = node.agent ? agentField(conversation, node) : undefined;
    const body = { ...request(agent), ...(node.seed !== undefined && { seed: node.seed }) };
    if (node.model) body.model = node.model;
    body.messages = prompt(conversation, node);
    for await (const chunk of chat(body, key(), controller.signal)) take(node, chunk, clock, changed);
  } catch (error) {
    if (error.name === "AbortError") node.stopped = true;
    else node.error = error.message;
    node.status = error.status;
  }
  running.delete(node.id);
}

function take(node, chunk, clock, changed) {
  if (chunk.usage) {
    node.count = chunk.usage.completion_tokens;
    node.used = chunk.usage.context_tokens ?? chunk.usage.total_tokens;
  }
  const choice = chunk.choices[0];
  if (!choice) return;
  const { content, tool_calls, observations } = choice.delta;
  if (choice.finish_reason) node.finish = choice.finish_reason;
  if (choice.ended) node.ended = choice.ended;
  const tokens = compact(choice.logprobs);
  if (!content && !tool_calls && !observations && !tokens.length) return;
  const now = performance.now();
  clock.first ??= now;
  if (observations) clock.first += now - (clock.last ?? now); // the tool's time
  clock.last = now;
  for (const { error, pictures } of observations ?? []) {
    const span = { at: node.content.length, length: content.length, error, pictures };
    (node.observations ??= []).push(span);
  }
  node.content += content ?? "";
  for (const piece of tool_calls ?? []) merge((node.tool_calls ??= []), piece);
  if (tokens.length) (node.tokens ??= []).push(...tokens);
  node.count = node.tokens?.length ?? (node.count ?? 0) + (observations ? 0 : 1);
  node.wait = (clock.first - clock.begun) / 1000;
  if (now > clock.first) node.rate = (node.count - 1) / ((now - clock.first) / 1000);
  changed(node);
}

/** A streamed piece of a tool call: the name comes first, the arguments bit by bit. */
function merge(calls, { index = 0, id, function: piece }) {
  const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (id) call.id = id;
  call.function.name += piece?.name ?? "";
  call.function.arguments += piece?.arguments ?? "";
}

/**
 * How many tokens the shown conversation takes, and how many the model can hold; null where that is not
 * known.
 */
export async function contextUse(conversation, rooms) {
  const shown = path(conversation).filter((m) => m.role !== "assistant" || m.content);
  const last = shown.at(-1);
  if (last?.used && rooms[last.model]) return { count: last.used, room: rooms[last.model] };
  if (!last || shown.some((m) => m.role === "tool" || m.tool_calls)) return null; // /tokenize knows no tools
  const { count, max_model_len: room } = await tokenize(conversation, shown);
  return { count, room };
}

/** The prompt exactly as the model gets it, control tokens included. */
export async function exactPrompt(conversation, nodes) {
  const { tokens } = await tokenize(conversation, nodes);
  return (await ask("/detokenize", key(), { tokens })).prompt;
}

function tokenize(conversation, nodes) {
  const body = { messages: messages(conversation, nodes), ...(using() && { agent: {} }) };
  return ask("/tokenize", key(), body);
}
