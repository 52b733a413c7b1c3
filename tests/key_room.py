"""A room whose state is changed by real commands: handlers of the control plane, from request to response.

region = KeyRoom()
created = region.write("CreateKey", CreateKeyRequest())
region.read("DescribeKey", DescribeKeyRequest(key_id=created.key_metadata.key_id))
"""

from typing import Any

import msgspec

from keycluster.cluster.keys.commands import Caller, CommandBody, Outcome, decode_command, stamp
from keycluster.cluster.keys.hierarchy import Keyring
from keycluster.cluster.types import ClusterTime, NodeId, RunningTime
from keycluster.cluster.wire import operations as wire
from keycluster.node.operations.reads import READS
from keycluster.node.operations.writes import WRITES
from keycluster.node.room import Room
from tests.key_machine import KeyMachine
from tests.room_on_memory import REGION, SeededEntropy, StillConsensus

NODE = NodeId("node-a")


class ApplyingConsensus(StillConsensus):
    """Applies what is proposed at once. `proposed` lists the bodies; `lost` are proposals that never return."""

    def __init__(self, machine: KeyMachine) -> None:
        super().__init__(machine.state)
        self.machine = machine
        self.leader = NODE
        self.proposed: list[CommandBody] = []
        self.room: Room | None = None

    def cluster_time(self) -> ClusterTime | None:
        return self.machine.time

    @property
    def running_time(self) -> RunningTime:
        return self.machine.running_time

    async def propose(self, command: bytes) -> Outcome:
        self.proposed.append(decode_command(command).body)
        outcome = self.machine.apply_payload(stamp(command, self.machine.time, self.machine.running_ns))
        assert self.room is not None
        self.room.clear()
        return outcome


class KeyRoom:
    def __init__(self) -> None:
        self.machine = KeyMachine()
        self.keyring = Keyring(REGION, {1: bytes(range(32))}, 1)
        self.consensus = ApplyingConsensus(self.machine)
        self.room = Room(
            region=REGION,
            node=NODE,
            keyring=self.keyring,
            entropy=SeededEntropy(7),
            consensus=self.consensus,
        )
        self.consensus.room = self.room

    def body(self, operation: str, request: wire.Shape, *, caller: Caller | None = None) -> Any:
        """The command that a write makes; raises what the handler refuses by itself."""
        return WRITES[operation](self.room, caller or self.machine.caller, request)

    def write(self, operation: str, request: wire.Shape, *, caller: Caller | None = None) -> Any:
        """The response after the command was applied; raises its refusal."""
        outcome = self.machine.apply(self.body(operation, request, caller=caller), caller=caller)
        self.room.clear()
        refusal = outcome.error()
        if refusal is not None:
            raise refusal
        return msgspec.msgpack.decode(outcome.ok or b"", type=getattr(wire, f"{operation}Response"))

    def read(self, operation: str, request: wire.Shape, *, caller: Caller | None = None) -> Any:
        return READS[operation](self.room, caller or self.machine.caller, request)

    def create_key(self, *, caller: Caller | None = None, **members: Any) -> str:
        """A new key's id."""
        created: wire.CreateKeyResponse = self.write("CreateKey", wire.CreateKeyRequest(**members), caller=caller)
        return created.key_metadata.key_id
