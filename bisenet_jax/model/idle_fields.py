"""Fields of a network that another field takes the effect from: set, they would mislead."""

from typing import Any

OF_GATHER_EXPANSION = (
    *("semantic_ratio", "semantic_late_channels", "semantic_repeats", "expansion", "depth"),
    *("expansion_place", "gather_kernel_size", "use_second_depthwise", "use_depthwise_relu"),
    *("is_zero_initialized", "stem_fuse_kernel_size"),
)
OF_CONTEXT_EMBEDDING = ("context_last_form",)
OF_SEMANTIC_BRANCH = (
    *("semantic_branch", "use_context_embedding", "booster_form", "booster_channels"),
    *(*OF_GATHER_EXPANSION, *OF_CONTEXT_EMBEDDING),
)
OF_GUIDANCE = ("bga_pointwise_bias", "bga_pool_counts_padding")


def find_idle_fields(model: Any) -> dict[str, str]:
    """Fields of a `BiSeNetV2` that differ from their defaults to no effect, each with why."""
    fusion, branch = model.fusion, model.semantic_branch
    idle = {
        f"fusion {fusion!r}": {
            "bga": (),
            "sum": OF_GUIDANCE,
            "concat": OF_GUIDANCE,
            "semantic": (*OF_GUIDANCE, "bga_relu"),
            "detail": (*OF_GUIDANCE, "bga_relu", "bga_upsampling", *OF_SEMANTIC_BRANCH),
        }.get(fusion, ()),
        f"semantic_branch {branch!r}": (
            OF_GATHER_EXPANSION if branch != "gather_expansion" else ()
        ),
        "use_context_embedding False": (
            OF_CONTEXT_EMBEDDING if not model.use_context_embedding else ()
        ),
    }
    found: dict[str, str] = {}
    for cause, names in idle.items():
        for name in names:
            if getattr(model, name) != type(model).__dataclass_fields__[name].default:
                found.setdefault(name, cause)
    return found
