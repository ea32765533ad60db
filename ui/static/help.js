(() => {
  // Help, keys, the look (system, light, dark), what is told to screen readers, the installed app.
  const $ = (id) => document.getElementById(id);
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  const field = () => document.querySelector("#chat-input textarea");
  const say = (text) => { const part = $("announce"); if (part) part.textContent = text; };
  // What a key did, for those who see too.
  const flash = (text) => {
    say(text);
    document.querySelector(".flash")?.remove();
    const part = Object.assign(document.createElement("div"), { className: "flash", textContent: text });
    part.setAttribute("aria-hidden", "true");
    document.querySelector(".gradio-container").append(part);
    setTimeout(() => part.remove(), 1600);
  };

  // The look: as the system says, unless somebody chose one.
  const LOOKS = ["system", "light", "dark"], NAMES = { system: "as the system", light: "light", dark: "dark" };
  const darkly = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return LOOKS.includes(localStorage.getItem("look")) ? localStorage.getItem("look") : "system"; } catch { return "system"; } };
  const wear = () => {
    const wanted = new URLSearchParams(location.search).get("__theme"), look = LOOKS.includes(wanted) ? wanted : chosen();
    const dark = look === "system" ? darkly.matches : look === "dark";
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    document.querySelector("meta[name=theme-color]")?.setAttribute("content", dark ? "#1b1b20" : "#ffffff");
    const button = $("theme-toggle");
    if (!button) return;
    button.dataset.look = look; button.title = `Theme: ${NAMES[look]}`; button.setAttribute("aria-label", button.title);
  };
  darkly.addEventListener("change", wear);
  const restyle = () => {
    const next = LOOKS[(LOOKS.indexOf(chosen()) + 1) % LOOKS.length];
    try { if (next === "system") localStorage.removeItem("look"); else localStorage.setItem("look", next); } catch { /* not kept */ }
    wear(); say(`Theme: ${NAMES[next]}`);
  };

  // Help
  const help = () => {
    const box = $("help");
    if (!box || box.open) return;
    if (mac) box.querySelectorAll("kbd").forEach((key) => { key.textContent = { Alt: "⌥", Ctrl: "⌘" }[key.textContent] || key.textContent; });
    box.showModal();
  };
  const copied = async () => {
    const foots = document.querySelectorAll("#chat-log .foot[data-m], #chat-log .foot [data-m]"), id = foots[foots.length - 1]?.dataset.m;
    if (!id) { flash("There is no answer to copy yet"); return; }
    try {
      const answer = await fetch(`/api/chat/messages/${encodeURIComponent(id)}`, { credentials: "same-origin" });
      const { content } = await answer.json();
      if (!answer.ok || !content) throw new Error("gone");
      await navigator.clipboard.writeText(content);
      flash("Answer copied");
    } catch { flash("The answer could not be copied"); }
  };
  const chat = () => { if (!$("chat-layout")?.offsetParent) window.openTab("#tabs", "Chat"); };
  const write = () => { chat(); setTimeout(() => field()?.focus(), 60); };
  const does = { KeyN: () => { chat(); $("new-chat")?.click(); }, KeyI: write, KeyC: copied };
  // Esc closes what is open; only with nothing open it ends the answer.
  const covered = () => document.querySelector("dialog[open], #pop, #side-menu, .side-box, #chat-side[data-open], #bell-panel:not([hidden]), #chat-images .editing, ul.options");
  addEventListener("keydown", (event) => {
    const target = event.target instanceof Element ? event.target : document.body;
    if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && does[event.code] && field() && !document.querySelector("dialog[open]")) {
      event.preventDefault(); does[event.code]();
      return;
    }
    if (event.key === "Escape" && !covered() && target.id !== "side-search" && $("chat-stop")?.offsetParent) { $("chat-stop").click(); say("Stopping"); return; }
    const typed = target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "?" && !typed && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog[open]")) { event.preventDefault(); help(); return; }
    const tab = target.closest("button[role=tab]"), move = { ArrowRight: 1, ArrowLeft: -1, Home: -99, End: 99 }[event.key];
    if (!tab || !move || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = [...tab.closest("[role=tablist]").querySelectorAll("button[role=tab]")].filter((one) => one.offsetParent);
    const at = all.indexOf(tab) + move, next = all[Math.abs(move) > 1 ? Math.max(0, Math.min(all.length - 1, at)) : (at + all.length) % all.length];
    event.preventDefault(); next?.focus(); next?.click();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme-toggle")) restyle();
    if (event.target.closest("#help-open")) help();
    const way = event.target.closest("[data-go]");
    if (way) { event.preventDefault(); window.openTab("#tabs", way.dataset.go); }
    const box = $("help");
    if (event.target.closest("#help-close") || (event.target === box && box.open)) box.close();
    if (event.target.closest(".skip")) {
      event.preventDefault();
      if (field()?.offsetParent) { field().focus(); return; }
      const part = [...document.querySelectorAll("#tabs > .tabitem")].find((one) => one.offsetParent);
      if (part) { part.tabIndex = -1; part.focus(); }
    }
  });

  // An answer begins and ends: said once, since its words and its price change many times a second.
  window.chatTold = (busy) => {
    if (busy) { say("Answer started"); return; }
    setTimeout(() => { say(`Answer finished. ${document.querySelector("#chat-cost")?.textContent.trim() || ""}`); }, 250);
  };
  const quiet = () => {
    document.querySelectorAll('#chat-log [role=log]:not([aria-live=off])').forEach((part) => part.setAttribute("aria-live", "off"));
    if ($("theme-toggle") && !$("theme-toggle").dataset.look) wear();
  };
  // The app as an installed one: the worker knows only the page for when there is no network.
  if ("serviceWorker" in navigator && isSecureContext) navigator.serviceWorker.register("/sw.js").catch(() => {});
  const start = () => {
    wear(); setTimeout(wear, 300); setTimeout(wear, 1200);
    let due = false;
    new MutationObserver(() => { if (!due) { due = true; setTimeout(() => { due = false; quiet(); }, 150); } }).observe(document.body, { childList: true, subtree: true });
    quiet();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
