"""How Prefect is to run here: private, quiet and offline. `prepare` is called before Prefect is imported."""

from __future__ import annotations

import os

from flows.folders import home

BATCH = "100"  # records the server writes at once; one by one stalls the next flow for seconds


def prepare() -> None:
    """Set what the caller's environment leaves open."""
    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    defaults = {
        "PREFECT_HOME": str(home() / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # history of a week and of 90 days, not of for ever
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": BATCH,
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": BATCH,
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": BATCH,
        "GX_ANALYTICS_ENABLED": "False",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
