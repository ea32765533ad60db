(() => {
  // The side column: the list of conversations with its menus, sharing, import and export.
  const $ = (id) => document.getElementById(id);
  const ask = async (method, path, body, more = {}) => {
    const answer = await fetch("/api/chat/" + path, {
      method, credentials: "same-origin", headers: { ...(body ? { "Content-Type": "application/json" } : {}), ...more },
      body: typeof body === "object" ? JSON.stringify(body) : body,
    });
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (answer.ok) return content;
    throw Object.assign(new Error((content.error && content.error.message) || "The server did not answer. Try again."), { status: answer.status });
  };
  const make = (tag, about = {}, ...parts) => {
    const { data = {}, aria = {}, ...rest } = about, made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data);
    Object.entries(aria).forEach(([name, value]) => made.setAttribute(name === "role" ? name : `aria-${name}`, value));
    made.append(...parts.filter((part) => part !== null && part !== undefined));
    return made;
  };
  const act = (text, does, kind = "") => make("button", { type: "button", textContent: text, className: kind, onclick: (event) => { event.stopPropagation(); does(event); } });
  const me = () => (document.querySelector("#who span") || {}).textContent || "";
  const query = (given) => "conversations?" + new URLSearchParams(given);
  const talk = (item) => `conversations/${item.id}`;
  const say = (text, bad) => { const part = $("side-said"); if (part) { part.textContent = text; part.classList.toggle("bad", Boolean(bad)); } };
  const tried = async (work) => { say(""); try { return await work(); } catch (error) { say(error.message, true); return null; } };
  const when = (at) => new Intl.DateTimeFormat(window.tongue, { dateStyle: "medium", timeStyle: "short" }).format(new Date(at));

  // What is known. `rest` are the rows that are neither pinned nor in a folder.
  const now = { open: null, rest: [], next: null, pinned: [], folders: [], inside: {}, unfolded: new Set(), archive: null, found: null, editing: false };
  let known = new Map();
  const loads = {
    rest: async () => {
      const got = await ask("GET", query({ limit: Math.min(100, Math.max(40, now.rest.length)), pinned: false, folder: "none" }));
      now.rest = got.items; now.next = got.next_cursor;
    },
    pinned: async () => { now.pinned = (await ask("GET", query({ limit: 100, pinned: true }))).items; },
    folders: async () => { now.folders = (await ask("GET", "folders")).items; },
    inside: async () => {
      const there = [...now.unfolded].filter((id) => now.folders.some((one) => one.id === id));
      const got = await Promise.all(there.map((id) => ask("GET", query({ limit: 100, folder: id }))));
      now.inside = Object.fromEntries(there.map((id, at) => [id, got[at].items]));
    },
    archive: async () => { if (now.archive) now.archive = (await ask("GET", query({ limit: 100, archived: true }))).items; },
  };
  let loading = null, again = 0;
  // 1: what a message changes; 2: everything.
  const refresh = (how) => {
    if (loading) { again = Math.max(again, how); return loading; }
    const work = how > 1 ? [loads.rest(), loads.pinned(), loads.folders().then(loads.inside), loads.archive()] : [loads.rest()];
    loading = Promise.all(work).catch((error) => { if (error.status !== 401) say(error.message, true); }).finally(() => {
      loading = null; draw();
      if (again) { const wanted = again; again = 0; refresh(wanted); }
    });
    return loading;
  };
  const further = async () => {
    if (!now.next || now.found || now.archive || loading) return;
    const cursor = now.next;
    now.next = null;
    const got = await tried(() => ask("GET", query({ limit: 40, pinned: false, folder: "none", cursor })));
    if (!got) return;
    now.rest.push(...got.items); now.next = got.next_cursor;
    draw();
  };

  // Rows
  const midnight = (at) => new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime();
  const period = (text) => {
    const at = new Date(text), today = new Date(), days = Math.round((midnight(today) - midnight(at)) / 864e5);
    if (days < 1) return "Today";
    if (days < 2) return "Yesterday";
    if (days < 8) return "Previous 7 days";
    const year = at.getFullYear() === today.getFullYear() ? {} : { year: "numeric" };
    return new Intl.DateTimeFormat(window.tongue || "en", { month: "long", ...year }).format(at);
  };
  const dots = (what, id, name) => make("button", { type: "button", className: "dots", textContent: "…", data: { [what]: id }, aria: { haspopup: "menu", expanded: "false", label: `Options of ${name}` } });
  const dot = (id) => {
    const running = marks.running.has(id), done = marks.done.has(id);
    return running || done ? make("span", { className: `dot ${running ? "running" : "done"}`, title: running ? "Being answered" : "Answered", aria: { role: "img", label: running ? "Being answered" : "Answered" } }) : null;
  };
  const row = (item, ...below) => {
    known.set(item.id, item);
    const name = make("span", { className: "name", dir: "auto", textContent: item.title });
    const open = make("button", { type: "button", className: "open", title: item.title, data: { pick: item.id } }, dot(item.id), name, ...below);
    if (item.id === now.open) open.setAttribute("aria-current", "true");
    return make("li", {}, open, item.found ? null : dots("menu", item.id, item.title));
  };
  const section = (name, rows) => (rows.length ? make("section", {}, make("h3", { textContent: name }), make("ul", {}, ...rows)) : null);
  const folder = (one) => {
    const unfolded = now.unfolded.has(one.id), inside = now.inside[one.id] || [];
    const open = make("button", { type: "button", className: "open", data: { unfold: one.id }, aria: { expanded: String(unfolded) } },
      make("span", { className: "name", dir: "auto", textContent: one.name }), make("small", { textContent: one.conversations, aria: { label: `${one.conversations} conversations` } }));
    const empty = make("li", { className: "none", textContent: "Empty. Move conversations here by their menu." });
    return make("li", { className: "folder" }, open, dots("folder", one.id, one.name),
      unfolded ? make("ul", {}, ...(inside.length ? inside.map((item) => row(item)) : [empty])) : null);
  };
  const words = (q) => (q.match(/"[^"]+"|\S+/g) || []).filter((word) => !word.startsWith("-")).map((word) => word.replace(/^"|"$/g, "").replace(/\*$/, "")).filter(Boolean);
  const marked = (text, q) => {
    const found = words(q).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const part = make("span", { className: "snippet", dir: "auto" });
    if (!found.length) { part.textContent = text; return part; }
    text.split(new RegExp(`(${found.join("|")})`, "giu")).forEach((piece, at) => part.append(at % 2 ? make("mark", { textContent: piece }) : piece));
    return part;
  };
  const results = ({ q, titles, hits }) => {
    const seen = new Set(titles.map((item) => item.id));
    const texts = hits.filter((hit) => !seen.has(hit.conversation_id) && seen.add(hit.conversation_id));
    return [
      section("Titles", titles.map((item) => row({ ...item, found: true }))),
      section("Messages", texts.map((hit) => row({ id: hit.conversation_id, title: hit.title, found: true }, marked(hit.snippet, q)))),
      titles.length + texts.length ? null : make("p", { className: "none", textContent: "Nothing is found. Try fewer words." }),
    ];
  };
  const put = () => {
    if (now.found) return results(now.found);
    if (now.archive) {
      const back = act("← All conversations", () => { now.archive = null; draw(); }, "back");
      return [back, section("Archive", now.archive.map((item) => row(item))), now.archive.length ? null : make("p", { className: "none", textContent: "Nothing is in the archive." })];
    }
    const groups = new Map();
    now.rest.forEach((item) => { const name = period(item.updated_at); groups.set(name, [...(groups.get(name) || []), item]); });
    const nothing = !now.rest.length && !now.pinned.length && !now.folders.length;
    return [
      section("Pinned", now.pinned.map((item) => row(item))),
      section("Folders", now.folders.map(folder)),
      ...[...groups].map(([name, items]) => section(name, items.map((item) => row(item)))),
      nothing && !loading ? make("p", { className: "none", textContent: "Your conversations appear here once you chat." }) : null,
    ];
  };
  const draw = () => {
    const place = $("side-rows");
    if (!place || now.editing) return;
    const held = place.contains(document.activeElement) ? Object.entries(document.activeElement.dataset)[0] : null;
    known = new Map();
    place.replaceChildren(...put().filter(Boolean));
    if (held) place.querySelector(`[data-${held[0]}="${CSS.escape(held[1])}"]`)?.focus({ preventScroll: true });
    if (place.clientHeight && place.scrollHeight < place.clientHeight + 200) further();
  };

  // Which conversations are being answered, and which were while another one was open.
  const marks = { running: new Set(), done: new Set() };
  let looking = 0;
  const keepMarks = () => { try { localStorage.setItem(`chats:${me()}`, JSON.stringify({ running: [...marks.running], done: [...marks.done] })); } catch { /* full */ } };
  const readMarks = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(`chats:${me()}`)) || {};
      marks.running = new Set(kept.running); marks.done = new Set(kept.done);
    } catch { /* none */ }
  };
  const watch = async () => {
    clearTimeout(looking);
    if (document.hidden || !$("side-rows")) return;
    let here;
    try { here = new Set((await ask("GET", "status")).conversations); } catch { return; }
    // A temporary chat is in no list; its id says what it is.
    const own = String(now.open).split(":").pop();
    marks.running.forEach((id) => { if (!here.has(id) && id !== own) marks.done.add(id); });
    marks.running = here;
    marks.done.delete(own);
    keepMarks(); draw();
    if ([...here].some((id) => id !== own)) looking = setTimeout(watch, 3000);
  };

  // Menus
  let menu = null, anchor = null;
  const shut = (back) => {
    if (!menu) return;
    const button = anchor && (anchor.isConnected ? anchor : $("side-rows").querySelector(`[data-menu="${CSS.escape(anchor.dataset.menu || "")}"]`));
    menu.remove(); menu = anchor = null;
    if (button) { button.setAttribute("aria-expanded", "false"); if (back) button.focus({ preventScroll: true }); }
  };
  const entry = (text, does, kind = "") => make("button", { type: "button", textContent: text, className: kind, tabIndex: -1, aria: { role: "menuitem" }, onclick: (event) => { event.stopPropagation(); does(); } });
  const file = (text, href) => make("a", { href, download: "", textContent: text, tabIndex: -1, aria: { role: "menuitem" }, onclick: () => shut(true) });
  const then = (does) => () => { shut(true); return does(); };
  const fill = (parts) => {
    menu.replaceChildren(...parts);
    const at = anchor.getBoundingClientRect(), size = menu.getBoundingClientRect();
    menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
    menu.style.top = `${at.bottom + 4 + size.height > innerHeight - 8 ? Math.max(8, at.top - 4 - size.height) : at.bottom + 4}px`;
    menu.querySelector("[role=menuitem]").focus({ preventScroll: true });
  };
  const show = (button, parts) => {
    const same = anchor === button;
    shut();
    if (same) return;
    anchor = button;
    anchor.setAttribute("aria-expanded", "true");
    menu = make("div", { id: "side-menu", aria: { role: "menu", label: button.getAttribute("aria-label") } });
    $("chat-side").append(menu);
    fill(parts);
  };
  const patch = (item, change) => tried(async () => { await ask("PATCH", talk(item), change); await refresh(2); });
  const rowMenu = (item) => [
    entry("Rename", then(() => edit(item))),
    entry(item.pinned ? "Unpin" : "Pin to top", then(() => patch(item, { pinned: !item.pinned }))),
    entry("Move to folder…", () => fill(moveMenu(item))),
    entry(item.archived ? "Bring back" : "Archive", then(() => patch(item, { archived: !item.archived }))),
    entry("Share…", then(() => shareBox(item))),
    file("Export as Markdown", `/api/chat/${talk(item)}/export?format=md`),
    file("Export as JSON", `/api/chat/${talk(item)}/export?format=json`),
    entry("Delete…", () => fill(sure(`Delete “${item.title}”? Its texts are gone for good. What was charged stays in the books.`, "Delete for good", () => remove(item))), "danger"),
  ];
  const moveMenu = (item) => [
    ...now.folders.filter((one) => one.id !== item.folder_id).map((one) => entry(one.name, then(() => { now.unfolded.add(one.id); return patch(item, { folder_id: one.id }); }))),
    ...(item.folder_id ? [entry("Out of its folder", then(() => patch(item, { folder_id: null })))] : []),
    entry("New folder…", then(() => nameBox("New folder", "", async (name) => {
      const made = await ask("POST", "folders", { name });
      now.unfolded.add(made.id);
      await ask("PATCH", talk(item), { folder_id: made.id });
    }))),
  ];
  const folderMenu = (one) => [
    entry("Rename", then(() => nameBox("Rename folder", one.name, (name) => ask("PATCH", `folders/${one.id}`, { name })))),
    entry("Delete…", () => fill(sure(`Delete the folder “${one.name}”? Its conversations stay.`, "Delete folder", () => tried(async () => { await ask("DELETE", `folders/${one.id}`); await refresh(2); }))), "danger"),
  ];
  const allMenu = () => [
    entry("New folder…", then(() => nameBox("New folder", "", (name) => ask("POST", "folders", { name })))),
    entry("Archive", then(() => { now.archive = []; clear(); return refresh(2); })),
    entry("Shared links", then(linksBox)),
    entry("Import conversations…", then(importBox)),
    file("Export all", "/api/chat/export"),
  ];
  const sure = (question, yes, does) => [make("p", { textContent: question, dir: "auto" }), entry(yes, then(does), "danger"), entry("Keep", () => shut(true))];
  const remove = (item) => tried(async () => {
    await ask("DELETE", talk(item));
    window.chatForget?.(item.id);
    if (item.id === now.open) $("new-chat").click();
    await refresh(2);
  });
  const edit = (item) => {
    const button = $("side-rows").querySelector(`[data-pick="${CSS.escape(item.id)}"]`);
    if (!button) return;
    const field = make("input", { type: "text", value: item.title, maxLength: 200, className: "edit", dir: "auto", aria: { label: "Title" } });
    now.editing = true;
    button.replaceWith(field);
    field.focus(); field.select();
    let ended = false;
    const end = async (save) => {
      if (ended) return;
      ended = true; now.editing = false;
      const title = field.value.trim();
      if (save && title && title !== item.title) { item.title = title; draw(); await patch(item, { title }); } else draw();
      $("side-rows").querySelector(`[data-pick="${CSS.escape(item.id)}"]`)?.focus({ preventScroll: true });
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !event.isComposing) end(true);
      if (event.key === "Escape") end(false);
    });
    field.addEventListener("blur", () => end(true));
  };

  // Boxes
  const box = (title, ...parts) => {
    const close = act("×", () => made.close(), "close");
    close.setAttribute("aria-label", "Close");
    const made = make("dialog", { className: "side-box", aria: { label: title } }, make("header", {}, make("h2", { textContent: title }), close), ...parts);
    document.querySelector(".gradio-container").append(made);
    made.addEventListener("close", () => made.remove());
    made.addEventListener("click", (event) => { event.stopPropagation(); if (event.target === made) made.close(); });
    made.showModal();
    return made;
  };
  const status = () => make("p", { className: "said", aria: { role: "status" } });
  const told = (part, text, bad) => { part.textContent = text; part.classList.toggle("bad", Boolean(bad)); };
  const nameBox = (title, value, does) => {
    const field = make("input", { type: "text", value, maxLength: 60, required: true, dir: "auto", aria: { label: "Name of the folder" } }), said = status();
    const form = make("form", { method: "dialog" }, field, said, make("div", { className: "row" }, make("button", { type: "submit", className: "primary", textContent: "Save" })));
    const made = box(title, form);
    field.select();
    form.addEventListener("submit", async (event) => {
      event.preventDefault(); event.stopPropagation();
      if (!field.value.trim()) { told(said, "Give it a name.", true); return; }
      try { await does(field.value); made.close(); refresh(2); } catch (error) { told(said, error.message, true); }
    });
  };
  const address = (share) => new URL(share.url, location.origin).href;
  const copy = (text) => async (event) => {
    const button = event.currentTarget;
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const field = make("textarea", { value: text });
      button.after(field); field.select(); done = document.execCommand("copy"); field.remove();
    }
    button.textContent = done ? "Copied" : "Press Ctrl+C"; setTimeout(() => { button.textContent = "Copy link"; }, 1600);
  };
  const KINDS = [["private", "Private", "Nobody else can see it."], ["signed_in", "People with an account here", "Whoever is signed in and has the link."], ["open", "Anyone with the link", "Also people without an account."]];
  const about = (share) => `Shows ${share.messages} messages, as of ${when(share.updated_at)}. What you write later is not shown until you update it. Your name and costs are never shown.`;
  const shareBox = async (item) => {
    const place = make("div", { className: "share" }), said = status();
    const made = box("Share", make("p", { className: "hint", textContent: item.title, dir: "auto" }), place, said);
    let share = null;
    const change = async (work) => { told(said, ""); try { await work(); } catch (error) { told(said, error.message, true); } paint(); };
    const post = (body) => change(async () => { share = await ask("POST", `${talk(item)}/share`, body); });
    const back = () => change(async () => { await ask("DELETE", `${talk(item)}/share`); share = null; told(said, "The link leads nowhere now."); });
    const paint = (asking) => {
      const held = share ? share.access : "private";
      place.replaceChildren(
        make("fieldset", {}, make("legend", { textContent: "Who may read it" }), ...KINDS.map(([value, name, hint]) => make("label", { className: "check" },
          make("input", { type: "radio", name: "access", value, checked: value === (asking ? "private" : held), onchange: () => {
            if (value !== "private") post({ access: value });
            else if (share) paint(true);
          } }), make("span", {}, make("b", { textContent: name }), make("small", { textContent: hint }))))),
        ...(asking ? [make("div", { className: "inset" }, make("p", { textContent: "Take the link back? Whoever has it sees nothing any more, and sharing again makes another link." }),
          make("div", { className: "row" }, act("Take it back", back, "danger"), act("Keep", () => paint())))] : []),
        ...(share && !asking ? [
          make("div", { className: "row" }, make("input", { type: "text", readOnly: true, value: address(share), aria: { label: "Link" }, onfocus: (event) => event.target.select() }), act("Copy link", copy(address(share)), "primary")),
          make("p", { className: "hint", textContent: about(share) }),
          make("div", { className: "row" }, act("Update to now", () => post({ update: true })), make("a", { href: address(share), target: "_blank", rel: "noopener", textContent: "Open the page" })),
        ] : []),
      );
      place.querySelector("input:checked").focus();
    };
    try { share = (await ask("GET", "shares")).items.find((one) => one.conversation_id === item.id) || null; } catch (error) { told(said, error.message, true); }
    if (made.isConnected) paint();
  };
  const linksBox = async () => {
    const place = make("div", { className: "links" }), said = status();
    box("Shared links", place, said);
    const paint = async () => {
      let items;
      try { items = (await ask("GET", "shares")).items; } catch (error) { told(said, error.message, true); return; }
      const line = (share) => {
        const row = make("div", { className: "row" }, act("Copy link", copy(address(share))), act("Share…", (event) => { event.target.closest("dialog").close(); shareBox({ id: share.conversation_id, title: share.title }); }), act("Take back", () => {
          row.replaceChildren(act("Really take it back", async () => { try { await ask("DELETE", `conversations/${share.conversation_id}/share`); } catch (error) { told(said, error.message, true); } paint(); }, "danger"), act("Keep", paint));
          row.firstChild.focus();
        }));
        return make("div", { className: "link" }, make("div", {}, make("b", { textContent: share.title, dir: "auto" }), make("small", { textContent: `${KINDS.find((kind) => kind[0] === share.access)[1]} · ${share.messages} messages · ${when(share.updated_at)}` })), row);
      };
      place.replaceChildren(...(items.length ? items.map(line) : [make("p", { className: "hint", textContent: "You share nothing. “Share…” is in the menu of a conversation." })]));
    };
    await paint();
  };
  const MOST = 3e6, TALKS = 100;
  const importBox = () => {
    const pick = make("input", { type: "file", accept: ".json,application/json", aria: { label: "File to import" } });
    const bar = make("progress", { max: 1, value: 0, hidden: true, aria: { label: "Import" } }), said = status();
    box("Import conversations", make("p", { className: "hint", textContent: "An export of this site, or the conversations.json out of ChatGPT's data export. Nothing is charged." }), pick, bar, said);
    pick.addEventListener("change", async () => {
      const chosen = pick.files[0];
      if (!chosen) return;
      let data;
      try { data = JSON.parse(await chosen.text()); } catch { told(said, "This file is no JSON. Choose an export of here, or ChatGPT's conversations.json.", true); return; }
      const all = Array.isArray(data) ? data : [data], good = all.filter((one) => one && (one.format || one.mapping));
      const items = good.map((one) => JSON.stringify(one)), sum = { done: 0, talks: 0, messages: 0, skipped: 0, failed: all.length - good.length };
      pick.disabled = true; bar.hidden = false; bar.max = items.length || 1; bar.value = 0;
      const give = async (part) => {
        try {
          const got = await ask("POST", "conversations/import", `[${part.join(",")}]`, { "Idempotency-Key": `ui-${crypto.getRandomValues(new Uint32Array(4)).join("-")}` });
          sum.talks += got.items.length;
          got.items.forEach((one) => { sum.messages += one.messages; sum.skipped += one.skipped; });
          sum.failed += part.length - got.items.length;
        } catch (error) {
          if (![400, 413, 422].includes(error.status)) throw error;
          if (part.length > 1) { const half = part.length >> 1; await give(part.slice(0, half)); await give(part.slice(half)); return; }
          sum.failed += 1;
        }
        sum.done += part.length; bar.value = sum.done;
        told(said, `${sum.done} of ${items.length}…`);
      };
      const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;
      let trouble = "";
      try {
        for (let at = 0; at < items.length;) {
          const part = [items[at++]];
          let size = part[0].length;
          while (at < items.length && part.length < TALKS && size + items[at].length < MOST) { size += items[at].length; part.push(items[at++]); }
          await give(part);
        }
      } catch (error) { trouble = ` Then it stopped: ${error.message}`; }
      const left = [sum.skipped ? `${many(sum.skipped, "message", "messages")} could not be shown here, such as images and tools.` : "", sum.failed ? `${many(sum.failed, "conversation", "conversations")} could not be read.` : ""].filter(Boolean).join(" ");
      told(said, `Imported ${many(sum.talks, "conversation", "conversations")} with ${many(sum.messages, "message", "messages")}. ${left}${trouble}`, Boolean(trouble) || !sum.talks);
      pick.disabled = false; pick.value = "";
      refresh(2);
    });
  };

  // Search
  let typing = 0, asked = 0;
  const clear = () => { const field = $("side-search"); if (field) field.value = ""; now.found = null; say(""); };
  const search = async () => {
    const q = $("side-search").value.trim(), mine = ++asked;
    if (!q) { clear(); draw(); return; }
    const got = await tried(() => Promise.all([ask("GET", query({ limit: 20, q })), ask("GET", "history?" + new URLSearchParams({ limit: 30, q }))]));
    if (!got || mine !== asked) return;
    now.found = { q, titles: got[0].items, hits: got[1].items };
    draw();
    say(`${$("side-rows").querySelectorAll(".open").length} found`);
  };
  const drawer = (open) => $("chat-side").toggleAttribute("data-open", open);
  const seek = () => {
    if (!$("side-search")) return;
    const tabs = document.querySelectorAll("#tabs > .tab-wrapper .tab-container[role=tablist] button");
    const go = () => { drawer(true); $("side-search").focus(); $("side-search").select(); };
    if ($("chat-layout").offsetParent) { go(); return; }
    Array.from(tabs).find((tab) => ["Chat", window.inTongue("Chat")].includes(tab.textContent.trim()))?.click();
    setTimeout(go, 100);
  };

  // Opening goes through the server, which says by its marker what is open then.
  let picked = "";
  window.chatPicked = () => picked;
  const pick = (id) => { picked = id; marks.done.delete(id); keepMarks(); drawer(false); if (window.chatGo) window.chatGo(); };

  document.addEventListener("click", (event) => {
    const at = (what) => event.target.closest?.(`[data-${what}]`);
    const side = event.target.closest?.("#side");
    if (menu && !event.target.closest?.("#side-menu, .dots")) shut();
    if (!side) return;
    if (at("menu")) show(at("menu"), rowMenu(known.get(at("menu").dataset.menu)));
    else if (at("folder")) show(at("folder"), folderMenu(now.folders.find((one) => one.id === at("folder").dataset.folder)));
    else if (at("all")) show(at("all"), allMenu());
    else if (at("unfold")) {
      const id = at("unfold").dataset.unfold;
      if (!now.unfolded.delete(id)) now.unfolded.add(id);
      draw();
      loads.inside().then(draw, () => {});
    } else if (at("pick")) pick(at("pick").dataset.pick);
  });
  document.addEventListener("contextmenu", (event) => {
    const open = event.target.closest?.("#side [data-pick]"), button = open && open.parentElement.querySelector(".dots");
    if (button) { event.preventDefault(); show(button, rowMenu(known.get(open.dataset.pick))); }
  });
  const step = (event, nodes, wrap) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, Home: -nodes.length, End: nodes.length };
    if (!(event.key in moves) || !nodes.length) return false;
    const at = nodes.indexOf(document.activeElement) + moves[event.key];
    nodes[wrap ? (at + nodes.length) % nodes.length || 0 : Math.max(0, Math.min(nodes.length - 1, at))]?.focus();
    event.preventDefault();
    return true;
  };
  document.addEventListener("keydown", (event) => {
    const typed = event.target.closest?.("input, textarea, select, [contenteditable]");
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") { event.preventDefault(); seek(); return; }
    if (event.key === "/" && !typed && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog[open]")) { event.preventDefault(); seek(); return; }
    if (menu) {
      const nodes = [...menu.querySelectorAll("[role=menuitem]")];
      if (event.key === "Escape") { event.stopPropagation(); shut(true); } else if (event.key === "Tab") shut(true); else if (event.key === "Home") { nodes[0].focus(); event.preventDefault(); } else if (event.key === "End") { nodes.at(-1).focus(); event.preventDefault(); } else step(event, nodes, true);
      return;
    }
    if (event.target.id === "side-search") {
      if (event.key === "Escape") { clear(); draw(); event.target.blur(); }
      if (event.key === "ArrowDown") step(event, [...$("side-rows").querySelectorAll(".open")]);
      if (event.key === "Enter") $("side-rows").querySelector("[data-pick]")?.click();
    } else if (event.target.closest?.("#side-rows") && !typed) step(event, [...$("side-rows").querySelectorAll(".open")]);
  }, true);
  document.addEventListener("input", (event) => { if (event.target.id === "side-search") { clearTimeout(typing); typing = setTimeout(search, 250); } });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) watch(); });

  // What the server's marker says, and whether an answer is being written.
  let seen = null, openAt = 0, wasBusy = false;
  const build = () => {
    const field = make("input", { type: "search", id: "side-search", placeholder: "Search", maxLength: 200, autocomplete: "off", aria: { label: "Search in conversations", keyshortcuts: "Control+K /" } });
    const all = make("button", { type: "button", className: "dots", textContent: "…", data: { all: "1" }, aria: { haspopup: "menu", expanded: "false", label: "More" } });
    const rows = make("div", { id: "side-rows" });
    rows.addEventListener("scroll", () => { if (rows.scrollTop + rows.clientHeight > rows.scrollHeight - 300) further(); }, { passive: true });
    $("conversation-list").append(make("nav", { id: "side", aria: { label: "Conversations" } }, make("div", { className: "find" }, field, make("kbd", { textContent: "Ctrl K", aria: { hidden: "true" } }), all), rows,
      make("p", { id: "side-said", className: "said", aria: { role: "status" } })));
  };
  window.chatLook = () => {
    const place = $("conversation-list"), marker = place && place.querySelector("[data-side]");
    if (!marker) return;
    const fresh = !$("side");
    if (fresh) { build(); readMarks(); }
    const before = now.open, news = "news" in marker.dataset;
    if (marker.dataset.side !== seen) {
      seen = marker.dataset.side;
      if (Number(marker.dataset.at) > openAt) { openAt = Number(marker.dataset.at); now.open = marker.dataset.open; }
      if (now.open !== before) { marks.done.delete(now.open); window.chatMoved?.(before, now.open, news); watch(); }
      if (fresh) refresh(2); else if (news) refresh(now.pinned.length + now.folders.length ? 2 : 1); else draw();
    } else if (fresh) refresh(2);
    const busy = Boolean(document.querySelector("#chat-cost .busy"));
    if (busy !== wasBusy) { wasBusy = busy; watch(); window.chatBusy?.(busy, now.open); window.chatTold?.(busy); }
  };
})();
