"""What a shell completes: commands, recipes, their flags and the values of these."""

import contextlib
import io
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

import tyro

from train.cli.flags import ASKED, Shown, parse, recipe_flags
from train.recipes import RECIPES

Shell = Literal["bash", "zsh", "fish"]
Command = Callable[[list[str]], int]


def completion(argv: list[str], commands: dict[str, Command]) -> int:
    """`zoo completion SHELL`: a script on standard output."""

    def flags(shell: tyro.conf.Positional[Shell]) -> Shell:
        """A script that completes `zoo`, for the shell to read when it begins.

        bash: zoo completion bash > ~/.local/share/bash-completion/completions/zoo
        zsh:  zoo completion zsh > a directory of $fpath, as _zoo
        fish: zoo completion fish > ~/.config/fish/completions/zoo.fish

        Args:
            shell: which one
        """
        return shell

    shell = parse(flags, argv, "zoo completion")
    named = {name: _flags(name, command) for name, command in commands.items()}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(
            _one_of(named),
            prog="zoo",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.OmitArgPrefixes,),
        )
    print(said.getvalue(), end="")
    return 0


def _flags(name, command):
    """A command's function of flags; a choice of functions where recipes come first."""
    if name == "train":
        return _group({n: recipe_flags(row, {}) for n, row in RECIPES.items()})
    try:
        command(ASKED)
    except Shown as shown:
        return shown.args[0]
    raise AssertionError(f"zoo {name} has shown no flags")


def _group(named: dict[str, Any]) -> Callable[..., Any]:
    def chosen(recipe):
        return recipe

    chosen.__annotations__ = {"recipe": _one_of(named)}
    return chosen


def _one_of(named: dict[str, Any]) -> Any:
    choices = [
        Annotated[function, tyro.conf.subcommand(name, prefix_name=False)]
        for name, function in named.items()
    ]
    return Union[tuple(choices)]  # noqa: UP007 (of a tuple)
