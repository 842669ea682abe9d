"""ONNX Runtime, imported when first needed and kept from reporting to its makers."""

from __future__ import annotations

import os
from typing import Any


def load_onnxruntime() -> Any:
    """Import ONNX Runtime, which has no types.

    From 1.31 on it sends usage data and leaves files in the temporary and the cache folder, unless this
    variable is set before the import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
