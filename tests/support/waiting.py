"""How long tests wait, and for what: a slow or busy machine changes nothing but the time."""
import time
from collections.abc import Callable

# Seconds until what must happen counts as a hang. What takes longest alone on two cores takes
# under 60 s; five times slower it still ends. Nothing waits so long for what will not happen.
PATIENCE = 300


def wait_for(what: str, ready: Callable[[], object], seconds: float = PATIENCE,
             pause: float = 0.02) -> object:
    """Look again and again until `ready()` holds; return it, or fail and say what did not come."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s there is still no {what}")
        time.sleep(pause)
    return found
