"""AWS's SDKs on the simulated network: the AWS door's own port, without TLS, as all simulated nodes serve it."""

import random
from collections.abc import Callable, Mapping

from keycluster.client.endpoints import Credentials
from keycluster.simulations.region.network import HostNetwork
from keycluster.simulations.workload.aws_door import AwsDoor


def sim_aws_door(
    network: HostNetwork,
    addresses: Mapping[str, str],
    credentials: Credentials,
    *,
    region: str,
    wall: Callable[[], int],
    rng: random.Random,
) -> AwsDoor:
    """`network` is the calling machine's, `wall` its clock. Whoever opens it closes it."""
    return AwsDoor(network.dial_plain, addresses, credentials, region=region, wall=wall, rng=rng)
