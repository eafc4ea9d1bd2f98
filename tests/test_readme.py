"""The documents' commands exist with their options and settings, and their links and file names point somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from emohead.apps.cli import app
from emohead.trainers.all_stages import STAGES
from emohead.trainers.config import load_config

from .shell_words import left_to_the_shell

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FOLDERS = "apps|benchmarks|configs|datamodules|docs|models|slurm|tests|trainers"


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def command_lines() -> list[str]:
    """Every line of the documents' shell blocks, continued lines joined, without comments."""
    found = []
    for name in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text_of(name), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.split(" #")[0].split(" > ")[0].strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if line and not line.startswith("#"):
                    found.append(re.sub(r"\$\w+", "1", line))  # a loop's variable stands for a number
    return found


def commands() -> list[str]:
    return sorted({line for line in command_lines() if line.startswith("emohead ")})


def trainings() -> list[list[str]]:
    """A stage and its arguments, of `emohead train` and `doctor` and of SLURM jobs that train one stage."""
    split = [shlex.split(line) for line in command_lines()]
    direct = [words[2:] for words in split if words[:2] in (["emohead", "train"], ["emohead", "doctor"])]
    jobs = [words[words.index("--") + 1 :] for words in split if words[:3] == ["emohead", "slurm", "train"]]
    return [[word for word in words if word != "--print-config"] for words in direct + jobs if "--keys" not in words]


def test_users_find_a_command_for_each_thing_they_do():
    first_page = [" ".join(line.split()[:2]) for line in text_of("README.md").splitlines()]
    for command in ("make demo", "make test", "emohead prepare", "emohead train", "emohead evaluate", "emohead infer"):
        assert command in first_page, command
    assert len(commands()) >= 20
    assert {words[0] for words in trainings()} == set(STAGES)


def test_examples_in_python_find_what_they_import():
    blocks = [block for name in DOCUMENTS for block in re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)]
    imports = {line for block in blocks for line in block.splitlines() if line.startswith(("import ", "from "))}
    assert len(imports) >= 4
    for line in sorted(imports):
        exec(line, {})


@pytest.mark.parametrize("line", commands())
def test_command_exists_with_its_options(line: str):
    """Parses the line as the command line would, without running it."""
    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        default = getattr(command, "default", None)  # of a group whose command need not be named
        name = default if default and arguments[0] not in command.commands else arguments.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    if "--help" not in arguments:
        command.make_context(line, arguments)


def test_examples_reach_the_command_as_they_are_written():
    """What a shell would expand, as zsh does with data.shards=[data/mine], stands in quotes; in the text too."""
    starts = ("emohead ", "slurm/", "for ")
    inline = [line for name in DOCUMENTS for line in re.findall(r"`([^`\n]*\w=\[[^`\n]*)`", text_of(name))]
    assert inline
    for line in [*(line for line in command_lines() if line.startswith(starts)), *inline]:
        assert not left_to_the_shell(line), line


@pytest.mark.parametrize("words", trainings(), ids=" ".join)
def test_settings_of_a_training_exist(words: list[str]):
    """A wrong key, a value of a wrong type or a config that is not shipped raises UserError."""
    stage, files, overrides, rest = words[0], [], [], iter(words[1:])
    for word in rest:
        if word in ("-c", "--config"):
            files.append(Path(next(rest)))
        else:
            overrides.append(word)
    assert files
    shipped = [file for file in files if file.parts[0] != "runs"]  # the others are what a command has written
    load_config(STAGES[stage].config_type, shipped, overrides)


def test_settings_in_the_text_exist():
    """`trainer.threads=1` and the like, of any stage; those of a network or a loss may be of one stage only."""
    for name in DOCUMENTS:
        for setting in re.findall(r"`'?((?:data|trainer|tracking|optimizer|network)\.\w+)(?:=[^`]*)?`", text_of(name)):
            key, known = setting.split(".", 1), False
            for schema in (stage.config_type for stage in STAGES.values()):
                known |= hasattr(getattr(schema(), key[0]), key[1])
            assert known, f"{name}: {setting}"


def test_scripts_and_targets_exist():
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    for name in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([\w-]+)", text_of(name), re.MULTILINE):
            assert target in targets, f"{name}: make {target}"
        for path, options in re.findall(r"(?:python )?(benchmarks/\w+\.(?:py|sh))([^`\n]*)", text_of(name)):
            source = text_of(path)
            for option in re.findall(r"--[a-z]+", options):
                assert f'"{option}"' in source, f"{name}: {path} {option}"


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_point_somewhere(name: str):
    links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text_of(name))
    for link in (a or b for a, b in links):
        if not link.startswith(("http:", "https:", "mailto:")):
            file, _, anchor = link.partition("#")
            target = (ROOT / name).parent / file if file else ROOT / name
            assert target.exists(), f"{name}: {link}"
            assert not anchor or anchor in anchors(target), f"{name}: {link}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_the_text_exist(name: str):
    for path in set(re.findall(rf"\b((?:{FOLDERS})/[\w./-]+\.(?:py|yaml|sh|sbatch|md|json))\b", text_of(name))):
        assert (ROOT / path).exists(), path


def test_the_first_page_names_all_documents():
    for name in DOCUMENTS[1:]:
        assert f"]({name})" in text_of("README.md"), name


@pytest.mark.parametrize("name", ["demo_seeds", "gpu", "roofline", "scaling", "scaling_time", "sizes"])
def test_benchmarks_find_the_table_that_they_rewrite(name: str):
    source = text_of(f"benchmarks/{name}.py")
    table = re.search(r'put_into_results\("([\w-]+)"', source)
    document, mark = ("docs/results.md", table[1]) if table else ("README.md", "figures")
    assert f"<!-- {mark}:start -->" in source or table
    assert len(re.findall(rf"<!-- {mark}:start -->[\s\S]*?<!-- {mark}:end -->", text_of(document))) == 1
