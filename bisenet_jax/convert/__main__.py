"""Turn a public PyTorch checkpoint of BiSeNet V2 into a weights file of ours, and back.

    python -m bisenet_jax.convert --from coincheung theirs.pth --output weights.safetensors
    python -m bisenet_jax.convert --from mmseg theirs.pth --output weights.safetensors
    python -m bisenet_jax.convert --to coincheung weights.safetensors --output theirs.pth

Files of theirs are .pth (needs pip install 'bisenet_jax[torch]'), .safetensors or .npz. Every
name and shape must fit, or nothing is written. The normalisation that goes with the weights is
set: that of the data set for coincheung, ImageNet's for mmseg; --mean and --std set another.
--fresh_heads takes the body alone, as a start for training, from a checkpoint without heads or
with those of older code.

--json keys: direction, layout, written, classes, boosters, missing, unexpected, mismatched and
more; it is written when a checkpoint is refused as well. Exit codes: 0 done, 2 something to
mend, 130 interrupted.
"""

from absl import flags

from bisenet_jax import command_line
from bisenet_jax.convert.convert import Options, export_to, import_from
from bisenet_jax.convert.names import LAYOUTS
from bisenet_jax.errors import ConfigError


def define_flags() -> None:
    flags.DEFINE_enum("from", None, LAYOUTS, "Whose checkpoint the input is.")
    flags.DEFINE_enum("to", None, LAYOUTS, "For whose code to write a weights file of ours.")
    flags.DEFINE_string("output", None, "The file to write.")
    flags.DEFINE_string(
        "classes",
        None,
        "A built-in class set or a class file (.json). By default cityscapes for 19 classes, "
        "coco_stuff for 171.",
    )
    flags.DEFINE_list("mean", None, "Red, green and blue, 1 being full brightness.")
    flags.DEFINE_list("std", None, "Likewise.")
    flags.DEFINE_bool("boosters", True, "Keep the heads for training, where there are any.")
    flags.DEFINE_bool("fresh_heads", False, "Draw all heads anew; needs --classes.")
    flags.DEFINE_string("json", None, "File for what was found.")


def main(arguments: list[str]) -> None:
    values = flags.FLAGS
    source, target = values["from"].value, values["to"].value
    if len(arguments) != 1 or values.output is None:
        raise ConfigError("give one file to convert and --output FILE; --help shows examples")
    options = Options(
        classes=values.classes,
        mean=_read_colour("mean", values.mean),
        std=_read_colour("std", values.std),
        keeps_boosters=values.boosters,
        fresh_heads=values.fresh_heads,
        json_file=values.json,
    )
    if source is not None and target is None:
        import_from(source, arguments[0], values.output, options)
    elif target is not None and source is None:
        export_to(target, arguments[0], values.output, options)
    else:
        raise ConfigError("give --from or --to, one of them; --help shows examples")


def _read_colour(name: str, words: list[str] | None) -> tuple[float, float, float] | None:
    if words is None:
        return None
    try:
        red, green, blue = map(float, words)
    except ValueError:
        raise ConfigError(
            f"--{name} {','.join(words)!r} must be three numbers, such as 0.485,0.456,0.406"
        ) from None
    return red, green, blue


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__, takes_arguments=True)
