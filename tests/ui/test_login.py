"""The forms of the Login tab say what the REST API asks for."""

import re

from chat_app.errors import AppError
from chat_app.flows import hub
from chat_app.settings import Accounts
from ui.tabs import account, login


def lengths(page: str, id: str) -> set[str]:
    """What a form says about the length of its password, in the field and in words."""
    field = re.search(rf'id="{id}".*?minlength="(\d+)".*?At least (\d+) characters', page, re.S)
    assert field is not None
    return set(field.groups())


def test_each_form_names_the_length_that_its_account_needs() -> None:
    page = login._page(Accounts())
    assert lengths(page, "register-password") == {"12"}
    assert lengths(page, "setup-password") == {"15"}
    page = login._page(Accounts(password_min_length=20))
    assert lengths(page, "register-password") == lengths(page, "setup-password") == {"20"}


def test_a_new_password_of_staff_is_long_in_the_account_tab_too() -> None:
    assert 'minlength="12" data-staff="15"' in account._page(Accounts())


def test_hugging_face_is_offered_in_a_space_alone() -> None:
    for page in (login._page, account._page):
        assert "hub" not in page(Accounts())
        assert "data-hub=" in page(Accounts(), hub=True)
    assert 'href="/api/auth/hub/start"' in login._page(Accounts(), hub=True)


def test_each_refusal_of_hugging_face_has_its_sentence_on_the_page() -> None:
    """The browser comes back with a code alone."""
    told = {error.code for error in hub.TOLD}
    ours = {error.code for error in _below(AppError) if error.code.startswith("hub_")}
    assert ours - {"hub_absent"} <= told
    page = login._page(Accounts(), hub=True)
    assert all(f'data-hub="{code}"' in page for code in told | {"other"})


def _below(error: type[AppError]) -> set[type[AppError]]:
    return {error}.union(*(_below(one) for one in error.__subclasses__()))
