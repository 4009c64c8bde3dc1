#!/usr/bin/env python3
"""Reads an agent from any tool: lists its services and prints its newest samples, with nothing but gRPC reflection.

Needs grpcio, grpcio-reflection and protobuf. The agent opens no port; ssh carries its socket here:

    ssh -F ~/.local/share/spotter/ssh/config -N -L /tmp/agent.sock:/root/.spotter/agent.sock RUN &
    python3 watch.py /tmp/agent.sock
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "spotter.v1.Agent"


def main():
    socket, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "agent.invalid")])
    reflection = ProtoReflectionDescriptorDatabase(channel)
    services = list(reflection.get_services())

    pool = descriptor_pool.DescriptorPool(reflection)
    method = pool.FindServiceByName(SERVICE).FindMethodByName("Samples")
    request_type = message_factory.GetMessageClass(method.input_type)
    sample_type = message_factory.GetMessageClass(method.output_type)
    samples = channel.unary_stream(
        f"/{SERVICE}/Samples",
        request_serializer=request_type.SerializeToString,
        response_deserializer=sample_type.FromString,
    )(request_type(follow=True), timeout=30)

    print(json.dumps({"services": services}))
    for sample in samples:
        print(json.dumps(json_format.MessageToDict(sample, preserving_proto_field_name=True)), flush=True)
        count -= 1
        if count == 0:
            break
    samples.cancel()


if __name__ == "__main__":
    main()
