"""The service's messages and methods, built from its descriptors."""

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

_PACKAGE = "bulkhead.v1"
# The descriptors import these; naming them keeps the imports, which register the files.
_WELL_KNOWN = (duration_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name)


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.Default()
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(resources.files(__package__).joinpath("descriptors.bin").read_bytes())
    for file in files.file:
        if file.name not in _WELL_KNOWN:
            pool.Add(file)
    return pool


_POOL = _load()


def message(name: str) -> Any:
    """The class of a message of the public API."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def enum_name(enum: str, number: int) -> str:
    """The name of an enum's value, for example SUCCEEDED."""
    value = _POOL.FindEnumTypeByName(f"{_PACKAGE}.{enum}").values_by_number.get(number)
    return value.name if value is not None else f"{enum}_{number}"


def enum_number(enum: str, name: str) -> int:
    """The number of an enum's value.

    Raises ValueError for a name that the API does not have.
    """
    values = _POOL.FindEnumTypeByName(f"{_PACKAGE}.{enum}").values_by_name
    if name not in values:
        raise ValueError(f"{name!r} is none of {', '.join(values)}")
    return values[name].number


class Method:
    """One method of a service: its path, whether each side streams, and its messages."""

    def __init__(self, service: str, name: str) -> None:
        descriptor = _POOL.FindServiceByName(f"{_PACKAGE}.{service}").methods_by_name[name]
        proto = descriptor_pb2.MethodDescriptorProto()
        descriptor.CopyToProto(proto)
        self.path = f"/{_PACKAGE}.{service}/{name}"
        self.client_streams = proto.client_streaming
        self.server_streams = proto.server_streaming
        self._response = message_factory.GetMessageClass(descriptor.output_type)

    def bind(self, channel: Any) -> Any:
        """The callable of this method on a channel."""
        kind = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[self.client_streams, self.server_streams]
        return kind(
            self.path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=self._response.FromString,
        )
