"""Check a zip before it goes to Cityscapes' server, which allows few tries.

    python evaluate.py --workdir runs/cityscapes --split test --submission answers
    python -m bisenet_jax.evaluation.submission check answers/submission.zip \\
        --config configs/cityscapes.py

The frames of the split are those under config.data.root. Without --config, only the number and
size of the public split's frames are known. Findings are errors, which the server would refuse
or misread, or warnings.

Exit codes: 0 no errors, 2 errors or something to mend, 130 interrupted.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import command_line
from bisenet_jax.config import Config
from bisenet_jax.data.cityscapes import labels as cityscapes
from bisenet_jax.data.cityscapes.records import CityscapesRecords
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError
from bisenet_jax.evaluation.submission.check import Size, check_submission
from bisenet_jax.files import write_json
from bisenet_jax.processors import available_processors

_CONFIG = config_flags.DEFINE_config_file("config", None, "Whose data holds the split.")
_SPLIT = flags.DEFINE_enum("split", "test", list(cityscapes.SPLITS), "Which was predicted.")
_JSON = flags.DEFINE_string("json", None, "A file for all findings, with every file name.")

_THREADS = available_processors()


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "check":
        raise ConfigError(f"arguments {arguments} must be check ZIP; --help shows an example")
    path, split = Path(arguments[1]).expanduser(), _SPLIT.value
    sizes, unchecked = None, []
    if _CONFIG.value is None:
        unchecked = ["whether the frames are those of the split, since there is no --config"]
    else:
        sizes = read_sizes(command_line.read_config(_CONFIG.value, None), split)

    def bar(items: Iterable[Any], total: int) -> Iterable[Any]:
        return tqdm(items, "check", total, unit="file")

    report = check_submission(path, split, sizes, threads=_THREADS, progress=bar)
    for line in (*report.findings, *(f"not checked: {what}" for what in unchecked)):
        print(line)
    warnings = len(report.findings) - report.errors
    print(
        f"{path}: {report.label_maps} label maps for split {split}, kinds of errors: "
        f"{report.errors}, of warnings: {warnings}"
    )
    if _JSON.value:
        write_json(
            _JSON.value,
            {
                "zip": str(path),
                "split": split,
                "label_maps": report.label_maps,
                "passed": not report.errors,
                "not_checked": unchecked,
                "findings": [
                    {
                        "rule": finding.rule,
                        "severity": "error" if finding.is_error else "warning",
                        "text": finding.text,
                        "found": finding.found,
                    }
                    for finding in report.findings
                ],
            },
        )
    return 2 if report.errors else 0


def read_sizes(config: Config, split: str) -> dict[str, Size]:
    """Height and width by image id of all frames of a split, without decoding them.

    Raises:
        ConfigError: the configured frames are not Cityscapes'.
    """
    source = open_source(config.data, split)
    if not isinstance(source, PairSource | CityscapesRecords):
        raise ConfigError(
            f"config.data.source {config.data.source!r} holds no Cityscapes frames"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        described = pool.map(source.describe, range(len(source)))
        frames = list(tqdm(described, f"frames of {split}", len(source), unit="frame"))
    sizes = {}
    for frame in frames:
        image_id = cityscapes.image_id_of(frame.name)
        if image_id is None:
            raise ConfigError(
                f"frame {frame.name!r} of split {split!r} is not named CITY_SEQUENCE_FRAME as "
                "Cityscapes' are; the check is for its server: give configs/cityscapes.py"
            )
        sizes[image_id] = frame.height, frame.width
    return sizes


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
