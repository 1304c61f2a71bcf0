"""The modules with every RPC: none is missing, and no other client module uses protobuf."""

import ast
import re
from pathlib import Path

import takhin.client
from takhin.client.calls import Calls
from takhin.v1 import takhin_pb2 as pb

NOT_USED = {"ProduceMessageStream"}


def test_every_rpc_has_its_method():
    """Every RPC has a method with its name in Python's spelling."""
    rpcs = set(pb.DESCRIPTOR.services_by_name["TakhinService"].methods_by_name) - NOT_USED
    methods = {re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower() for rpc in rpcs}
    others = {"server", "check_here", "encoder", "outline_topics"}
    assert {name for name in dir(Calls) if not name.startswith("_")} == methods | others


def test_nothing_else_sees_messages_and_stubs():
    """Only those with calls and streams import takhin.v1."""
    folder = Path(takhin.client.__file__).parent
    importing = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("takhin.v1")
    }
    assert importing == {"calls.py", "calls_access.py", "streams.py"}
