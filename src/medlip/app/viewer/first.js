// Before anything is painted: the theme that was chosen last, so that a light page doesn't flash dark.
document.documentElement.dataset.theme = localStorage.getItem("medlip-theme") ?? "dark";
