(() => {
  // Admin, Setup: models come with their progress, the first message, what is missing.
  const $ = (id) => document.getElementById(id);
  const ask = async (method, path, body) => {
    const answer = await fetch("/api/" + path, {
      method, credentials: "same-origin", headers: body ? { "Content-Type": "application/json" } : {}, body: body ? JSON.stringify(body) : undefined,
    });
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (!answer.ok) throw new Error((content.error && content.error.message) || "The server did not answer. Try again.");
    return content;
  };
  const make = (tag, about = {}, ...parts) => {
    const { data = {}, ...rest } = about, made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data);
    made.append(...parts.filter((part) => part !== null && part !== undefined));
    return made;
  };
  const badge = (text, kind) => make("span", { className: `badge ${kind || ""}`, textContent: text });
  const press = (text, data, kind = "") => make("button", { type: "button", textContent: text, className: kind, data });
  const size = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`);
  const left = (seconds) => (seconds > 90 ? `${Math.round(seconds / 60)} min left` : `${Math.max(1, Math.round(seconds))} s left`);
  const body = (step) => document.querySelector(`#setup [data-step="${step}"] .step-body`);
  const ticked = (step, done) => { document.querySelector(`#setup [data-step="${step}"]`).dataset.done = done ? "yes" : "no"; };

  let state = null, timer = 0, tried = null, troubles = {};

  // A model: what it is, where it stands, and what can be done
  const progress = (model) => {
    const now = model.download, known = now.total_bytes > 0;
    const words = [known ? `${size(now.done_bytes)} of ${size(now.total_bytes)}` : "", now.bytes_per_second ? `${(now.bytes_per_second / 1e6).toFixed(1)} MB/s` : "",
      known && now.bytes_per_second ? left((now.total_bytes - now.done_bytes) / now.bytes_per_second) : ""].filter(Boolean).join(" · ");
    const bar = make("progress", known ? { max: now.total_bytes, value: now.done_bytes } : {});
    bar.setAttribute("aria-label", `Download of ${model.name}`);
    return make("div", { className: "download" }, make("p", { className: "hint" }, now.sentence, make("b", { textContent: words })), bar);
  };
  const mark = (model) => {
    if (model.download?.state === "running") return badge("downloading", "warn");
    if (model.here) return badge("on this machine", "good");
    if (model.reason) return badge("broken", "bad");
    return model.usable ? badge("answers from elsewhere", "good") : badge("not here", "");
  };
  const row = (model) => {
    const running = model.download?.state === "running", failed = model.download?.state === "failed" && !model.here;
    const licence = make("a", { href: model.license_url, target: "_blank", rel: "noopener noreferrer", textContent: model.license });
    const about = make("p", { className: "hint" }, `${size(model.size_bytes)} · `, licence, model.gated ? " · needs a read token of huggingface.co in HF_TOKEN" : "");
    const trouble = troubles[model.id] || (failed ? model.download.sentence : "") || model.reason;
    const button = running ? press("Cancel", { cancel: model.id }) : model.here ? null : press(failed || model.reason ? "Try again" : "Get it", { fetch: model.id }, model.demo ? "primary" : "");
    if (button) button.setAttribute("aria-label", `${button.textContent}: ${model.name}`);
    return make("div", { className: "model", data: { model: model.id } },
      make("div", {}, make("p", {}, make("b", { textContent: model.name }), "\u2002", mark(model)), about, running ? progress(model) : null,
        trouble && !running ? make("p", { className: "bad", textContent: trouble }) : null), button);
  };
  const models = () => {
    const elsewhere = { script: "The scripted engine of tests answers here, so no weights are needed.", remote: "Servers elsewhere answer here, so no weights are needed." }[state.engine];
    const held = document.activeElement?.dataset, what = held && (held.fetch || held.cancel);
    body("models").replaceChildren(...(elsewhere ? [make("p", { className: "hint", textContent: elsewhere })] : []), ...state.models.map(row));
    if (what) document.querySelector(`#setup [data-model="${CSS.escape(what)}"] button`)?.focus({ preventScroll: true });
    ticked("models", state.usable);
  };
  const message = () => {
    const parts = [];
    if (tried) parts.push(make("blockquote", { textContent: tried.content || "" }), make("p", { className: tried.bad ? "bad" : "hint", textContent: tried.words }));
    const button = press(tried || state.answered ? "Send another" : "Send a test message", { test: "1" }, state.answered ? "" : "primary");
    button.disabled = !state.usable;
    parts.push(make("div", { className: "actions" }, button, press("Go to the chat", { tab: "Chat" })));
    if (!state.usable) parts.push(make("p", { className: "hint", textContent: "Get a model first." }));
    body("message").replaceChildren(...parts);
    ticked("message", state.answered);
  };
  const prices = () => {
    const shop = state.shop === "offline" ? "Orders are confirmed without real money: good for a trial. To take money, set payments.provider to stripe and give its keys." : `Payments go through ${state.shop}.`;
    body("prices").replaceChildren(make("p", { className: "hint", textContent: shop }),
      make("div", { className: "actions" }, press("Models & prices", { section: "Models & prices" }), press("Packages & codes", { section: "Packages & codes" })));
    ticked("prices", state.shop !== "offline");
  };
  const people = () => {
    const address = make("input", { value: `${location.origin}/`, readOnly: true, id: "setup-address" });
    address.setAttribute("aria-label", "The address to give to people");
    const count = state.people === 1 ? "You are the only one so far." : `${state.people} people have an account.`;
    body("people").replaceChildren(make("p", { className: "hint", textContent: count }),
      make("div", { className: "actions" }, address, press("Copy", { copy: "1" }), press("Make codes", { section: "Packages & codes" })));
    ticked("people", state.people > 1);
  };
  const machine = () => {
    body("machine").replaceChildren(make("dl", { className: "findings" }, ...state.findings.flatMap((one) => [
      make("dt", {}, badge(one.ok ? "OK" : "Mend", one.ok ? "good" : "bad"), one.name === "gpu" ? "GPU" : one.name[0].toUpperCase() + one.name.slice(1)), make("dd", { textContent: one.sentence })])));
    ticked("machine", state.findings.every((one) => one.ok));
  };
  const verdict = () => {
    const part = $("setup-verdict"), bad = state.findings.filter((one) => !one.ok).length;
    const [kind, words] = !state.usable ? ["warn", "No model can answer yet. Get one below: the demo model takes a minute."]
      : bad ? ["warn", "People can chat, but this machine wants to be looked at."]
      : state.answered ? ["good", "Everything works. This page stays here, under Admin."] : ["good", "A model is ready. Send the first message."];
    part.className = `verdict ${kind}`;
    if (part.textContent !== words) part.textContent = words;
  };
  const draw = () => { verdict(); models(); message(); prices(); people(); machine(); };
  const look = async () => {
    try { state = await ask("GET", "admin/setup"); } catch (error) { const part = $("setup-verdict"); part.className = "verdict bad"; part.textContent = error.message; return; }
    draw(); again();
  };
  // While something comes, it is looked at each second; when it is here, everything is.
  const again = () => {
    clearTimeout(timer);
    if (state.models.some((model) => model.download?.state === "running") && $("setup")?.offsetParent) timer = setTimeout(watch, 1000);
  };
  const watch = async () => {
    let items;
    try { ({ items } = await ask("GET", "admin/downloads")); } catch { timer = setTimeout(watch, 4000); return; }
    const ended = state.models.some((model, at) => model.download?.state === "running" && items[at]?.download?.state !== "running");
    state.models = items; models();
    if (ended) look(); else again();
  };
  const act = async (model, method) => {
    delete troubles[model];
    try {
      const now = await ask(method, `admin/downloads/${encodeURIComponent(model)}`);
      state.models = state.models.map((one) => (one.id === model ? now : one));
    } catch (error) { troubles[model] = error.message; }
    models(); again();
  };
  const test = async (button) => {
    button.disabled = true; button.textContent = "Answering…";
    try {
      const { items } = await ask("GET", "chat/models"), model = items.find((one) => one.available);
      const made = await ask("POST", "chat/message", { model: model.id, message: "Say hello in one short sentence." });
      tried = { content: made.content, words: `${model.name} · charged ${made.charged} ${made.charged === "1" ? "credit" : "credits"} · ${made.balance.available ?? made.balance} left · ${made.receipt_id ? "receipt signed" : "nothing to pay"}` };
      state.answered = true;
    } catch (error) { tried = { content: "", words: error.message, bad: true }; }
    draw();
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("#setup button");
    if (!button || !state) return;
    const { fetch: wanted, cancel, test: trial, section, tab, copy } = button.dataset;
    if (wanted) { button.disabled = true; act(wanted, "POST"); }
    if (cancel) { button.disabled = true; act(cancel, "DELETE"); }
    if (trial) test(button);
    if (section) window.openTab("#admin-sections", section);
    if (tab) window.openTab("#tabs", tab);
    if (copy) { try { await navigator.clipboard.writeText($("setup-address").value); button.textContent = "Copied"; } catch { $("setup-address").select(); } }
  });
  let seen = null;
  const start = () => {
    let due = false;
    const find = () => {
      due = false;
      const page = $("setup");
      if (!page || page === seen) return;
      seen = page;
      new IntersectionObserver((found) => { if (found.some((one) => one.isIntersecting)) look(); }).observe(page);
    };
    new MutationObserver(() => { if (!due) { due = true; setTimeout(find, 120); } }).observe(document.body, { childList: true, subtree: true });
    find();
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
