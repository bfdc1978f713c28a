"""What a network costs, counted and not timed: parameters and multiply-accumulates (MACs).

One MAC is one multiplication and its addition; the paper's "GFLOPs" are MACs. Counted are
convolutions and matrix products, from the shapes in the program that JAX traces; batch norm,
activations, pooling and element-wise arithmetic are not.

python -m bisenet_jax.complexity prints the count of each preset, and of each row of the paper's
comparisons beside the number that it prints.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bisenet_jax.ablations import ROWS, Row
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.presets import PRESETS, build_model

PyTree = Any
# A traced program (`jax.make_jaxpr`). JAX renames and moves these classes between releases,
# so that only their attributes are relied upon: `eqns` and what hangs on it.
Jaxpr = Any
Equation = Any

BLOCKS = ("detail_branch", "semantic_branch", "aggregation", "head")

# Primitives that run the program inside them exactly once.
_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}


def count_parameters(tree: PyTree) -> int:
    """How many numbers a tree of arrays, or of their shapes, holds."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_macs(function: Callable[..., Any], *arguments: PyTree) -> int:
    """MACs of one call, convolutions and matrix products; nothing is computed.

    Zeros that padding adds count as work, as they do in every published figure; zeros that a
    transposed convolution puts between pixels do not. Of a `cond` the costliest branch counts.

    Args:
        function: what `jax.jit` could trace.
        arguments: its arguments, or their `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: for work inside a loop of unknown length (`while`), or inside a primitive
            that this module does not know, such as a Pallas kernel.
    """
    return sum(term.macs for term in _terms(jax.make_jaxpr(function)(*arguments)))


def count_model_macs(model: BiSeNetV2, height: int, width: int, batch: int = 1) -> int:
    """MACs of the convolutions of inference, without boosters, from images to logits at 1/8."""
    return sum(count_block_macs(model, height, width, batch).values())


def count_block_macs(
    model: BiSeNetV2, height: int, width: int, batch: int = 1
) -> dict[str, int]:
    """The same for each box of the paper's Figure 3, by the names of `BLOCKS`.

    Convolutions only: resizing is free by the paper's convention, though the align-corners
    form of it is written as a matrix product.
    """
    macs = dict.fromkeys(BLOCKS, 0)
    for term in _terms(_trace_inference(model, height, width, batch)):
        if term.primitive == "conv_general_dilated":
            macs[term.scopes[1]] += term.macs
    return macs


def count_paper_flops(model: BiSeNetV2, height: int, width: int) -> int:
    """What the authors' tool would print for one image, as read in their code of BiSeNet V1.

    MACs of the convolutions, two for each number that batch norm makes, one for each that ReLU
    or a sigmoid makes, and for each that a pool reads. Biases and resizing are free here.
    """
    program = _trace_inference(model, height, width, 1)
    macs = sum(t.macs for t in _terms(program) if t.primitive == "conv_general_dilated")
    return macs + _count_other_work(program)


def _trace_inference(model: BiSeNetV2, height: int, width: int, batch: int) -> Jaxpr:
    # Written as shifts, a depth-wise convolution is multiply-adds that no shape tells from
    # other arithmetic. As a convolution it is the same numbers and can be seen.
    model = model.clone(depthwise_lowering="conv")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    # Module names reach the traced program as named scopes, which Flax lets users turn off.
    with nn.override_named_call(True):
        return jax.make_jaxpr(partial(model.apply, is_training=False))(
            abstract_variables(model), images
        )


def _count_other_work(program: Jaxpr, scopes: tuple[str, ...] = ()) -> int:
    total = 0
    for equation in program.eqns:
        name = equation.primitive.name
        stack = str(equation.source_info.name_stack)
        inner_scopes = (*scopes, *stack.split("/")) if stack else scopes
        # A batch norm subtracts once, and what else it does to the whole map counts as two.
        if name == "sub" and inner_scopes[-1:] == ("bn",):
            total += 2 * prod(equation.outvars[0].aval.shape)
        elif name in ("max", "logistic"):
            total += prod(equation.outvars[0].aval.shape)
        elif name.startswith("reduce_window") or name == "reduce_sum":
            total += prod(equation.invars[0].aval.shape)
        for inner in _programs(equation.params.values()):
            total += _count_other_work(inner, inner_scopes)
    return total


class ConvolutionWork(NamedTuple):
    """One convolution of a traced program.

    Attributes:
        name: of the scopes around it, such as `semantic_branch/stem/entry`.
        macs: of all images.
        numbers: that it reads, of input and kernel, and writes.
        shape: of its output, `[B, H, W, C]`.
    """

    name: str
    macs: int
    numbers: int
    shape: tuple[int, ...]


def list_convolutions(
    model: BiSeNetV2, height: int, width: int, batch: int = 1
) -> list[ConvolutionWork]:
    """Every convolution of inference, in the order of the program."""
    return [
        ConvolutionWork("/".join(term.scopes[1:]), term.macs, term.numbers, term.shape)
        for term in _terms(_trace_inference(model, height, width, batch))
        if term.primitive == "conv_general_dilated"
    ]


def count_training_macs(model: BiSeNetV2, height: int, width: int) -> int:
    """MACs of the convolutions of one image's forward pass in training, boosters included."""
    # As above, for the depth-wise ones.
    model = model.clone(depthwise_lowering="conv")
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    forward = partial(model.init_with_output, is_training=True)
    program = jax.make_jaxpr(forward)(keys, images)
    return sum(t.macs for t in _terms(program) if t.primitive == "conv_general_dilated")


def abstract_variables(model: BiSeNetV2) -> PyTree:
    """Shapes of the variables of inference, so without those of boosters."""
    # No parameter's shape depends on the size of the image.
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(partial(model.init, is_training=False), jax.random.key(0), images)


class _Term(NamedTuple):
    """The work of one equation; `scopes` are the named scopes around it, outermost first.

    Of a convolution also the numbers that it reads and writes, and the shape of its output.
    """

    macs: int
    primitive: str
    scopes: tuple[str, ...]
    numbers: int = 0
    shape: tuple[int, ...] = ()


def _terms(program: Jaxpr, scopes: tuple[str, ...] = ()) -> Iterator[_Term]:
    for equation in program.eqns:
        name = equation.primitive.name
        stack = str(equation.source_info.name_stack)
        inner_scopes = (*scopes, *stack.split("/")) if stack else scopes
        if name == "conv_general_dilated":
            shape = equation.outvars[0].aval.shape
            numbers = prod(shape) + sum(prod(v.aval.shape) for v in equation.invars[:2])
            yield _Term(_convolution_macs(equation), name, inner_scopes, numbers, shape)
        elif name == "dot_general":
            yield _Term(_product_macs(equation), name, inner_scopes)
        else:
            yield from _inner_terms(equation, inner_scopes)


def _inner_terms(equation: Equation, scopes: tuple[str, ...]) -> list[_Term]:
    """Terms of the programs that an equation carries: loop bodies, branches, functions."""
    name = equation.primitive.name
    bodies = [list(_terms(program, scopes)) for program in _programs(equation.params.values())]
    bodies = [terms for terms in bodies if terms]
    if not bodies:
        return []
    if name in _CALLS:
        return [term for terms in bodies for term in terms]
    if name == "scan":
        length = equation.params["length"]
        return [term._replace(macs=term.macs * length) for terms in bodies for term in terms]
    if name == "cond":
        return max(bodies, key=lambda terms: sum(term.macs for term in terms))
    raise ValueError(
        f"MACs inside the primitive {name!r} cannot be counted: how often they run is not "
        "known; count a form of the function without it"
    )


def _programs(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _programs(value)
        elif hasattr(value, "eqns"):
            yield value


def _convolution_macs(equation: Equation) -> int:
    """Each kernel weight meets each output pixel once an image, unless it would meet a zero.

    With groups, `kernel` holds the input channels of one group only, so that its size already
    says how many products one output number takes.
    """
    image, kernel = (variable.aval.shape for variable in equation.invars[:2])
    output = equation.outvars[0].aval.shape
    params = equation.params
    layout = params["dimension_numbers"]
    pairs = 1
    for axis in range(len(output) - 2):
        # Output pixel o and tap k read place `o * stride + k * dilation - low` of an image
        # whose pixels stand `spacing` apart with zeros between.
        places = (
            np.arange(output[layout.out_spec[axis + 2]])[:, None]
            * params["window_strides"][axis]
            + np.arange(kernel[layout.rhs_spec[axis + 2]])[None, :]
            * params["rhs_dilation"][axis]
            - params["padding"][axis][0]
        )
        pairs *= int(np.count_nonzero(places % params["lhs_dilation"][axis] == 0))
    batch = image[layout.lhs_spec[0]] // params["batch_group_count"]
    features, group_channels = kernel[layout.rhs_spec[0]], kernel[layout.rhs_spec[1]]
    return pairs * batch * features * group_channels


def _product_macs(equation: Equation) -> int:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return prod(equation.outvars[0].aval.shape) * prod(left[axis] for axis in contracted)


def main(height: int = 512, width: int = 1024) -> None:
    """Print parameters and GMACs of each preset, and of the paper's rows beside its numbers."""
    print(f"Inference at {height}x{width}, 19 classes, without boosters; GMAC by block\n")
    print(f"{'preset':<12}{'parameters':>12}{'GMAC':>9}", *(f"{name:>16}" for name in BLOCKS))
    for preset in PRESETS:
        model = build_model(preset)
        parameters = count_parameters(abstract_variables(model)["params"])
        macs = count_block_macs(model, height, width)
        blocks = (f"{macs[name] / 1e9:>16.3f}" for name in BLOCKS)
        print(f"{preset:<12}{parameters:>12,}{sum(macs.values()) / 1e9:>9.3f}", *blocks)
    print(_HEADING)
    base = count_paper_flops(build_model(), height, width) / 1e9
    for name, row in ROWS.items():
        # Boosters and losses change nothing of inference.
        if row.model:
            model = build_model(**row.model)
            parameters = count_parameters(abstract_variables(model)["params"])
            gmacs = count_model_macs(model, height, width) / 1e9
            gflops = count_paper_flops(model, height, width) / 1e9
            comparison = _compare(row, gflops, base)
            print(f"{name:<20}{parameters:>12,}{gmacs:>9.3f}{gflops:>9.2f}{comparison}")


_PAPER = ROWS["bga"].gflops or math.nan
_HEADING = f"""
The paper's comparisons, its network but for one thing, at 512x1024

GFLOPs are counted as the authors' tool does: MACs of convolutions, batch norm, activations,
pools. The network's differ from the paper's {_PAPER} by the width of its head, C_t, which no
source prints; "beyond" is what a row differs by beside that. Numbers with a ? are remembered
and fit the arithmetic, but no source at hand cites them: do not quote them as the paper's.

{"row":<20}{"parameters":>12}{"GMAC":>9}{"GFLOPs":>9}{"paper":>9}{"less it":>9}{"beyond":>9}
"""


def _compare(row: Row, gflops: float, base: float) -> str:
    """What the paper prints, how far ours is from it, and why, in columns."""
    paper = row.gflops or row.unverified_gflops
    if paper is None:
        return f"{'-':>8}"
    mark = " " if row.gflops else "?"
    beyond = gflops - paper - (base - _PAPER)
    remark = f"  {row.remark}" if row.remark else ""
    return f"{paper:>8.2f}{mark}{gflops - paper:>+9.2f}{beyond:>+9.2f}{remark}"


if __name__ == "__main__":
    main()
