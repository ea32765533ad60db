(() => {
  const $ = (id) => document.getElementById(id);
  const post = async (path, body) => {
    const answer = await fetch(path, {
      method: "POST", credentials: "same-origin",
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}),
    });
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (!answer.ok) throw new Error((content.error && content.error.message) || "The server did not answer. Try again.");
    return content;
  };
  const key = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return "ui-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  };
  // The sign-in ended in another tab: this page's session is nobody's now, so begin again.
  const plainFetch = window.fetch;
  window.fetch = async (...given) => {
    const answer = await plainFetch(...given);
    const path = String(given[0] && given[0].url || given[0]);
    if (answer.status === 403 && path.includes("/gradio_api/queue/join")) location.replace("/");
    return answer;
  };
  const keys = {};
  // One key for each thing a person means to do: a double click repeats it, a new text does not.
  window.chatKey = (what) => (keys[what] ||= key());
  window.chatDone = (what) => { delete keys[what]; };

  const forms = {
    login: async (data) => { await post("/api/auth/login", { login: data.login, password: data.password }); },
    register: async (data) => {
      await post("/api/auth/register", data);
      await post("/api/auth/login", { login: data.username, password: data.password });
    },
    setup: async (data) => {
      const token = new URLSearchParams(location.search).get("setup");
      await post("/api/auth/setup", { token, ...data });
      await post("/api/auth/login", { login: data.username, password: data.password });
    },
  };
  const panel = (name) => {
    document.querySelectorAll("[data-panel]").forEach((form) => { form.hidden = form.dataset.panel !== name; });
    const first = document.querySelector(`[data-panel="${name}"] input`);
    if (first) first.focus({ preventScroll: true });
  };
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-panel]");
    if (!form) return;
    event.preventDefault();
    const trouble = form.querySelector(".trouble"), button = form.querySelector("button[type=submit]");
    const data = Object.fromEntries(new FormData(form));
    const missing = form.querySelector("input:invalid");
    if (missing) {
      trouble.textContent = missing.validity.valueMissing ? "Fill in every field." : missing.validationMessage;
      missing.focus();
      return;
    }
    trouble.textContent = "";
    button.disabled = true; button.classList.add("busy");
    try {
      await forms[form.dataset.panel](data);
      location.replace("/");
    } catch (error) {
      trouble.textContent = error.message;
      button.disabled = false; button.classList.remove("busy");
    }
  });
  const side = (open) => { const part = $("chat-side"); if (part) part.toggleAttribute("data-open", open); };
  const pickTheme = (dark) => {
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  document.addEventListener("click", async (event) => {
    const target = event.target;
    if (target.closest("#register-open")) { event.preventDefault(); panel("register"); }
    if (target.closest("#login-open, #login-open-too")) { event.preventDefault(); panel("login"); }
    if (target.closest("#sign-out")) {
      try { await post("/api/auth/logout"); } finally { location.replace("/"); }
    }
    if (target.closest("#theme-toggle")) {
      const dark = !document.body.classList.contains("dark");
      localStorage.setItem("look", dark ? "dark" : "light");
      pickTheme(dark);
    }
    if (target.closest("#chat-menu")) side(!$("chat-side").hasAttribute("data-open"));
    else if (target.closest("#conversation-list label, #new-chat") || !target.closest("#chat-side")) side(false);
    const copy = target.closest("[data-copy]");
    if (copy) {
      const message = copy.closest(".message");
      const text = Array.from(message.querySelectorAll(".prose, .md")).filter((part) => !part.querySelector(".foot") && !part.parentElement.closest(".prose, .md")).map((part) => part.innerText).join("\n");
      let done = false;
      try { await navigator.clipboard.writeText(text); done = true; } catch {
        const box = document.createElement("textarea"); box.value = text; document.body.append(box); box.select();
        done = document.execCommand("copy"); box.remove();
      }
      copy.textContent = done ? "Copied" : "Press Ctrl+C"; setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    }
    const ask = target.closest("[data-ask]");
    if (ask) {
      const row = ask.closest("[data-row]");
      row.querySelectorAll("[data-sure]").forEach((part) => { part.hidden = !part.hidden; });
      const yes = row.querySelector("[data-sure]:not([hidden]) button");
      if (yes) yes.focus();
    }
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest("#chat-input")) window.chatDone("send");
    if (event.target.closest("#credits-packages, #credits-amount")) window.chatDone("buy");
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") side(false);
  });
  // Times in the reader's zone; names for parts that Gradio leaves without one.
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  let due = false;
  const polish = () => {
    due = false;
    document.querySelectorAll("time[datetime]:not([data-local])").forEach((node) => {
      const at = new Date(node.getAttribute("datetime"));
      if (!isNaN(at)) { node.title = node.textContent; node.textContent = format.format(at); }
      node.dataset.local = "";
    });
    document.querySelectorAll("#chat-log a[href]:not([rel])").forEach((node) => { node.rel = "noopener noreferrer nofollow"; });
    document.querySelectorAll("#chat-log pre:not([tabindex])").forEach((node) => { node.tabIndex = 0; });
    document.querySelectorAll(".message[role=button], .message button[role=log]").forEach((node) => node.removeAttribute("role"));
    const more = document.querySelector(".overflow-menu > button:not([aria-label])");
    if (more) more.setAttribute("aria-label", "More tabs");
    arrive();
    if (new URLSearchParams(location.search).has("setup") && $("setup-form") && $("setup-form").hidden && !window.setupShown) {
      window.setupShown = true;
      panel("setup");
    }
  };
  // Back from a payment page: the credits come first, as soon as the page has settled.
  let arriving = 0;
  const arrive = () => {
    if (location.hash !== "#credits" || arriving) return;
    let seen = 0, tries = 0;
    arriving = setInterval(() => {
      const tabs = document.querySelectorAll("#tabs > .tab-wrapper .tab-container[role=tablist] button");
      const tab = Array.from(tabs).find((one) => one.textContent.trim() === "Credits" && one.offsetParent);
      seen = tab && tab.getAttribute("aria-selected") === "true" ? seen + 1 : 0;
      if (tab && !seen) tab.click();
      if (seen > 1 || ++tries > 60) { clearInterval(arriving); history.replaceState(null, "", "/"); }
    }, 250);
  };
  const start = () => {
    const look = localStorage.getItem("look");
    const wanted = new URLSearchParams(location.search).get("__theme");
    const system = matchMedia("(prefers-color-scheme: dark)").matches;
    const dark = wanted ? wanted === "dark" : look ? look === "dark" : system;
    const apply = () => { if (document.body.classList.contains("dark") !== dark) pickTheme(dark); };
    apply(); setTimeout(apply, 300); setTimeout(apply, 1200);
    new MutationObserver(() => { if (!due) { due = true; setTimeout(polish, 60); } })
      .observe(document.body, { childList: true, subtree: true });
    polish();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
