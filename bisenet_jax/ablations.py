"""The rows of the paper's comparisons: what each changes, and what the paper prints for it.

`configs/ablations/` trains them by name, `python -m bisenet_jax.complexity` counts them. A row
is a few fields over the paper's network and recipe; docs/ablations.md has the evidence.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError

NO_BOOSTERS = (0.0, 0.0, 0.0, 0.0)
BOOSTERS = ("stem", "s3", "s4", "s5")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        table: what the line is compared by.
        model: fields of `ModelConfig`.
        loss: fields of `LossConfig`.
        gflops: multiply-accumulates at 512x1024 in units of 1e9 that the paper prints, as far
            as notes or tables that cite it say; None where none do.
        unverified_gflops: a number that no source at hand cites, but that fits the arithmetic
            of its neighbours. Check it against the paper before quoting it.
        remark: why ours must differ from the paper's by more than the paper's network does.
    """

    table: str
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    gflops: float | None = None
    unverified_gflops: float | None = None
    remark: str = ""


def ablate(config: Config, name: str) -> Config:
    """The config with the fields of a row set.

    Raises:
        ConfigError: for no row of that name, with all there are.
    """
    if name not in ROWS:
        given = f"row {name!r} is not known" if name else "no row is given"
        raise ConfigError(
            f"{given}; give --config FILE:ROW with one of "
            f"{', '.join(row for row in ROWS if not row.startswith('boosters_'))}, or "
            f"boosters_ and any of {', '.join(BOOSTERS)} in this order, such as boosters_s3_s5"
        )
    row = ROWS[name]
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **row.model),
        loss=dataclasses.replace(config.loss, **row.loss),
    )


def _components() -> dict[str, Row]:
    """Branches, fusion, boosters and hard pixels, one after the other (Table 2)."""
    alone = {"loss": {"booster_weights": NO_BOOSTERS}}
    return {
        "detail_only": Row("components", {"fusion": "detail"}, **alone),
        "semantic_only": Row("components", {"fusion": "semantic"}, **alone),
        "sum": Row("components", {"fusion": "sum"}, **alone),
        "concat": Row("components", {"fusion": "concat"}, **alone),
        "bga": Row("components", gflops=21.15, **alone),
        "boosters": Row("components", gflops=21.15),
        "ohem": Row("components", loss={"ohem": True}, gflops=21.15),
    }


def _semantic_sizes() -> dict[str, Row]:
    """Lambda and e, without boosters (Table 3)."""
    loss = {"booster_weights": NO_BOOSTERS}
    ratios = {2: (25.84, None), 4: (21.15, None), 8: (19.93, None), 16: (None, 19.61)}
    expansions = {
        1: (None, 17.78),
        2: (None, 18.45),
        4: (None, 19.80),
        6: (21.15, None),
        8: (None, 22.49),
    }
    return {
        f"lambda_1_{share}": Row("lambda", {"semantic_ratio": 1 / share}, loss, *gflops)
        for share, gflops in ratios.items()
    } | {
        f"expansion_{e}": Row("expansion", {"expansion": e}, loss, *gflops)
        for e, gflops in expansions.items()
    }


def _block_design() -> dict[str, Row]:
    """What a Gather-and-Expansion layer and the branch's end are made of (Table 3)."""
    loss = {"booster_weights": NO_BOOSTERS}
    return {
        "no_gather": Row("block", {"gather_kernel_size": 1}, loss),
        "no_second_depthwise": Row("block", {"use_second_depthwise": False}, loss),
        "no_context": Row("block", {"use_context_embedding": False}, loss),
    }


def _booster_positions() -> dict[str, Row]:
    """Every set of stages that boosters can learn from (Table 4)."""
    rows = {}
    for bits in range(1, 2 ** len(BOOSTERS)):
        weights = tuple(float(bits >> index & 1) for index in range(len(BOOSTERS)))
        chosen = [stage for stage, weight in zip(BOOSTERS, weights, strict=True) if weight]
        loss = {"booster_weights": weights}
        rows["_".join(["boosters", *chosen])] = Row("boosters", loss=loss)
    return rows


def _large() -> dict[str, Row]:
    """Alpha and d, with boosters and hard pixels (Table 5), and the large network of both."""
    loss = {"ohem": True}
    widths = {100: 21.15, 125: None, 150: None, 175: None, 200: None}
    depths = {1: (21.15, None), 2: (None, 25.26), 3: (None, 29.38), 4: (None, 33.50)}
    return (
        {
            f"alpha_{percent / 100:g}".replace(".", "_"): Row(
                "alpha", {"width": percent / 100}, loss, gflops
            )
            for percent, gflops in widths.items()
        }
        | {f"depth_{d}": Row("depth", {"depth": d}, loss, *g) for d, g in depths.items()}
        | {
            "large": Row(
                "large",
                {"width": 2.0, "depth": 3},
                loss,
                gflops=118.5,
                remark="C_t again: what is left would be a wider head; no source says how wide",
            )
        }
    )


def _backbones() -> dict[str, Row]:
    """Other networks as Semantic Branch (Table 6), beside the large one's Detail Branch.

    How wide the paper's is there is not known to us.
    """
    return {
        name: Row("backbone", {"semantic_branch": name, "width": 2.0}, {"ohem": True})
        for name in ("shufflenetv2", "mobilenetv2", "resnet18")
    }


ROWS: dict[str, Row] = (
    _components()
    | _semantic_sizes()
    | _block_design()
    | _booster_positions()
    | _large()
    | _backbones()
)
