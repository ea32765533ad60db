// Another language: what the page shows in English is said anew as it appears, before it is
// painted. `words` are sentences, some with parts filled in: "{0} left". What people wrote
// (dir=auto, translate=no, code, messages of the chat) is never looked at.
((words, tongue) => {
  const exact = new Map(), heads = new Map(), tails = new Map(), loose = [];
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // What is filled in at the beginning or after a space is never empty.
  const shape = (from) => {
    const fixed = from.split(/\{\d\}/);
    return new RegExp("^" + fixed.map((part, at) => escaped(part) + (at === fixed.length - 1 ? "" : (at === 0 && part === "") || part.endsWith(" ") ? "(.+?)" : "(.*?)")).join("") + "$", "s");
  };
  const put = (map, key, form) => { if (map.has(key)) map.get(key).push(form); else map.set(key, [form]); };
  for (const [from, to] of Object.entries(words)) {
    if (!/\{\d\}/.test(from)) { exact.set(from, to); continue; }
    const form = { from, to, length: from.replace(/\{\d\}/g, "").length, shape: null, quoted: null };
    const head = /^([^\s{}]+)\s/.exec(from), tail = /\s([^\s{}]+)$/.exec(from);
    if (head) put(heads, head[1], form); else if (tail) put(tails, tail[1], form); else loose.push(form);
  }
  const most = (one, other) => other.length - one.length;

  const CHINESE = tongue.startsWith("zh"), missed = new Set(), ours = new Set(Object.values(words));
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const DATE = /^(?:(\d{1,2}) )?([A-Z][a-z]{2})(?:[a-z]* (\d{4})|(?<=^\d{1,2} ...))(,? \d\d:\d\d(?::\d\d)?(?: UTC)?)?$/;
  const dated = (text) => {
    const found = DATE.exec(text), month = found ? MONTHS.indexOf(found[2]) : -1;
    if (month < 0) return null;
    const how = { month: "short", timeZone: "UTC", ...(found[1] ? { day: "numeric" } : {}), ...(found[3] ? { year: "numeric" } : {}) };
    return new Intl.DateTimeFormat(tongue, how).format(new Date(Date.UTC(Number(found[3] || 2024), month, Number(found[1] || 1)))) + (found[4] || "");
  };
  const filled = (form, text) => {
    form.shape ||= shape(form.from);
    const found = form.shape.exec(text);
    // A form of one sentence does not reach into the next: "most 3 (May). Plans: 0 at first".
    if (!found || found.some((part, at) => at > 0 && /\)\. \S/.test(part || ""))) return null;
    // Nor back over a dot between parts: "Gemma 3 1B · 10 credits a message".
    if (form.from.startsWith("{0}") && found[1].includes(" · ")) return null;
    form.quoted ||= Object.fromEntries([...form.from.matchAll(/“\{(\d)\}”/g)].map((one) => [one[1], true]));
    return form.to.replace(/\{(\d)\}/g, (_, at) => { const part = found[Number(at) + 1] ?? ""; return form.quoted[at] ? part : within(part); });
  };
  // A part may come from what the page said before: "Answer finished." and the line of the price.
  const untold = (text) => { if (/[A-Za-z]{2,} [a-z]{2,}/.test(text) && !ours.has(text) && missed.size < 3000) missed.add(text); return text; };
  const within = (part) => {
    const bare = part.trim();
    return /[A-Za-z]{2}/.test(bare) ? part.replace(bare, () => say(bare) ?? untold(bare)) : part;
  };
  const parted = (text, by, join) => {
    const all = text.split(by);
    if (all.length < 2) return null;
    const said = all.map((one) => (/[A-Za-z]{2}/.test(one) ? say(one.trim()) : one));
    return said.some((one, at) => one !== null && one !== all[at]) ? said.map((one, at) => one ?? untold(all[at])).join(join).trim() : null;
  };
  const find = (text) => {
    const whole = exact.get(text) ?? stopped(text);
    if (whole !== null) return whole;
    const first = text.split(" ", 1)[0], last = text.slice(text.lastIndexOf(" ") + 1);
    for (const form of [...(heads.get(first) || []), ...(tails.get(last) || []), ...loose].sort(most)) {
      const made = filled(form, text);
      if (made !== null) return made;
    }
    return dated(text) ?? parted(text, / ?· ?/, " · ") ?? parted(text, " — ", " — ") ?? parted(text, "; ", CHINESE ? "；" : "; ")
      ?? parted(text, /(?<=[.!?]) (?=[A-Z])|(?<=\)\.) /, CHINESE ? "" : " ") ?? figured(text);
  };
  // A title that is read out with a full stop, or an amount that ends a sentence.
  const stopped = (text) => {
    const bare = text.slice(0, -1), name = !text.endsWith(".") ? null : exact.get(bare) ?? (/^[\d.,]+ [a-z]+$/.test(bare) ? say(bare) : null);
    return name === null ? null : name + (CHINESE ? "。" : ".");
  };
  // "Speed: 12 ms": a name that is known, and what stands behind it.
  const figured = (text) => {
    const at = text.indexOf(": "), name = exact.get(text.slice(0, at));
    return at > 0 && name !== undefined ? `${name}${CHINESE ? "：" : ": "}${within(text.slice(at + 2))}` : null;
  };
  const known = new Map();
  // The sentence in the language, or null where it is none of ours.
  const say = (text) => {
    if (known.has(text)) return known.get(text);
    if (text.length > 1200) return null;
    if (known.size > 5000) known.clear();
    known.set(text, null);
    const made = find(text);
    known.set(text, made);
    if (made !== null && made !== text) { if (ours.size > 9000) ours.clear(); ours.add(made); }
    return made;
  };
  window.inTongue = (text) => say(text) ?? text;
  window.untold = missed;  // what no sentence was found for; a test reads it

  const SKIP = "[translate=no],[dir=auto],code,pre,script,style,textarea,kbd,time,.katex", NAMES = ["placeholder", "title", "aria-label", "alt", "data-head"];
  // Of the conversation only what we add to it, and the names of buttons.
  const LOG = "#chat-log", ADDED = ".foot,.turns,.unread,.beside,.shots,.hello,.placeholder,button";
  const written = new WeakMap();
  const told = (raw) => {
    if (!/[A-Za-z]{2}/.test(raw)) return raw;
    const bare = raw.trim().replace(/\s+/g, " ");
    if (ours.has(bare) && !exact.has(bare)) return raw;
    // A label of several lines is several sentences, a sentence of the markup may be broken.
    const lines = raw.trim().split(/ *\n */);
    if (lines.length > 1 && !exact.has(bare) && lines.some((line) => say(line) !== null)) return lines.map(told).join("\n");
    const made = say(bare);
    if (made === null) { if (missed.size < 3000) missed.add(bare); return raw; }
    const kept = raw.includes("\u00a0") ? made.replace(/(\d) (?=s\b)/g, "$1\u00a0") : made;
    return raw.match(/^\s*/)[0] + kept + raw.match(/\s*$/)[0];
  };
  const text = (node) => {
    if (written.get(node) === node.data) return;
    const made = told(node.data);
    written.set(node, made);
    if (made !== node.data) { node.data = made; if (node.parentElement?.closest("[role=tablist]")) widen(); }
  };
  const names = (part) => {
    for (const name of NAMES) {
      const raw = part.getAttribute(name);
      if (raw === null) continue;
      let said = written.get(part);
      if (!said) written.set(part, said = {});
      if (said[name] === raw) continue;
      said[name] = told(raw);
      if (said[name] !== raw) part.setAttribute(name, said[name]);
    }
  };
  // A list's field shows its choice in the language and still has the value that it was given.
  const own = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
  const field = (part) => {
    if (part.getAttribute("role") !== "combobox" || written.get(part)?.field) return;
    written.set(part, { ...written.get(part), field: true });
    let given = own.get.call(part), shown = given;
    const show = (value) => { given = String(value ?? ""); shown = told(given); own.set.call(part, shown); };
    Object.defineProperty(part, "value", { configurable: true, get: () => { const seen = own.get.call(part); return seen === shown ? given : seen; }, set: show });
    show(given);
  };
  let wide = 0;
  const widen = () => { clearTimeout(wide); wide = setTimeout(() => dispatchEvent(new Event("resize")), 60); };
  const FILTER = { acceptNode: (node) => (node.nodeType === 1 ? (node.matches(SKIP) ? (names(node), 2) : node.matches(LOG) ? (log(node), 2) : 1) : 1) };
  const walk = (from) => {
    if (from.nodeType === 3) { text(from); return; }
    if (from.nodeType !== 1) return;
    if (FILTER.acceptNode(from) === 2) return;
    names(from);
    if (from.localName === "input") field(from);
    const all = document.createTreeWalker(from, 5, FILTER);
    for (let node = all.nextNode(); node; node = all.nextNode()) {
      if (node.nodeType === 3) text(node);
      else { names(node); if (node.localName === "input") field(node); }
    }
  };
  const log = (from) => {
    names(from);
    const added = from.matches(ADDED) ? [from] : from.querySelectorAll(ADDED);
    added.forEach(walk);
  };
  const meet = (node) => {
    const part = node.nodeType === 1 ? node : node.parentElement;
    if (!part?.isConnected || part.closest(SKIP)) { if (node.nodeType === 1 && node.isConnected && node.matches(SKIP)) names(node); return; }
    if (part.closest(LOG)) { const inside = part.closest(ADDED); if (inside) walk(node); else if (node.nodeType === 1) log(node); return; }
    walk(node);
  };
  const observer = new MutationObserver((records) => {
    const seen = new Set();
    for (const { type, target, addedNodes } of records) {
      if (type === "childList") addedNodes.forEach((node) => seen.add(node));
      else if (type === "attributes") { if (!seen.has(target) && (!target.closest(LOG) || target.closest(ADDED)) && !target.parentElement?.closest(SKIP)) names(target); }
      else seen.add(target);
    }
    seen.forEach(meet);
    observer.takeRecords();
  });
  const start = () => {
    walk(document.body);
    observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: NAMES });
    document.dispatchEvent(new Event("tongue"));
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})(LANGUAGE_WORDS, LANGUAGE_TAG);
