"""Evidence: what the emitted model does in its runtime, against the float model and onnxruntime's quantizer."""

from zsq_compile.verification.dataset import Dataset, load_data
from zsq_compile.verification.metrics import agreement, sqnr_db, top1
from zsq_compile.verification.report import Report
from zsq_compile.verification.validate import Validation, validate

__all__ = ["Dataset", "Report", "Validation", "agreement", "load_data", "sqnr_db", "top1", "validate"]
