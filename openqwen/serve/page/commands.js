// What LaTeX's commands with arguments make of them. Each takes the parser (math.js) and its own name; null
// draws nothing.

import { binomial, fence, m, named, row, withLimits } from "./mathml.js";

const found = new Map();

/** What a command does; undefined for one that is not known. */
export const command = (name) => found.get(name);

function define(names, make) {
  for (const name of names.split(" ")) found.set(name, make);
}

define("frac", (p) => m("mfrac", {}, p.argument(), p.argument()));
define("dfrac cfrac", (p) => displayed("true", m("mfrac", {}, p.argument(), p.argument())));
define("tfrac", (p) => displayed("false", m("mfrac", {}, p.argument(), p.argument())));
define("binom dbinom tbinom", (p) => binomial(p.argument(), p.argument()));

const displayed = (displaystyle, node) => m("mstyle", { displaystyle }, node);

define("sqrt", (p) => {
  const index = p.optional();
  return index ? m("mroot", {}, p.argument(), index) : m("msqrt", {}, p.argument());
});

define("text textrm mbox textnormal hbox textit textbf texttt textsf", (p, name) => {
  const text = p.braced().replace(/\\([%$#&_{} ])/g, "$1");
  return m("mtext", { class: name }, text.replace(/^ | $/g, "\u00a0")); // MathML drops spaces at the ends
});

define("operatorname operatorname* mathop", (p, name) => {
  const node = named(p.braced().replace(/\\[a-z]+|[\\,{}]/g, ""));
  return name === "operatorname" ? node : withLimits(node);
});

define("overset stackrel", (p) => {
  const above = p.argument();
  return m("mover", {}, p.argument(), above);
});

define("underset", (p) => {
  const below = p.argument();
  return m("munder", {}, p.argument(), below);
});

define("xrightarrow xleftarrow", (p, name) => {
  const below = p.optional();
  const above = p.argument();
  const arrow = m("mo", { stretchy: "true" }, name === "xrightarrow" ? "→" : "←");
  return below ? m("munderover", {}, arrow, below, above) : m("mover", {}, arrow, above);
});

define("boxed fbox", (p) => m("mrow", { class: "boxed" }, p.argument()));
define("cancel bcancel xcancel", (p) => m("mrow", { class: "cancel" }, p.argument()));
define("phantom hphantom vphantom", (p) => m("mphantom", {}, p.argument()));
define("not", (p) => m("mo", {}, `${p.argument().textContent}\u0338`));
define("bmod mod", () => m("mo", { lspace: "0.3em", rspace: "0.3em" }, "mod"));

define("pmod", (p) => {
  const inside = [
    m("mo", {}, "("),
    named("mod"),
    m("mspace", { width: "0.33em" }),
    p.argument(),
    m("mo", {}, ")"),
  ];
  return m("mrow", {}, m("mspace", { width: "0.5em" }), ...inside);
});

define("left", (p) => p.between());
define("begin", (p) => p.environment());
define("substack", (p) => (p.take() === "{" ? p.table("}") : m("mrow")));

define("big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm", (p, name) => {
  const size = (name[0] === "B" ? 1.8 : 1.2) + (name.includes("gg") ? 1.2 : 0);
  const height = { minsize: `${size}em`, maxsize: `${size}em` };
  return m("mo", { stretchy: "true", symmetric: "true", ...height }, p.delimiter());
});

define("tag tag*", (p) => m("mtext", {}, `\u2003(${p.braced()})`));
define("color label vspace hspace", (p) => (p.braced(), null));
define("textcolor colorbox", (p) => (p.braced(), p.argument()));

const SILENT = "displaystyle textstyle scriptstyle limits nolimits nonumber notag hline allowbreak";
define(SILENT, () => null);

const SWITCHES = { bf: "bold", bfseries: "bold", rm: "normal", cal: "script", it: null };
define(Object.keys(SWITCHES).join(" "), (p, name) => {
  p.font = SWITCHES[name]; // up to the end of the group
  return null;
});

const FENCES = { pmatrix: "()", bmatrix: "[]", Bmatrix: "{}", vmatrix: "||", Vmatrix: "‖‖", cases: "{." };
const ALIGNED = ["align", "aligned", "alignat", "split", "eqnarray"];

/** How an environment is drawn: its brackets and the class of its table. */
export function environment(name) {
  const [open, close] = Object.hasOwn(FENCES, name) ? FENCES[name] : "..";
  const look = name === "cases" ? "cases" : ALIGNED.includes(name) ? "aligned" : "matrix";
  const wrap = (table) =>
    open === "." ? table : row([fence(open, "prefix"), table, fence(close, "postfix")]);
  return { look, wrap };
}
