"use strict";
document.getElementById("go").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = document.getElementById("name").value.trim();
  if (name) location.href = location.pathname.replace(/\/[^/]*$/, "") + "/watch/" + encodeURIComponent(name);
});
