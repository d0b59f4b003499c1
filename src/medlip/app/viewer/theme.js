// The dark theme of a reading room, and a light one. `first.js` sets the one chosen last before the page is painted.

const KEPT = "medlip-theme";

export function toggleTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(KEPT, theme);
}
