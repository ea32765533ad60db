"""Commands of the models: list, download, check, convert."""

import argparse
from pathlib import Path
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, add_command
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    models = commands.add_parser("models", help="models: list, pull, verify, convert-openvino")
    actions = models.add_subparsers(metavar="ACTION", required=True)
    add_command(actions, "list", models_list, "every model, its state, its licence and how it runs")
    pull = add_command(actions, "pull", models_pull, "download a model and check it")
    pull.add_argument("id", help="the model's id, see: models list")
    check = add_command(
        actions, "verify", models_verify, "read every byte of the downloaded models"
    )
    check.add_argument("id", nargs="?", help="only this model")
    convert = add_command(
        actions,
        "convert-openvino",
        models_convert_openvino,
        "convert a Gemma or Llama model for the fastest way on a CPU",
    )
    convert.add_argument("id", help="the model's id, see: models list")
    convert.add_argument(
        "--python",
        type=Path,
        required=True,
        help="the Python of an environment of its own with optimum-intel, see docs/commands.md",
    )
    convert.add_argument(
        "--weights",
        choices=("int8", "int4"),
        default="int8",
        help="int4 is smaller and faster, costs quality, and needs 1 billion parameters or more",
    )


def models_list(_options: argparse.Namespace, settings: Settings) -> int:
    """Every model that is offered, with its state and how it would run here."""
    from chat_app.llm import build, catalogue, loader

    engine = build.create(settings)
    for entry in catalogue.offered():
        state = loader.state(entry, settings.models_dir)
        words = state.reason or engine.why(entry.id)
        if entry.sees_images and state.usable:
            words += " It sees images." if engine.sees(entry.id) else " Run so, it sees no images."
        print(f"{entry.id:<24} {state.state:<15} {entry.name}; {entry.license}. {words}")
    return OK


def models_pull(options: argparse.Namespace, settings: Settings) -> int:
    """Download a model and check it."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entry = catalogue.get(options.id)
    with bar() as tell:
        loader.pull(entry, settings.models_dir, tell)
    print(f"{entry.name} is ready. License: {entry.license}, {entry.license_url}")
    return OK


def models_verify(options: argparse.Namespace, settings: Settings) -> int:
    """Read every byte of what was downloaded."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entries = [catalogue.get(options.id)] if options.id else catalogue.entries()
    code = OK
    for entry in entries:
        with bar() as tell:
            state = loader.verify(entry, settings.models_dir, tell)
        if state.state == "available":
            print(f"{entry.id}: every byte is right.")
        elif state.state == "broken" or options.id:
            print(f"{entry.id}: {state.reason}")
            code = PROBLEMS
    return code


def models_convert_openvino(options: argparse.Namespace, settings: Settings) -> int:
    """Convert a model for OpenVINO."""
    from chat_app.llm import catalogue, optimum

    entry = catalogue.get(options.id)
    print(f"Converting {entry.name} to {options.weights}; this takes minutes.", flush=True)
    folder = optimum.convert(
        entry, settings.models_dir, python=options.python, weights=options.weights
    )
    print(f"{folder} is ready. On a CPU it is used from the next load on.")
    return OK
