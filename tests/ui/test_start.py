"""What the page's start leaves out."""

import inspect

import gradio as gr
import pytest
from gradio import component_meta

import ui


def test_gradio_writes_no_stubs_when_it_is_imported() -> None:
    """It would, for each of its components: here one that it cannot find in its file."""
    found = inspect.getfile
    with ui._no_stubs():
        component_meta.create_or_modify_pyi(gr.Button, "Nothing", [])
        assert inspect.getfile(gr.Button).endswith("button.py")
    assert inspect.getfile is found
    with pytest.raises(ValueError, match="class source code"):
        component_meta.create_or_modify_pyi(gr.Button, "Nothing", [])
