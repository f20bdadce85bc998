// Answers that the server has not confirmed yet: in this browser's storage, so that a closed page loses none.
// Each has an entry of its own: two tabs do not overwrite each other's.

const PREFIX = "openqwen.annotate.answer/";
const memory = new Map(); // what a browser that keeps nothing would lose with the page

const nameOf = (answer) => `${PREFIX}${answer.study}/${answer.key}`;

/** Keeps an answer. Returns whether it outlives the page. */
export function keep(answer) {
  memory.set(nameOf(answer), answer);
  try {
    localStorage.setItem(nameOf(answer), JSON.stringify(answer));
    return true;
  } catch (error) {
    console.warn("the answer is in this page only", error);
    return false;
  }
}

/** Forgets an answer: it is stored, or will never be taken. */
export function drop(answer) {
  memory.delete(nameOf(answer));
  localStorage.removeItem(nameOf(answer));
}

/** The answers of a study that wait. */
export function waiting(study) {
  const own = `${PREFIX}${study}/`;
  const found = new Map([...memory].filter(([name]) => name.startsWith(own)));
  for (const name of Object.keys(localStorage))
    if (name.startsWith(own)) found.set(name, JSON.parse(localStorage.getItem(name)));
  return [...found.values()];
}
