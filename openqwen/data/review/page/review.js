// The review page. Documents are shown with textContent only: whatever they hold, it stays text.
const $ = (id) => document.getElementById(id);
const NAME = "openqwen.reviewer";
const KEYS = { k: "keep", d: "drop", s: "skip", u: "undo" };

let shown = null; // the document on the page
let busy = false;

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function say(text) {
  $("status").textContent = text;
  $("status").hidden = !text;
}

const facts = (list, pairs) =>
  list.replaceChildren(
    ...pairs.map(([name, value]) => {
      const row = make("div");
      row.append(make("dt", name), make("dd", value));
      return row;
    }),
  );

function fill(node, pieces, length) {
  const sent = pieces.reduce((sum, [text]) => sum + [...text].length, 0);
  node.replaceChildren(...pieces.map(([text, marked]) => (marked ? make("mark", text) : document.createTextNode(text))));
  if (sent < length) node.append(make("span", `\n… ${(length - sent).toLocaleString()} more characters`, "rest"));
  node.scrollTop = 0;
}

function draw({ document: found, done, total }) {
  shown = found;
  $("progress").max = total || 1;
  $("progress").value = done;
  $("count").textContent = `${done} of ${total}`;
  $("document").hidden = !found;
  $("end").hidden = Boolean(found);
  $("buttons").hidden = false;
  for (const id of ["keep", "drop", "skip"]) $(id).disabled = !found;
  if (!found) return;
  const kept = found.step === null;
  $("decision").textContent = kept ? "kept" : `dropped by ${found.step}: ${found.reason}`;
  $("decision").className = kept ? "kept" : "dropped";
  $("detail").textContent = found.detail ?? "";
  facts($("facts"), [["source", found.source], ["language", found.lang || "unknown"], ["bytes", found.bytes.toLocaleString()]]);
  facts($("scores"), Object.entries(found.scores).map(([name, value]) => [name, String(value)]));
  $("name").textContent = found.id;
  fill($("text"), found.pieces, found.length);
  $("beside").hidden = !found.other;
  if (found.other) {
    $("other-name").textContent = `${found.other.name} — ${found.other.about}`;
    fill($("other"), found.other.pieces, found.other.length);
  }
  if (!found.other && found.of) $("detail").textContent += ` ${found.of}`;
  scrollTo(0, 0);
}

async function ask(path, body) {
  if (busy) return null; // a key held down must not judge documents nobody has seen
  busy = true;
  try {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(path, body && post);
    const reply = await response.json();
    if (!response.ok) throw new Error(typeof reply.detail === "string" ? reply.detail : "the server refuses that");
    say("");
    return reply;
  } catch (error) {
    say(`Not saved: ${error.message}`);
    return null;
  } finally {
    busy = false;
  }
}

const looking = () => !$("results").hidden; // at the results
const reviewer = () => $("reviewer").value.trim();

async function begin() {
  localStorage.setItem(NAME, reviewer());
  if (!reviewer()) {
    say("Enter your name: judgements are kept by reviewer.");
    $("reviewer").focus();
    return;
  }
  const reply = await ask(`/next?reviewer=${encodeURIComponent(reviewer())}`);
  if (reply) draw(reply);
}

async function act(what) {
  if (!reviewer()) return begin();
  if (looking() || (what !== "undo" && !shown)) return;
  const said = what === "undo" ? { reviewer: reviewer() } : { reviewer: reviewer(), place: shown.place, verdict: what };
  const reply = await ask(what === "undo" ? "/undo" : "/judge", said);
  if (reply) draw(reply);
}

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);

function tableOf(groups) {
  const table = make("table");
  const head = make("tr");
  const names = ["", "documents", "judged", "people would drop", "95 % interval", "covered"];
  head.append(...names.map((text) => make("th", text)));
  table.append(head);
  for (const group of groups)
    for (const line of [group, ...group.parts]) {
      const row = make("tr", undefined, line === group ? "whole" : "part");
      const interval = line.share === null ? "–" : `${percent(line.low)} to ${percent(line.high)}`;
      const cells = [line.name, line.size.toLocaleString(), line.judged, percent(line.share), interval, percent(line.covered)];
      row.append(...cells.map((text) => make("td", text)));
      table.append(row);
    }
  const wide = make("div", undefined, "wide");
  wide.append(table);
  return wide;
}

async function results() {
  const found = await ask("/summary");
  if (!found) return false;
  const { pairs, share } = found.agreement;
  const said = Object.entries(found.reviewers).map(([name, count]) => `${name}: ${count}`).join(", ") || "nobody yet";
  const agreed = pairs ? ` Two people agreed on ${percent(share)} of ${pairs} pairs.` : "";
  $("results").replaceChildren(
    tableOf([...(found.kept ? [found.kept] : []), ...found.filters]),
    make("p", `Judgements: ${said}.${agreed} Covered: the share of documents whose reason or source was looked at.`),
  );
  return true;
}

async function toggle() {
  const open = !looking() && (await results());
  $("results").hidden = !open;
  $("show").setAttribute("aria-expanded", String(open));
  $("desk").hidden = open; // nobody judges what is not seen
}

for (const id of Object.values(KEYS)) $(id).onclick = () => act(id);
$("show").onclick = toggle;
$("reviewer").onchange = begin;
document.onkeydown = (event) => {
  if (event.target === $("reviewer")) {
    if (event.key === "Enter") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const what = KEYS[event.key.toLowerCase()];
  if (what) act(what);
  else if (event.key.toLowerCase() === "r") toggle();
};

$("reviewer").value = new URLSearchParams(location.search).get("reviewer") ?? localStorage.getItem(NAME) ?? "";
begin();
