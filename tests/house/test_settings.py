"""Every knob is in the file with a sentence, typed in the code, and refused when unknown."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from chat_app import settings
from chat_app.settings import Settings, SettingsError
from tests.house import tree


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings._environment():
        monkeypatch.delenv(name)


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, object]:
    """Every setting by its dotted name, with its default in the code."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= fields(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.default
    return found


def lines_of_the_file() -> dict[str, tuple[str, str]]:
    """Every key in settings.toml with its value's text and its sentence."""
    found, section = {}, ""
    for line in tree.read("settings.toml").splitlines():
        if head := re.match(r"\[([\w.]+)\]", line):
            section = f"{head[1]}."
        elif entry := re.match(r"(\w+)\s*=\s*(\".*?\"|\S+)\s*(?:#\s*(.*))?$", line):
            found[f"{section}{entry[1]}"] = (entry[2], entry[3] or "")
    return found


def test_every_field_is_in_the_file_and_every_key_is_a_field() -> None:
    assert set(lines_of_the_file()) == set(fields())


@pytest.mark.parametrize("key", sorted(fields()))
def test_key_has_a_sentence(key: str) -> None:
    sentence = lines_of_the_file()[key][1]
    assert len(sentence.split()) >= 3, f"{key} needs a sentence in settings.toml"


def test_defaults_of_file_and_code_agree() -> None:
    assert settings.load().model_dump() == Settings().model_dump()


def test_environment_names_are_those_of_the_fields() -> None:
    expected = {"CHAT_APP_" + key.upper().replace(".", "__") for key in fields()}
    assert settings.known_names() == expected


def test_environment_is_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_APP_SERVER__PORT", "8123")
    monkeypatch.setenv("CHAT_APP_LLM__SCRIPT__TOKENS", "3")
    loaded = settings.load()
    assert (loaded.server.port, loaded.server.host) == (8123, "127.0.0.1")
    assert loaded.llm.script.tokens == 3
    assert loaded.llm.script.tokens_per_second == 40


def test_overrides_are_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_APP_SERVER__PORT", "8123")
    monkeypatch.setenv("CHAT_APP_SERVER__HOST", "0.0.0.0")
    loaded = settings.load(server={"port": 9000})
    assert (loaded.server.port, loaded.server.host) == (9000, "0.0.0.0")


@pytest.mark.parametrize(
    "name", ["CHAT_APP_SERVER__PROT", "CHAT_APP_SERVER_PORT", "CHAT_APP_PORT", "chat_app_llm__x"]
)
def test_unknown_environment_name_fails_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=re.escape(name)):
        settings.load()


@pytest.mark.parametrize("text", ["prot = 1\n", "[server]\nprot = 1\n", "[sever]\nport = 1\n"])
def test_unknown_key_in_the_file_fails_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"prot|sever"):
        settings.load(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHAT_APP_SERVER__PORT", "70000"),
        ("CHAT_APP_SERVER__PORT", "many"),
        ("CHAT_APP_LIMITS__QUEUE_TOTAL", "-1"),
        ("CHAT_APP_ACCOUNTS__PASSWORD_MIN_LENGTH", "4"),
        ("CHAT_APP_LLM__SCRIPT__FAULT", "error_at:"),
        ("CHAT_APP_LLM__ENGINE", "magic"),
    ],
)
def test_value_out_of_range_fails_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    key = name.removeprefix("CHAT_APP_").lower().replace("__", ".")
    with pytest.raises(SettingsError, match=re.escape(key)):
        settings.load()


def test_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml"):
        settings.load(tmp_path / "none.toml")


def test_broken_file_fails_by_name(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("port = = 1")
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        settings.load(file)


def test_settings_do_not_change_after_loading() -> None:
    loaded = settings.load()
    with pytest.raises(ValueError, match="frozen"):
        loaded.server.port = 1  # type: ignore[misc]


def test_no_secret_in_the_file() -> None:
    for key, (value, _) in lines_of_the_file().items():
        if any(word in key for word in ("password", "token", "secret", "key")):
            assert value in {'""', "12"} or value.isdigit() or key.endswith(("minutes", "tokens"))
