"""Failures of the service, with its reasons."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class BulkheadError(Exception):
    """A call that failed.

    Attributes:
        code: the gRPC status, for example ``NOT_FOUND``.
        reason: the service's own reason, for example ``RESOURCE_NOT_FOUND``; empty when the service was not reached.
        message: for a person.
        metadata: what the reason refers to.
        fields: for wrong input, each field and what is wrong with it.
        retry_after: seconds after which a retry makes sense, if the service said so.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.fields: dict[str, str] = {}
        self.retry_after: float | None = None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.code}{reason}: {self.message}"

    @classmethod
    def of(cls, error: grpc.RpcError) -> BulkheadError:
        """Reads the details that came with a gRPC error."""
        call: Any = error
        result = cls(call.code().name, call.details() or "")
        for key, value in call.trailing_metadata() or ():
            if key == _DETAILS:
                result._read(value)
        return result

    def _read(self, raw: bytes) -> None:
        status = status_pb2.Status.FromString(raw)
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                self.reason = info.reason
                self.metadata = dict(info.metadata)
            elif detail.Unpack(request):
                self.fields = {entry.field: entry.description for entry in request.field_violations}
            elif detail.Unpack(retry):
                self.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
