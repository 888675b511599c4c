"""Denoisers with few bits per weight, and how many decisions that changes. Knows networks, not samplers or files."""

from quicksilver.quantization.agreement import DecisionAgreement, OpenCanvas, compare, decision_agreement
from quicksilver.quantization.convert import quantize
from quicksilver.quantization.scheme import Scheme, fast_dtype, require_device

__all__ = [
    "DecisionAgreement",
    "OpenCanvas",
    "Scheme",
    "compare",
    "decision_agreement",
    "fast_dtype",
    "quantize",
    "require_device",
]
