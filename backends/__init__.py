"""What the compiled model will run on: targets as data, and the one door to ONNX Runtime."""

from backends.catalog import TargetError, load_target, target_names
from backends.session import RuntimeModelError, Session, open_session
from backends.target import NumberFormat, OperatorRule, Target

__all__ = [
    "NumberFormat",
    "OperatorRule",
    "RuntimeModelError",
    "Session",
    "Target",
    "TargetError",
    "load_target",
    "open_session",
    "target_names",
]
