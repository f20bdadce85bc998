// Settings: what is sent with every request, and how the page looks. An empty field leaves the choice to the
// server.

import { $, el } from "./dom.js";
import { loadSettings, saveSettings } from "./store.js";

// name, label, least, most, step, what the server takes when nothing is sent, what it does
const SAMPLING = [
  [
    "temperature",
    "Temperature",
    0,
    2,
    0.05,
    1,
    "0 always takes the likeliest token; left out, so do replies with the server's tools",
  ],
  ["top_p", "Top-p", 0.01, 1, 0.01, 1, "Keeps the likeliest tokens that together reach this probability"],
  ["top_k", "Top-k", 0, 200, 1, 0, "Keeps this many tokens; 0 keeps all"],
  ["min_p", "Min-p", 0, 1, 0.01, 0, "Drops tokens below this share of the likeliest one's probability"],
  [
    "repetition_penalty",
    "Repetition penalty",
    0.5,
    2,
    0.01,
    1,
    "Above 1: what was said already becomes less likely",
  ],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, 0, "Taken off once a token is in the reply"],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, 0, "Taken off for each time it is in the reply"],
];
const NUMBERS = [
  ["max_tokens", "Longest reply", 1, "no limit", "In tokens"],
  ["seed", "Seed", -(2 ** 53), "random", "The same seed gives the same reply"],
];

export const settings = loadSettings({
  theme: "system",
  system: "",
  sampling: {},
  record: true,
  tools: "",
  agent: true, // where the server has tools
  inspect: false,
  sideBySide: false,
  blind: false,
  columns: null, // names of models; null: all
});

export function change(changes) {
  Object.assign(settings, changes);
  saveSettings(settings);
}

/**
 * The fields of a request. agent: the server's tools are used, and none of ours. Throws when ours are not
 * JSON.
 */
export function request(agent) {
  const body = { ...settings.sampling };
  if (settings.record) Object.assign(body, { logprobs: true, top_logprobs: 6 });
  if (agent) body.agent = agent;
  else if (settings.tools.trim()) body.tools = tools();
  return body;
}

function tools() {
  try {
    return JSON.parse(settings.tools);
  } catch (error) {
    throw new Error(`the tools in Settings are not JSON: ${error.message}`);
  }
}

function setSampling(name, text) {
  const sampling = { ...settings.sampling };
  if (text === "" || !Number.isFinite(Number(text))) delete sampling[name];
  else sampling[name] = Number(text);
  change({ sampling });
}

function slider([name, label, min, max, step, usual, hint]) {
  const range = el("input", { type: "range", min, max, step, tabindex: -1, "aria-hidden": "true" });
  const number = el("input", {
    type: "number",
    id: name,
    min,
    max,
    step,
    placeholder: usual,
    "aria-describedby": `${name}-hint`,
  });
  const show = () => {
    number.value = settings.sampling[name] ?? "";
    range.value = settings.sampling[name] ?? usual;
  };
  const take = (event) => {
    setSampling(name, event.target.value);
    range.value = settings.sampling[name] ?? usual;
    if (event.target === range) number.value = range.value;
  };
  range.addEventListener("input", take);
  number.addEventListener("input", take);
  show();
  const line = el("div", { class: "slider" }, range, number);
  return {
    show,
    node: el(
      "div",
      { class: "field" },
      el("label", { for: name }, label),
      line,
      el("small", { id: `${name}-hint` }, hint),
    ),
  };
}

function number([name, label, min, placeholder, hint]) {
  const input = el("input", {
    type: "number",
    id: name,
    min,
    step: 1,
    placeholder,
    oninput: () => setSampling(name, input.value),
  });
  const show = () => (input.value = settings.sampling[name] ?? "");
  show();
  return {
    show,
    node: el("div", { class: "field" }, el("label", { for: name }, label), input, el("small", {}, hint)),
  };
}

export function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
  $("theme-choice").value = settings.theme;
}

/**
 * Fills the dialog. current: gives the conversation whose system prompt is shown; changed: called after
 * that changed.
 */
export function setUp(current, changed) {
  const fields = [...SAMPLING.map(slider), ...NUMBERS.map(number)];
  $("sampling").append(...fields.map(({ node }) => node));
  $("reset").onclick = () => {
    change({ sampling: {} });
    for (const { show } of fields) show();
  };
  const system = $("system");
  system.oninput = () => {
    change({ system: system.value }); // also where the next conversation begins
    if (current()) changed(Object.assign(current(), { system: system.value }));
  };
  for (const [id, name] of [
    ["record", "record"],
    ["blind", "blind"],
  ]) {
    $(id).checked = settings[name];
    $(id).onchange = () => change({ [name]: $(id).checked });
  }
  $("tools").value = settings.tools;
  $("tools").oninput = () => change({ tools: $("tools").value });
  $("key").value = key();
  $("key").onchange = () => sessionStorage.setItem("openqwen.key", $("key").value);
  $("theme-choice").onchange = () => {
    change({ theme: $("theme-choice").value });
    showTheme();
  };
  $("settings-open").onclick = () => {
    system.value = current()?.system ?? settings.system;
    $("settings").showModal();
  };
  showTheme();
}

/** The API key; kept as long as the tab. */
export const key = () => sessionStorage.getItem("openqwen.key") ?? "";
