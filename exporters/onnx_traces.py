"""ONNX files without what says where they were made."""

from __future__ import annotations

from typing import Any

_TRACES = ("metadata_props", "doc_string")
_PARTS = ("graph", "node", "functions", "attribute", "g", "graphs", "input", "output", "value_info")
"""Fields of ONNX messages that hold messages with traces; weights are none of them and are not walked."""


def strip_traces(message: Any) -> bool:
    """Remove doc strings and metadata throughout; return whether there were any.

    dynamo puts a stack trace on every node, with the folders of the machine that exported.
    """
    found = False
    for field, value in message.ListFields():
        if field.name in _TRACES:
            message.ClearField(field.name)
            found = True
        elif field.name in _PARTS:
            # A function's inputs are names and no messages.
            for part in [value] if hasattr(value, "ListFields") else value:
                found |= hasattr(part, "ListFields") and strip_traces(part)
    return found
