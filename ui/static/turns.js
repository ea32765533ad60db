// What can be done with a message: other versions, edit, fork, retry, go on; and two models at once.
(() => {
  const $ = (id) => document.getElementById(id);
  const ask = async (path, body) => {
    const answer = await fetch(path, {
      method: body ? "POST" : "GET", credentials: "same-origin",
      headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body),
    });
    if (!answer.ok) throw new Error("refused");
    return answer.json();
  };
  // What is edited, and which model is compared, are part of the price: composer.js says it anew.
  const changed = () => document.dispatchEvent(new Event("chat-changed"));
  let deed = "", editing = null;
  window.chatDeed = () => deed;
  // The earlier message that is written anew: its id, what it follows, and how many images it has.
  window.chatEditing = () => editing;
  window.chatAgainst = () => (list() && !list().hidden ? list().value : "");
  // What goes with the text.
  window.chatExtras = () => JSON.stringify({
    images: window.chatImages(), editing: editing?.id, against: window.chatAgainst() || undefined, settings: window.chatWish(),
  });

  // An earlier message is written anew in the composer, where its price is.
  const strip = () => {
    const place = $("chat-images");
    place?.querySelector(".editing")?.remove();
    if (!editing || !place) return;
    const row = document.createElement("div"), words = document.createElement("span"), off = document.createElement("button");
    row.className = "editing"; row.setAttribute("role", "status");
    words.textContent = "Editing an earlier message. What was said after it stays in its own branch.";
    off.type = "button"; off.textContent = "Cancel";
    off.addEventListener("click", () => { write(""); window.chatEdited(); });
    row.append(words, off); place.prepend(row);
  };
  const write = (text) => {
    const box = document.querySelector("#chat-input textarea");
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, text);
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.focus();
  };
  const edit = async (id) => {
    try {
      const message = await ask(`/api/chat/messages/${encodeURIComponent(id)}`);
      editing = { id, parent: message.parent_id || "root", images: message.images.length };
      strip(); write(message.content); changed();
    } catch { /* it is gone: the next opening says so */ }
  };

  // Compare: the list of the other models, asked for when it is wanted.
  const list = () => document.querySelector("#chat-compare select");
  const comparing = (on) => {
    const button = document.querySelector("#chat-compare .compare");
    if (!button) return;
    button.setAttribute("aria-pressed", String(on)); list().hidden = !on;
  };
  const compare = async () => {
    if (!list().hidden) { comparing(false); changed(); return; }
    try {
      const models = (await ask("/api/chat/models")).items.filter((model) => model.available);
      const picked = document.querySelector("#chat-model input")?.value || "";
      const others = models.filter((model) => !picked.startsWith(model.name + " "));
      list().replaceChildren(...others.map((model) => new Option(model.name, model.id)));
      list().disabled = !others.length;
      if (!others.length) list().append(new Option("There is no other model", ""));
      comparing(true); changed();
    } catch { /* signed out: the next press says so */ }
  };
  window.chatEdited = () => { editing = null; strip(); comparing(false); changed(); };

  // What going on costs stands on the button before it is pressed.
  window.chatTurns = (again) => {
    const payer = document.querySelector("#chat-quote [data-payer]")?.dataset.payer || "";
    document.querySelectorAll("#chat-log [data-deed=continue]").forEach(async (button) => {
      if (button.dataset.quoted === payer && !again) return;
      button.dataset.quoted = payer;
      try {
        const quote = await ask(`/api/chat/replies/${encodeURIComponent(button.dataset.id)}/continue/quote`, payer ? { payer } : {});
        button.textContent = `Continue · at most ${quote.maximum} ${quote.maximum === "1" ? "credit" : "credits"}`;
      } catch { /* it says so when it is pressed */ }
    });
  };
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest?.("#chat-log [data-deed]");
    if (pressed && !pressed.disabled) {
      if (pressed.dataset.deed === "edit") { edit(pressed.dataset.id); return; }
      deed = `${pressed.dataset.deed} ${pressed.dataset.id}`;
      $("chat-deed")?.click();
    }
    if (event.target.closest?.("#chat-compare .compare")) compare();
    if (editing && event.target.closest?.("#conversation-list [data-pick], #new-chat, #chat-temporary")) { write(""); window.chatEdited(); }
  });
  document.addEventListener("change", (event) => { if (event.target === list()) changed(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && editing && event.target.closest?.("#composer")) { write(""); window.chatEdited(); }
  });
})();
