"""Client of Bulkhead, a multi-tenant sandbox execution service."""

from ._client import Client
from ._errors import BulkheadError
from ._models import (
    Archive,
    Attempt,
    Collect,
    Env,
    File,
    Image,
    Job,
    Limits,
    Node,
    Output,
    OutputChunk,
    OutputFile,
    StateChange,
    Stdin,
    StreamTotals,
    Usage,
)

__all__ = [
    "Archive",
    "Attempt",
    "BulkheadError",
    "Client",
    "Collect",
    "Env",
    "File",
    "Image",
    "Job",
    "Limits",
    "Node",
    "Output",
    "OutputChunk",
    "OutputFile",
    "StateChange",
    "Stdin",
    "StreamTotals",
    "Usage",
]
