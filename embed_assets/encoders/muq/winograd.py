"""MuQ's largest convolutions with fewer multiplications: Winograd's minimal filtering.

Five eighths of MuQ's arithmetic are four convolutions of 3x3 over 512 channels in its stem. Along
the frequency, F(4, 3) gives four outputs of a filter of three for six multiplications where there
were twelve. With stride 2 every second row meets two of the three taps: F(4, 2) takes five
for eight there. What is added are sums of activations, a hundredth of the work. After Winograd,
"Arithmetic Complexity of Computations" (1980), and Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (arXiv:1509.09308), with their matrices for F(4, 3), and those that
the points 0, 1, -1 and 2 give for F(4, 2). Sums and differences cost precision in bfloat16: with
stride 1 three times a convolution's rounding error, of which MuQ's vectors show a tenth, and with
stride 2 nothing more that they show. In float32 it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OUTPUTS = 4
"""Of each six, or five, multiplications."""

FILTERS = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
"""What the six take of a filter's three taps: G in the papers."""

STRIDED_FILTERS = (
    (1 / 2, 0.0, 0.0),
    (-1 / 2, 0.0, -1 / 2),
    (-1 / 6, 0.0, 1 / 6),
    (1 / 6, 0.0, 1 / 3),
    (0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0),
)
"""What the five take of the taps that meet odd rows, and what even rows take."""

STRIDES = ((1, 1), (2, 2))
"""Of the convolutions that can be done so."""


def minimal_conv(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Module:
    """A convolution and the batch norm behind it, in evaluation mode, as one module.

    float32 [B, C, H, W] -> [B, D, H / stride, W / stride], where H is a multiple of 4 strides.
    Raises ValueError for a convolution that is not one of 3x3 with stride 1 or 2 and a border of 1.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    if (conv.kernel_size, conv.padding) != ((3, 3), (1, 1)) or conv.stride not in STRIDES:
        raise ValueError(f"no convolution for minimal filtering: {conv}")
    ways = ((FILTERS, _forward), (STRIDED_FILTERS, _forward_strided))
    matrix, forward = ways[STRIDES.index(conv.stride)]

    class MinimalConv(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mean, var = norm.running_mean, norm.running_var
            if mean is None or var is None:
                raise ValueError(f"no running statistics: {norm}")
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
            )
            taps = torch.einsum("it,dctw->idcw", torch.tensor(matrix).double(), weight.double())
            self.filters = torch.nn.ParameterList(
                torch.nn.Parameter(one[:, :, None].float(), requires_grad=False) for one in taps
            )
            self.bias = torch.nn.Parameter(bias[:, None, None].detach(), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return forward(x, self.filters) + self.bias

    return MinimalConv().eval()


def _forward(x: torch.Tensor, filters: Any) -> torch.Tensor:
    """The sums before the multiplications, these, and the sums behind them."""
    from torch.nn.functional import conv2d

    rows = _rows(x, OUTPUTS + 2, 1)
    even, odd = rows[4] - 4 * rows[2], rows[3] - 4 * rows[1]
    near, far = rows[4] - rows[2], 2 * (rows[3] - rows[1])
    sums = (
        4 * rows[0] - 5 * rows[2] + rows[4],
        even + odd,
        even - odd,
        near + far,
        near - far,
        4 * rows[1] - 5 * rows[3] + rows[5],
    )
    first, a, b, c, d, last = (
        conv2d(one, taps, padding=(0, 1)) for one, taps in zip(sums, filters, strict=True)
    )
    a, b, c, d = a + b, a - b, c + d, c - d
    return _interleaved(first + a + c, b + 2 * d, a + 4 * c, b + 8 * d + last)


def _forward_strided(x: torch.Tensor, filters: Any) -> torch.Tensor:
    rows = _rows(x[:, :, 1::2], OUTPUTS + 1, 0)
    near = rows[3] - rows[1]
    sums = (
        2 * (rows[0] - rows[2]) + near,
        near - rows[1] - rows[2],
        2 * rows[1] - 3 * rows[2] + rows[3],
        near,
        rows[4] - rows[2] - 2 * near,
        x[:, :, ::2],
    )
    first, a, b, c, last, even = (
        _strided(one, taps) for one, taps in zip(sums, filters, strict=True)
    )
    a, b = a + b, a - b
    return _interleaved(first + a + c, b + 2 * c, a + 4 * c, b + 8 * c + last) + even


def _strided(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """A convolution of 1x3 with stride 2 along the time."""
    from torch.nn.functional import conv2d

    # The middle tap by itself: OpenVINO in float32 takes a tenth longer for the three at once.
    outer = conv2d(x, taps[..., ::2], stride=(1, 2), padding=(0, 1), dilation=(1, 2))
    return outer + conv2d(x, taps[..., 1:2], stride=(1, 2))


def _rows(x: torch.Tensor, count: int, below: int) -> list[torch.Tensor]:
    """Of each group of outputs the first row that it needs, the second ...; with a border."""
    from torch.nn.functional import pad

    groups = x.shape[2] - OUTPUTS + 1
    x = pad(x, (0, 0, 1, below))
    return [x[:, :, i : i + groups : OUTPUTS] for i in range(count)]


def _interleaved(*outputs: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.stack(outputs, 3).flatten(2, 3)
