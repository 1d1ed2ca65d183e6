"""MuQ's graph with its large products in 8 bits, and vectors as near to float32 as bfloat16's.

The four large convolutions of the stem, the product behind them and Conformer's feed-forward
layers are nine tenths of what MuQ costs. In 8 bits they take a third of the time or less on a CPU
with instructions for that. The attention and the convolution modules stay in float32: they cost
little, and 8 bits harm them more than all the rest. `benchmarks/int8_layers.py` measures it.

Three things keep the rounding small. Ranges of activations are taken from the very window: of
128 values of a frame for a feed-forward layer, of the whole window for a convolution. So no music
decides them, and none is cut off. Weights have a scale for 128 of a row, or, in a convolution, one
for each output; its inputs are scaled first, so that the weights of one need not share the steps
of another's. And what the rounding of weights adds to the mean of an output is subtracted again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

STEM = "stem"
"""The large convolutions, without the two that take the spectrogram itself."""

MATMULS = {
    "projection": (".conv.linear",),
    "feed-forward": (".ffn1.", ".ffn2."),
    "attention": (".self_attn.linear_",),
    "convolution modules": (".conv_module.pointwise_",),
}
"""Other parts of MuQ: what the names of their products have in them."""

PRODUCTS = ("projection", "feed-forward")
"""What is in 8 bits where the convolutions would lose too much."""

PARTS = (STEM, *PRODUCTS)
"""What is in 8 bits otherwise."""

GROUP = 128
"""Values that share a scale, of weights and of activations."""

STEPS = 127
"""Of a weight, on either side of zero."""

SMALLEST = 1e-9
"""Of the largest activation; silence must not divide by zero."""

SETTINGS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP)}
"""With which OpenVINO computes such a graph as described."""


def to_eight_bits(
    ov: Any, graph: Any, mel: np.ndarray, parts: Collection[str] = PARTS
) -> dict[str, int]:
    """Change a graph of MuQ in float32; how many products. For the stem it has plain convolutions.

    `mel`: the spectrogram of something like music, float32 [128, frames]. The mean inputs of the
    products are taken from it. Raises RuntimeError where OpenVINO fails.
    """
    products = _products(graph, parts)
    means = _mean_inputs(ov, graph, products, mel)
    changed = dict.fromkeys(parts, 0)
    for product in products:
        change = _change_convolution if part_of(product) == STEM else _change_matmul
        changed[part_of(product)] += 1
        change(ov.opset13, product, means[product.get_friendly_name()])
    graph.validate_nodes_and_infer_types()
    return changed


def part_of(op: Any) -> str:
    """The part of MuQ that an operation is a large product of; empty for any other."""
    kind = op.get_type_name()
    if kind == "Convolution":
        shape = op.input_value(1).get_shape()
        return STEM if len(shape) == 4 and shape[1] > 1 else ""
    if kind != "MatMul" or op.input_value(1).get_node().get_type_name() != "Constant":
        return ""
    name = op.get_friendly_name()
    found = (part for part, names in MATMULS.items() if any(n in name for n in names))
    return next(found, "")


def _products(graph: Any, parts: Collection[str]) -> list[Any]:
    return [op for op in graph.get_ordered_ops() if part_of(op) in parts]


def _mean_inputs(
    ov: Any, graph: Any, products: list[Any], mel: np.ndarray
) -> dict[str, np.ndarray]:
    """What each product takes on average, by its name: float32 [channels]."""
    op, names = ov.opset13, [product.get_friendly_name() for product in products]
    measured = graph.clone()
    same = {one.get_friendly_name(): one for one in measured.get_ordered_ops()}
    means = []
    for product in (same[name] for name in names):
        rank = product.input_value(0).get_partial_shape().rank.get_length()
        channels = 1 if part_of(product) == STEM else rank - 1
        others = np.array([axis for axis in range(rank) if axis != channels])
        means.append(op.reduce_mean(product.input_value(0), op.constant(others), keep_dims=False))
    model = ov.Model([mean.output(0) for mean in means], measured.get_parameters(), "means")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = compiled.create_infer_request().infer([mel[None]])
    return {product.get_friendly_name(): np.array(given[i]) for i, product in enumerate(products)}


def _change_matmul(op: Any, product: Any, mean: np.ndarray) -> None:
    """Weights in 8 bits; OpenVINO then takes activations in 8 bits too, 128 of a frame at once."""
    weights = product.input_value(1).get_node().data
    rows, columns = weights.shape
    size = GROUP if columns % GROUP == 0 else columns
    groups = weights.reshape(rows, columns // size, size)
    scale = _scale(np.abs(groups).max(axis=2, keepdims=True))
    rounded = np.round(groups / scale)
    restored = op.multiply(
        op.convert(op.constant(rounded.astype(np.int8)), "f32"), op.constant(scale)
    )
    whole = op.reshape(restored, op.constant(np.array(weights.shape)), special_zero=False)
    lost = (weights - (rounded * scale).reshape(weights.shape)) @ mean
    users = product.output(0).get_target_inputs()
    product.input(1).replace_source_output(whole.output(0))
    _put_behind(op.add(product, op.constant(lost[None, None])), users)


def _change_convolution(op: Any, product: Any, mean: np.ndarray) -> None:
    """Weights in 8 bits, and activations, which are not negative, divided by the largest one."""
    weights, x = product.input_value(1).get_node().data, product.input_value(0)
    # Half of the way: both the weights and the activations have few values that are large.
    largest = _scale(np.abs(weights).max(axis=(0, 2, 3)))
    factor = np.sqrt(largest / np.exp(np.log(largest).mean()))
    x = op.multiply(x, op.constant(factor[None, :, None, None]))
    weights = weights / factor[None, :, None, None]
    highest = op.maximum(
        op.reduce_max(x, op.constant(np.array([1, 2, 3])), keep_dims=True),
        op.constant(np.float32(SMALLEST)),
    )
    x = op.multiply(x, op.divide(op.constant(np.float32(1)), highest))
    zero, one = (op.constant(np.float32(value)) for value in (0, 1))
    x = op.fake_quantize(x, zero, one, zero, one, 256)
    bound = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    low, high = op.constant(-bound), op.constant(bound)
    rounded = op.fake_quantize(op.constant(weights), low, high, low, high, 2 * STEPS + 1)
    scale = _scale(bound)
    lost = (weights - np.round(weights / scale) * scale).sum(axis=(2, 3)) @ (mean * factor)
    users = product.output(0).get_target_inputs()
    product.input(0).replace_source_output(x.output(0))
    product.input(1).replace_source_output(rounded.output(0))
    scaled = op.multiply(product, highest)
    _put_behind(op.add(scaled, op.constant(lost[None, :, None, None])), users)


def _scale(largest: np.ndarray) -> np.ndarray:
    """A step for what has this largest value; not 0, where all weights are."""
    return np.where(largest > 0, largest / STEPS, 1).astype(np.float32)


def _put_behind(op: Any, users: Any) -> None:
    for user in users:
        user.replace_source_output(op.output(0))
