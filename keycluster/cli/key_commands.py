"""`keycluster key …` and `keycluster alias …`: the control plane's everyday calls."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from keycluster import KeyClient, errors
from keycluster.cli.connection import add_connection_options, with_client
from keycluster.cli.output import CommandFailed, Output, when
from keycluster.cluster.wire.operations import AliasListEntry, KeyMetadata, Tag

ALIASES_PER_PAGE = 100  # What a page of ListAliases holds at most.

Act = Callable[[KeyClient, argparse.Namespace], Awaitable[Any]]


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `key` and `alias` to the command line."""
    key = commands.add_parser("key", help="create, look at and manage keys").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_key_lookups(key)
    _add_key_changes(key)
    _add_rotation(key)
    _add_tags(key)
    alias = commands.add_parser("alias", help="names for keys").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_aliases(alias)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Output], None],
    *,
    key: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    if key:
        parser.add_argument("key", metavar="KEY", help="key id, ARN, or (where AWS takes it) alias")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_options(parser)
    parser.set_defaults(run=run)
    return parser


def _call(act: Act, done: str) -> Callable[[argparse.Namespace, Output], None]:
    """A command that makes one call and says that it is done."""

    def run(options: argparse.Namespace, output: Output) -> None:
        answer = with_client(options, lambda client: act(client, options))
        output.result(answer, lines=[done.format(**vars(options))])

    return run


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _add_key_lookups(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "list", "list the account's keys", _list_keys, key=False)
    parser.add_argument("--limit", type=_positive, default=1000, help="how many at most (default: 1000)")
    _command(commands, "describe", "show a key", _describe)
    _command(commands, "policy", "print a key's policy", _policy)


def _add_key_changes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    create = _command(commands, "create", "create a symmetric encryption key", _create, key=False)
    create.add_argument("--description", default="", help="what the key is for")
    create.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="may be given several times")
    create.add_argument("--alias", help="also create this alias for it, such as alias/app")
    _command(
        commands,
        "enable",
        "enable a key",
        _call(lambda client, o: client.enable_key(key_id=o.key, timeout=o.timeout), "{key} is enabled"),
    )
    _command(
        commands,
        "disable",
        "disable a key: from the moment this returns it works nowhere",
        _call(lambda client, o: client.disable_key(key_id=o.key, timeout=o.timeout), "{key} is disabled"),
    )
    deletion = _command(commands, "schedule-deletion", "delete a key after a waiting period", _schedule_deletion)
    deletion.add_argument("--days", type=int, default=30, help="7 to 30 (default: 30)")
    _command(
        commands,
        "cancel-deletion",
        "keep a key that was to be deleted; it stays disabled",
        _call(
            lambda client, o: client.cancel_key_deletion(key_id=o.key, timeout=o.timeout),
            "{key} is kept, and disabled",
        ),
    )
    describe = _command(
        commands,
        "update-description",
        "change what is said about a key",
        _call(
            lambda client, o: client.update_key_description(key_id=o.key, description=o.description, timeout=o.timeout),
            "{key} is described anew",
        ),
    )
    describe.add_argument("description")


def _add_rotation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(
        commands,
        "rotate",
        "give a key new material now; what the old encrypted stays readable",
        _call(lambda client, o: client.rotate_key_on_demand(key_id=o.key, timeout=o.timeout), "{key} is rotated"),
    )
    enable = _command(
        commands,
        "enable-rotation",
        "rotate a key automatically",
        _call(
            lambda client, o: client.enable_key_rotation(
                key_id=o.key, rotation_period_in_days=o.days, timeout=o.timeout
            ),
            "{key} is rotated every {days} days",
        ),
    )
    enable.add_argument("--days", type=int, default=365, help="90 to 2560 (default: 365)")
    _command(
        commands,
        "disable-rotation",
        "stop rotating a key automatically",
        _call(
            lambda client, o: client.disable_key_rotation(key_id=o.key, timeout=o.timeout),
            "{key} is not rotated automatically any more",
        ),
    )
    _command(commands, "rotations", "show a key's rotation and what came of it", _rotations)


def _add_tags(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    tag = _command(
        commands,
        "tag",
        "set tags",
        _call(
            lambda client, o: client.tag_resource(key_id=o.key, tags=_tags(o.tags), timeout=o.timeout),
            "{key} is tagged",
        ),
    )
    tag.add_argument("tags", nargs="+", metavar="KEY=VALUE")
    untag = _command(
        commands,
        "untag",
        "remove tags",
        _call(
            lambda client, o: client.untag_resource(key_id=o.key, tag_keys=tuple(o.tag_keys), timeout=o.timeout),
            "{key} is untagged",
        ),
    )
    untag.add_argument("tag_keys", nargs="+", metavar="KEY")
    _command(commands, "tags", "list a key's tags", _list_tags)


def _add_aliases(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(commands, "list", "list the account's aliases", _list_aliases, key=False)
    for name, help_text, act in (
        ("create", "make an alias for a key", KeyClient.create_alias),
        ("update", "let an alias name another key", KeyClient.update_alias),
    ):
        parser = _command(
            commands,
            name,
            help_text,
            _call(
                lambda client, o, act=act: act(  # type: ignore[misc]  # mypy can't infer a lambda with a default.
                    client, alias_name=o.alias, target_key_id=o.key, timeout=o.timeout
                ),
                "{alias} names {key}",
            ),
            key=False,
        )
        parser.add_argument("alias", metavar="ALIAS", help="such as alias/app")
        parser.add_argument("key", metavar="KEY", help="key id or ARN")
    delete = _command(
        commands,
        "delete",
        "remove an alias; its key stays",
        _call(
            lambda client, o: client.delete_alias(alias_name=o.alias, timeout=o.timeout),
            "{alias} is removed",
        ),
        key=False,
    )
    delete.add_argument("alias", metavar="ALIAS")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CommandFailed(f"'{text}' is not KEY=VALUE")
    return name, value


def _tags(texts: list[str]) -> tuple[Tag, ...]:
    return tuple(Tag(tag_key=name, tag_value=value) for name, value in map(_pair, texts))


def context_of(texts: list[str]) -> dict[str, str] | None:
    """An encryption context from KEY=VALUE words; None for none. Raises CommandFailed."""
    return dict(map(_pair, texts)) or None


def _create(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> KeyMetadata:
        created = await client.create_key(
            description=options.description, tags=_tags(options.tag) or None, timeout=options.timeout
        )
        if options.alias:
            key_id = created.key_metadata.key_id
            try:
                await client.create_alias(alias_name=options.alias, target_key_id=key_id, timeout=options.timeout)
            except errors.KmsError as refusal:
                text = f"key {key_id} is created, but its alias is refused: {refusal.message}"
                raise CommandFailed(text, code=refusal.code) from None
        return created.key_metadata

    metadata = with_client(options, act)
    output.result({"KeyMetadata": metadata}, lines=[metadata.key_id])


def _describe(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(options, lambda client: client.describe_key(key_id=options.key, timeout=options.timeout))
    key = answer.key_metadata
    rows = [
        ["id", key.key_id],
        ["ARN", key.arn or "-"],
        ["state", key.key_state or "-"],
        ["description", key.description or "-"],
        ["spec", f"{key.key_spec}, {key.key_usage}"],
        ["created", when(key.creation_date)],
    ]
    if key.deletion_date is not None:
        rows.append(["deleted at", when(key.deletion_date)])
    output.table(["", ""], rows, value=answer)


def _list_keys(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> tuple[list[Any], bool]:
        keys: list[Any] = []
        marker, more = None, True
        while more and len(keys) < options.limit:
            page = await client.list_keys(
                limit=min(1000, options.limit - len(keys)), marker=marker, timeout=options.timeout
            )
            keys += page.keys
            marker, more = page.next_marker, bool(page.truncated)
        return keys, more

    keys, more = with_client(options, act)
    if more:
        print(f"keycluster: there are more than {options.limit:,} keys; see --limit", file=sys.stderr)
    output.table(["KEY", "ARN"], [[key.key_id or "", key.key_arn or ""] for key in keys], value={"Keys": keys})


def _policy(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(options, lambda client: client.get_key_policy(key_id=options.key, timeout=options.timeout))
    output.result(answer, lines=[answer.policy or ""])


def _schedule_deletion(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(
        options,
        lambda client: client.schedule_key_deletion(
            key_id=options.key, pending_window_in_days=options.days, timeout=options.timeout
        ),
    )
    output.result(answer, lines=[f"{options.key} is deleted at {when(answer.deletion_date)}, unless that is cancelled"])


def _rotations(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> tuple[Any, Any]:
        status = await client.get_key_rotation_status(key_id=options.key, timeout=options.timeout)
        done = await client.list_key_rotations(
            key_id=options.key, include_key_material="ALL_KEY_MATERIAL", timeout=options.timeout
        )
        return status, done

    status, done = with_client(options, act)
    period = f"every {status.rotation_period_in_days} days" if status.key_rotation_enabled else "off"
    rows = [
        [when(rotation.rotation_date), rotation.rotation_type or "-", rotation.key_material_id or "-"]
        for rotation in done.rotations
    ]
    if not output.json:
        print(f"automatic rotation: {period}")
    output.table(["DATE", "TYPE", "MATERIAL"], rows, value={"Status": status, "Rotations": done.rotations})


def _list_tags(options: argparse.Namespace, output: Output) -> None:
    answer = with_client(options, lambda client: client.list_resource_tags(key_id=options.key, timeout=options.timeout))
    output.table(["KEY", "VALUE"], [[tag.tag_key, tag.tag_value] for tag in answer.tags], value=answer)


def _list_aliases(options: argparse.Namespace, output: Output) -> None:
    async def act(client: KeyClient) -> list[AliasListEntry]:
        page = await client.list_aliases(limit=ALIASES_PER_PAGE, timeout=options.timeout)
        aliases = [*page.aliases]
        while page.truncated:
            page = await client.list_aliases(limit=ALIASES_PER_PAGE, marker=page.next_marker, timeout=options.timeout)
            aliases += page.aliases
        return aliases

    aliases = with_client(options, act)
    rows = [[alias.alias_name, alias.target_key_id or "-"] for alias in aliases]
    output.table(["ALIAS", "KEY"], rows, value={"Aliases": aliases})
