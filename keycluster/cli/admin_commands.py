"""`keycluster status`, `token`, `remove`, …: what operators ask of a region. Needs an operator's access key."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import trio

from keycluster import Endpoints, KeyClient, NodeAddress, errors
from keycluster.cli.connection import (
    add_connection_options,
    client_for,
    endpoints_file,
    read_region,
    region_names,
    with_client,
)
from keycluster.cli.output import CommandFailed, Output, printable, when
from keycluster.cluster.wire.admin import NodeStatusResponse

STATUS_S_MAX = 3.0


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the operators' commands."""
    _command(commands, "status", "who leads, and how every node is", _status)
    token = _command(commands, "token", "print a join token: it admits one node, once, within an hour", _token)
    token.add_argument("--az", required=True, help="the AZ of the node that will join")
    token.add_argument("--role", choices=["voter", "learner"], default="voter", help="(default: voter)")
    remove = _command(commands, "remove", "take a node out of the region for ever", _remove)
    remove.add_argument("node", metavar="NODE")
    transfer = _command(commands, "transfer", "let another voter lead", _transfer)
    transfer.add_argument("node", metavar="NODE", nargs="?", help="(default: the one whose log is the longest)")
    access_key = commands.add_parser("access-key", help="credentials for callers and operators").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    create = _command(access_key, "create", "make an access key; its secret is shown once", _create_access_key)
    create.add_argument("--account", required=True, metavar="DIGITS", help="twelve digits: whose root it is")
    create.add_argument("--operator", action="store_true", help="it may also carry out these commands")
    deactivate = _command(access_key, "deactivate", "end an access key, everywhere at once", _deactivate_access_key)
    deactivate.add_argument("access_key_id", metavar="ID")
    _command(
        commands, "confirm-time", "say that the clocks are right, after time leapt: deletions go on", _confirm_time
    )


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Output], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_options(parser)
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node said of itself, or why it said nothing."""

    status: NodeStatusResponse | None
    trouble: str | None


def _status(options: argparse.Namespace, output: Output) -> None:
    """Fails if no node of a region answers: then nothing of what is printed is known."""
    path = endpoints_file(options)
    names = [options.region] if options.region else region_names(path)
    regions = {name: read_region(path, name) for name in names}
    answers = trio.run(_ask_all, list(regions.values()), min(options.timeout, STATUS_S_MAX))
    summary = {name: _region_status(region, answers[name]) for name, region in regions.items()}
    rows = [
        [
            name,
            node["id"] + (" (leader)" if node["id"] == region["leader"] else ""),
            node["az"],
            node["role"] or "-",
            str(node["applied_index"]) if node["reachable"] else "-",
            ("serves" if node["lease"] else "does not serve") if node["reachable"] else "does not answer",
        ]
        for name, region in summary.items()
        for node in region["nodes"]
    ]
    output.table(["REGION", "NODE", "AZ", "ROLE", "APPLIED", "LEASE"], rows, value={"regions": summary})
    if not output.json:
        for region in summary.values():
            for node in region["nodes"]:
                for warning in node["warnings"]:
                    print(f"warning: {node['id']}: {printable(warning)}", file=sys.stderr)
    for name, found in answers.items():
        if all(answer.status is None for answer in found.values()):
            troubles = "; ".join(sorted({str(answer.trouble) for answer in found.values()}))
            raise CommandFailed(f"no node of {name} answers: {troubles}")


async def _ask_all(regions: list[Endpoints], seconds_max: float) -> dict[str, dict[str, NodeAnswer]]:
    answers: dict[str, dict[str, NodeAnswer]] = {region.region: {} for region in regions}

    async def ask(region: Endpoints, address: NodeAddress) -> None:
        try:
            async with client_for(replace(region, nodes=(address,)), seconds_max) as client:
                answer = NodeAnswer(await client.node_status(), None)
        except errors.KmsError as refusal:
            answer = NodeAnswer(None, f"{refusal.code}: {refusal.message}")
        except (errors.KeyClientError, CommandFailed) as error:
            answer = NodeAnswer(None, str(error))
        answers[region.region][address.node] = answer

    async with trio.open_nursery() as nursery:
        for region in regions:
            for address in region.nodes:
                nursery.start_soon(ask, region, address)
    return answers


def _region_status(region: Endpoints, answers: Mapping[str, NodeAnswer]) -> dict[str, Any]:
    """Leader and term by the node that is furthest: one that is cut off still believes in the past."""
    newest: NodeStatusResponse | None = None
    nodes = []
    for address in region.nodes:
        status = answers[address.node].status
        if status is not None and (newest is None or (status.term, status.serving) > (newest.term, newest.serving)):
            newest = status
        nodes.append(
            {
                "id": address.node,
                "az": address.az,
                "role": status.role if status is not None else None,
                "reachable": status is not None,
                "applied_index": status.applied_index if status is not None else None,
                "lease": status is not None and status.serving,
                "warnings": list(status.warnings) if status is not None else [],
            }
        )
    return {
        "leader": newest.leader if newest is not None else None,
        "term": newest.term if newest is not None else None,
        "nodes": nodes,
    }


def _token(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(
        options, lambda client: client.issue_join_token(az=options.az, role=options.role, timeout=options.timeout)
    )
    output.result(answer, lines=[answer.token])
    if not output.json:
        print(f"treat it as a password; it ends at {when(answer.expires)}", file=sys.stderr)


def _remove(options: argparse.Namespace, output: Output) -> None:
    """Returns once the node is out: until then it may hold a lease."""

    async def act(client: KeyClient) -> None:
        await client.remove_node(node_id=options.node, timeout=options.timeout)
        with trio.move_on_after(options.timeout) as scope:
            while any(m.node_id == options.node for m in (await client.node_status()).members):
                await trio.sleep(0.1)
        if scope.cancelled_caught:
            raise CommandFailed(f"{options.node} is not out yet; the region goes on with it by itself")

    with_client(options, act)
    output.result({"NodeId": options.node}, lines=[f"{options.node} is out of the region; its id is never used again"])


def _transfer(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> str | None:
        leader = (await client.node_status(timeout=options.timeout)).leader
        if leader is None:
            raise CommandFailed("nobody leads at the moment")
        await client.at(leader).transfer_leadership(node_id=options.node, timeout=options.timeout)
        with trio.move_on_after(options.timeout):
            while (now := (await client.node_status()).leader) in (leader, None):
                await trio.sleep(0.05)
            return now
        raise CommandFailed(f"{leader} still leads")

    leader = with_client(options, act)
    output.result({"Leader": leader}, lines=[f"{leader} leads"])


def _create_access_key(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(
        options,
        lambda client: client.create_access_key(
            account=options.account, operator=options.operator or None, timeout=options.timeout
        ),
    )
    output.result(
        answer, lines=[f"access key id:     {answer.access_key_id}", f"secret access key: {answer.secret_access_key}"]
    )


def _deactivate_access_key(options: argparse.Namespace, output: Output) -> None:
    with_client(
        options,
        lambda client: client.deactivate_access_key(access_key_id=options.access_key_id, timeout=options.timeout),
    )
    output.result({"AccessKeyId": options.access_key_id}, lines=[f"{options.access_key_id} works nowhere any more"])


def _confirm_time(options: argparse.Namespace, output: Output) -> None:
    with_client(options, lambda client: client.confirm_time(timeout=options.timeout))
    output.result({}, lines=["noted: what was due goes on"])
