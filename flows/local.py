"""The local services: Prefect server and worker, MLflow, all on 127.0.0.1, started and stopped.

`up` starts what is not running, registers the deployments of prefect.yaml and writes
`prefect.toml` beside it, so that `prefect deployment run …` in the checkout finds the server.
`down` stops exactly what `up` started: it remembers process ids with their start times.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

import flows
from storage.errors import BadInput
from storage.files import read_json, write_json
from tasks.environment import defaults, prepare

REPOSITORY = Path(flows.__file__).resolve().parent.parent
POOL = "etude-local"
AUTOMATION = "etude-crashed-runs"
MARK = "ETUDE_SERVICES"  # in the environment of all that `up` starts
START_SECONDS = 180.0
NUM_SERVICES = 3
STOP_SECONDS = 35.0  # a flow that is stopped may take 30 seconds to checkpoint


@dataclass(frozen=True, slots=True)
class Service:
    """A process that `up` started; `started` tells it from a later owner of the same pid."""

    name: str
    pid: int
    started: float
    url: str = ""


def state_file() -> Path:
    """Return where `up` remembers what it started."""
    return prepare() / "services.json"


def prefect_url(port: int) -> str:
    """Return the API address of the local Prefect server."""
    return f"http://127.0.0.1:{port}/api"


def services() -> list[Service]:
    """Return the services `up` started that are still alive."""
    if not state_file().exists():
        return []
    known = [Service(**entry) for entry in read_json(state_file())]
    return [service for service in known if _start_time(service.pid) == service.started]


def describe(service: Service) -> dict[str, str | int]:
    """Return what a user needs to know of a service, as plain values."""
    return {"name": service.name, "pid": service.pid, "url": service.url}


@contextmanager
def prefect_api() -> Iterator[None]:
    """Mean the server of this home's `up`, or the embedded API where none is up.

    Enter it before Prefect is imported: it reads its settings then. An old prefect.toml in the
    checkout, of another home or a killed `up`, is not listened to.
    """
    for service in services():
        if service.name == "prefect server":
            os.environ.setdefault("PREFECT_API_URL", service.url + "/api")
        if service.name == "mlflow":
            os.environ.setdefault("ETUDE_MLFLOW_URL", service.url)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    is_embedded = "PREFECT_API_URL" not in os.environ
    with temporary_settings(restore_defaults={PREFECT_API_URL} if is_embedded else set()):
        yield


def up(*, prefect_port: int, mlflow_port: int, say: Callable[[str], None]) -> list[Service]:
    """Start the services, register the deployments; return what runs."""
    if not (REPOSITORY / "prefect.yaml").exists():
        raise BadInput(f"{REPOSITORY} has no prefect.yaml; run `etude up` from a checkout of Etude")
    running = services()
    if len(running) == NUM_SERVICES:
        say(f"already up: {', '.join(service.name for service in running)}")
        return running
    if running:  # some died: a worker without its server is of no use, nor the other way round
        down(say=say)
    if prefect_port == mlflow_port:
        raise BadInput(f"both ports are {mlflow_port}; choose another with --mlflow-port")
    for name, port in (("--prefect-port", prefect_port), ("--mlflow-port", mlflow_port)):
        if _is_listening(port):
            raise BadInput(f"port {port} is taken; choose another with {name}")
    home = prepare()
    url, mlflow_url = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    environment = os.environ | defaults(home)
    environment |= {
        "PREFECT_API_URL": url + "/api",
        "PREFECT_UI_API_URL": url + "/api",
        "ETUDE_MLFLOW_URL": mlflow_url,
        MARK: str(state_file()),
        "PWD": str(REPOSITORY),  # prefect.yaml's working directory for flow runs
    }
    started: list[Service] = []

    def start(name: str, command: list[str], address: str = "") -> None:
        log = home / "logs" / f"{name.replace(' ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"starting {name} {address}".strip())
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_default_signals,
            )
        started.append(Service(name, process.pid, _start_time(process.pid), address))
        write_json(state_file(), [asdict(service) for service in started])
        if address:
            _wait(address, process, log)

    try:
        host = ["--host", "127.0.0.1", "--port"]
        start("prefect server", ["prefect", "server", "start", *host, str(prefect_port)], url)
        write_prefect_toml(url + "/api")
        _register(environment, say)
        pool = ["--pool", POOL, "--type", "process", "--name", POOL]
        start("worker", ["prefect", "worker", "start", *pool])
        start(
            "mlflow",
            [*_mlflow_command(), "--host", "127.0.0.1", "--port", str(mlflow_port)],
            mlflow_url,
        )
    except BaseException:
        down(say=say)
        raise
    return started


def down(*, say: Callable[[str], None]) -> list[Service]:
    """Stop all that `up` started, the worker first; return what was running."""
    running = services()
    for service in sorted(running, key=lambda one: one.name != "worker"):
        say(f"stopping {service.name}")
        members = _family(service)
        # The worker passes a stop on to its flows, which checkpoint; the others just leave.
        with suppress(ProcessLookupError):
            os.kill(service.pid, signal.SIGINT if service.name == "worker" else signal.SIGTERM)
        _, left = psutil.wait_procs(members, timeout=STOP_SECONDS)
        for process in left:
            process.kill()
    for process in psutil.process_iter():  # a flow whose worker was killed belongs to nobody
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(state_file()):
                process.terminate()
    state_file().unlink(missing_ok=True)
    path = REPOSITORY / "prefect.toml"
    if path.exists() and _home_line() in path.read_text(encoding="utf-8").splitlines():
        path.unlink()  # another home's `up` may have written it since
    return running


def write_prefect_toml(api_url: str) -> None:
    """Let the `prefect` command find the local server from within the checkout."""
    lines = [
        "# Written by `etude up`, removed by `etude down`.",
        _home_line(),
        "[api]",
        f'url = "{api_url}"',
    ]
    (REPOSITORY / "prefect.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _home_line() -> str:
    return f'home = "{prepare() / "prefect"}"'


def _register(environment: dict[str, str], say: Callable[[str], None]) -> None:
    """Create the pool, the deployments and the automation that ends runs of dead processes."""
    say("registering the deployments of prefect.yaml")
    for command in (
        ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
        ["deploy", "--all"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *command],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"prefect {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    code = "from flows.local import ensure_automation; ensure_automation()"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=REPOSITORY, check=True)


def ensure_automation() -> None:
    """Have the server crash a run whose heartbeats stopped (its host or process died).

    Flow runs beat every 30 seconds; four missed beats are a death. `prefect automation create`
    would make a second automation each time, so the old one is deleted first.
    """
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture, ResourceSpecification

    with suppress(ValueError):
        Automation.read(name=AUTOMATION).delete()  # type: ignore[attr-defined]
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={
            "prefect.flow-run.heartbeat",
            "prefect.flow-run.Completed",
            "prefect.flow-run.Failed",
            "prefect.flow-run.Cancelled",
            "prefect.flow-run.Crashed",
        },
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=120,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat for 120 seconds")
    Automation(name=AUTOMATION, trigger=trigger, actions=[action]).create()


def _mlflow_command() -> list[str]:
    """Return the MLflow server's arguments: two processes instead of ten, on the local database."""
    from tasks import tracking

    tracking.client()  # the database exists before anyone else opens it
    artifacts = (tracking.folder() / "artifacts").as_uri()
    store = ["--backend-store-uri", tracking.uri(), "--default-artifact-root", artifacts]
    return ["mlflow", "server", *store, "--workers", "1"]


def _default_signals() -> None:
    """Give a service the default Ctrl-C: a script's background job would leave it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    health = address + ("/api/health" if "prefect" in log.name else "/health")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(health, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise RuntimeError(f"{log.stem} did not come up; {log} ends:\n{tail}")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _start_time(pid: int) -> float:
    """Return what tells a process from another one of the same pid; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _family(service: Service) -> list[psutil.Process]:
    """Return a service's process and all that descend from it."""
    try:
        leader = psutil.Process(service.pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
