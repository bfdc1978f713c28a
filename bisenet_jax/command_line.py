"""How every script starts and ends: flags, help, and an exit code that other programs can read.

Exit codes: 0 done, 1 a fault of the program (with its traceback), 2 something the user can
mend (one line on standard error), 130 interrupted, 141 whoever read the output has left.
"""

import ast
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from bisenet_jax import config_file
from bisenet_jax.allocation import keep_freed_memory
from bisenet_jax.config import Config
from bisenet_jax.config_rules import validate
from bisenet_jax.errors import ConfigError, UserError


def run(
    main: Callable[..., int | None],
    description: str,
    *,
    takes_arguments: bool = False,
    end: Callable[[int], None] = sys.exit,
) -> None:
    """Parse the flags that the script defined, call `main`, end the process.

    Args:
        main: reads its flags from `absl.flags.FLAGS`; may return another exit code than 0.
        description: the script's docstring, shown by --help.
        takes_arguments: whether `main` is given the words of the command line that are no
            flags, as a list; otherwise such a word is an error.
        end: ends the process with an exit code.
    """
    keep_freed_memory()
    try:
        if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
            # Without its first lines, which name the file by its path.
            listing = flags.FLAGS.main_module_help().strip().partition("\n")[2]
            print(f"{description.strip()}\n\nFlags:\n{listing}")
            sys.stdout.flush()
            sys.exit(0)
        # In place: --config reads its fields from there.
        sys.argv[1:] = [_with_home(argument) for argument in sys.argv[1:]]
        _check_config_keys(sys.argv[1:])
        # Flags and words in any order, as in every other program.
        flags.FLAGS.set_gnu_getopt(takes_arguments)
        rest = flags.FLAGS(sys.argv)[1:]
        if rest and not takes_arguments:
            raise ConfigError(f"argument {rest[0]!r} is not a flag; --help lists the flags")
        code = (main(rest) if takes_arguments else main()) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would say so once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (flags.Error, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        if error.filename is None:
            raise
        # Of a path that somebody gave: too long, or closed to this user.
        print(
            f"error: {error.filename}: {error.strerror}; check the path and its permissions",
            file=sys.stderr,
        )
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    end(code)


def read_config(config: Config | None, workdir: str | None) -> Config:
    """The validated config that --config gave, else the one saved in the workdir."""
    if config is not None:
        return validate(config)
    if workdir:
        return config_file.load(Path(workdir))
    raise ConfigError(
        "no configuration: give --config FILE, or the --workdir of a train.py run"
    )


def _with_home(argument: str) -> str:
    """`--flag=~/path` as the shell gives `--flag ~/path`; behind a `=` it leaves that alone."""
    name, equals, value = argument.partition("=")
    if argument.startswith("-") and value.startswith("~"):
        return name + equals + os.path.expanduser(value)
    return argument


def _check_config_keys(arguments: list[str]) -> None:
    """Refuse unknown `--config.a.b` keys with the legal ones; config_flags names none."""
    legal = config_file.legal_keys()
    for index, argument in enumerate(arguments):
        name, has_value, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config.") and name not in legal:
            section = [key for key in legal if key.startswith(name.rpartition(".")[0] + ".")]
            close = difflib.get_close_matches(name, legal, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"{name} is not a field of the configuration; {guess}"
                f"the legal ones are {', '.join(section or legal)}"
            )
        if name == "config" and argument.startswith("-"):
            path = value if has_value else "".join(arguments[index + 1 : index + 2])
            _check_config_file(path)


def _check_config_file(words: str) -> None:
    """`FILE`, or `FILE:ROW` for a file whose get_config takes the name of a row."""
    path, colon, row = words.partition(":")
    if not Path(path).is_file():
        raise ConfigError(f"--config {path!r} is not a file; the project's own are in configs/")
    if importlib.util.spec_from_file_location("config", path) is None:
        raise ConfigError(f"--config {path!r} must be a Python file with a get_config function")
    if colon and not _takes_a_row(Path(path)):
        raise ConfigError(
            f"--config {path!r} has no rows to choose {row!r} from; leave the colon out, or "
            "give a file of configs/ablations/"
        )


def _takes_a_row(path: Path) -> bool:
    # Read and not run: running it is the flag's business, which says what is wrong with it.
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return True
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "get_config" and node.args.args
        for node in tree.body
    )
