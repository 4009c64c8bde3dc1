#!/usr/bin/env python3
"""Reads all runs from `spotter serve`, from any machine and with nothing but gRPC reflection: prints how they stand, then what
happened, then readings of their boxes as they come, each as a line of JSON.

Needs grpcio, grpcio-reflection and protobuf.

    spotter serve &
    python3 runs.py 127.0.0.1:4750 --samples 10
    python3 runs.py gpu.example:4750 --ca ca.pem --token-file token
"""

import argparse
import json

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "spotter.v1.Runs"


class BearerToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Shows the token with every call, TLS or not: `spotter serve` asks for one on loopback too when it has one."""

    def __init__(self, token):
        self.header = ("authorization", f"Bearer {token}")

    def _call(self, go_on, details, request):
        return go_on(details._replace(metadata=[*(details.metadata or []), self.header]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _call


def connect(arguments):
    if arguments.ca:
        with open(arguments.ca, "rb") as file:
            channel = grpc.secure_channel(arguments.target, grpc.ssl_channel_credentials(file.read()))
    else:
        channel = grpc.insecure_channel(arguments.target)
    if arguments.token_file:
        with open(arguments.token_file) as file:
            channel = grpc.intercept_channel(channel, BearerToken(file.read().strip()))
    return channel


class Service:
    """Calls of a service that is known by reflection alone."""

    def __init__(self, channel, database, name):
        self.channel, self.name = channel, name
        self.methods = descriptor_pool.DescriptorPool(database).FindServiceByName(name)

    def call(self, name, **fields):
        method = self.methods.FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        ask = kind(f"/{self.name}/{name}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
        return ask(request(**fields), timeout=60)


def show(what, message):
    print(json.dumps({what: json_format.MessageToDict(message, preserving_proto_field_name=True)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Reads all runs from `spotter serve`.")
    parser.add_argument("target", help="HOST:PORT")
    parser.add_argument("--ca", help="certificate that the server's is signed with, PEM; without it no TLS")
    parser.add_argument("--token-file", help="file with the token")
    parser.add_argument("--run", default="", help="only this run")
    parser.add_argument("--samples", type=int, default=1, help="readings to wait for")
    arguments = parser.parse_args()

    channel = connect(arguments)
    database = ProtoReflectionDescriptorDatabase(channel)
    health = Service(channel, database, "grpc.health.v1.Health").call("Check", service=SERVICE)
    service = Service(channel, database, SERVICE)
    print(json.dumps({"services": list(database.get_services()), "serving": health.status == 1}), flush=True)
    for run in service.call("ListRuns").runs:
        show("run", run)
    for event in service.call("RunEvents", run=arguments.run):
        show("event", event)
    left = arguments.samples
    if left:
        samples = service.call("RunSamples", run=arguments.run, follow=True)
        for sample in samples:
            show("sample", sample)
            left -= 1
            if left == 0:
                samples.cancel()
                break


if __name__ == "__main__":
    main()
