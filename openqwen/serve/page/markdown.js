// Markdown to nodes. Text reaches the page only as text, so nothing in a reply can become markup or script;
// links keep only http, https and mailto, pictures only what the reply itself holds. Covers what chat models
// write: headings, paragraphs, lists, quotes, code, emphasis, links, rules, tables, formulas. Costs time in
// proportion to the text: every search for a closing mark looks LOOK characters ahead at most.

import { copy, el, iconButton } from "./dom.js";
import { highlight } from "./highlight.js";
import { math } from "./math.js";

const LOOK = 4000;
const DEPTH = 8; // quotes, lists and emphasis within each other
const PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+$/;

/** A picture that stands in the text itself; null for any other address: nothing is fetched from anywhere. */
export const picture = (address, label) =>
  PICTURE.test(address) ? el("img", { src: address, alt: label || "picture", ...size(address) }) : null;

/** Width and height of a PNG from its head, so that the page does not jump once it is decoded. */
function size(address) {
  const head = /^data:image\/png;base64,([A-Za-z0-9+/]{32})/.exec(address);
  if (!head) return {};
  const bytes = [...atob(head[1])].map((letter) => letter.charCodeAt(0));
  const number = (at) => bytes.slice(at, at + 4).reduce((sum, byte) => 256 * sum + byte, 0);
  return { width: number(16), height: number(20) };
}

// Within a line. Each reader takes the text and the place of its mark; it returns [nodes, next place] or
// null.

function find(text, mark, from) {
  const found = text.slice(from, from + LOOK).indexOf(mark);
  return found < 0 ? -1 : from + found;
}

function codeSpan(text, at) {
  const ticks = /^`+/.exec(text.slice(at, at + LOOK))[0];
  for (let end = at + ticks.length; (end = find(text, ticks, end)) >= 0 && end < at + LOOK;) {
    if (text[end + ticks.length] !== "`" && text[end - 1] !== "`") {
      const inner = text.slice(at + ticks.length, end);
      return [[el("code", {}, /^ .* $/.test(inner) ? inner.slice(1, -1) : inner)], end + ticks.length];
    }
    while (text[end] === "`") end++;
  }
  return [[ticks], at + ticks.length];
}

function emphasis(text, at, depth) {
  const mark = text[at];
  const double = text[at + 1] === mark;
  const marks = double ? mark + mark : mark;
  const start = at + marks.length;
  if (mark === "~" && !double) return null;
  if (/^\s?$/.test(text[start] ?? "") || (mark === "_" && /\w/.test(text[at - 1] ?? ""))) return null;
  let end = find(text, marks, start + 1);
  if (!double) end = single(text, mark, end);
  if (double && text[end + 2] === mark) end++; // ***both***
  if (end < 0 || /\s/.test(text[end - 1]) || (mark === "_" && /\w/.test(text[end + marks.length] ?? "")))
    return null;
  const tag = mark === "~" ? "del" : double ? "strong" : "em";
  return [[el(tag, {}, ...inline(text.slice(start, end), depth + 1))], end + marks.length];
}

/** The first mark from a place on that stands alone; double ones belong to emphasis inside. */
function single(text, mark, from) {
  let end = from;
  for (let runs = 0; end >= 0 && text[end + 1] === mark && runs < 20; runs++) end = find(text, mark, end + 2);
  return text[end + 1] === mark ? -1 : end;
}

function link(text, at, depth) {
  const shown = text[at] === "!";
  const open = shown ? at + 2 : at + 1;
  if (shown && text[at + 1] !== "[") return null;
  const middle = find(text, "](", open);
  const end = middle < 0 ? -1 : shown ? text.indexOf(")", middle) : find(text, ")", middle);
  if (end < 0) return null;
  const [label, target] = [
    text.slice(open, middle),
    text
      .slice(middle + 2, end)
      .replace(/\s+["'(].{0,300}$/, "")
      .trim(),
  ];
  if (/[[\]\n]/.test(label)) return null;
  if (shown)
    return [
      [picture(target, label) ?? anchor(target, [label || "picture"]) ?? `${label} (${target})`],
      end + 1,
    ];
  return [[anchor(target, inline(label, depth + 1)) ?? `${label} (${target})`], end + 1];
}

function anchor(target, nodes) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return null;
  return el("a", { href: target, rel: "noopener noreferrer nofollow", target: "_blank" }, ...nodes);
}

function address(text, at) {
  const found = /^https?:\/\/[^\s<>"'`*|]{1,1000}/.exec(text.slice(at, at + 1010));
  if (!found || /\w/.test(text[at - 1] ?? "")) return null;
  const target = found[0].replace(/[.,;:!?)\]]{1,20}$/, "");
  return [[anchor(target, [target])], at + target.length];
}

function formula(text, at) {
  for (const [open, close, display] of [
    ["$$", "$$", true],
    ["\\[", "\\]", true],
    ["\\(", "\\)", false],
  ]) {
    if (!text.startsWith(open, at)) continue;
    const end = find(text, close, at + 2);
    return end > at + 2 ? [[math(text.slice(at + 2, end), display)], end + 2] : null;
  }
  if (text[at] !== "$") return null;
  const end = find(text, "$", at + 1);
  const inner = text.slice(at + 1, end);
  // "$5 and $6" is money: a closing dollar follows no space and is not followed by a digit.
  if (end <= at + 1 || /^\s|\s$|\n\n/.test(inner) || /\d/.test(text[end + 1] ?? "")) return null;
  return [[math(inner, false)], end + 1];
}

function backslash(text, at) {
  return /[\\`*_{}[\]()#+\-.!~|$>]/.test(text[at + 1] ?? "") ? [[text[at + 1]], at + 2] : null;
}

const MARKS = {
  "`": [codeSpan],
  "*": [emphasis],
  _: [emphasis],
  "~": [emphasis],
  "[": [link],
  "!": [link],
  $: [formula],
  h: [address],
  "\\": [formula, backslash],
  "\n": [(_, at) => [[el("br")], at + 1]],
  "<": [
    (text, at) =>
      /^<br ?\/?>/i.test(text.slice(at, at + 6)) ? [[el("br")], text.indexOf(">", at) + 1] : null,
  ],
};
const MARK = /[`*_~[!$\\\n<]|h(?=ttps?:\/\/)/g;

/** The nodes of one stretch of text. */
export function inline(text, depth = 0) {
  if (depth > DEPTH) return [text];
  const nodes = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    MARK.lastIndex = at;
    const next = MARK.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at >= text.length) break;
    let found = null;
    for (const reader of MARKS[text[at]]) found ??= reader(text, at, depth);
    if (!found) {
      plain += text[at++];
      continue;
    }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(...found[0]);
    at = found[1];
  }
  if (plain) nodes.push(plain);
  return nodes;
}

/** A block of code with its language and a button that copies it. */
export function codeBlock(text, language = "") {
  const button = iconButton("copy", "Copy code", () => copy(text, button));
  const head = el("div", { class: "code-head" }, el("span", {}, language), button);
  return el(
    "div",
    { class: "code" },
    head,
    el("pre", { tabindex: 0 }, el("code", {}, ...highlight(text, language))),
  );
}

// Blocks. Each reader takes the lines and a place; it returns [what makes the node, next place] or null.

const LIST = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*)|)$/;
const cells = (line) =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());
const indent = (line) => /^\s*/.exec(line)[0].replace(/\t/g, "    ").length;

function fenced(lines, at) {
  const open = /^(\s*)(```+|~~~+)\s*([^\s`{]*)/.exec(lines[at]);
  if (!open) return null;
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(open[2]) && /^[`~\s]+$/.test(lines[end])))
    end++;
  const inner = lines
    .slice(at + 1, end)
    .map((line) => (line.startsWith(open[1]) ? line.slice(open[1].length) : line));
  return [() => codeBlock(inner.join("\n"), open[3]), end + 1];
}

function displayed(lines, at) {
  const line = lines[at].trim();
  const [open, close] =
    [
      ["$$", "$$"],
      ["\\[", "\\]"],
      ["\\begin{", "\\end{"],
    ].find(([mark]) => line.startsWith(mark)) ?? [];
  if (!open) return null;
  let text = line.slice(open.length);
  for (let end = at + 1; ; text += `\n${lines[end++]}`) {
    const stop = text.lastIndexOf(close);
    if (stop >= 0) {
      const bare = open === "\\begin{";
      if (!bare && text.slice(stop + close.length).trim()) return null; // words behind it: a paragraph
      const source = bare ? open + text : text.slice(0, stop);
      return [() => el("div", { class: "formula" }, math(source, true)), end];
    }
    if (end >= lines.length || text.length > LOOK) return null;
  }
}

function heading(lines, at) {
  const match = /^(#{1,6})\s+(.*)$/.exec(lines[at]);
  return (
    match && [
      () => el(`h${Math.min(6, match[1].length + 2)}`, {}, ...inline(match[2].replace(/\s#+$/, ""))),
      at + 1,
    ]
  );
}

const rule = (lines, at) =>
  /^ {0,3}([-*_])(?: ?\1){2,} *$/.test(lines[at]) ? [() => el("hr"), at + 1] : null;

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && /^\s*>/.test(lines[end])) end++;
  if (end === at) return null;
  const inner = lines.slice(at, end).map((line) => line.replace(/^\s*> ?/, ""));
  return [() => el("blockquote", {}, ...nodesOf(inner, depth + 1)), end];
}

function list(lines, at, depth) {
  const first = LIST.exec(lines[at]);
  if (!first) return null;
  const ordered = /\d/.test(first[2]);
  const base = indent(lines[at]);
  const items = [];
  let loose = false;
  let end = at;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const match = LIST.exec(line);
    if (match && indent(line) < base + 2) {
      if (indent(line) < base || /\d/.test(match[2]) !== ordered) break;
      items.push({ width: match[1].length + match[2].length + 1, lines: [match[3] ?? ""] });
    } else if (!line.trim()) {
      const next = lines[end + 1];
      if (next === undefined || (indent(next) <= base && !LIST.test(next))) break;
      loose ||= LIST.test(next) && indent(next) < base + 2;
      items.at(-1).lines.push("");
    } else if (indent(line) > base || lines[end - 1].trim()) {
      const { width, lines: own } = items.at(-1);
      if (indent(line) <= base && readers.some((reader) => reader !== list && reader(lines, end, depth)))
        break;
      own.push(line.slice(Math.min(indent(line), width)));
    } else break;
  }
  return [
    () =>
      el(
        ordered ? "ol" : "ul",
        { start: ordered ? parseInt(first[2], 10) : null },
        ...items.map((item) => listItem(item, loose, depth)),
      ),
    end,
  ];
}

function listItem({ lines }, loose, depth) {
  const box = /^\[([ xX])\]\s+/.exec(lines[0]);
  if (box) lines[0] = lines[0].slice(box[0].length);
  const nodes = nodesOf(lines, depth + 1);
  const single = nodes[0]?.tagName === "P" && nodes.filter(({ tagName }) => tagName === "P").length === 1;
  const tight = single && !loose ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
  if (!box) return el("li", {}, ...tight);
  const tick = el("input", {
    type: "checkbox",
    disabled: true,
    checked: box[1] !== " ",
    "aria-label": "task",
  });
  return el("li", { class: "task" }, tick, ...tight);
}

function table(lines, at) {
  const rules = (lines[at + 1] ?? "").includes("-") ? cells(lines[at + 1]) : [];
  if (!lines[at].includes("|") || !rules.length || !rules.every((cell) => /^:?-+:?$/.test(cell))) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const side = rules.map((cell) => (cell.endsWith(":") ? (cell[0] === ":" ? "middle" : "right") : null));
  const tr = (tag, line) =>
    el(
      "tr",
      {},
      ...cells(line).map((cell, i) => el(tag, { class: side[i] }, ...inline(cell.replaceAll("\\|", "|")))),
    );
  const rows = lines.slice(at + 2, end);
  const make = () =>
    el(
      "table",
      {},
      el("thead", {}, tr("th", lines[at])),
      el("tbody", {}, ...rows.map((line) => tr("td", line))),
    );
  return [() => el("div", { class: "wide", tabindex: 0 }, make()), end];
}

const readers = [fenced, displayed, heading, rule, quote, list, table];

/** The blocks of lines in order: [source, what makes the node]. */
function blocks(lines, depth) {
  const found = [];
  let paragraph = [];
  const close = () => {
    const text = paragraph.join("\n");
    if (text) found.push([text, () => el("p", {}, ...inline(text, depth))]);
    paragraph = [];
  };
  for (let at = 0; at < lines.length;) {
    let block = null;
    if (depth < DEPTH && lines[at].trim()) for (const reader of readers) block ??= reader(lines, at, depth);
    if (block) {
      close();
      found.push([lines.slice(at, block[1]).join("\n"), block[0]]);
      at = block[1];
    } else {
      if (lines[at].trim()) paragraph.push(lines[at].trimStart());
      else close();
      at++;
    }
  }
  close();
  return found;
}

const nodesOf = (lines, depth) => blocks(lines, depth).map(([, make]) => make());

/** The nodes of a text. */
export const markdown = (text) => nodesOf(text.split("\n"), 0);

/** The blocks of a text in order: [source, what makes the node]. */
export const textBlocks = (text) => blocks(text.split("\n"), 0);

/**
 * Shows blocks that grow: those whose source has not changed keep their nodes, so what is selected or
 * scrolled stays.
 */
export function growBlocks(container, found) {
  if (!container.sources) container.replaceChildren();
  const before = container.sources ?? [];
  const sources = found.map(([source]) => source);
  let same = 0;
  while (same < before.length && before[same] === sources[same]) same++;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...found.slice(same).map(([, make]) => make()));
  container.sources = sources;
}

/** Shows a text that grows. */
export const grow = (container, text) => growBlocks(container, textBlocks(text));
