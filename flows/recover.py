"""After a crash: Prefect runs whose process is gone are set to Crashed, so that a retry works."""

from __future__ import annotations

from tasks import tracking
from tasks.environment import prepare


def crash_dead_flow_runs() -> list[str]:
    """Set every Running or Cancelling flow run of a dead process to Crashed; return their ids.

    Whose process it was is known from the MLflow parent run, which carries pid and host.
    """
    prepare()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Crashed, State

    crashed = []
    states = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(states)):
            if tracking.is_dead(str(run.id)):
                state: State[None] = Crashed(message="its process is gone; set by `etude recover`")
                client.set_flow_run_state(run.id, state, force=True)
                crashed.append(str(run.id))
    return crashed
