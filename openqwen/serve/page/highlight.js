// Colours of code: comments, strings, numbers, keywords and calls of the languages that chat models write
// most. One pass with one expression a language; every alternative begins with a fixed mark, so hostile code
// is linear too.

import { el, entry } from "./dom.js";

const END = "(?![\\s\\S])";
const QUOTES = `"(?:\\\\.|[^"\\\\\\n])*"?|'(?:\\\\.|[^'\\\\\\n])*'?`;
const TICKS = "`(?:\\\\[\\s\\S]|[^`\\\\])*`?";
const TRIPLE = `"""[\\s\\S]*?(?:"""|${END})|'''[\\s\\S]*?(?:'''|${END})`;
const SLASHES = `\\/\\/.*|\\/\\*[\\s\\S]*?(?:\\*\\/|${END})`;
const NUMBER = "\\b(?:0[xX][\\da-fA-F_]+|0[bB][01_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w?";
const WORD = "[A-Za-z_$][\\w$]*";

const C_WORDS = `
    auto bool break case char class const continue default delete do double else enum extern false float
    for goto if int long namespace new nullptr operator private protected public return short signed
    sizeof static struct switch template this throw true try catch typedef typename union unsigned using
    virtual void volatile while NULL
  `;
const JS_WORDS = `
    async await break case catch class const continue debugger default delete do else export extends
    false finally for from function if import in instanceof interface let new null of return static
    super switch this throw true try type typeof undefined var void while with yield enum implements
    private public readonly
  `;

const language = (words, comment, strings, flags = "") => ({
  words: new Set(words.trim().split(/\s+/)),
  pattern: new RegExp(
    `(?<comment>${comment})|(?<string>${strings})|(?<number>${NUMBER})|(?<word>${WORD})`,
    `g${flags}`,
  ),
  fold: flags.includes("i"),
});

const LANGUAGES = {
  python: language(
    `
    and as assert async await break case class continue def del elif else except False finally for from
    global if import in is lambda match None nonlocal not or pass raise return True try while with yield
    self
  `,
    "#.*",
    `${TRIPLE}|${QUOTES}`,
  ),
  javascript: language(JS_WORDS, SLASHES, `${QUOTES}|${TICKS}`),
  json: language("true false null", SLASHES, QUOTES),
  c: language(C_WORDS, `${SLASHES}|^[ \\t]{0,40}#[a-z]+`, QUOTES, "m"),
  java: language(
    `
    ${C_WORDS} abstract boolean byte extends final finally implements import instanceof interface native
    null package super synchronized throws var record
  `,
    SLASHES,
    QUOTES,
  ),
  go: language(
    `
    break case chan const continue default defer else fallthrough for func go goto if import interface
    map nil package range return select struct switch type var true false
  `,
    SLASHES,
    `${QUOTES}|${TICKS}`,
  ),
  rust: language(
    `
    as async await break const continue crate dyn else enum extern false fn for if impl in let loop
    match mod move mut pub ref return self Self static struct super trait true type unsafe use where
    while
  `,
    SLASHES,
    `"(?:\\\\[\\s\\S]|[^"\\\\])*"?`,
  ),
  bash: language(
    `
    if then else elif fi for in do done while until case esac function return local export echo cd exit
    set source sudo
  `,
    "(?<![\\w$])#.*",
    QUOTES,
  ),
  sql: language(
    `
    select from where insert into values update set delete create table drop alter add join left right
    inner outer on as and or not null is in like between group by order having limit offset union all
    distinct primary key foreign references index view case when then else end exists default int
    integer text varchar
  `,
    `--.*|\\/\\*[\\s\\S]*?(?:\\*\\/|${END})`,
    QUOTES,
    "i",
  ),
  yaml: language("true false null yes no", "(?<!\\w)#.*", QUOTES),
  css: language("important", `\\/\\*[\\s\\S]*?(?:\\*\\/|${END})`, QUOTES),
};

const ALIASES = {
  py: "python",
  python3: "python",
  js: "javascript",
  jsx: "javascript",
  ts: "javascript",
  typescript: "javascript",
  tsx: "javascript",
  json5: "json",
  jsonl: "json",
  cpp: "c",
  "c++": "c",
  h: "c",
  cc: "c",
  cuda: "c",
  csharp: "java",
  "c#": "java",
  cs: "java",
  kotlin: "java",
  scala: "java",
  swift: "java",
  golang: "go",
  rs: "rust",
  sh: "bash",
  shell: "bash",
  zsh: "bash",
  console: "bash",
  yml: "yaml",
  toml: "yaml",
  ini: "yaml",
  scss: "css",
};

const MARKUP = new RegExp(
  `(?<comment><!--[\\s\\S]*?(?:-->|${END}))|(?<keyword><\\/?[A-Za-z][\\w:-]*|\\/?>)|(?<string>"[^"\\n]*"?)`,
  "g",
);

/** Code as text and coloured spans; plain text where the language is not known. */
export function highlight(code, name) {
  const wanted = name.toLowerCase();
  if (wanted === "diff") return code.split(/(?<=\n)/).map(diffLine);
  if (["html", "xml", "svg", "vue"].includes(wanted))
    return paint(code, MARKUP, (groups) => Object.keys(groups).find((key) => groups[key]));
  const found = entry(LANGUAGES, entry(ALIASES, wanted) ?? wanted);
  return found ? paint(code, found.pattern, (groups, next) => kind(found, groups, next)) : [code];
}

function kind({ words, fold }, groups, next) {
  if (groups.word === undefined)
    return ["comment", "string", "number"].find((key) => groups[key] !== undefined);
  if (words.has(fold ? groups.word.toLowerCase() : groups.word)) return "keyword";
  return next === "(" ? "call" : null;
}

function paint(code, pattern, kindOf) {
  const nodes = [];
  let plain = 0;
  for (const match of code.matchAll(pattern)) {
    const end = match.index + match[0].length;
    const found = kindOf(match.groups, code[end]);
    if (!found) continue;
    if (match.index > plain) nodes.push(code.slice(plain, match.index));
    nodes.push(el("span", { class: `code-${found}` }, match[0]));
    plain = end;
  }
  if (plain < code.length) nodes.push(code.slice(plain));
  return nodes;
}

function diffLine(line) {
  const found = { "+": "added", "-": "removed", "@": "comment" }[line[0]];
  return found ? el("span", { class: `code-${found}` }, line) : line;
}
