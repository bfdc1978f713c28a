"""Check a data set before training: every file read, every pixel counted.

    python -m bisenet_jax.data.check --config configs/synthetic.py
    python -m bisenet_jax.data.check --config FILE --save_dir DIR --statistics FILE

Prints sizes, ids, classes, mean, std and class weights (as flags to be pasted), and all that is
wrong. --save_dir draws some frames of each split beside their labels; --statistics keeps the
classes of each training frame, for config.data.sampling=balanced. Exit codes: 0 fit to train,
with warnings or without; 2 errors in the data or the flags, 130 interrupted.
"""

import sys
from io import TextIOWrapper

from absl import flags
from ml_collections import config_flags

from bisenet_jax import command_line
from bisenet_jax.config_rules import validate
from bisenet_jax.data.check.check import ROLES, check
from bisenet_jax.errors import ConfigError


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Python file with get_config().")
    flags.DEFINE_enum("split", "all", ("all", *ROLES), "Which splits of the config to check.")
    flags.DEFINE_string("save_dir", None, "Folder for a contact sheet of each split.")
    flags.DEFINE_string("statistics", None, "File for the classes of each training frame.")
    flags.DEFINE_string("json", None, "File for all results.")


def main() -> int:
    values = flags.FLAGS
    if values.config is None:
        raise ConfigError("give --config FILE; --help shows an example")
    # A file name may hold bytes that no terminal can show.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return check(
        validate(values.config),
        roles=ROLES if values.split == "all" else (values.split,),
        save_dir=values.save_dir,
        statistics_file=values.statistics,
        json_file=values.json,
    )


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__)
