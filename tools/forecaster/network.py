"""The forecaster: a temporal convolutional network, the same weights for each approach.

Input (1, HISTORY_S, 1, CHANNELS) is taken apart into (1, HISTORY_S, 4, BLOCK_CHANNELS): time runs
along the height, approaches along the width. Convolutions have kernel (3, 1) and dilation (d, d),
equal in both directions as the Edge TPU asks for; with a kernel of width 1 the second one has no
effect. There is no padding, so each layer leaves fewer seconds, until one is left:
64 -> 62 -> 58 -> 50 -> 34 -> 2 -> 1. The output (1, 4) is in vehicles.

In PyTorch the height and the width are the last two axes; `Layer` holds what the builder needs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from agent.infer.features import APPROACHES, BLOCK_CHANNELS, OWN_CHANNELS

DILATIONS = (1, 2, 4, 8, 16)
KERNEL_S = 3
LEFT_S = 2  # seconds left after the dilated layers
WIDTH = 48
HEAD_WIDTH = 64


@dataclass(frozen=True)
class Layer:
    """One convolution with a ReLU after it.

    Attributes:
        weights: Shape (out, height, 1, in), float32: TFLite's order.
        bias: Shape (out,), float32.
        dilation: In both directions.
    """

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    dilation: int


class Forecaster(nn.Module):
    """The float network.

    Args:
        alone: Leave out the upstream channels; for comparison only.
    """

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone
        self.block_channels = OWN_CHANNELS if alone else BLOCK_CHANNELS
        layers: list[nn.Module] = []
        channels = self.block_channels
        for dilation in DILATIONS:
            layers += [nn.Conv2d(channels, WIDTH, (KERNEL_S, 1), dilation=dilation), nn.ReLU()]
            channels = WIDTH
        layers += [nn.Conv2d(channels, HEAD_WIDTH, (LEFT_S, 1)), nn.ReLU()]
        layers += [nn.Conv2d(HEAD_WIDTH, 1, (1, 1))]
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Forecasts.

        Args:
            rows: Shape (batch, HISTORY_S, CHANNELS).

        Returns:
            Vehicles standing in HORIZON_S, shape (batch, 4). Not clamped at 0, so that the
            gradient does not vanish there; the built model clamps.
        """
        batch, history_s, _ = rows.shape
        blocks = rows.reshape(batch, history_s, APPROACHES, -1)[..., : self.block_channels]
        return self.layers(blocks.permute(0, 3, 1, 2))[:, 0, 0, :]

    def exported(self) -> list[Layer]:
        """Returns the layers for the builder."""
        found = []
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                weights = module.weight.detach().permute(0, 2, 3, 1).contiguous().numpy()
                bias = module.bias.detach().numpy()
                found.append(Layer(weights, bias, module.dilation[0]))
        return found


def alone_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Drops the upstream channels: (..., CHANNELS) to (..., 4 * OWN_CHANNELS)."""
    blocks = rows.reshape(*rows.shape[:-1], APPROACHES, BLOCK_CHANNELS)[..., :OWN_CHANNELS]
    return np.ascontiguousarray(blocks.reshape(*rows.shape[:-1], APPROACHES * OWN_CHANNELS))
