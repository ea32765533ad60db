// The composer: the price while typing, settings, limits; and what can be done with an answer.
(() => {
  const $ = (id) => document.getElementById(id);
  const price = globalThis.chatPrice, PAUSE = 600;
  const make = (tag, more, ...inner) => {
    const { data, ...rest } = more || {};
    const made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data || {});
    made.append(...inner);
    return made;
  };
  const ask = async (method, path, body) => {
    const given = { method, credentials: "same-origin" };
    if (body) Object.assign(given, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const answer = await fetch("/api/" + path, given);
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (!answer.ok) throw new Error((content.error && content.error.message) || "The server did not answer. Try again.");
    return content;
  };

  // What the next message costs: the server tells a model's rule once, the rest happens here. There
  // are two rules while two models are compared.
  let rules = [], known = "", open = "", before = "", exact = null, pause = 0, shown = "";
  const typed = () => document.querySelector("#chat-input textarea")?.value || "";
  const busy = () => Boolean(document.querySelector("#chat-cost .busy"));
  const offer = () => document.querySelector("#chat-quote [data-model]");
  const place = () => (open && window.chatEditing()?.parent) || "";
  // An edited message keeps its images unless it is given others.
  const images = () => window.chatImageCount() || window.chatEditing()?.images || 0;
  const given = () => ({ bytes: price.size(typed()) + (open ? 0 : price.size(wish.system || "")), images: images() });
  const facts = () => {
    const line = document.querySelector("#chat-cost [data-c]");
    if (line) open = line.dataset.c;
    else if (!busy()) open = "";
    const part = offer();
    return part ? { model: part.dataset.model, payer: part.dataset.payer || "", conversation: open, place: place(), against: window.chatAgainst() } : null;
  };
  const rule = async (model, now) => {
    const query = new URLSearchParams({ model });
    if (now.conversation) query.set("conversation_id", now.conversation);
    if (now.place) query.set("parent_id", now.place);
    if (now.payer) query.set("payer", now.payer);
    return { ...(await ask("GET", "chat/rule?" + query)), payer: now.payer };
  };
  const look = async () => {
    const now = facts();
    const foots = document.querySelectorAll("#chat-log .foot");
    const mark = now ? [...Object.values(now), foots.length, foots[foots.length - 1]?.dataset.m].join("|") : "";
    if (!now || busy() || mark === known) { say(); return; }
    const moved = before !== now.conversation;
    known = mark; before = now.conversation; exact = null;
    if (moved && !now.conversation) wish = {};
    let found = [];
    try { found = await Promise.all([now.model, now.against].filter(Boolean).map((model) => rule(model, now))); } catch { /* the price of any message stands */ }
    if (mark !== known) return;
    rules = found;
    if (now.conversation && rules.length) wish = set(rules[0].settings);
    marks(); later();
  };
  const credits = (amount) => `${price.show(amount)} ${price.show(amount) === "1" ? "credit" : "credits"}`;
  const words = (one, likely, most, count) => {
    const each = price.micro(one.price.per_image) * BigInt(count);
    const shots = each ? `, ${price.show(each)} of them for ${count === 1 ? "the image" : `${count} images`}` : "";
    return `likely ${price.show(likely)}, at most ${credits(most)}${shots}`;
  };
  // The words of the price, and whether there is not enough for it.
  const told = (what) => {
    const costs = rules.map((one) => {
      const quoted = exact && exact.text === typed() && exact.images === what.images ? exact.by[one.model] : null;
      return quoted ? { one, likely: price.micro(quoted.likely), most: price.micro(quoted.maximum), available: price.micro(quoted.available) }
        : { one, likely: price.likely(one, what), most: price.maximum(one, what), available: price.micro(one.available) };
    });
    const lines = costs.map(({ one, likely, most }) => words(one, likely, most, what.images));
    const text = lines.length > 1 ? costs.map(({ one }, at) => `${one.name}: ${lines[at]}`).join("\n") : `L${lines[0].slice(1)}`;
    const { available } = costs[0], all = costs.reduce((sum, { most }) => sum + most, 0n);
    if (all <= available) return [text, false];
    return [`${text}. ${rules[0].payer ? "The organisation lets you spend" : "You have"} ${price.show(available)}.`, true];
  };
  const spent = () => (rules.length && open && price.micro(rules[0].spent) ? ` · this chat ${price.show(price.micro(rules[0].spent))}` : "");
  const say = () => {
    const part = offer();
    if (!part) return;
    part.dataset.plain ??= part.textContent;
    const what = given(), written = typed().trim() || what.images || rules.length > 1;
    let text = part.dataset.plain, bad = false;
    if (rules[0]?.model === part.dataset.model && written) [text, bad] = told(what);
    if (part.textContent !== text + spent()) part.textContent = text + spent();
    part.classList.toggle("bad", bad);
    hint(written ? what : null);
  };
  // Hints with their numbers: a cheaper model, a long history.
  const hint = (what) => {
    const box = $("composer");
    if (!box) return;
    let line = $("chat-hint"), text = "", fresh = false;
    if (what && rules.length === 1 && !busy()) {
      const most = price.maximum(rules[0], what), part = price.history(rules[0], what);
      const cheap = rules[0].others.map((other) => [other, price.maximum(rules[0], { ...what, price: other.price })])
        .filter(([, cost]) => cost * 10n <= most * 6n).sort((one, two) => (one[1] < two[1] ? 1 : -1))[0];
      if (part >= 50 && !window.chatEditing()) { text = `The history is ${part} % of this price.`; fresh = true; }
      else if (cheap) text = `${cheap[0].name} would cost ${price.show(cheap[1])} instead of ${price.show(most)}.`;
    }
    if (text === shown && (line || !text)) return;
    shown = text;
    line?.remove();
    if (!text) return;
    line = make("div", { id: "chat-hint", role: "note" }, text);
    if (fresh) line.append(" ", make("button", { type: "button", textContent: "Start fresh", data: { fresh: "" } }));
    box.append(line);
  };
  // The quote that binds, at most once for each pause in typing, and only where tokens matter.
  const quote = async (one, message, count) => {
    const body = { model: one.model, message, images: count };
    if (open) body.conversation_id = open; else Object.assign(body, only(wish, ["system", "max_tokens"]));
    if (place()) body.parent_id = place();
    if (one.payer) body.payer = one.payer;
    return [one.model, await ask("POST", "chat/quote", body)];
  };
  const later = () => {
    clearTimeout(pause); say();
    const dear = rules.filter((one) => price.byToken(one.price));
    if (!dear.length || !typed().trim()) return;
    pause = setTimeout(async () => {
      const text = typed(), count = images(), mark = known;
      try {
        const by = Object.fromEntries(await Promise.all(dear.map((one) => quote(one, text, count))));
        if (mark === known) { exact = { by, text, images: count }; say(); }
      } catch { /* the bound stands */ }
    }, PAUSE);
  };

  // Parameters: those of the open conversation, or of the one that the next message begins.
  let wish = {}, presets = null;
  const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed"];
  const only = (from, names) => Object.fromEntries(names.filter((name) => from[name] !== null && from[name] !== undefined && from[name] !== "").map((name) => [name, from[name]]));
  const set = (from) => only(from || {}, FIELDS);
  window.chatWish = () => (open || !Object.keys(wish).length ? undefined : wish);
  const plainShown = window.chatShown;
  window.chatShown = () => { plainShown(); setTimeout(say); };
  const marks = () => {
    document.querySelector('[data-pop="tune"]')?.toggleAttribute("data-on", Object.keys(wish).length > 0);
    document.querySelector('[data-pop="guard"]')?.toggleAttribute("data-on", Boolean(rules.length && rules[0].per_answer !== null));
  };
  const number = (text) => (text.trim() === "" ? null : Number(text));
  const read = (form) => {
    const found = {};
    for (const name of FIELDS) found[name] = name === "system" ? form.elements[name].value.trim() || null : number(form.elements[name].value);
    return set(found);
  };
  const field = (label, name, more, note) => make("label", { className: "field" },
    make("span", { textContent: label }), make(more.tag || "input", { name, id: `tune-${name}`, ...more, tag: undefined }), ...(note ? [make("small", { textContent: note })] : []));
  const fill = (form, from) => { for (const name of FIELDS) form.elements[name].value = from[name] ?? ""; };
  const tune = async () => {
    const picker = make("select", { id: "tune-preset", name: "preset" });
    const form = make("form", { noValidate: true, data: { tune: "" } },
      make("h2", { textContent: "Model settings" }),
      make("p", { className: "hint", textContent: "For this chat. What is empty is the model's own." }),
      make("label", { className: "field" }, make("span", { textContent: "Preset" }), picker),
      field("System prompt", "system", { tag: "textarea", rows: 3, maxLength: 8000 }, "Read before every message, and priced like the rest of the prompt."),
      make("div", { className: "pair" },
        field("Temperature", "temperature", { type: "number", min: 0, max: 2, step: 0.1, placeholder: "0 to 2" }),
        field("Top-p", "top_p", { type: "number", min: 0.05, max: 1, step: 0.05, placeholder: "up to 1" }),
        field("Longest answer", "max_tokens", { type: "number", min: 1, step: 1, placeholder: "tokens" }),
        field("Seed", "seed", { type: "number", min: 0, step: 1, placeholder: "any" })),
      make("p", { className: "said", role: "status" }),
      make("div", { className: "row" }, make("button", { type: "submit", className: "go", textContent: "Use" }), make("button", { type: "button", textContent: "Reset", data: { tuneReset: "" } })),
      make("div", { className: "row save" }, make("input", { id: "tune-name", maxLength: 60, placeholder: "Name of a preset", ariaLabel: "Name of a preset" }), make("button", { type: "button", textContent: "Save preset", data: { tuneSave: "" } }), make("button", { type: "button", textContent: "Delete", hidden: true, data: { tuneDrop: "" } })));
    fill(form, wish);
    await list(picker);
    return form;
  };
  const list = async (picker, id) => {
    try { presets = (await ask("GET", "chat/presets")).items; } catch { presets = []; }
    picker.replaceChildren(make("option", { value: "", textContent: "Choose…" }), ...presets.map((one) => make("option", { value: one.id, textContent: one.name })));
    if (id) picker.value = id;
  };
  const use = async (form) => {
    const wanted = read(form);
    if (open) await ask("PATCH", "chat/conversations/" + open, { settings: wanted });
    wish = wanted;
    window.chatDone("send");
    known = ""; marks(); window.chatTurns(true);
  };

  // Limits of one's own: an answer is cut at the first, a chat is refused at the second.
  const guard = async () => {
    const now = await ask("GET", "billing/limits");
    const amount = (label, name, note) => make("label", { className: "field" }, make("span", { textContent: label }),
      make("input", { name, id: `guard-${name}`, inputMode: "decimal", placeholder: "No limit", value: now[name] ?? "" }), make("small", { textContent: note }));
    return make("form", { noValidate: true, data: { guard: now.per_day ?? "" } },
      make("h2", { textContent: "Spending limits" }),
      amount("Stop an answer at, credits", "per_answer", "It ends there, and you keep what was written."),
      amount("Stop a chat at, credits", "per_conversation", `A message that could pass it is not sent.${open && rules.length ? ` This chat: ${price.show(price.micro(rules[0].spent))} so far.` : ""}`),
      make("p", { className: "hint", textContent: "They hold for all of your chats. More under Credits, Limits." }),
      make("p", { className: "said", role: "status" }),
      make("div", { className: "row" }, make("button", { type: "submit", className: "go", textContent: "Save" })));
  };
  const limit = async (form) => {
    const of = (name) => form.elements[name].value.replace(/,/g, "").trim() || null;
    await ask("PUT", "billing/limits", { per_answer: of("per_answer"), per_conversation: of("per_conversation"), per_day: form.dataset.guard || null });
    known = ""; window.chatTurns(true);
  };

  // A receipt: what it says, and whether its signature holds, looked at in this browser.
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (mark) => mark.charCodeAt(0));
  const canonical = (value) => (value && typeof value === "object" && !Array.isArray(value)
    ? `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}` : JSON.stringify(value));
  const signed = async (receipt) => {
    try {
      const keys = (await ask("GET", "billing/receipt-keys")).items;
      const key = keys.find((one) => (one.id ?? one.key_id) === receipt.key_id);
      const made = await crypto.subtle.importKey("raw", bytes(key.public ?? key.public_key), "Ed25519", false, ["verify"]);
      const { signature, ...body } = receipt;
      return await crypto.subtle.verify("Ed25519", made, bytes(signature), new TextEncoder().encode(canonical(body)));
    } catch { return null; }
  };
  const receipt = async (link) => {
    const whole = await ask("GET", link.getAttribute("href").slice(5)), facts = whole.receipt;
    const rows = [["Paid", `${facts.credits} ${facts.credits === "1" ? "credit" : "credits"}`], ["Model", facts.model], ["Price version", facts.price_version],
      ["Tokens read", `${facts.prompt_tokens}${facts.cached_tokens ? `, ${facts.cached_tokens} from the cache` : ""}`], ["Tokens written", facts.completion_tokens],
      ["Settled", new Date(facts.settled_at).toLocaleString(window.tongue)], ["Receipt", facts.id], ["Key", whole.key_id]];
    const holds = await signed(whole);
    const verdict = holds === null ? "Signed. Check it with the public keys." : holds ? "The signature is valid." : "The signature does NOT hold.";
    return make("div", {}, make("h2", { textContent: "Receipt" }),
      make("dl", { className: "facts" }, ...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })])),
      make("p", { className: holds === false ? "said bad" : "said", role: "status", textContent: verdict }),
      make("div", { className: "row files" }, make("a", { href: link.getAttribute("href"), download: "", textContent: "Download", className: "go" })));
  };

  // Thumbs, with reasons.
  const reasons = () => JSON.parse($("chat-reasons")?.dataset.reasons || '{"up":{},"down":{}}');
  const mark = (foot, vote) => {
    if (vote) foot.dataset.v = vote; else delete foot.dataset.v;
    foot.querySelectorAll("[data-vote]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.vote === vote)));
  };
  const vote = async (button) => {
    const foot = button.closest(".foot"), path = `chat/messages/${foot.dataset.m}/feedback`;
    if (button.dataset.vote === foot.dataset.v) { await ask("DELETE", path); mark(foot, ""); close(); return null; }
    await ask("PUT", path, { vote: button.dataset.vote });
    mark(foot, button.dataset.vote);
    const form = make("form", { noValidate: true, data: { why: foot.dataset.m, vote: button.dataset.vote } },
      make("h2", { textContent: button.dataset.vote === "up" ? "What was good?" : "What was wrong?" }),
      make("div", { className: "chips" }, ...Object.entries(reasons()[button.dataset.vote]).map(([code, name]) => make("label", {}, make("input", { type: "checkbox", name: "reason", value: code }), make("span", { textContent: name })))),
      make("label", { className: "field" }, make("span", { textContent: "More, if you like" }), make("textarea", { name: "note", rows: 2, maxLength: 500 })),
      make("p", { className: "said", role: "status" }),
      make("div", { className: "row" }, make("button", { type: "submit", className: "go", textContent: "Send" })));
    return form;
  };
  const why = (form) => ask("PUT", `chat/messages/${form.dataset.why}/feedback`, {
    vote: form.dataset.vote, note: form.elements.note.value, reasons: [...form.querySelectorAll("[name=reason]:checked")].map((one) => one.value) });
  // The lines of an answer and of what continues it: they are read as one text.
  const beside = (foot) => [...foot.parentElement.children].filter((one) => one.matches(".foot[data-m]"));
  const copy = async (button) => {
    const foot = button.closest(".foot");
    let done = false;
    try {
      const parts = await Promise.all(beside(foot).map((one) => ask("GET", "chat/messages/" + one.dataset.m)));
      const text = parts.map((one) => one.content).join("");
      try { await navigator.clipboard.writeText(text); done = true; } catch {
        const box = make("textarea", { value: text }); document.body.append(box); box.select();
        done = document.execCommand("copy"); box.remove();
      }
    } catch { /* said below */ }
    button.textContent = done ? "Copied" : "Not copied"; setTimeout(() => { button.textContent = "Copy"; }, 1600);
  };
  const tools = () => document.querySelectorAll("#chat-log .foot[data-m]:not(:has(.tools))").forEach((foot) => {
    const thumb = (name, label) => { const made = make("button", { type: "button", title: label, data: { vote: name } }); made.setAttribute("aria-label", label); return made; };
    const whole = beside(foot).at(-1) === foot ? [make("button", { type: "button", textContent: "Copy", title: "Copy as Markdown", data: { copy: "" } })] : [];
    foot.append(make("span", { className: "tools" }, ...whole, thumb("up", "Good answer"), thumb("down", "Bad answer")));
    mark(foot, foot.dataset.v || "");
  });
  // Leading tabs of code, which the Markdown reader would make spaces: see ui/marks.py.
  const TAB = "\u2001\ufe00";
  const tabs = () => document.querySelectorAll("#chat-log pre code").forEach((block) => {
    if (!block.textContent.includes(TAB)) return;
    const texts = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) if (texts.currentNode.data.includes(TAB)) texts.currentNode.data = texts.currentNode.data.replaceAll(TAB, "\t");
  });
  const code = () => document.querySelectorAll("#chat-log .code_wrap:not([data-lang])").forEach((wrap) => {
    const name = /language-(\S+)/.exec(wrap.querySelector("code")?.className || "");
    wrap.dataset.lang = name ? name[1] : "";
    wrap.querySelector("button.copy_code_button")?.setAttribute("aria-label", "Copy the code");
  });

  // One small window for all of it, beside what opened it.
  let from = null;
  const close = () => { const box = $("pop"); if (!box) return; box.remove(); from?.setAttribute("aria-expanded", "false"); if (from?.isConnected) from.focus({ preventScroll: true }); from = null; };
  const pop = async (anchor, label, inside) => {
    const same = from === anchor && $("pop");
    close();
    if (same) return;
    let content;
    try { content = await inside(); } catch (error) { content = make("p", { className: "said bad", textContent: error.message }); }
    if (!content) return;
    close();
    from = anchor;
    const box = make("div", { id: "pop", tabIndex: -1 }, content);
    box.setAttribute("role", "dialog"); box.setAttribute("aria-label", label);
    document.querySelector(".gradio-container").append(box);
    anchor.setAttribute("aria-expanded", "true");
    const spot = anchor.getBoundingClientRect(), size = box.getBoundingClientRect(), edge = 10;
    box.style.left = `${Math.max(edge, Math.min(spot.left, innerWidth - size.width - edge))}px`;
    const above = spot.top - size.height - 8;
    box.style.top = `${above >= edge ? above : Math.max(edge, Math.min(spot.bottom + 8, innerHeight - size.height - edge))}px`;
    (box.querySelector("input, select, textarea, a") || box).focus({ preventScroll: true });
  };
  const said = (text, bad) => { const part = document.querySelector("#pop .said"); if (part) { part.textContent = text; part.classList.toggle("bad", Boolean(bad)); } };
  const trying = async (does) => { try { await does(); } catch (error) { said(error.message, true); return false; } return true; };

  document.addEventListener("click", async (event) => {
    const target = event.target;
    const tool = target.closest("[data-pop]"), link = target.closest("#chat-log [data-receipt]"), thumb = target.closest("#chat-log [data-vote]");
    if (tool) { pop(tool, tool.title, tool.dataset.pop === "tune" ? tune : guard); return; }
    if (link) { event.preventDefault(); pop(link, "Receipt", () => receipt(link)); return; }
    if (thumb) { pop(thumb, "Feedback", () => vote(thumb)); return; }
    if (target.closest("#chat-log [data-copy]")) { copy(target.closest("[data-copy]")); return; }
    if (target.closest("[data-fresh]")) { window.chatCarry(); $("new-chat")?.click(); return; }
    const box = target.closest("#pop");
    if (!box) { if (target.isConnected) close(); return; }
    const form = box.querySelector("form"), picker = form?.elements.preset;
    if (target.closest("[data-tune-reset]")) { fill(form, {}); picker.value = ""; }
    if (target.closest("[data-tune-save]")) {
      await trying(async () => {
        const made = await ask("POST", "chat/presets", { name: $("tune-name").value, settings: read(form) });
        await list(picker, made.id); said(`Saved: ${made.name}`);
      });
    }
    if (target.closest("[data-tune-drop]") && picker.value) {
      await trying(async () => { await ask("DELETE", "chat/presets/" + picker.value); await list(picker); said("Deleted."); });
      form.querySelector("[data-tune-drop]").hidden = true;
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "tune-preset") return;
    const form = event.target.closest("form"), one = presets.find((item) => item.id === event.target.value);
    form.querySelector("[data-tune-drop]").hidden = !one || one.built_in;
    if (!one) return;
    const system = one.built_in ? form.elements.system.value : one.settings.system;
    fill(form, { ...one.settings, system });
    $("tune-name").value = one.built_in ? "" : one.name;
  });
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("#pop form");
    if (!form) return;
    event.preventDefault();
    const act = form.dataset.tune !== undefined ? use : form.dataset.guard !== undefined ? limit : why;
    if (await trying(() => act(form))) { close(); look(); }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && $("pop")) { event.stopPropagation(); close(); } });
  document.addEventListener("input", (event) => { if (event.target.closest("#chat-input")) later(); });
  document.addEventListener("focusin", (event) => { if (event.target.closest("#chat-input")) setTimeout(say); });
  document.addEventListener("chat-changed", () => { look(); later(); });

  // While an answer is written, the pill says how much of what is held is used so far.
  const live = () => {
    const held = document.querySelector("#credits-pill [data-held]"), spent = document.querySelector("#chat-cost .busy b");
    if (!held) return;
    const text = spent ? `${spent.textContent} of ${held.dataset.held} held` : `${held.dataset.held} held`;
    if (held.textContent !== text) held.textContent = text;
  };
  let due = false;
  const watch = () => { due = false; tools(); code(); tabs(); live(); look(); };
  const start = () => {
    new MutationObserver(() => { if (!due) { due = true; setTimeout(watch, 100); } }).observe(document.body, { childList: true, subtree: true, characterData: true });
    watch();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
