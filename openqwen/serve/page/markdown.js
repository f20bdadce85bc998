// Markdown to DOM nodes. Text reaches the page only through textContent, so nothing in a reply can become markup
// or script; links keep only http, https and mailto. Covers what chat models write: headings, paragraphs, lists,
// quotes, fenced and inline code, bold, italics, links, rules, tables.

const el = (tag, ...children) => {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
};

const INLINE = /(`+)([\s\S]+?)\1(?!`)|\*\*([^\n]+?)\*\*|\*([^*\s][^*\n]*?)\*|\[([^[\]\n]+)\]\(([^)\s]+)\)/;

export function inline(text) {
  const nodes = [];
  for (let match; (match = INLINE.exec(text)); text = text.slice(match.index + match[0].length)) {
    if (match.index) nodes.push(text.slice(0, match.index));
    if (match[1]) nodes.push(el("code", match[2]));
    else if (match[3]) nodes.push(el("strong", ...inline(match[3])));
    else if (match[4]) nodes.push(el("em", ...inline(match[4])));
    else nodes.push(link(match[5], match[6]));
  }
  if (text) nodes.push(text);
  return nodes;
}

function link(label, target) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return `${label} (${target})`;
  const node = el("a", label);
  node.href = target;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  return node;
}

function codeBlock(text) {
  const copy = el("button", "Copy");
  copy.type = "button";
  copy.onclick = () => navigator.clipboard.writeText(text);
  const node = el("div", el("pre", el("code", text)), copy);
  node.className = "code";
  return node;
}

const DEPTH = 12; // quotes within quotes
const LIST = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

// Each reader takes the lines and a position; it returns [node, next position], or null if it does not apply.
const readers = [
  function fence(lines, at) {
    const open = /^\s*(```+|~~~+)/.exec(lines[at]);
    if (!open) return null;
    let end = at + 1;
    while (end < lines.length && !lines[end].trim().startsWith(open[1])) end++;
    return [codeBlock(lines.slice(at + 1, end).join("\n")), end + 1];
  },
  function heading(lines, at) {
    const match = /^(#{1,6})\s+(.*)$/.exec(lines[at]);
    return match && [el(`h${Math.min(6, match[1].length + 1)}`, ...inline(match[2])), at + 1];
  },
  function rule(lines, at) {
    return /^\s*([-*_])(\s*\1){2,}\s*$/.test(lines[at]) ? [el("hr"), at + 1] : null;
  },
  function quote(lines, at, depth) {
    if (depth >= DEPTH) return null;
    let end = at;
    while (end < lines.length && /^\s*>/.test(lines[end])) end++;
    if (end === at) return null;
    const inner = lines.slice(at, end).map((line) => line.replace(/^\s*> ?/, ""));
    return [el("blockquote", ...blocks(inner, depth + 1)), end];
  },
  function list(lines, at) {
    const first = LIST.exec(lines[at]);
    if (!first) return null;
    const ordered = /\d/.test(first[2]);
    const node = el(ordered ? "ol" : "ul");
    if (ordered) node.start = parseInt(first[2], 10);
    let end = at;
    while (end < lines.length) {
      const match = LIST.exec(lines[end]);
      if (!match || match[1].length < first[1].length) break;
      if (match[1].length > first[1].length && node.lastChild) {
        const [inner, next] = list(lines, end);
        node.lastChild.append(inner);
        end = next;
      } else {
        node.append(el("li", ...inline(match[3])));
        end++;
      }
    }
    return [node, end];
  },
  function table(lines, at) {
    if (!/\|/.test(lines[at]) || !/^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "")) return null;
    const row = (tag, line) => el("tr", ...cells(line).map((cell) => el(tag, ...inline(cell))));
    let end = at + 2;
    while (end < lines.length && lines[end].includes("|")) end++;
    const body = lines.slice(at + 2, end).map((line) => row("td", line));
    return [el("table", el("thead", row("th", lines[at])), el("tbody", ...body)), end];
  },
];

function blocks(lines, depth = 0) {
  const nodes = [];
  let paragraph = [];
  const close = () => {
    if (paragraph.length) nodes.push(el("p", ...inline(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    let found = null;
    for (const reader of readers) if ((found = reader(lines, at, depth))) break;
    if (found) {
      close();
      nodes.push(found[0]);
      at = found[1];
    } else {
      if (lines[at].trim()) paragraph.push(lines[at]);
      else close();
      at++;
    }
  }
  close();
  return nodes;
}

export const markdown = (text) => blocks(text.split("\n"));
