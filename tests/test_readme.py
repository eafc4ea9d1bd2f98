"""The README's commands exist, with the options it gives them, and its links point somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from emohead.apps.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/data.md", "docs/evaluation.md", "docs/face_models.md")


def commands() -> list[str]:
    """Every `emohead ...` line of the documents' code blocks, continued lines joined."""
    found = []
    for name in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh|console)?\n(.*?)```", (ROOT / name).read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.split("  #")[0].strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if line.startswith("emohead "):
                    found.append(line)
    return found


def test_there_are_commands():
    assert len(commands()) >= 6


@pytest.mark.parametrize("line", commands())
def test_command_exists_with_its_options(line: str):
    """Parses the line as the command line would, without running it."""
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    if "--help" not in arguments:
        command.make_context(line, arguments)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_point_somewhere(name: str):
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_files_named_in_the_text_exist():
    text = (ROOT / "README.md").read_text()
    for path in set(re.findall(r"`((?:models|datamodules|trainers|configs|apps|tests)/[\w./-]+\.\w+)`", text)):
        assert (ROOT / path).exists(), path
