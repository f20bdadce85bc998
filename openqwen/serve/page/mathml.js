// Nodes of MathML.

const NAMESPACE = "http://www.w3.org/1998/Math/MathML";

export function m(tag, attributes = {}, ...children) {
  const node = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const row = (nodes) => (nodes.length === 1 ? nodes[0] : m("mrow", {}, ...nodes));

/** A bracket that grows with what it encloses; TeX's "." is none. */
export const fence = (text, form) =>
  m("mo", { fence: "true", stretchy: "true", form }, text === "." ? "" : text);

export function binomial(top, below) {
  const inner = m("mfrac", { linethickness: "0" }, top, below);
  return m("mrow", {}, fence("(", "prefix"), inner, fence(")", "postfix"));
}

/** A name of several letters, which stands upright. */
export const named = (text) => m("mi", text.length === 1 ? { mathvariant: "normal" } : {}, text);

/** A node whose scripts stand above and below it: in displayed formulas, or always. */
export const withLimits = (node, limits = true) => Object.assign(node, { limits });
