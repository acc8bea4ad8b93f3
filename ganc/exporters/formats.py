"""What each export format is, in a phrase: for help and README, which load no torch."""

ABOUT = {
    "onnx": "checked in ONNX Runtime, fp32, fp16 or int8",
    "openvino": "IR for Intel's runtime, .xml and .bin, fp32, fp16, bf16 or int8",
    "torch": "torch.export, .pt2",
    "rosinality": "tensors for rosinality's code, .pt",
    "nvidia": "tensors for NVIDIA's code, .pt",
}
"""Format → phrase; ``ganc.exporters.export.FORMATS`` has the same names."""
