"""How thoroughly the promise is tried: TRIPS_TEST_PROFILE=thorough looks for new examples, for as long as it takes."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same examples everywhere: a failure is the change's, not the day's
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "thorough",
    parent=settings.get_profile("quick"),
    max_examples=int(os.environ.get("TRIPS_TEST_EXAMPLES", "5000")),
    derandomize=False,
    print_blob=True,
)
settings.load_profile(os.environ.get("TRIPS_TEST_PROFILE", "quick"))
