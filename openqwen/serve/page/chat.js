// The chat page: what people do, and what follows from it.

import { offer } from "./agent.js";
import { addGroup, chosenModels, group, judged, score, store } from "./compare.js";
import { $, download, el, icon } from "./dom.js";
import { fileName, fromJson, toJson, toMarkdown } from "./exchange.js";
import { hideCard } from "./inspector.js";
import { busy, contextUse, exactPrompt, running, stop, write } from "./reply.js";
import { change, key, setUp, settings, showTheme } from "./settings.js";
import * as kept from "./store.js";
import { ask } from "./stream.js";
import { add, drop, goTo, newConversation, path, words } from "./tree.js";
import { drawList, drawLog, showReward, shown, toast, update } from "./view.js";

const server = { models: [], rooms: {}, reward: false, preferences: false };
let conversations = [];
let current = null;

// Keeping

async function save(conversation) {
  if (!conversations.includes(conversation)) return; // deleted while its reply was being written
  try {
    await kept.put(conversation);
  } catch (error) {
    toast(`This conversation could not be saved: ${error.message}`);
  }
}

// Drawing

function draw() {
  drawAround();
  hideCard();
  drawLog(current, server, actions);
}

/** All but the messages. */
function drawAround() {
  drawList(conversations, current, { open, remove });
  const writing = current !== null && busy(current);
  $("send").hidden = writing;
  $("stop").hidden = !writing;
  $("title").textContent = current?.title ?? "New chat";
  document.title = current ? `${current.title} · openqwen` : "openqwen chat";
  $("side-by-side").setAttribute("aria-pressed", String(settings.sideBySide));
  $("columns").hidden = !settings.sideBySide || server.models.length < 2;
  $("model").hidden = settings.sideBySide && server.models.length > 1;
  $("agent").setAttribute("aria-pressed", String(settings.agent));
  $("inspect").setAttribute("aria-pressed", String(settings.inspect));
}

const scroller = () => $("scroll");
const atEnd = () => scroller().scrollHeight - scroller().scrollTop - scroller().clientHeight < 120;

function toEnd() {
  scroller().scrollTop = scroller().scrollHeight;
}

const waiting = new Set(); // messages that have grown since the last frame
function grew(node) {
  if (!waiting.size) {
    requestAnimationFrame(() => {
      const follow = atEnd();
      for (const one of waiting) if (running.has(one.id)) update(one); // else it has been drawn whole
      waiting.clear();
      if (follow) toEnd();
    });
  }
  waiting.add(node);
}

async function showContext() {
  const conversation = current;
  let use = null;
  try {
    use = conversation && (await contextUse(conversation, server.rooms));
  } catch (error) {
    console.info("context use is not known", error.message); // for example of roles the server cannot render
  }
  if (conversation !== current) return;
  $("context").hidden = !use;
  if (!use) return;
  $("context-bar").max = use.room;
  $("context-bar").value = use.count;
  $("context-text").textContent =
    `${use.count.toLocaleString("en")} / ${use.room.toLocaleString("en")} tokens`;
}

// Replies

async function respond(conversation, nodes) {
  if (settings.inspect && settings.record) for (const node of nodes) shown.tokens.add(node.id);
  const writing = nodes.map((node) => finish(conversation, node));
  save(conversation);
  draw();
  toEnd();
  await Promise.all(writing);
  showContext();
}

async function finish(conversation, node) {
  const saving = setInterval(() => save(conversation), 2000); // what is there when the tab is closed
  await write(conversation, node, grew);
  clearInterval(saving);
  if (node.status === 401) $("settings-open").click(); // the server wants a key
  await save(conversation);
  if (conversation === current) {
    const follow = atEnd();
    draw();
    if (follow) toEnd();
  } else drawAround();
  $("said").textContent = node.error ? "The reply failed" : "The reply is finished";
  if (!server.reward || !words(node).trim()) return;
  try {
    await score(conversation, node);
  } catch (error) {
    toast(`No score: ${error.message}`);
    return;
  }
  showReward(conversation, node);
  await save(conversation);
}

/** The reply, or the replies, to a message. */
function answerTo(conversation, parent) {
  if (settings.sideBySide)
    return respond(conversation, addGroup(conversation, parent, chosenModels(server.models)));
  const model = server.models.includes($("model").value) ? $("model").value : undefined;
  return respond(conversation, [add(conversation, parent, { role: "assistant", content: "", model })]);
}

function send(text) {
  if (!text.trim() || (current && busy(current))) return false;
  if (!current) {
    current = newConversation(settings.system);
    conversations.unshift(current);
  }
  if (!current.leaf) current.title = text.trim().split("\n")[0].slice(0, 60);
  const asked = add(current, current.leaf, { role: "user", content: text.trim() });
  answerTo(current, asked.id);
  return true;
}

const actions = {
  edit(node) {
    Object.assign(shown, { editing: node.id, draft: words(node) });
    draw();
  },
  cancel() {
    shown.editing = null;
    draw();
    $("input").focus();
  },
  save(node, text) {
    if (!text.trim() || busy(current)) return;
    shown.editing = null;
    const edited = add(current, node.parent, { role: "user", content: text.trim() });
    answerTo(current, edited.id);
  },
  again(node) {
    if (busy(current)) return;
    if (node.error && !node.content) drop(current, node);
    answerTo(current, node.parent);
  },
  show(node) {
    goTo(current, node.id);
    save(current);
    draw();
    showContext();
  },
  inspect(node) {
    if (!shown.tokens.delete(node.id)) shown.tokens.add(node.id);
    draw();
    if (shown.tokens.has(node.id))
      document.querySelector(`[data-id="${node.id}"] .token`)?.focus({ preventScroll: true });
  },
  answer(call, text) {
    const result = add(current, current.leaf, { role: "tool", content: text, tool_call_id: call.id });
    const calls = path(current).findLast((node) => node.tool_calls).tool_calls;
    const given = path(current).filter((node) => node.role === "tool");
    if (calls.every(({ id }) => given.some((m) => m.tool_call_id === id))) answerTo(current, result.id);
    else draw();
  },
  async prefer(node) {
    const conversation = current;
    const nodes = group(conversation, node);
    if (judged(nodes)) return;
    node.preferred = server.preferences ? "stored" : "chosen"; // at once: a second click finds it judged
    try {
      if (server.preferences) {
        const stored = await store(conversation, node, nodes);
        toast(`Stored ${stored} comparison${stored === 1 ? "" : "s"}`);
      }
      goTo(conversation, node.id);
    } catch (error) {
      delete node.preferred;
      toast(`Not stored: ${error.message}`);
    }
    save(conversation);
    draw();
  },
};

// Conversations

function open(conversation) {
  current = conversation;
  shown.editing = null;
  closeSide();
  draw();
  toEnd();
  showContext();
  $("input").focus();
}

const startNew = () => open(null);

function remove(conversation) {
  stop(conversation);
  conversations = conversations.filter((other) => other !== conversation);
  kept.remove(conversation.id).catch((error) => toast(`Not deleted: ${error.message}`));
  if (current === conversation) startNew();
  else draw();
  toast(`Deleted "${conversation.title}"`, "Undo", () => {
    conversations = [conversation, ...conversations].sort((a, b) => b.updated - a.updated);
    save(conversation);
    open(conversation);
  });
}

function rename() {
  const title = $("title").textContent.trim().slice(0, 120);
  if (current && title) save(Object.assign(current, { title }));
  draw();
}

async function read(file) {
  try {
    const found = fromJson(await file.text());
    conversations = [...found, ...conversations];
    for (const conversation of found) await save(conversation);
    open(found[0]);
    toast(`Read ${found.length} conversation${found.length === 1 ? "" : "s"}`);
  } catch (error) {
    toast(`${file.name}: ${error.message}`);
  }
}

async function showPrompt() {
  try {
    $("prompt-text").textContent = await exactPrompt(
      current,
      path(current).filter((m) => m.role !== "assistant" || m.content),
    );
    $("prompt").showModal();
  } catch (error) {
    toast(`The prompt: ${error.message}`);
  }
}

const exports = {
  markdown: () => download(`${fileName(current.title)}.md`, "text/markdown", toMarkdown(current)),
  json: () => download(`${fileName(current.title)}.json`, "application/json", toJson([current])),
  all: () => download("conversations.json", "application/json", toJson(conversations)),
};

// The frame

function closeSide() {
  $("side").classList.remove("shown");
  $("shade").hidden = true;
  $("menu").setAttribute("aria-expanded", "false");
}

function toggleSide() {
  const shownNow = $("side").classList.toggle("shown");
  $("shade").hidden = !shownNow;
  $("menu").setAttribute("aria-expanded", String(shownNow));
  if (shownNow) $("search").focus();
}

function fit() {
  $("input").style.height = "auto";
  $("input").style.height = `${Math.min($("input").scrollHeight, innerHeight / 3)}px`;
}

function drawModels() {
  $("model").replaceChildren(...server.models.map((name) => el("option", { value: name }, name)));
  $("model").disabled = server.models.length < 2;
  $("welcome-model").textContent = `${server.models.join(", ")}`;
  const boxes = server.models.map((name) => {
    const box = el("input", {
      type: "checkbox",
      value: name,
      checked: settings.columns?.includes(name) ?? true,
    });
    return el("label", { class: "chip" }, box, name);
  });
  $("columns").replaceChildren(...boxes);
  $("columns").onchange = () =>
    change({ columns: [...$("columns").querySelectorAll(":checked")].map(({ value }) => value) });
}

async function connect() {
  try {
    const { data } = await ask("/v1/models", key());
    server.models = data.map(({ id }) => id);
    offer(data[0].agent?.tools ?? [], drawAround);
    server.rooms = Object.fromEntries(data.map(({ id, max_model_len }) => [id, max_model_len]));
    Object.assign(server, await ask("/compare", key()));
  } catch (error) {
    toast(
      error.status === 401 ? "This server wants an API key" : `The server: ${error.message}`,
      "Settings",
      () => $("settings-open").click(),
    );
  }
  drawModels();
  draw();
}

const SHORTCUTS = {
  k: () => ($("side").classList.contains("shown") || innerWidth > 800 ? $("search").focus() : toggleSide()),
  o: (event) => event.shiftKey && startNew(),
  ".": () => $("settings-open").click(),
};

function listen() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    if (!send($("input").value)) return;
    $("input").value = "";
    fit();
  };
  $("input").oninput = fit;
  $("input").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("form").requestSubmit();
    }
    const last = current && path(current).findLast((node) => node.role === "user");
    if (event.key === "ArrowUp" && !$("input").value && last && !busy(current)) {
      event.preventDefault();
      actions.edit(last);
    }
  };
  document.onkeydown = (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (!$("token-card").hidden) hideCard();
      else if (current && busy(current)) stop(current);
      else closeSide();
    } else if (event.key === "?" && !typing) $("help").showModal();
    else if (event.key === "/" && !typing) {
      event.preventDefault();
      $("input").focus();
    } else if ((event.ctrlKey || event.metaKey) && Object.hasOwn(SHORTCUTS, event.key.toLowerCase())) {
      const done = SHORTCUTS[event.key.toLowerCase()](event);
      if (done !== false) event.preventDefault();
    }
  };
  $("stop").onclick = () => current && stop(current);
  $("new").onclick = startNew;
  $("search").oninput = () => drawList(conversations, current, { open, remove });
  $("menu").onclick = toggleSide;
  $("shade").onclick = closeSide;
  $("import").onchange = (event) => {
    if (event.target.files[0]) read(event.target.files[0]);
    event.target.value = "";
  };
  for (const button of document.querySelectorAll("[data-export]")) {
    button.onclick = () => {
      $("more").open = false;
      if (current || button.dataset.export === "all") exports[button.dataset.export]();
    };
  }
  $("show-prompt").onclick = () => {
    $("more").open = false;
    if (current) showPrompt();
  };
  $("help-open").onclick = () => $("help").showModal();
  for (const button of document.querySelectorAll("[data-close]"))
    button.onclick = () => button.closest("dialog").close();
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.onclick = (event) => {
      if (event.target === dialog) dialog.close(); // beside it
    };
  }
  let tried = key();
  $("settings").onclose = () => {
    if (key() === tried) return;
    tried = key();
    connect();
  };
  $("theme").onclick = () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = settings.theme === "system" ? (dark ? "dark" : "light") : settings.theme;
    change({ theme: now === "dark" ? "light" : "dark" });
    showTheme();
  };
  $("side-by-side").onclick = () => {
    change({ sideBySide: !settings.sideBySide });
    drawAround();
  };
  $("inspect").onclick = () => {
    change({ inspect: !settings.inspect });
    const replies = current ? path(current).filter((node) => node.tokens) : [];
    for (const { id } of replies) settings.inspect ? shown.tokens.add(id) : shown.tokens.delete(id);
    draw();
  };
  $("title").onblur = rename;
  $("title").onkeydown = (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      if (event.key === "Escape") $("title").textContent = current?.title ?? "New chat";
      $("title").blur();
    }
  };
  $("down").onclick = toEnd;
  scroller().onscroll = () => ($("down").hidden = atEnd());
  document.onclick = (event) => {
    if (!event.target.closest("#more")) $("more").open = false;
  };
}

for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
setUp(() => current, save);
listen();
try {
  conversations = await kept.all();
} catch (error) {
  toast(`Saved conversations cannot be read: ${error.message}`);
}
draw();
await connect();
$("input").focus();
