(() => {
  // What is written and not sent yet: kept for each conversation, and one message that waits for
  // the answer before it to end. Nothing of a temporary chat is kept.
  const $ = (id) => document.getElementById(id);
  let open = null, queued = null, after = "", carried = "", timer = 0;
  const field = () => document.querySelector("#chat-input textarea");
  const me = () => (document.querySelector("#who span") || {}).textContent || "";
  const name = (id) => `draft:${me()}:${id || "new"}`;
  const temporary = () => String(open).startsWith("temporary");
  const busy = () => Boolean(document.querySelector("#chat-cost .busy"));
  const MOST_DRAFTS = 40, MOST = 100000;
  const store = (id, text) => {
    if (!me()) return;
    try {
      if (!text.trim() || temporary()) { localStorage.removeItem(name(id)); return; }
      const own = Object.keys(localStorage).filter((key) => key.startsWith("draft:"));
      if (own.length >= MOST_DRAFTS && !own.includes(name(id))) localStorage.removeItem(own[0]);
      localStorage.setItem(name(id), text.slice(0, MOST));
    } catch { /* full, or forbidden: then there is no draft */ }
  };
  const draft = (id) => { try { return localStorage.getItem(name(id)) || ""; } catch { return ""; } };
  const write = (text) => {
    const part = field();
    if (!part || part.value === text) return;
    part.value = text;
    part.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const joined = (...texts) => texts.filter((text) => text && text.trim()).join("\n\n");
  const keep = () => {
    clearTimeout(timer);
    if (open !== null && field()) store(open, joined(queued ? queued.text : "", field().value));
  };

  // The message that waits
  const chip = () => {
    const place = $("composer"), held = $("chat-queued");
    if (!queued) { held?.remove(); return; }
    const part = held || document.createElement("div"), off = document.createElement("button"), words = document.createElement("span");
    part.id = "chat-queued";
    part.setAttribute("role", "status");
    words.textContent = queued.text; words.dir = "auto";
    off.type = "button"; off.textContent = "×"; off.title = "Do not send it"; off.setAttribute("aria-label", "Do not send the waiting message");
    off.addEventListener("click", back);
    part.replaceChildren(Object.assign(document.createElement("b"), { textContent: "Queued" }), words, off);
    if (!held) place.prepend(part);
  };
  const back = () => {
    if (!queued) return;
    const text = queued.text;
    queued = null; chip();
    write(joined(text, field().value));
    field().focus(); keep();
  };
  const queue = () => {
    const text = field().value;
    if (!text.trim()) return;
    queued = { open, text: joined(queued ? queued.text : "", text) };
    write(""); chip(); keep(); button();
  };
  const button = () => {
    const foot = $("composer-foot"), stop = $("chat-stop");
    if (!foot || !stop) return;
    let part = $("chat-queue");
    if (!part) {
      part = Object.assign(document.createElement("button"), { type: "button", id: "chat-queue", textContent: "Queue", title: "Send it when this answer has ended" });
      part.addEventListener("click", () => { queue(); field().focus(); });
      foot.insertBefore(part, stop);
    }
    part.hidden = !busy() || !field() || !field().value.trim();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || !event.target.matches?.("#chat-input textarea") || !busy()) return;
    event.preventDefault(); event.stopImmediatePropagation();
    queue();
  }, true);
  document.addEventListener("click", (event) => { if (event.target.closest?.("#chat-stop")) back(); }, true);
  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("#chat-input textarea")) return;
    clearTimeout(timer); timer = setTimeout(keep, 300);
    button();
  });
  addEventListener("pagehide", () => {
    // Left before the first conversation was there: what was written is of none.
    if (open === null && field()?.value.trim()) store("", joined(draft(""), field().value)); else keep();
  });

  // An answer began or ended, in the conversation that is open.
  window.chatBusy = (now) => {
    button();
    if (now || !queued || queued.open !== open) return;
    const text = queued.text;
    setTimeout(() => {
      if (busy() || !queued || queued.open !== open || queued.text !== text) return;
      after = field().value;
      queued = null; chip();
      write(text);
      setTimeout(() => $("chat-send").click(), 80);
    }, 150);
  };
  // A message was sent, or refused: then its text is still there.
  window.chatSent = () => setTimeout(() => {
    const rest = after;
    after = "";
    if (rest.trim()) write(joined(field().value, rest));
    keep();
  }, 150);
  // The words go along to the chat that is opened next, and are no draft of this one.
  window.chatCarry = () => {
    carried = field()?.value || "";
    write("");
    setTimeout(() => { if (carried) { write(joined(carried, field()?.value)); carried = ""; } }, 8000);
  };
  // Another conversation is open. With news it is the one that a message has just begun.
  window.chatMoved = (from, to, news) => {
    if (from !== null && news) { store(from, ""); open = to; keep(); return; }
    if (from === "" && to === "temporary") window.chatCarry();
    keep();
    queued = null; chip();
    open = to;
    if (from !== null || !field()?.value) write(joined(draft(to), carried));
    carried = "";
    button();
  };
  // Signing out leaves nothing behind on this machine.
  window.chatLeft = () => {
    open = null;
    Object.keys(localStorage).filter((key) => /^(draft|chats):/.test(key)).forEach((key) => localStorage.removeItem(key));
  };
  window.chatForget = (id) => { store(id, ""); };
})();
