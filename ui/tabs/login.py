"""Login: sign in, create an account, and the first administrator's one-time form.

Plain forms, sent by the page's script to the REST API: a password never enters Gradio's queue.
"""

from dataclasses import dataclass

import gradio as gr

from chat_app.settings import Accounts
from ui import hub as by_hub
from ui.parts import esc


@dataclass
class Login:
    """The tab. It has no handlers."""

    tab: gr.Tab
    form: gr.HTML


def build(rules: Accounts, *, hub: bool = False) -> Login:
    """The forms. Settings only shape the sentences; `hub` offers Hugging Face."""
    with gr.Tab("Login", id="login", visible=False, elem_id="login-tab") as tab:
        form = gr.HTML(_page(rules, hub=hub), elem_id="login-page")
    return Login(tab, form)


def _field(id: str, name: str, label: str, kind: str, complete: str, more: str = "") -> str:
    return (
        f'<label id="{id}" class="field"><span>{esc(label)}</span>'
        f'<input name="{name}" type="{kind}" autocomplete="{complete}" required {more}></label>'
    )


def _submit(id: str, text: str) -> str:
    return (
        '<p class="trouble" role="alert"></p>'
        f'<button type="submit" id="{id}" class="go">{esc(text)}</button>'
    )


def _new_password(id: str, length: int) -> str:
    size = f'minlength="{length}" maxlength="1024"'
    return (
        _field(id, "password", "Password", "password", "new-password", size)
        + f'<p class="hint">At least {length} characters. A few random words are best.</p>'
    )


def _page(rules: Accounts, *, hub: bool = False) -> str:
    welcome = rules.welcome_credits
    plain = 'autocapitalize="none" spellcheck="false"'
    user = (
        'minlength="3" maxlength="32" pattern="[A-Za-z0-9_.\\-]+" '
        f'title="3 to 32 letters, digits, dots, dashes or underscores" {plain}'
    )
    name = _field("login-username", "login", "User name or e-mail", "text", "username", plain)
    code = 'maxlength="32" spellcheck="false"'
    gift = f"{welcome} credits to start with" if welcome else "Pay only for what you use"
    return f"""
<div class="welcome">
  <section class="pitch">
    <h1>A chat that shows its price.</h1>
    <p>See what a message costs before you send it, pay only for what was delivered,
       and find every credit in your books.</p>
    <ul>
      <li><b>Quoted first.</b> The charge is never above the quote.</li>
      <li><b>Fair stop.</b> An answer that fails costs nothing.</li>
      <li><b>{esc(gift)}.</b> No card is asked for until you buy.</li>
    </ul>
  </section>
  <section class="panel">
    <form data-panel="login" novalidate>
      <h2>Sign in</h2>
      {name}
      {_field("login-password", "password", "Password", "password", "current-password")}
      {_submit("login-submit", "Sign in")}
      {by_hub.button() if hub else ""}
      <p class="other"><button type="button" data-open="forgot" id="forgot-open">Forgot your
        password?</button></p>
      <p class="other">New here?
        <button type="button" id="register-open">Create an account</button></p>
    </form>
    <form data-panel="second" novalidate hidden>
      <h2>Second factor</h2>
      <p class="hint">Enter the six digits of your authenticator app, or one of your backup
        codes.</p>
      {_field("login-totp", "totp", "Code", "text", "one-time-code", code)}
      {_submit("login-totp-submit", "Sign in")}
      <p class="other"><button type="button" data-open="login">Back</button></p>
    </form>
    <form data-panel="forgot" novalidate hidden>
      <h2>Forgot your password?</h2>
      <p class="hint">We send a link to the address of your account. It is good for half an hour
        and ends all earlier sign-ins.</p>
      {_field("forgot-email", "email", "E-mail", "email", "email", 'maxlength="254"')}
      {_submit("forgot-submit", "Send the link")}
      <p class="other"><button type="button" data-open="login">Back to sign in</button></p>
    </form>
    <form data-panel="register" novalidate hidden>
      <h2>Create an account</h2>
      {_field("register-username", "username", "User name", "text", "username", user)}
      {_field("register-email", "email", "E-mail", "email", "email", 'maxlength="254"')}
      {_new_password("register-password", rules.shortest_password("user"))}
      {_submit("register-submit", "Create account")}
      <p class="other">Have an account? <button type="button" id="login-open">Sign in</button></p>
    </form>
    <form data-panel="setup" id="setup-form" novalidate hidden>
      <h2>Create the administrator</h2>
      <p class="hint">This link works once. Whoever uses it runs this installation.</p>
      {_field("setup-username", "username", "User name", "text", "username", user)}
      {_field("setup-email", "email", "E-mail", "email", "email", 'maxlength="254"')}
      {_new_password("setup-password", rules.shortest_password("admin"))}
      {_submit("setup-submit", "Create administrator")}
      <p class="other">Done before? <button type="button" id="login-open-too">Sign in</button></p>
    </form>
  </section>
</div>"""
