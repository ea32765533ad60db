(() => {
  // Signing in with Hugging Face: the button, and what the way back ended with.
  const $ = (id) => document.getElementById(id);
  const came = new URLSearchParams(location.search).get("hub");
  // What is said about it, in the login or in the account; nothing if nobody came back.
  window.hubSaid = () => {
    if (!came || came === "second") return "";
    const words = (code) => document.querySelector(`[data-hub="${CSS.escape(code)}"]`)?.textContent;
    return words(came) || words("other") || "";
  };
  let seen = null;
  const look = () => {
    const button = $("login-hub");
    if (!button || button === seen) return;
    seen = button;
    // The hub's page cannot be shown in a frame, and a frame has other cookies than a tab.
    if (window.top !== window) { button.target = "_blank"; button.rel = "noopener"; }
    if (came === "second") { window.hubHalf = true; window.chatPanel("second"); }
    else if (came) button.closest("form").querySelector(".trouble").textContent = window.hubSaid();
    if (came) history.replaceState(null, "", "/" + location.hash);
  };
  const start = () => { new MutationObserver(look).observe(document.body, { childList: true, subtree: true }); look(); };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
