"""What each export format is, in a phrase: for help and README, which load no torch."""

from ganc.runtimes.precisions import listed

ABOUT = {
    "onnx": f"checked in ONNX Runtime, {listed('onnx')}",
    "openvino": f"IR for Intel's runtime, .xml and .bin, {listed('openvino')}",
    "torch": "torch.export, .pt2",
    "rosinality": "tensors for rosinality's code, .pt",
    "nvidia": "tensors for NVIDIA's code, .pt",
}
"""Format → phrase; ``ganc.exporters.export.FORMATS`` has the same names."""
