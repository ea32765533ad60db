(() => {
  // The Account tab and the forms behind mailed links. Secrets go to the REST API alone.
  const $ = (id) => document.getElementById(id);
  const ask = async (method, path, body) => {
    const answer = await fetch("/api/" + path, {
      method, credentials: "same-origin", headers: body ? { "Content-Type": "application/json" } : {},
      body: body ? JSON.stringify(body) : undefined,
    });
    let content = {};
    try { content = await answer.json(); } catch { /* an empty body */ }
    if (answer.ok) return content;
    const facts = content.error || {};
    throw Object.assign(new Error(facts.message || "The server did not answer. Try again."), { code: facts.code, status: answer.status, facts });
  };
  const make = (tag, about = {}, ...parts) => {
    const made = Object.assign(document.createElement(tag), about);
    made.append(...parts.filter((part) => part !== null));
    return made;
  };
  const badge = (text, kind) => make("span", { className: `badge ${kind || ""}`, textContent: text });
  const when = (at) => { const part = make("time", { textContent: at }); part.setAttribute("datetime", at); return part; };
  const said = (part, text, bad) => { if (part) { part.textContent = text; part.classList.toggle("bad", Boolean(bad)); } };
  const copy = async (text, button) => {
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const box = make("textarea", { value: text });
      document.body.append(box); box.select(); done = document.execCommand("copy"); box.remove();
    }
    const before = button.textContent;
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = before; }, 1600);
  };
  const save = (blob, name) => {
    const link = make("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link); link.click(); link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const again = (hash) => { history.replaceState(null, "", "/" + hash); location.reload(); };

  let me = null;
  const profile = async () => {
    me = await ask("GET", "auth/me");
    $("account-username").textContent = me.username;
    $("account-email").textContent = me.email;
    $("account-name").value = me.display_name || "";
    if (me.role !== "user") $("account-new").minLength = Number($("account-new").dataset.staff);
    const tongue = $("account-language");
    if (me.language && ![...tongue.options].some((one) => one.value === me.language)) tongue.append(make("option", { value: me.language, textContent: me.language }));
    tongue.value = me.language || "";
    const zone = $("account-zone");
    if (zone.length < 2 && Intl.supportedValuesOf) zone.append(...Intl.supportedValuesOf("timeZone").map((name) => make("option", { value: name, textContent: name })));
    if (me.timezone && ![...zone.options].some((one) => one.value === me.timezone)) zone.append(make("option", { value: me.timezone, textContent: me.timezone }));
    zone.value = me.timezone || "";
    const mark = $("account-verified");
    mark.replaceChildren();
    if (me.email_verified === true) mark.append(badge("confirmed", "good"));
    if (me.email_verified === false) mark.append(badge("not confirmed", "warn"), " ", make("button", { type: "button", className: "link", textContent: "Send the link again" }));
    mark.querySelector("button")?.setAttribute("data-act", "resend");
    $("account-email-part").hidden = me.email_verified === undefined;
  };
  // A part of the program that is switched off has no route, and then no section here.
  const absent = (error, id) => {
    if (error.status !== 404 && error.status !== 405) throw error;
    $(id).hidden = true;
  };
  const second = async () => {
    try {
      const now = await ask("GET", "auth/totp");
      factor(now.enabled ? "on" : "off");
      document.querySelectorAll("[data-beside]").forEach((part) => { part.hidden = !now.enabled; });
      if (now.enabled) $("account-factor-state").append(make("span", { className: "hint", textContent: ` ${now.backup_codes_left} backup codes left` }));
    } catch (error) { absent(error, "account-second-factor"); }
  };
  const factor = (state) => {
    const page = $("account-second-factor");
    page.querySelectorAll("[data-factor]").forEach((part) => { part.hidden = part.dataset.factor !== state; });
    $("account-factor-state").replaceChildren(state === "on" ? badge("switched on", "good") : badge(state === "off" ? "switched off" : "not finished", "warn"));
  };
  const hub = async () => {
    if (!$("account-hub")) return;
    const now = await ask("GET", "auth/hub"), framed = window.top !== window;
    const shown = now.linked ? "on" : framed ? "framed" : "off";
    $("account-hub").querySelectorAll("[data-hub-part]").forEach((part) => { part.hidden = part.dataset.hubPart !== shown; });
    $("account-hub-state").replaceChildren(badge(now.linked ? "linked" : "not linked", now.linked ? "good" : ""));
    if (now.linked) $("account-hub-state").append(" ", make("b", { textContent: now.name, translate: false }), make("span", { className: "hint" }, " since ", when(now.linked_at)));
    said($("account-hub-said"), window.hubSaid(), true);
  };
  const device = (agent) => {
    const system = /Android|iPhone|iPad|Windows|Mac OS|Linux/.exec(agent), browser = /Firefox|Edg|Chrom|Safari|curl|python|node/i.exec(agent);
    const names = { Edg: "Edge", Chrom: "Chrome", "Mac OS": "macOS", python: "Python" };
    return [browser, system].filter(Boolean).map((one) => names[one[0]] || one[0]).join(", ") || agent.slice(0, 40) || "Unknown program";
  };
  const line = (title, marks, about, button) => make("div", { className: "line" },
    make("div", {}, make("p", {}, make("b", { textContent: title }), " ", ...marks), make("p", { className: "hint" }, ...about)), button);
  const end = (act, id, text, name) => {
    const button = make("button", { type: "button", textContent: text });
    button.dataset.act = act; button.dataset.id = id; button.setAttribute("aria-label", `${text}: ${name}`);
    return button;
  };
  const sessions = async () => {
    const page = await ask("GET", "auth/sessions");
    $("account-session-list").replaceChildren(...page.items.map((one) => {
      const name = device(one.agent);
      return line(name, one.current ? [badge("this device", "good")] : [], [one.ip ? `${one.ip} · ` : "", "last used ", when(one.last_seen_at)],
        one.current ? null : end("session-end", one.id, "End", name));
    }));
  };
  const limits = (key) => {
    const parts = ["day", "month", "total"].filter((part) => key.budget && key.budget[part] !== null).map((part) => `${key.spent[part]} of ${key.budget[part]} credits ${part === "total" ? "in all" : "this " + part}`);
    return parts.length ? parts.join(" · ") : `${key.spent ? key.spent.total : 0} credits spent, no budget`;
  };
  const keys = async () => {
    let page;
    try { page = await ask("GET", "auth/keys"); } catch (error) { absent(error, "account-keys"); return; }
    const rows = page.items.map((key) => line(key.name, [make("code", { textContent: key.prefix + "…" }), " ", ...(key.state && key.state !== "active" ? [badge(key.state, "warn")] : [])],
      [`${key.scopes.join(", ")} · ${limits(key)} · `, ...(key.last_used_at ? ["last used ", when(key.last_used_at)] : ["never used"]), ...(key.expires_at ? [" · ends ", when(key.expires_at)] : [])],
      end("key-end", key.id, "Revoke", key.name)));
    $("account-key-list").replaceChildren(...(rows.length ? rows : [make("p", { className: "hint", textContent: "No keys yet." })]));
  };
  const load = async () => {
    for (const part of [profile, second, hub, sessions, keys]) {
      try { await part(); } catch (error) {
        if (error.status === 401) { location.replace("/"); return; }
      }
    }
  };

  const withCode = ({ code, ...data }) => ({ ...data, ...(code?.trim() ? { code: code.replace(/\s/g, "") } : {}) });
  const does = {
    "profile-save": async (data) => { await ask("PATCH", "auth/me", { display_name: data.display_name, language: data.language, timezone: data.timezone }); if (data.language !== me.language) { me.language = data.language; window.chooseTongue(data.language); } return "Saved."; },
    "email-change": async (data, form) => { await ask("PATCH", "auth/me", withCode(data)); form.reset(); return "A link is on its way to the new address. Nothing changes before it is opened."; },
    "export-confirm": async (data, form) => {
      await ask("POST", "auth/confirm", withCode(data)); form.reset();
      $("account-export-sure").hidden = true; pack($("account-export"));
    },
    "password-change": async (data) => { await ask("POST", "auth/password/change", data); again("#account"); return "Changed. All other devices are signed out."; },
    "factor-begin": async (data, form) => {
      const made = await ask("POST", "auth/totp/enroll", data);
      form.reset();
      const qr = $("account-qr"), picture = new Image();
      qr.replaceChildren();
      if (made.qr_svg) {
        picture.alt = "QR code for your authenticator app"; picture.width = picture.height = 196;
        picture.src = "data:image/svg+xml;base64," + btoa(made.qr_svg); qr.append(picture);
      }
      $("account-factor-secret").textContent = made.secret.replace(/(.{4})/g, "$1 ").trim();
      factor("setup"); $("account-factor-code").focus();
    },
    "factor-confirm": async (data, form) => {
      const made = await ask("POST", "auth/totp/confirm", { code: data.code.replace(/\s/g, "") });
      form.reset(); $("account-qr").replaceChildren(); $("account-factor-secret").textContent = "";
      $("account-backup-codes").textContent = made.backup_codes.join("\n");
      factor("codes");
    },
    "factor-verify": async (data, form) => { await ask("POST", "auth/totp/verify", { code: data.code.replace(/\s/g, "") }); form.reset(); return "Proved. You may go on with what asked for it."; },
    "factor-off": async (data, form) => { await ask("POST", "auth/totp/disable", { password: data.password, code: data.code.replace(/\s/g, "") }); form.reset(); await second(); },
    "hub-link": async (data) => { location.assign((await ask("POST", "auth/hub/link", withCode(data))).url); },
    "hub-unlink": async (data, form) => { await ask("POST", "auth/hub/unlink", withCode(data)); form.reset(); await hub(); },
    "key-make": async (data, form) => {
      const budget = Object.fromEntries(["day", "month", "total"].filter((part) => data[part].trim()).map((part) => [part, data[part].trim()]));
      const made = await ask("POST", "auth/keys", {
        name: data.name, scopes: new FormData(form).getAll("scopes"),
        ...(data.expires_at ? { expires_at: data.expires_at + "T23:59:59Z" } : {}),
        ...(Object.keys(budget).length ? { budget } : {}), ...(data.password ? { password: data.password } : {}),
      });
      form.reset(); $("account-key-text").textContent = made.key;
      $("account-new-key").hidden = false; $("account-key-part").open = false;
      await keys();
    },
    erase: async (data) => {
      if (data.name.trim() !== me.username) throw new Error("This is not your user name. Type it as it stands above.");
      await ask("DELETE", "auth/me", withCode({ password: data.password, code: data.code, ...(data.forfeit ? { confirm: "forfeit" } : {}) }));
      window.chatLeft?.();
      location.replace("/");
    },
  };
  const pack = async (button) => {
    const part = $("account-export-said"), began = Date.now();
    button.disabled = true; said(part, "Packing…");
    try {
      const answer = await fetch("/api/auth/me/export", { credentials: "same-origin" });
      if (!answer.ok) {
        const facts = (await answer.json()).error || {};
        if (facts.code === "password_needed") { said(part, ""); $("account-export-sure").hidden = button.disabled = false; $("account-export-password").focus(); return; }
        throw new Error(facts.message);
      }
      const reader = answer.body.getReader(), pieces = [];
      for (let size = 0; ;) {
        const { done, value } = await reader.read();
        if (done) break;
        pieces.push(value); size += value.length;
        said(part, `${(size / 1048576).toFixed(1)} MB…`);
      }
      save(new Blob(pieces, { type: "application/zip" }), `${me.username}.zip`);
      said(part, `Done in ${Math.max(1, Math.round((Date.now() - began) / 1000))} s.`);
    } catch (error) { said(part, error.message || "It could not be packed. Try again.", true); }
    button.disabled = false;
  };
  const acts = {
    resend: async (button) => { await ask("POST", "auth/verify-email/resend"); button.replaceWith("The mail is on its way."); },
    "session-end": async (button) => { await ask("DELETE", `auth/sessions/${button.dataset.id}`); await sessions(); },
    "leave-all": async () => { await ask("POST", "auth/logout-all"); window.chatLeft?.(); location.replace("/"); },
    "key-end": async (button) => { await ask("DELETE", `auth/keys/${button.dataset.id}`); await keys(); },
    "key-copy": (button) => copy($("account-key-text").textContent, button),
    "key-done": () => { $("account-new-key").hidden = true; $("account-key-text").textContent = ""; },
    "codes-copy": (button) => copy($("account-backup-codes").textContent, button),
    "codes-save": () => save(new Blob([$("account-backup-codes").textContent + "\n"], { type: "text/plain" }), `${me.username}-backup-codes.txt`),
    "codes-done": async () => { $("account-backup-codes").textContent = ""; await second(); },
    export: pack,
    "erase-open": async () => {
      const balance = await ask("GET", "billing/balance");
      $("account-erase-sure").hidden = false;
      $("account-erase-about").textContent = `${balance.available} credits are left. Your user name is ${me.username}.`;
      $("account-erase-forfeit").closest("label").hidden = Number(balance.available) === 0;
      $("account-erase-name").focus();
    },
    "erase-close": () => { $("account-erase-sure").hidden = true; $("account-erase-sure").querySelector("form").reset(); },
  };
  // What takes something away asks once more, on the same button.
  const grave = { "session-end": "End it?", "leave-all": "Really everywhere?", "key-end": "Revoke it?" };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("#account-page [data-act], #notice [data-act]");
    if (!button) return;
    const act = button.dataset.act;
    if (grave[act] && button.dataset.sure === undefined) {
      const before = button.textContent;
      button.dataset.sure = ""; button.textContent = grave[act]; button.classList.add("danger");
      setTimeout(() => { if (button.isConnected) { delete button.dataset.sure; button.textContent = before; button.classList.remove("danger"); } }, 4000);
      return;
    }
    try { await acts[act](button); } catch (error) {
      const place = button.closest(".row")?.querySelector(".said") || button.closest(".line")?.querySelector(".hint");
      if (place) said(place, error.message, true); else button.replaceWith(error.message);
    }
  });
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-does]");
    if (!form) return;
    event.preventDefault();
    const part = form.querySelector(".said"), button = form.querySelector("button[type=submit]");
    const missing = form.querySelector("input:invalid");
    if (missing) { said(part, missing.validity.valueMissing ? "Fill in every field." : missing.validationMessage, true); missing.focus(); return; }
    said(part, ""); button.disabled = true;
    try { said(part, (await does[form.dataset.does](Object.fromEntries(new FormData(form)), form)) || ""); } catch (error) {
      said(part, error.message, true);
      if (error.code === "password_needed") $("account-key-password").focus();
    }
    button.disabled = false;
  });

  // Links of mails: what they carry stands behind the #, so that no log ever sees it.
  const dialog = (title, inner, does) => {
    const box = document.createElement("dialog"), form = make("form", { noValidate: true });
    form.dataset.does = does;
    form.append(make("h2", { textContent: title, id: "door-title" }), ...inner);
    box.id = "door"; box.className = "panel"; box.setAttribute("aria-labelledby", "door-title");
    box.append(form);
    document.querySelector(".gradio-container").append(box);
    box.showModal();
    return box;
  };
  const last = (id, text) => [make("p", { className: "said", role: "alert" }), make("button", { type: "submit", id, className: "go", textContent: text })];
  const field = (id, name, label, kind, complete) => {
    const input = make("input", { id, name, type: kind, autocomplete: complete, required: true });
    return make("label", { className: "field" }, make("span", { textContent: label }), input);
  };
  let door = null;
  does.reset = async (data) => {
    await ask("POST", "auth/password/reset", { token: door.token, password: data.password });
    door.box.querySelector("form").replaceChildren(make("h2", { textContent: "Your password was changed" }),
      make("p", { className: "hint", textContent: "All earlier sign-ins have ended. Sign in with the new one." }), make("button", { type: "button", className: "go", id: "door-close", textContent: "Go to sign in" }));
  };
  does.verify = async () => {
    const done = await ask("POST", "auth/verify-email", { token: door.token });
    const gift = Number(done.credits_given) > 0 ? ` ${done.credits_given} credits were added to your account.` : "";
    door.box.querySelector("form").replaceChildren(make("h2", { textContent: "Your address is confirmed" }),
      make("p", { className: "hint", textContent: `${done.email || "It"} is yours.${gift}` }), make("button", { type: "button", className: "go", id: "door-close", textContent: "Go on" }));
  };
  document.addEventListener("click", (event) => { if (event.target.closest("#door-close")) { door.box.close(); location.replace("/"); } });
  const links = () => {
    const found = /^#(reset|verify)=([\w.~-]+)$/.exec(location.hash);
    if (!found || door || !document.querySelector(".gradio-container")) return;
    history.replaceState(null, "", "/");
    door = { token: found[2] };
    door.box = found[1] === "reset"
      ? dialog("Choose a new password", [field("reset-password", "password", "New password", "password", "new-password"), ...last("reset-submit", "Change password")], "reset")
      : dialog("Confirm your e-mail address", [make("p", { className: "hint", textContent: "One click, and the address is yours." }), ...last("verify-submit", "Confirm")], "verify");
    door.box.addEventListener("cancel", () => { setTimeout(() => { door.box.remove(); door = null; }); });
  };
  // Where a confirmed address is asked for, a line under the bar says so until it is.
  let looked = false;
  const remind = async () => {
    if (looked || !document.querySelector('.brand[data-verify="1"]') || !$("sign-out")?.offsetParent) return;
    looked = true;
    try {
      const who = await ask("GET", "auth/me");
      if (who.email_verified !== false) return;
      const button = make("button", { type: "button", textContent: "Send the mail again" });
      button.dataset.act = "resend";
      const note = make("div", { id: "notice", role: "status" }, make("span", { textContent: `Confirm your address: open the link in the mail to ${who.email}.` }), button);
      $("topbar").after(note);
      // The chat fills the window: it makes room.
      new ResizeObserver(() => document.body.style.setProperty("--notice", `${note.offsetHeight}px`)).observe(note);
    } catch { /* not signed in any more */ }
  };
  let seen = null;
  const watch = () => {
    links(); remind();
    const page = $("account-page");
    if (!page || page === seen) return;
    seen = page;
    new IntersectionObserver((found) => { if (found.some((one) => one.isIntersecting) && !document.querySelector("#account-page :focus")) load(); }).observe($("account-profile") || page);
  };
  window.addEventListener("hashchange", links);
  const start = () => { let due = false; new MutationObserver(() => { if (!due) { due = true; setTimeout(() => { due = false; watch(); }, 80); } }).observe(document.body, { childList: true, subtree: true }); watch(); };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
