"""The client's yardstick measures what it says."""

from keycluster.simulations.load.client_yardstick import measure


async def test_both_clients_are_measured_on_one_server() -> None:
    """A short run gives a rate for each client and their ratio."""
    result = await measure(tasks=4, seconds=0.2, rounds=1)
    [plain], [ours] = result.plain_client, result.key_client
    assert plain > 0
    assert ours > 0
    assert result.ratio == ours / plain
