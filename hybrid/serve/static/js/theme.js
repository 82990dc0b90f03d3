// Before the first paint, so that a chosen theme does not flash. Not a module: modules run later.
(function () {
  try {
    var theme = localStorage.getItem("hybrid-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (error) {
    // Storage may be forbidden; then the system's theme holds.
  }
})();
