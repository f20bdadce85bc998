// LaTeX as chat models write it, to MathML, which browsers draw themselves. Reads everything and throws
// nothing: a command it does not know is shown as it stands, marked, and missing arguments are empty.

import { command, environment } from "./commands.js";
import { entry } from "./dom.js";
import { binomial, fence, m, named, row, withLimits } from "./mathml.js";
import { ACCENTS, BIG, FONTS, FUNCTIONS, IDENTIFIERS, LIMITS, OPERATORS, SPACES, styled } from "./symbols.js";

const LONGEST = 10_000;
const DEEPEST = 50;
const TOKEN = /\\(?:[A-Za-z]+\*?|[\s\S])|\d+(?:\.\d+)?|\s+|%[^\n]*|[\s\S]/gu;
const CLOSING = ["}", "&", "\\\\", "\\end", "\\right", "\\middle", "\\cr"];

/** LaTeX to a <math> node; source that is too long for one formula stays code. */
export function math(source, display) {
  if (source.length > LONGEST) {
    const code = document.createElement("code");
    code.textContent = source;
    return code;
  }
  const note = m("annotation", { encoding: "application/x-tex" }, source);
  const attributes = display ? { display: "block" } : {};
  return m("math", attributes, m("semantics", {}, m("mrow", {}, ...new Parser(source, display).all()), note));
}

class Parser {
  constructor(source, display) {
    this.tokens = source.match(TOKEN)?.filter((token) => token[0] !== "%") ?? [];
    this.at = 0;
    this.font = null;
    this.display = display;
    this.depth = 0;
  }

  all() {
    const nodes = this.row();
    if (["\\\\", "&"].includes(this.peek())) {
      this.at = 0; // several lines without an environment around them
      return [this.table(null, "aligned")];
    }
    this.at++;
    while (this.at < this.tokens.length) {
      nodes.push(...this.row());
      this.at++; // a brace, alignment mark or \right that nothing opened
    }
    return nodes;
  }

  peek() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at++;
    return this.tokens[this.at];
  }

  take() {
    const token = this.peek();
    this.at++;
    return token;
  }

  /** Nodes up to a token that closes something, which is left. */
  row(stops = []) {
    const nodes = [];
    const font = this.font; // \bf and its kind hold up to the end of the group
    for (let token; (token = this.peek()) !== undefined;) {
      if ([...CLOSING, ...stops].includes(token)) break;
      if (token === "\\over" || token === "\\choose") {
        this.at++;
        const top = row(nodes.splice(0));
        const below = row(this.row(stops));
        nodes.push(token === "\\over" ? m("mfrac", {}, top, below) : binomial(top, below));
        break;
      }
      const node = this.scripted(this.atom());
      if (node) nodes.push(node);
    }
    this.font = font;
    return nodes;
  }

  /** One argument: a group, or the next symbol. */
  argument() {
    const token = this.peek();
    if (token === undefined || token === "}" || token === "&") return m("mrow");
    if (/^\d./.test(token)) this.tokens.splice(this.at, 1, token[0], token.slice(1)); // \frac12 is a half
    return this.atom() ?? m("mrow");
  }

  group() {
    if (++this.depth > DEEPEST) {
      this.depth--;
      return m("mtext", { class: "unknown" }, this.raw());
    }
    const nodes = this.row();
    if (this.peek() === "}") this.at++;
    this.depth--;
    return m("mrow", {}, ...nodes);
  }

  /** The source up to the brace that closes an open one, which is taken. */
  raw() {
    let text = "";
    for (let open = 1; this.at < this.tokens.length;) {
      const token = this.tokens[this.at++];
      if (token === "{") open++;
      if (token === "}" && --open === 0) break;
      text += token;
    }
    return text;
  }

  braced() {
    if (this.peek() !== "{") return this.take() ?? "";
    this.at++;
    return this.raw();
  }

  optional() {
    if (this.peek() !== "[") return null;
    this.at++;
    const nodes = this.row(["]"]);
    if (this.peek() === "]") this.at++;
    return row(nodes);
  }

  withFont(font, read) {
    const before = this.font;
    this.font = font;
    const node = read();
    this.font = before;
    return node;
  }

  /** A node with the scripts and primes that follow it. */
  scripted(base) {
    let sub = null;
    let sup = null;
    let limits = base?.limits ? this.display || base.limits === "always" : false;
    for (let token; (token = this.peek()) !== undefined;) {
      if (token === "_" && !sub) sub = (this.at++, this.argument());
      else if (token === "^" && !sup) sup = (this.at++, this.argument());
      else if (token === "'" && !sup) sup = this.primes();
      else if (token === "\\limits" || token === "\\nolimits") limits = (this.at++, token === "\\limits");
      else break;
    }
    if (!sub && !sup) return base;
    const inner = base ?? m("mrow");
    const [under, over, both] = limits ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    if (sub && sup) return m(both, {}, inner, sub, sup);
    return sub ? m(under, {}, inner, sub) : m(over, {}, inner, sup);
  }

  primes() {
    let text = "";
    while (this.peek() === "'") text += (this.at++, "′");
    const mark = m("mo", {}, text);
    return this.peek() === "^" ? (this.at++, m("mrow", {}, mark, this.argument())) : mark;
  }

  /** One symbol, group or command; null for what draws nothing. */
  atom() {
    const token = this.take();
    if (token === "{") return this.group();
    if (token[0] === "\\" && token.length > 1) return this.command(token.slice(1));
    if (/^\d/.test(token)) return m("mn", {}, [...token].map((c) => styled(c, this.font)).join(""));
    if (/^\p{L}/u.test(token)) return identifier(token, this.font);
    if (token === "~") return m("mspace", { width: "0.33em" });
    if (token === "^" || token === "_") return (this.at--, null); // scripts of nothing
    // Only \left and \right make fences grow.
    if (/[()[\]|/]/.test(token)) return m("mo", { stretchy: "false" }, token);
    return m("mo", {}, { "-": "−", "*": "∗" }[token] ?? token);
  }

  command(name) {
    const has = (table) => Object.hasOwn(table, name);
    if (has(IDENTIFIERS)) return identifier(IDENTIFIERS[name], this.font === "bold" ? "bold" : null);
    if (has(OPERATORS)) return m("mo", { stretchy: "false" }, OPERATORS[name]);
    if (has(BIG)) return bigOperator(name);
    if (FUNCTIONS.has(name)) return named(name);
    if (has(LIMITS)) return withLimits(named(LIMITS[name]));
    if (has(SPACES)) return m("mspace", { width: SPACES[name] });
    if (has(ACCENTS)) return this.accent(...ACCENTS[name]);
    if (has(FONTS)) return this.withFont(FONTS[name], () => this.argument());
    const make = command(name);
    return make ? make(this, name) : m("mtext", { class: "unknown" }, `\\${name}`);
  }

  accent(mark, over, stretchy) {
    const mo = m("mo", { stretchy: String(Boolean(stretchy)) }, mark);
    const node = m(
      over ? "mover" : "munder",
      over ? { accent: "true" } : { accentunder: "true" },
      this.argument(),
      mo,
    );
    return /[⏞⏟]/.test(mark) ? withLimits(node, "always") : node;
  }

  delimiter() {
    const token = this.take() ?? ".";
    if (token[0] !== "\\" || token.length === 1) return { "<": "⟨", ">": "⟩" }[token] ?? token;
    return entry(OPERATORS, token.slice(1)) ?? entry(IDENTIFIERS, token.slice(1)) ?? token;
  }

  between() {
    const nodes = [fence(this.delimiter(), "prefix")];
    for (;;) {
      nodes.push(...this.row());
      const token = this.peek();
      if (token === "\\middle") nodes.push((this.at++, fence(this.delimiter(), "infix")));
      else if (token === "\\right")
        return (this.at++, m("mrow", {}, ...nodes, fence(this.delimiter(), "postfix")));
      else return m("mrow", {}, ...nodes); // never closed, or closed by what closes something outside
    }
  }

  environment() {
    const name = this.braced().replace("*", "");
    if (["array", "tabular", "alignat"].includes(name)) this.braced(); // the columns' alignment
    if (++this.depth > DEEPEST) return (this.depth--, m("mtext", { class: "unknown" }, name));
    const { look, wrap } = environment(name);
    const table = this.table("\\end", look);
    this.braced();
    this.depth--;
    return wrap(table);
  }

  /** Rows and cells up to a token, which is taken. */
  table(end, look = "matrix") {
    const table = m("mtable", { class: look, ...(look === "aligned" && { displaystyle: "true" }) });
    let cells = [];
    const close = () => {
      if (cells.length > 1 || cells[0]?.childNodes.length) table.append(m("mtr", {}, ...cells));
      cells = [];
    };
    for (;;) {
      cells.push(m("mtd", {}, ...this.row()));
      const token = this.take();
      if (token === "&") continue;
      close();
      if (token === "\\\\" || token === "\\cr") this.optional();
      else if (token === end || token === undefined) return table;
      else if (end === "}" && token === "\\end") return (this.at--, table);
    }
  }
}

function bigOperator(name) {
  const node = m("mo", { movablelimits: "false", largeop: "true" }, BIG[name]);
  return withLimits(node, !name.includes("int"));
}

function identifier(letter, font) {
  const upright = font === "normal" || /^[\u0391-\u03a9∞∅]$/.test(letter); // TeX's capital Greek stands upright
  return m("mi", upright ? { mathvariant: "normal" } : {}, styled(letter, font));
}
