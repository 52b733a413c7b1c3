"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# An example may take as long as a busy machine needs, as may making one: by default 200 ms fail the test. What must not
# hang is under pytest's own time-out.
settings.register_profile("keycluster", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("keycluster")
