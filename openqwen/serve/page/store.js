// Where conversations are kept: this browser's IndexedDB. Settings are small and are kept in localStorage.

const NAME = "openqwen";

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opened = null;

function database() {
  if (opened) return opened;
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
  return (opened = settled(request));
}

async function conversations(mode) {
  return (await database()).transaction("conversations", mode).objectStore("conversations");
}

/** All conversations, last used first. */
export async function all() {
  const found = await settled((await conversations("readonly")).getAll());
  return found.sort((a, b) => b.updated - a.updated);
}

export const put = async (conversation) => settled((await conversations("readwrite")).put(conversation));

export const remove = async (id) => settled((await conversations("readwrite")).delete(id));

const SETTINGS = "openqwen.settings";

/** The saved settings over the given ones. */
export function loadSettings(defaults) {
  try {
    return { ...defaults, ...JSON.parse(localStorage.getItem(SETTINGS)) };
  } catch (error) {
    console.warn("saved settings could not be read", error);
    return { ...defaults };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch (error) {
    console.warn("settings are not kept", error); // a browser that keeps nothing; they hold until the tab is closed
  }
}
