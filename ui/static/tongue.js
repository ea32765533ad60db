(() => {
  // The language of the page: as chosen, else as the browser asks. English needs nothing more;
  // another one is a script with its sentences, asked for before the page is there.
  const FILES = LANGUAGE_FILES, root = document.documentElement;
  const base = (tag) => String(tag || "").toLowerCase().split("-")[0], has = (name) => name === "en" || name in FILES;
  const kept = () => { try { return localStorage.getItem("language") || ""; } catch { return ""; } };
  const keep = (name) => { try { localStorage.setItem("language", name); } catch { /* not kept */ } };
  const wanted = () => [kept(), ...(navigator.languages || [])].map(base).find(has) || "en";
  const now = wanted();
  // What Intl is told: in English dates stay as the browser writes them.
  window.tongue = { zh: "zh-CN", en: undefined }[now] ?? (now === "en" ? undefined : now);
  window.inTongue = (text) => text;
  const mark = () => { root.lang = window.tongue || "en"; const list = document.getElementById("language"); if (list) list.value = now; };
  if (FILES[now]) {
    const file = document.createElement("script");
    file.src = FILES[now];
    document.head.append(file);
  }
  // The account's own language goes before the browser's; both are the same once one was picked.
  const look = () => {
    mark();
    const own = base(document.querySelector("#who [data-language]")?.dataset.language);
    if (own && has(own) && own !== now) { keep(own); if (wanted() === own) location.reload(); }
  };
  window.chooseTongue = (name) => { keep(has(base(name)) ? base(name) : ""); if (wanted() !== now) location.reload(); };
  document.addEventListener("change", async (event) => {
    if (event.target.id !== "language") return;
    const name = event.target.value;
    if (document.querySelector("#who span")) {
      try { await fetch("/api/auth/me", { method: "PATCH", credentials: "same-origin", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ language: name }) }); } catch { /* kept here */ }
    }
    window.chooseTongue(name);
  });
  const start = () => { let due = false; new MutationObserver(() => { if (!due) { due = true; setTimeout(() => { due = false; look(); }, 100); } }).observe(document.body, { childList: true, subtree: true }); look(); };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
