(() => {
  const $ = (id) => document.getElementById(id);
  const post = async (path, body) => {
    const answer = await fetch(path, {
      method: "POST", credentials: "same-origin",
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}),
    });
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (!answer.ok) throw Object.assign(new Error((content.error && content.error.message) || "The server did not answer. Try again."), { code: content.error && content.error.code });
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

  // Between the password and the second factor the page keeps what was typed, nowhere else.
  let half = null;
  const signIn = async (given) => {
    try { await post("/api/auth/login", given); } catch (error) {
      if (error.code !== "totp_required") throw error;
      half = given;
      return "second";
    }
    half = null;
    return "";
  };
  const forms = {
    login: (data) => signIn({ login: data.login, password: data.password }),
    second: async (data) => {
      if (window.hubHalf) { await post("/api/auth/hub/second", { code: data.totp.trim() }); return ""; }
      if (!half) return "login";
      return signIn({ ...half, totp: data.totp.trim() });
    },
    forgot: async (data) => {
      await post("/api/auth/password/forgot", { email: data.email });
      return "If an account has this address, the mail is on its way. Open the link in it.";
    },
    register: async (data) => {
      await post("/api/auth/register", data);
      try { return await signIn({ login: data.username, password: data.password }); } catch (error) {
        if (error.code !== "wrong_password") throw error;
        return "Almost done: open the link in the mail that we have sent you, then sign in.";
      }
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
  window.chatPanel = panel;
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
    trouble.textContent = ""; trouble.classList.remove("fine");
    button.disabled = true; button.classList.add("busy");
    try {
      const next = await forms[form.dataset.panel](data);
      if (!next) { location.replace(form.dataset.panel === "setup" ? "/#setup" : "/"); return; }
      button.disabled = false; button.classList.remove("busy");
      if (document.querySelector(`[data-panel="${next}"]`)) panel(next);
      else { trouble.textContent = next; trouble.classList.add("fine"); form.querySelectorAll("input").forEach((input) => { input.value = ""; }); }
    } catch (error) {
      trouble.textContent = error.message;
      button.disabled = false; button.classList.remove("busy");
    }
  });
  // The bell. It looks when the balance changed or the page is looked at again, never by a timer.
  const told = async (path, method = "GET") => {
    const answer = await plainFetch("/api/notifications" + path, { method, credentials: "same-origin" });
    if (!answer.ok) throw new Error("not signed in");
    return answer.json();
  };
  const count = (unread) => { const part = $("bell-count"); if (part) part.textContent = unread > 99 ? "99+" : unread || ""; };
  const lookAgain = () => { if ($("bell-count")) told("/unread").then((seen) => count(seen.unread)).catch(() => {}); };
  const piece = (tag, name, text) => { const made = document.createElement(tag); made.className = name; made.textContent = text; return made; };
  const ring = async (open) => {
    const button = $("bell-open"), list = $("bell-panel");
    if (!button || list.hidden === !open) return;
    // Out of the bar: the tabs beside it lie on a layer above its own.
    if (open) document.querySelector(".gradio-container").append(list);
    list.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    list.replaceChildren(piece("p", "hint", "Loading…"));
    try {
      const page = await told("?limit=30");
      const head = piece("div", "bell-head", "");
      head.append(piece("h2", "", "Notifications"));
      if (page.items.some((item) => !item.read)) {
        const all = piece("button", "", "Mark all as read");
        all.dataset.bell = "all";
        head.append(all);
      }
      const rows = page.items.map((item) => {
        const row = piece("button", item.read ? "note" : "note new", "");
        row.dataset.bell = item.id;
        const at = document.createElement("time");
        at.setAttribute("datetime", item.created_at); at.textContent = item.created_at;
        row.append(piece("b", "", item.title), piece("span", "", item.text), at);
        return row;
      });
      list.replaceChildren(head, ...(rows.length ? rows : [piece("p", "hint", "Nothing to read. Alerts and confirmations arrive here.")]));
    } catch { list.replaceChildren(piece("p", "hint", "The list could not be loaded. Try again.")); }
  };
  const read = async (id) => {
    try { count((await told(id === "all" ? "/read" : `/${id}/read`, "POST")).unread); } catch { return; }
    document.querySelectorAll(id === "all" ? "#bell-panel .note" : `#bell-panel [data-bell="${id}"]`).forEach((row) => row.classList.remove("new"));
    const all = document.querySelector('#bell-panel [data-bell="all"]');
    if (all && !document.querySelector("#bell-panel .new")) all.remove();
  };
  // Announcements lie under the bar until they are dismissed; looked for when the bell is.
  const news = async () => {
    let items = [];
    try { ({ items } = await (await plainFetch("/api/announcements", { credentials: "same-origin" })).json()); } catch { return; }
    let place = $("news");
    if (!items || (!place && !items.length)) return;
    if (!place) {
      place = piece("div", "", ""); place.id = "news";
      place.setAttribute("role", "region"); place.setAttribute("aria-label", "Announcements");
      $("topbar").after(place);
      // The chat fills the window: it makes room.
      new ResizeObserver(() => document.body.style.setProperty("--news", `${place.offsetHeight}px`)).observe(place);
    }
    place.replaceChildren(...items.map((item) => {
      const long = item.text.length > 160, line = piece("div", `news ${item.level}`, "");
      const words = piece(long ? "details" : "p", "", ""), off = piece("button", "", "×");
      words.append(piece(long ? "summary" : "b", "", item.title), " ", piece("span", "", item.text));
      off.type = "button"; off.dataset.news = item.id; off.setAttribute("aria-label", `Dismiss: ${item.title}`);
      line.append(words, off);
      return line;
    }));
  };
  const dismiss = async (button) => {
    try { await post(`/api/announcements/${button.dataset.news}/dismiss`); } catch { return; }
    button.closest(".news").remove();
  };
  let looked = false, balance = null;
  const watchBalance = () => {
    const part = document.querySelector("#credits-pill b");
    const now = part && part.textContent;
    if (now === balance) return;
    const first = balance === null;
    if (!looked && part) { looked = true; news(); }
    balance = now;
    if (!first) [1500, 9000].forEach((after) => setTimeout(lookAgain, after));
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && looked) { lookAgain(); news(); } });
  const side = (open) => { const part = $("chat-side"); if (part) part.toggleAttribute("data-open", open); };
  document.addEventListener("click", async (event) => {
    const target = event.target;
    if (target.closest("#register-open")) { event.preventDefault(); panel("register"); }
    if (target.closest("#login-open, #login-open-too")) { event.preventDefault(); panel("login"); }
    const opens = target.closest("[data-open]");
    if (opens) { event.preventDefault(); panel(opens.dataset.open); }
    if (target.closest("#sign-out")) {
      window.chatLeft?.();
      try { await post("/api/auth/logout"); } finally { location.replace("/"); }
    }
    const line = target.closest("[data-news]");
    if (line) { dismiss(line); return; }
    const note = target.closest("[data-bell]");
    if (note) { read(note.dataset.bell); return; }
    if (target.closest("#bell-open")) ring($("bell-panel").hidden);
    else if (!target.closest("#bell-panel")) ring(false);
    if (target.closest("#chat-menu")) side(!$("chat-side").hasAttribute("data-open"));
    else if (target.closest("#new-chat") || !target.closest("#chat-side")) side(false);
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
    if (event.key === "Escape") { side(false); ring(false); }
  });
  // Images wait here, made small in the browser, until they are sent with a message.
  const shots = [], SIDE = 1344, MOST_BYTES = 340000;
  const allowed = () => { const part = document.querySelector("#chat-quote [data-images]"); return part ? Number(part.dataset.images) : 0; };
  const small = async (file) => {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    let scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height)), quality = 0.88;
    let kind = file.type === "image/png" ? "image/png" : "image/jpeg";
    for (;;) {
      const canvas = document.createElement("canvas");
      canvas.width = Math.max(1, Math.round(bitmap.width * scale)); canvas.height = Math.max(1, Math.round(bitmap.height * scale));
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height); pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((done) => canvas.toBlob(done, kind, quality));
      if (blob && blob.size <= MOST_BYTES) return canvas.toDataURL(kind, quality);
      if (kind === "image/png") kind = "image/jpeg"; else { scale *= 0.8; quality = Math.max(0.6, quality - 0.08); }
      if (scale < 0.01) throw new Error("too large");
    }
  };
  const strip = (note) => {
    const place = $("chat-images");
    if (!place) return;
    place.querySelector(".strip")?.remove();
    if (!shots.length && !note) return;
    const row = document.createElement("div");
    row.className = "strip";
    shots.forEach((url, index) => {
      const item = document.createElement("span"), image = new Image(), off = document.createElement("button");
      image.src = url; image.alt = `Image ${index + 1}, not sent yet`;
      off.type = "button"; off.textContent = "×"; off.setAttribute("aria-label", `Remove image ${index + 1}`);
      off.addEventListener("click", () => { shots.splice(index, 1); changed(); });
      item.append(image, off); row.append(item);
    });
    if (note) { const words = document.createElement("em"); words.setAttribute("role", "status"); words.textContent = note; row.append(words); }
    place.append(row);
  };
  const changed = (note) => { window.chatDone("send"); strip(note); document.dispatchEvent(new Event("chat-changed")); };
  // One after another: what is dropped while an image is made small must not pass the count.
  let attached = Promise.resolve();
  const attach = (files) => {
    const images = Array.from(files).filter((file) => file.type.startsWith("image/"));
    if (images.length) attached = attached.then(() => take(images));
  };
  const take = async (images) => {
    const most = allowed();
    if (!most) { strip("This model cannot see images. Choose one that does."); return; }
    let note = "";
    for (const file of images) {
      if (shots.length >= most) { note = `At most ${most} images in one message.`; break; }
      try { shots.push(await small(file)); } catch { note = "That image could not be read."; }
    }
    changed(note);
  };
  window.chatImages = () => shots.map((url) => url.slice(url.indexOf(",") + 1));
  window.chatImageCount = () => shots.length;
  window.chatShown = () => { shots.length = 0; strip(); };
  document.addEventListener("click", (event) => {
    if (event.target.closest("#chat-attach .attach")) document.querySelector("#chat-attach input").click();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("#chat-attach input")) { attach(event.target.files); event.target.value = ""; }
  });
  document.addEventListener("paste", (event) => {
    if (!event.target.closest?.("#composer") || !event.clipboardData.files.length) return;
    if (!allowed() && event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault(); attach(event.clipboardData.files);
  });
  const carries = (event) => event.dataTransfer && Array.from(event.dataTransfer.types).includes("Files") && event.target.closest?.("#chat-main");
  document.addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => { if (carries(event)) { event.preventDefault(); attach(event.dataTransfer.files); } });
  // Times in the reader's zone; names for parts that Gradio leaves without one.
  const format = new Intl.DateTimeFormat(window.tongue, { dateStyle: "medium", timeStyle: "short" });
  let due = false;
  const polish = () => {
    due = false;
    watchBalance();
    window.chatTurns();
    window.chatLook?.();
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
  // From a search to its message: the page shows them in the order in which the server knows them.
  window.chatJump = (place) => {
    if (!(place >= 0)) return;
    let tries = 0;
    const look = setInterval(() => {
      const found = document.querySelectorAll("#chat-log .message-row")[place];
      if (found || ++tries > 40) clearInterval(look);
      if (!found) return;
      found.scrollIntoView({ block: "center" });
      found.classList.add("jumped");
      setTimeout(() => found.classList.remove("jumped"), 2600);
    }, 100);
  };
  // Back from a payment page, from a changed password, or new here: that tab comes first, as soon
  // as the page has settled.
  const PLACES = { "#credits": "Credits", "#account": "Account", "#setup": "Admin" };
  const SECTIONS = { "#setup": "Setup" };
  // A tab by its name, from the overflow menu if it is there; gives the tab if it is in the bar.
  window.openTab = (bar, name) => {
    const wrapper = document.querySelector(`${bar} > .tab-wrapper`);
    const find = (where) => Array.from(wrapper?.querySelectorAll(where) || []).find((one) => [name, window.inTongue(name)].includes(one.textContent.trim()));
    const tab = find(".tab-container[role=tablist] button");
    if (tab) { if (tab.getAttribute("aria-selected") !== "true") tab.click(); return tab; }
    if (!find(".overflow-dropdown button")) wrapper?.querySelector(".overflow-menu > button")?.click();
    setTimeout(() => find(".overflow-dropdown button")?.click(), 60);
    return null;
  };
  let arriving = 0;
  const arrive = () => {
    const place = PLACES[location.hash];
    if (!place || arriving) return;
    let seen = 0, tries = 0;
    arriving = setInterval(() => {
      const part = $(`${place.toLowerCase()}-tab`);
      seen = part?.offsetParent ? seen + 1 : 0;
      // A tab that was not opened yet is not in the page, only its name in the bar.
      if (!seen) window.openTab("#tabs", place);
      tries += 1;
      // The tab may be there before its sections are, so a section counts once it is open.
      const section = seen > 1 && SECTIONS[location.hash];
      const open = section ? window.openTab("#admin-sections", section)?.getAttribute("aria-selected") === "true" : seen > 1;
      if (open || tries > 120) {
        clearInterval(arriving); arriving = 0; history.replaceState(null, "", "/");
      }
    }, 250);
  };
  window.addEventListener("hashchange", arrive);
  const start = () => {
    new MutationObserver(() => { if (!due) { due = true; setTimeout(polish, 60); } })
      .observe(document.body, { childList: true, subtree: true });
    polish();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
