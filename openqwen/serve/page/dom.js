// Nodes of the page. Whatever a model or a person wrote becomes text or an attribute here, never markup.

export const $ = (id) => document.getElementById(id);

/**
 * An element; properties: `class`, `on...` listeners, and attributes (undefined, null and false are left
 * out).
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Outlines on a grid of 24.
const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4 4",
  close: "M6 6l12 12M18 6L6 18",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.5 11v5M13.5 11v5",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  up: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  tokens: "M4 8h6v8H4zM13 8h7v8h-7z",
  columns: "M4 5h7v14H4zM13 5h7v14h-7z",
  sliders: "M4 8h8M18 8h2M4 16h3M13 16h7M15 5.5v5M10 13.5v5",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
  tool: "M14.5 6.5a4 4 0 0 0-5.3 5L4 16.7l3.3 3.3 5.2-5.2a4 4 0 0 0 5-5.3l-2.7 2.7-2.5-.5-.5-2.5z",
  thumb:
    "M7 11v8H4v-8zM7 11l4-7c1.5 0 2.3 1 2 2.5L12.5 10H18c1.2 0 2 1 1.7 2.2l-1.3 5.3c-.2.9-1 1.5-1.9 1.5H7",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The entry of a table; undefined for what every object has, such as "constructor". */
export const entry = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

/** A button that shows an icon; the label is read out and shown on hover. */
export function iconButton(name, label, onclick, properties = {}) {
  const given = { type: "button", class: "icon", "aria-label": label, title: label, onclick };
  return el("button", { ...given, ...properties }, icon(name));
}

/** A button with words. */
export const textButton = (label, onclick, properties = {}) =>
  el("button", { type: "button", onclick, ...properties }, label);

/** Puts text on the clipboard and shows so on the button for a moment. */
export async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  const before = [...button.childNodes];
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(...before), 1200);
}

/** Hands the visitor a file. */
export function download(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
