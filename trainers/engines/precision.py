"""The meaning of `trainer.precision: auto` on the device of a run, and the settings that a device only emulates.

A processor without bfloat16 arithmetic takes 6 to 8 times as long in bf16-mixed as in float32: it unpacks every number,
computes in float32 and packs the result. PyTorch's operators and oneDNN do so silently, so torch is asked first.
"""

import torch

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
REDUCED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
ARITHMETIC = {  # instructions that multiply a type, as torch names them; without one of them it is emulated
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
FIRST_BFLOAT16 = (8, 0)  # compute capability of the first NVIDIA GPUs that multiply bfloat16


def settled(precision: str, accelerator: str) -> str:
    """The precision as configured; for auto, bf16-mixed if this machine's device multiplies bfloat16, else 32-true.

    Args:
        accelerator: as `trainer.accelerator`. Asks CUDA for the GPU if one would be used.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        fast = torch.version.hip is not None or torch.cuda.get_device_capability() >= FIRST_BFLOAT16
    else:
        fast = cpu_multiplies(torch.bfloat16)
    return "bf16-mixed" if fast else "32-true"


def use_tf32(allowed: bool) -> None:
    """Whether NVIDIA's matrix units may round float32 to 19 bits (TF32): by default torch lets convolutions do so.

    In mixed precision this is about what stays in float32, such as the gradient penalty.
    """
    # torch's newer names for it leave the older ones, which Lightning reads, without an answer.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has arithmetic of a 16-bit type, and oneDNN makes use of it.

    It asks two questions, since each answer alone misleads: oneDNN calls bfloat16 supported on any AVX-512, and the
    CPU's list still names instructions that ONEDNN_MAX_CPU_ISA forbids.
    """
    known = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    if not torch.backends.mkldnn.is_available() or not getattr(torch.ops.mkldnn, known[dtype])():
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ARITHMETIC[dtype])


def emulated_on_cpu(precision: str) -> str | None:
    """The reason why a precision is slow on this machine's CPU; None if it is not."""
    dtype = REDUCED.get(precision)
    if dtype is None or cpu_multiplies(dtype):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"trainer.precision={precision} is slow: this CPU has no {name} arithmetic and emulates it"


def processor() -> str:
    """The CPU's name and its instructions for bfloat16, which change its speed several times."""
    has = torch.cpu.get_capabilities()
    return " ".join([has.get("cpu_name", "CPU"), *(n for n in ARITHMETIC[torch.bfloat16] if has.get(n, False))])
