"""The closing table of a compilation: float against quantized."""

from typing import TYPE_CHECKING

from zsq_compile.config.units import size_words

if TYPE_CHECKING:
    from zsq_compile.verification.validate import Validation

MISSING = "-"


def comparison_rows(validation: "Validation") -> list[tuple[str, str, str]]:
    """Rows of the closing table: what, float, quantized."""
    shrunk = validation.quantized_bytes / max(validation.float_bytes, 1)
    rows = [("size", size_words(validation.float_bytes), f"{size_words(validation.quantized_bytes)} ({shrunk:.0%})")]
    real = validation.labelled
    if real is not None:
        if real.top1_float is not None and real.top1_quantized is not None:
            rows.append((f"top-1 on {real.samples} samples", f"{real.top1_float:.2%}", f"{real.top1_quantized:.2%}"))
        rows.append(("same class on these", MISSING, f"{real.agreement:.2%}"))
    if validation.agreement is not None:
        label = f"same class on {validation.samples} held-out samples"
        rows.append((label, MISSING, f"{validation.agreement:.2%}"))
    if validation.sqnr_db is not None:
        rows.append(("signal to quantization noise", MISSING, f"{validation.sqnr_db:.1f} dB"))
    if validation.latency:
        before, after = (validation.latency[name].median_ms for name in ("float", "quantized"))
        rows.append(("latency", f"{before:.3g} ms", f"{after:.3g} ms ({before / after:.1f}x)"))
    fusion = validation.fusion
    rows.append(("layers run in integers", MISSING, f"{fusion.fused} of {fusion.layers}"))
    if fusion.blockwise:
        rows.append(("on 4-bit weights in blocks", MISSING, f"{len(fusion.blockwise)} of {fusion.layers}"))
    return rows
