"""The environment every Etude process runs in: quiet, offline, everything under ETUDE_HOME.

Call `prepare()` before prefect or mlflow is imported; it only fills in what the user left open.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import BadInput
from storage.store import etude_home


def defaults(home: Path) -> dict[str, str]:
    """Return the environment variables that a process of this home starts with."""
    return {
        "ETUDE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        # Nothing calls out: Prefect's analytics, MLflow's telemetry (it wants the word "true").
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_TELEMETRY_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes instead of 10
        "GIT_PYTHON_REFRESH": "quiet",
        # A first start migrates an empty database: 10 of the default 20 seconds on two cores.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }


def prepare() -> Path:
    """Set what is missing of `defaults` in this process and its children; return the home."""
    home = etude_home()
    for name, value in defaults(home).items():
        os.environ.setdefault(name, value)
    for folder in (home, Path(os.environ["PREFECT_HOME"])):  # Prefect does not make its own
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"the folder {folder} cannot be made ({error.strerror}); "
                "set ETUDE_HOME to one that you may write to"
            ) from error
    return home
