// The chat page. State lives in localStorage; replies stream from this server's /v1/chat/completions.
import { markdown } from "/page/markdown.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const STORE = "openqwen.chat.v1";

const load = () => {
  try {
    const state = JSON.parse(localStorage.getItem(STORE));
    if (Array.isArray(state?.conversations)) return state;
  } catch (error) {
    console.warn("saved conversations could not be read", error);
  }
  return { conversations: [], current: null, dark: matchMedia("(prefers-color-scheme: dark)").matches, settings: {} };
};

const state = load();
let running = null; // AbortController of the reply being written

const save = () => {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch (error) {
    say(`not saved: ${error.message}`);
  }
};
const say = (text) => ($("status").textContent = text);
const current = () => state.conversations.find((c) => c.id === state.current);

function fresh() {
  const conversation = { id: crypto.randomUUID?.() ?? String(Math.random()), title: "New conversation", messages: [] };
  state.conversations.unshift(conversation);
  state.current = conversation.id;
  return conversation;
}

function button(label, action) {
  const node = document.createElement("button");
  node.type = "button";
  node.textContent = label;
  node.onclick = action;
  return node;
}

// Drawing

function drawList() {
  $("list").replaceChildren(
    ...state.conversations.map((c) => {
      const open = button(c.title, () => select(c.id));
      open.className = "open";
      open.setAttribute("aria-current", String(c.id === state.current));
      const remove = button("×", () => {
        if (c.id === state.current) running?.abort();
        state.conversations = state.conversations.filter((other) => other !== c);
        if (c.id === state.current) state.current = state.conversations[0]?.id ?? null;
        draw();
      });
      remove.setAttribute("aria-label", `Delete ${c.title}`);
      const item = document.createElement("li");
      item.append(open, remove);
      return item;
    }),
  );
}

function messageNode(message, index, last) {
  const item = document.createElement("li");
  item.className = message.role;
  if (message.role === "assistant") item.append(...markdown(message.content));
  else item.textContent = message.content;
  const tools = document.createElement("div");
  tools.className = "tools";
  if (!running) {
    if (message.role === "user") tools.append(button("Edit", () => edit(index)));
    if (message.role === "assistant") {
      tools.append(button("Copy", () => navigator.clipboard.writeText(message.content)));
      if (last) tools.append(button("Regenerate", regenerate));
    }
  }
  item.append(tools);
  return item;
}

function drawLog() {
  const messages = current()?.messages ?? [];
  const log = $("log");
  log.replaceChildren(...messages.map((m, i) => messageNode(m, i, i === messages.length - 1)));
  log.scrollTop = log.scrollHeight;
}

function draw() {
  document.documentElement.classList.toggle("dark", Boolean(state.dark));
  $("theme").setAttribute("aria-pressed", String(Boolean(state.dark)));
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  drawList();
  drawLog();
  save();
}

function showError(text) {
  const item = document.createElement("li");
  item.className = "error";
  item.setAttribute("role", "alert");
  item.textContent = text;
  $("log").append(item);
}

// Talking to the server

function request(messages) {
  const system = $("system").value.trim();
  const body = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  for (const name of NUMBERS) if ($(name).value !== "") body[name] = Number($(name).value);
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

const headers = () => {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
};

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function reply(conversation) {
  running = new AbortController();
  const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
  const message = { role: "assistant", content: "" };
  conversation.messages.push(message);
  draw();
  const begun = performance.now();
  let failed = null;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(request(messages)),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      message.content += event.choices[0]?.delta.content ?? "";
      if (event.choices[0]?.delta.content) redrawLast(conversation, message);
      if (event.usage) {
        const rate = event.usage.completion_tokens / ((performance.now() - begun) / 1000);
        say(`${event.usage.total_tokens} tokens · ${rate.toFixed(1)} tokens/s`);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else failed = error.message;
  }
  running = null;
  if (!message.content) conversation.messages.pop();
  draw();
  if (failed) showError(failed);
  $("input").focus();
}

let drawing = false;
function redrawLast(conversation, message) {
  if (drawing || conversation.id !== state.current) return;
  drawing = true; // at most once a frame, however fast tokens come
  requestAnimationFrame(() => {
    drawing = false;
    if (!running || conversation.id !== state.current) return; // drawn whole meanwhile
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    log.lastElementChild?.replaceChildren(...markdown(message.content));
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
}

// What people do

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  $("input").value = "";
  const conversation = current() ?? fresh();
  if (!conversation.messages.length) conversation.title = text.slice(0, 60);
  conversation.messages.push({ role: "user", content: text });
  reply(conversation);
}

function regenerate() {
  const conversation = current();
  conversation.messages.pop();
  reply(conversation);
}

function edit(index) {
  const conversation = current();
  $("input").value = conversation.messages[index].content;
  conversation.messages.length = index;
  draw();
  $("input").focus();
}

function select(id) {
  running?.abort();
  state.current = id;
  $("side").classList.remove("shown");
  draw();
}

function exportAll() {
  const link = document.createElement("a");
  const data = JSON.stringify({ conversations: state.conversations }, null, 2);
  link.href = URL.createObjectURL(new Blob([data], { type: "application/json" }));
  link.download = "conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function importFile(file) {
  try {
    const { conversations } = JSON.parse(await file.text());
    const right = (c) =>
      typeof c.title === "string" &&
      Array.isArray(c.messages) &&
      c.messages.every((m) => ["user", "assistant"].includes(m.role) && typeof m.content === "string");
    if (!Array.isArray(conversations) || !conversations.every(right)) throw new Error("not an exported file");
    for (const c of conversations) state.conversations.push({ ...c, id: String(Math.random()) });
    state.current ??= state.conversations[0]?.id ?? null;
    draw();
  } catch (error) {
    showError(`import: ${error.message}`);
  }
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  send();
};
$("input").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
};
$("stop").onclick = () => running?.abort();
$("new").onclick = () => {
  running?.abort();
  fresh();
  draw();
  $("input").focus();
};
$("theme").onclick = () => {
  state.dark = !state.dark;
  draw();
};
$("menu").onclick = () => {
  const shown = $("side").classList.toggle("shown");
  $("menu").setAttribute("aria-expanded", String(shown));
};
$("export").onclick = exportAll;
$("import").onchange = (event) => {
  if (event.target.files[0]) importFile(event.target.files[0]);
  event.target.value = "";
};
for (const name of [...NUMBERS, "system"]) {
  if (state.settings?.[name] !== undefined) $(name).value = state.settings[name];
  $(name).onchange = () => {
    state.settings = { ...state.settings, [name]: $(name).value };
    save();
  };
}

draw();
fetch("/v1/models", { headers: headers() })
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error("the server wants an API key"))))
  .then((models) => ($("model").textContent = models.data[0].id))
  .catch((error) => say(error.message));
