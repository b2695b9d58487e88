// Keeps the page up to date: what it shows is asked for anew and replaced where it changed. Forms stay as they are.
"use strict";
const EVERY = 3000; // ms
let failures = 0;

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/", { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
    failures = 0;
  } catch {
    failures += 1;
  }
  document.getElementById("gone").hidden = failures < 2;
}

function replaceParts(fresh) {
  document.title = fresh.title;
  document.querySelector(".state").className = fresh.querySelector(".state").className;
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    // who is about to press a button there keeps it
    if (!now || part.contains(document.activeElement) || part.dataset.shown === now.innerHTML) continue;
    part.dataset.shown = now.innerHTML;
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const scrolled = part.querySelector(".scroll")?.scrollTop ?? 0;
    part.replaceChildren(...now.childNodes);
    part.querySelectorAll("details").forEach((one, index) => { one.open = open[index] ?? false; });
    if (scrolled) part.querySelector(".scroll").scrollTop = scrolled;
  }
}

document.querySelector("form.limits").addEventListener("submit", () => clearInterval(timer));
const timer = setInterval(refresh, EVERY);
document.addEventListener("visibilitychange", refresh);
if (location.search) history.replaceState(null, "", "/"); // a reload says nothing twice
