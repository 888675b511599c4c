"""Integer products on a CPU: fbgemm's packed kernel under a scale per row.

torch's own dynamic kernel takes one scale for all rows of a batch: a row's result then depends on its neighbours, and
one outlier costs every row its precision. Here each row is scaled to [-1, 1] first, so that the kernel's scale is a
constant. docs/decisions/0006-quantization.md has the measurements.
"""

import warnings
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_WEIGHT_MAX = 63
"""Without VNNI the kernel adds pairs of products in 16 bits: 2 x 255 x 63 fits, 2 x 255 x 127 saturates in silence.
The same on every CPU, so that all decide alike."""
_ACTIVATION_SCALE = 1 / 127
_ACTIVATION_ZERO = 128
_TINY = torch.finfo(torch.float32).tiny


class PackedInt8Linear(nn.Module):
    """Weights in 7 bits with a scale per output, activations in 8 bits with a scale per row; exact sums in 32 bits.

    For inference only, on a CPU. Input and output may be float32 or bfloat16; the scales are float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weights of ``linear``, which keeps its own."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scale = weight_codes(linear.weight)
        self._pack(codes, scale, linear.bias)

    @classmethod
    def of_codes(cls, codes: Int[Tensor, "O I"], scale: Float[Tensor, " O"], bias: Float[Tensor, " O"] | None) -> Self:
        """The layer that ``weight_codes`` gave these of."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.out_features, layer.in_features = codes.shape
        layer._pack(codes, scale, bias)
        return layer

    def _pack(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self._packed = pack_weight(codes.float() * scale[:, None], scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
        rows = x.float()
        peak = rows.abs().amax(dim=-1, keepdim=True).clamp_min(_TINY)
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / peak, _ACTIVATION_SCALE, _ACTIVATION_ZERO, self._packed
        ).mul_(peak)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def weight_codes(weight: Float[Tensor, "O I"]) -> tuple[Int[Tensor, "O I"], Float[Tensor, " O"]]:
    """Weights as int8 in [-63, 63], and each output's scale in float32."""
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp_min(_TINY) / _WEIGHT_MAX
    return (weight / scale[:, None]).round().to(torch.int8), scale


def pack_weight(weight: Float[Tensor, "O I"], scale: Float[Tensor, " O"]) -> torch.ScriptObject:
    """Weights rounded to multiples of each output's scale, as fbgemm arranges them, whatever engine the process has."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            # Quantized dtypes will leave torch (pytorch/pytorch#184982); pyproject.toml holds torch below that.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = engine
