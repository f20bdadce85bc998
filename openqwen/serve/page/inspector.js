// The token inspector: a reply as its tokens, each coloured by the model's own probability of it; hovering or
// focusing one shows what else the model might have written. Log-probabilities are those before temperature
// and truncation, as the server gives them.

import { $, el } from "./dom.js";

const CUTS = [0.05, 0.25, 0.5, 0.8]; // colours change at these probabilities

/**
 * What is kept of a chunk's log-probabilities: [text, log-probability, [[text, log-probability], ...]] a
 * token.
 */
export function compact(logprobs) {
  return (logprobs?.content ?? []).map(({ token, logprob, top_logprobs }) => [
    token,
    logprob,
    top_logprobs.map((t) => [t.token, t.logprob]),
  ]);
}

/** A token as people can see it, spaces at its beginning included. */
export function visible(token) {
  if (token.startsWith("bytes:")) return token.slice(6).replaceAll("\\x", " ").trim();
  const text = token.replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return text.replace(/^ +/, (spaces) => "␣".repeat(spaces.length));
}

const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return `${value >= 99.95 ? "100" : value >= 10 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(2) : "<0.01"} %`;
};

const shade = (logprob) => CUTS.filter((cut) => Math.exp(logprob) >= cut).length;

/** Shows a reply as its tokens; of a reply that grows, only the new ones are added. */
export function showTokens(body, tokens) {
  let group = body.querySelector(".tokens");
  if (!group || group.childElementCount > tokens.length) {
    group = el("div", {
      class: "tokens",
      role: "group",
      "aria-label": "Tokens; arrow keys move",
      onkeydown: move,
    });
    body.replaceChildren(group);
  }
  const before = group.childElementCount;
  group.append(...tokens.slice(before).map((token, i) => span(token, before + i === 0)));
  body.replaceChildren(group, legend(tokens));
}

function legend(tokens) {
  const mean = tokens.reduce((sum, [, logprob]) => sum + logprob, 0) / tokens.length;
  const summary = `${tokens.length} tokens, perplexity ${Math.exp(-mean).toFixed(2)}`;
  const scale = CUTS.map((cut, i) => el("span", { class: `swatch shade-${i}` }, `< ${100 * cut} %`));
  return el(
    "p",
    { class: "legend" },
    summary,
    ...scale,
    el("span", { class: `swatch shade-${CUTS.length}` }, "likelier"),
  );
}

function span([text, logprob, top], first) {
  const shown = text.startsWith("bytes:") || !text.trim() ? visible(text) : text.replaceAll("\n", "↵\n");
  const show = (event) => card(event.currentTarget, text, logprob, top);
  return el(
    "span",
    {
      class: `token shade-${shade(logprob)}`,
      tabindex: first ? 0 : -1,
      "aria-label": `${visible(text)}, ${percent(logprob)}`,
      role: "button",
      "aria-describedby": "token-card",
      onmouseenter: show,
      onfocus: show,
      onclick: show,
      onmouseleave: hideCard,
      onblur: hideCard,
    },
    shown,
  );
}

function move(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const from = event.target.closest(".token");
  if (event.key === "Escape") hideCard();
  const to = step && from && (step > 0 ? from.nextElementSibling : from.previousElementSibling);
  if (!to) return;
  event.preventDefault();
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

/** The card with the alternatives, under the token. */
function card(token, text, logprob, top) {
  const rows = top.some(([other]) => other === text) ? top : [...top, [text, logprob]];
  const node = $("token-card");
  node.replaceChildren(...rows.map(([other, value]) => alternative(other, value, other === text)));
  node.hidden = false;
  const at = token.getClientRects()[0] ?? token.getBoundingClientRect();
  const { width, height } = node.getBoundingClientRect();
  const below = at.bottom + 6 + height < innerHeight;
  node.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  node.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - height - 6)}px`;
}

function alternative(text, logprob, chosen) {
  const bar = el("span", { class: "bar" }, el("span", {}));
  bar.firstChild.style.width = `${100 * Math.exp(logprob)}%`;
  const row = [el("code", {}, visible(text)), bar, el("span", { class: "share" }, percent(logprob))];
  return el("div", { class: chosen ? "alternative chosen" : "alternative" }, ...row);
}

export function hideCard() {
  $("token-card").hidden = true;
}
