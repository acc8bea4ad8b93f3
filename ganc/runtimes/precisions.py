"""What each runtime can compute in, the default first: for help, which loads no torch."""

PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("fp32", "bf16"),
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
}


def listed(runtime: str) -> str:
    """Return a runtime's precisions as a phrase, e.g. "fp32, fp16 or int8"."""
    *others, last = PRECISIONS[runtime]
    return f"{', '.join(others)} or {last}"


ALL_LISTED = "; ".join(f"{runtime} {listed(runtime)}" for runtime in PRECISIONS)
"""The precisions of all runtimes as a phrase."""
