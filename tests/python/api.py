"""The control API for a program that has its proto file and nothing else of the daemon."""

import argparse
import importlib
import os
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

# Seconds that one step may take on a slow machine.
PATIENCE = 60


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--proto", required=True, help="directory that probeengine/v1/control.proto is in")
    parser.add_argument("--target", required=True, help="unix:PATH or HOST:PORT")
    parser.add_argument("--ca", help="CA of the daemon's certificate (PEM); with it TLS is spoken")
    parser.add_argument("--cert", help="our certificate (PEM)")
    parser.add_argument("--key", help="its key (PEM)")
    return parser


class Api:
    """Stubs made from the proto file, and a channel to the daemon."""

    def __init__(self, args):
        self.messages, self.services = generate(args.proto)
        self.args = args
        self.open()

    def open(self):
        """A new channel: a daemon that was started again is another one."""
        if self.args.ca:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=read(self.args.ca),
                private_key=read(self.args.key),
                certificate_chain=read(self.args.cert),
            )
            channel = grpc.secure_channel(self.args.target, credentials)
        else:
            # The authority of a unix socket is its path, which HTTP/2 servers refuse.
            options = [("grpc.default_authority", "localhost")]
            channel = grpc.insecure_channel(self.args.target, options=options)
        grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        self.control = self.services.ControlStub(channel)
        self.embedder = self.services.EmbedderStub(channel)
        self.channel = channel


def generate(proto):
    out = tempfile.mkdtemp(prefix="probe-engine-stubs-")
    google = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    words = ["protoc", f"-I{proto}", f"-I{google}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(words + ["probeengine/v1/control.proto"]) != 0:
        sys.exit("the stubs could not be made")
    sys.path.insert(0, out)
    return (
        importlib.import_module("probeengine.v1.control_pb2"),
        importlib.import_module("probeengine.v1.control_pb2_grpc"),
    )


def read(path):
    with open(path, "rb") as file:
        return file.read()


def say(text):
    """One line for each thing that was shown to be so."""
    print(text, flush=True)


def refused(call, code, *words):
    """The call fails with this code, and its text has these words."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        for word in words:
            assert word in error.details(), error.details()
        return
    raise AssertionError(f"was not refused with {code}")
