// Before the first paint: the chosen theme, so that a dark page does not flash white. Not a module, these
// wait.
try {
  document.documentElement.dataset.theme =
    JSON.parse(localStorage.getItem("openqwen.settings"))?.theme ?? "system";
} catch {
  document.documentElement.dataset.theme = "system"; // settings.js says what is wrong with them
}
