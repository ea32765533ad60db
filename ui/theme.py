"""The look: a Gradio theme, one stylesheet and one small script, all from this folder."""

import json
from pathlib import Path
from typing import Any

from ui import languages

STATIC = Path(__file__).parent / "static"
FONT = "IBM Plex Sans"
MONO = "IBM Plex Mono"


def build() -> Any:
    """The theme: warm greys, one indigo accent, fonts that Gradio carries itself."""
    import gradio as gr

    sans = gr.themes.LocalFont(FONT, weights=(400, 700))
    mono = gr.themes.LocalFont(MONO, weights=(400,))
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        font=(sans, "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(mono, "ui-monospace", "Consolas", "monospace"),
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#131316",
        body_text_color="#1f1d1a",
        body_text_color_dark="#ececf1",
        body_text_color_subdued="#625d56",
        body_text_color_subdued_dark="#a3a3ad",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1b1b20",
        background_fill_secondary="#f3f1ed",
        background_fill_secondary_dark="#232329",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1b1b20",
        block_border_width="0px",
        block_shadow="none",
        block_label_text_color="#625d56",
        block_label_text_color_dark="#a3a3ad",
        block_title_text_color="#3b3833",
        block_title_text_color_dark="#d6d6de",
        block_title_text_weight="400",
        border_color_primary="#e4e0d9",
        border_color_primary_dark="#34343c",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1b1b20",
        input_border_width="1px",
        input_border_color="#cfcac1",
        input_border_color_dark="#43434d",
        input_border_color_focus="#4f46e5",
        input_border_color_focus_dark="#a5b4fc",
        input_placeholder_color="#6f6a62",
        input_placeholder_color_dark="#9a9aa5",
        input_shadow_focus="0 0 0 3px #4f46e526",
        input_shadow_focus_dark="0 0 0 3px #a5b4fc33",
        button_primary_background_fill="#4338ca",
        button_primary_background_fill_hover="#3730a3",
        button_primary_background_fill_dark="#4f46e5",
        button_primary_background_fill_hover_dark="#5b53ea",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#f3f1ed",
        button_secondary_background_fill_dark="#26262d",
        button_secondary_background_fill_hover_dark="#303038",
        button_secondary_border_color="#d6d1c8",
        button_secondary_border_color_dark="#43434d",
        button_border_width="1px",
        button_large_text_weight="400",
        button_medium_text_weight="400",
        button_small_text_weight="400",
        link_text_color="#4338ca",
        link_text_color_dark="#a5b4fc",
        code_background_fill="#f3f1ed",
        code_background_fill_dark="#26262d",
        input_radius="10px",
        button_large_radius="10px",
        button_medium_radius="10px",
        button_small_radius="10px",
        color_accent="#4f46e5",
        color_accent_soft="#eef0ff",
        color_accent_soft_dark="#2b2a45",
    )


def css() -> str:
    """The stylesheet."""
    sheets = ("app.css", "plots.css", "side.css", "composer.css", "help.css")
    return "".join((STATIC / name).read_text(encoding="utf-8") for name in sheets)


def script() -> str:
    """The page's own script, without indents and lines of comment; it talks to this server only.

    No text in it goes over several lines, so a line may lose its beginning.
    """
    scripts = (
        "tongue.js", "turns.js", "app.js", "account.js", "side.js", "draft.js", "price.js",
        "composer.js", "help.js", "setup.js", "hub.js",
    )  # fmt: skip
    whole = "".join((STATIC / name).read_text(encoding="utf-8") for name in scripts)
    whole = whole.replace("LANGUAGE_FILES", json.dumps(languages.addresses()))
    lines = (line.strip() for line in whole.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))


def head() -> str:
    """What Gradio adds to the head of the page once it runs."""
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="theme-color" content="#ffffff">'
        '<link rel="apple-touch-icon" href="/icons/icon-180.png">'
    )
