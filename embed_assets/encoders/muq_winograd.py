"""MuQ's largest convolutions with half the multiplications: Winograd's minimal filtering.

Five eighths of MuQ's arithmetic are four convolutions of 3x3 over 512 channels in its stem, and
nearly three quarters of that the two with stride 1. F(4, 3) along the frequency gives four outputs
of a filter of three for six multiplications where there were twelve; what it adds are sums of
activations, a hundredth of the work. After Winograd, "Arithmetic Complexity of Computations"
(1980), and Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308),
with their matrices. Sums and differences cost precision: three times the rounding error of these
two convolutions in bfloat16, of which MuQ's vectors show a tenth, and in float32 nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OUTPUTS = 4
"""Of each six multiplications."""

FILTERS = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
"""What the six take of a filter's three taps: G in the papers."""


def minimal_conv(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Module:
    """A convolution and the batch norm behind it, in evaluation mode, as one module.

    float32 [B, C, H, W] -> [B, D, H, W], where H is a multiple of 4. Raises ValueError for a
    convolution that is not one of 3x3 with stride 1 and a border of 1.
    """
    import torch
    from torch.nn.functional import conv2d, pad
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    if (conv.kernel_size, conv.stride, conv.padding) != ((3, 3), (1, 1), (1, 1)):
        raise ValueError(f"no convolution for minimal filtering: {conv}")

    class MinimalConv(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mean, var = norm.running_mean, norm.running_var
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
            )
            taps = torch.einsum("it,dctw->idcw", torch.tensor(FILTERS).double(), weight.double())
            self.filters = torch.nn.ParameterList(
                torch.nn.Parameter(one[:, :, None].float(), requires_grad=False) for one in taps
            )
            self.bias = torch.nn.Parameter(bias[:, None, None].detach(), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """The sums before the multiplications, these, and the sums behind them."""
            height = x.shape[2]
            x = pad(x, (0, 0, 1, 1))
            rows = [x[:, :, i : i + height - OUTPUTS + 1 : OUTPUTS] for i in range(OUTPUTS + 2)]
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
                conv2d(one, filter_, padding=(0, 1))
                for one, filter_ in zip(sums, self.filters, strict=True)
            )
            a, b, c, d = a + b, a - b, c + d, c - d
            out = (first + a + c, b + 2 * d, a + 4 * c, b + 8 * d + last)
            return torch.stack(out, 3).flatten(2, 3) + self.bias

    return MinimalConv().eval()
