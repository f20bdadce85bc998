// The server's own tools: which it has, whether replies use them, and whose interpreter a reply reaches.

import { $, el } from "./dom.js";
import { change, settings } from "./settings.js";

let offered = []; // { name, description }

/** Whether replies use the server's tools. */
export const using = () => offered.length > 0 && settings.agent;

/** Shows what the server offers, and the switch if it offers anything. */
export function offer(tools, changed) {
  offered = tools;
  const names = tools.map(({ name }) => name).join(", ");
  $("agent").hidden = !tools.length;
  $("agent").title = `The model may use the server's tools: ${names}`;
  $("agent").onclick = () => {
    change({ agent: !settings.agent });
    changed();
  };
  $("welcome-tools").textContent = tools.length ? `Tools: ${names}` : "";
  $("server-tools").hidden = !tools.length;
  $("server-tools-list").replaceChildren(
    ...tools.map(({ name, description }) =>
      el("div", {}, el("dt", {}, el("code", {}, name)), el("dd", {}, description)),
    ),
  );
}

/**
 * The `agent` field of a request. Columns of one answer have an interpreter each. Ids are drawn at random,
 * for whoever knows one can use what it holds; they are kept as long as the tab, and are in no exported file.
 */
export function agentField(conversation, { group, model, twin }) {
  const place = `openqwen.agent.${conversation.id}${group ? `.${model}.${twin}` : ""}`;
  const id = sessionStorage.getItem(place) ?? hex(crypto.getRandomValues(new Uint8Array(16)));
  sessionStorage.setItem(place, id);
  return { conversation: id };
}

const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
