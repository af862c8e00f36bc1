"""The `etude` command: run the way, look at what it left, talk to what it made.

Every command takes `--json` and then prints one JSON object as its last line. Exit codes: 0 done,
2 bad input (one line says what and what to do), 75 stopped on request and resumable, 1 a bug.
Heavy modules are imported inside the commands: `--help` has to be quick.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, cast

import typer

from flows.answers import Json, answer
from flows.model_commands import chat, embed, evaluate, export, generate, import_
from storage.errors import EXIT_BAD_INPUT, EXIT_STOPPED, BadInput, ChildFailed, Stopped
from storage.store import Store, etude_home
from tasks.environment import prepare

if TYPE_CHECKING:
    from rich.console import Console

    from flows.recipe import Stage
    from tasks.stage import StageResult

P = ParamSpec("P")
MAX_PORT = 65_535
LARGE_DUMP_BYTES = 10_000_000  # from here on workers are sure to be needed, and soon
INTERRUPTED = 130  # what typer makes of Ctrl-C
WRONG_PATH = (
    FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError,
)  # fmt: skip
app = typer.Typer(
    name="etude",
    help="From a Wikipedia dump to a small language model you can trace, retry and talk to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: clean.min_chars=500 …")
]
RecipeName = Annotated[str, typer.Argument(help="A recipe's name (demo, simplewiki, …) or file.")]


def main() -> None:
    """Run the command line; turn the errors meant for users into one line and an exit code."""
    try:
        _check_home()
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise Stopped("stopped; run the same command again to go on")
        sys.exit(code or 0)
    except BadInput as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except Stopped as error:
        _fail(str(error), EXIT_STOPPED)
    except ConnectionError as error:
        _fail(str(error), 1)
    except ChildFailed as error:
        _fail(str(error), 1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _fail(f"the disk is full ({error}); free some space and run the same command again", 1)
        if isinstance(error, WRONG_PATH) and error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}; correct the path", EXIT_BAD_INPUT)
        if type(error).__module__.startswith(("click", "typer")):
            text = error.format_message() if hasattr(error, "format_message") else str(error)
            _fail(text, EXIT_BAD_INPUT)
        answer({"error": f"{type(error).__name__}: {error}", "exit_code": 1}, "--json" in sys.argv)
        raise  # a bug: its traceback is what a report of it needs


def _check_home() -> None:
    home = etude_home()
    if home.exists() and not home.is_dir():
        raise BadInput(f"ETUDE_HOME={home} is a file; name a folder")


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"etude: {line}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": line, "exit_code": code}, ensure_ascii=False))
    sys.exit(code)


def _stop(*_: object) -> None:
    raise Stopped("stopped; run the same command again to go on")


def _console(as_json: bool) -> Console:
    from rich.console import Console

    return Console(stderr=as_json, highlight=False)


def _quietly(function: Callable[P, None]) -> Callable[P, None]:
    """Keep Prefect's and MLflow's own lines off the terminal; they stay in the logs and pages."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_TASK_RUNS_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        function(*args, **kwargs)

    return wrapped


@app.command()
@_quietly
def run(recipe: RecipeName = "demo", overrides: Overrides = None, json_: Json = False) -> None:
    """Run the whole way in this process; what is there already is reused.

    Settings and paths are checked first. Whether the text can fill the vocabulary is known once it
    is read.

    Example: etude run demo clean.min_chars=500
    """
    _run_flow(recipe, overrides, json_)


@app.command()
@_quietly
def stage(
    name: Annotated[str, typer.Argument(help="fetch, extract, clean … pretrain, sft … publish.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    json_: Json = False,
) -> None:
    """Run one stage and what it needs, reusing what is there.

    Example: etude stage sft demo sft.num_steps=400
    """
    _run_flow(recipe, overrides, json_, stage=name)


def _run_flow(
    recipe: str, overrides: list[str] | None, as_json: bool, stage: str | None = None
) -> None:
    prepare()
    from flows.recipe import STAGES, load_recipe

    settings = load_recipe(recipe, overrides or [])  # refused before anything is started
    if stage is not None and stage not in STAGES:
        raise BadInput(f"no stage {stage!r}; choose one of {', '.join(STAGES)}")
    from flows import local
    from flows.inputs import check_inputs

    check_inputs(settings, stage or "publish")
    signal.signal(signal.SIGTERM, _stop)
    console = _console(as_json)
    with local.prefect_api():
        from flows import etude, terminal
        from tasks.stage import listening

        with terminal.LiveStages(console) as live, listening(live):
            if stage is None:
                etude.end_to_end(settings)
            else:
                etude.stage_flow(settings, cast("Stage", stage))
    terminal.print_summary(console, live.results)
    if stage is None:
        console.print(_next_steps(), markup=False)
    answer({"stages": [_result(one) for one in live.results]}, as_json)


def _result(result: StageResult) -> dict[str, Any]:
    return {
        "stage": result.stage,
        "label": result.label,
        "reused": result.reused,
        "kind": result.ref.kind,
        "key": result.ref.key,
        "digest": result.ref.digest,
        "counts": result.manifest.counts.to_json(),
        "seconds": round(result.seconds, 2),
    }


def _next_steps() -> str:
    program, here = Path(sys.argv[0]), Path.cwd()
    is_near = program.name == "etude" and program.is_relative_to(here)
    name = str(program.relative_to(here)) if is_near else "etude"
    return (
        "Go on with\n"
        f"  {name} chat latest     talk to the model\n"
        f"  {name} up              Prefect and MLflow on 127.0.0.1, with this run in them\n"
        f"  {name} show release:latest --lineage   what the model was made from"
    )


@app.command()
def extract(
    dump: Annotated[Path, typer.Argument(help="A dump file: XML, plain or bz2, gz, xz, zstd, 7z.")],
    out: Annotated[Path, typer.Argument(help="The folder to write documents into.")],
    overrides: Overrides = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Also write documents.jsonl.")] = False,
    json_: Json = False,
) -> None:
    """Turn a dump file into documents, without flow, server or store.

    What was stopped goes on where it was when the same command is given again.

    Example: etude extract simplewiki.xml.bz2 documents clean.min_chars=500
    """
    from rich.progress import Progress

    from tasks.parallel import usable_cores, warm_up, without_pandas

    without_pandas()
    is_large = dump.is_file() and dump.stat().st_size > LARGE_DUMP_BYTES
    if is_large and usable_cores() > 1 and "extract.workers=1" not in (overrides or []):
        warm_up()  # its imports run beside ours
    from flows.extract_dump import extract_documents

    signal.signal(signal.SIGTERM, _stop)
    console = _console(json_)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        lines: dict[str, Any] = {}

        def progress(name: str, done: float, total: float | None, unit: str) -> None:
            name = "unpacking" if unit == "unpacked" else name
            if name not in lines:
                lines[name] = bars.add_task(name, total=total)
            bars.update(lines[name], completed=done, total=total)

        counts = extract_documents(
            dump, out, overrides or [], jsonl=jsonl, progress=progress, log=console.print
        )
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(counts.dropped.items()))
    console.print(f"{counts.seen:,} pages, {counts.kept:,} documents in {out}; dropped: {reasons}")
    answer({"folder": str(out), "counts": counts.to_json()}, json_)


@app.command("ls")
def list_(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: pages, shards, …")] = None,
    json_: Json = False,
) -> None:
    """List the artifacts, the one used last first.

    Example: etude ls checkpoint
    """
    from flows.terminal import artifact_table

    rows = Store().artifacts(kind)
    if not rows and not json_:
        raise BadInput(f"nothing in {Store().root} yet; start with `etude run demo`")
    if not json_:
        _console(json_).print(artifact_table(rows))
    answer({"artifacts": [manifest.to_json() | {"files": None} for _, manifest in rows]}, json_)


@app.command()
def show(
    ref: Annotated[str, typer.Argument(help="kind:latest, a key or its beginning.")],
    page: Annotated[str | None, typer.Argument(help="With --ledger: a title or page id.")] = None,
    ledger: Annotated[bool, typer.Option(help="What was dropped, and why.")] = False,
    lineage: Annotated[bool, typer.Option(help="What it was made from.")] = False,
    find: Annotated[str, typer.Option(help="With --ledger: list what holds this.")] = "",
    json_: Json = False,
) -> None:
    """Show one artifact: its report, its lineage, or why a page is not in it.

    Example: etude show documents:latest --ledger Anarchism
    """
    from rich.markdown import Markdown

    if page is not None and not ledger:
        raise BadInput(f"{page!r} is a question for the ledger; add --ledger")
    if find and (page is not None or not ledger):
        raise BadInput(f"--find {find} lists what a ledger holds; use it with --ledger alone")
    if lineage and ledger:
        raise BadInput("--lineage and --ledger are two questions; ask one of them")
    store = Store()
    artifact = store.resolve(ref)
    manifest = store.manifest(artifact)
    console = _console(json_)
    if lineage:
        tree = store.lineage(artifact)
        for depth, found, name in tree:
            console.print(f"{'  ' * depth}{name}{'' if found else '  (no longer in the store)'}")
        answer({"lineage": [[depth, name] for depth, _, name in tree]}, json_)
    elif ledger:
        from flows import ledger as ledgers

        values, lines = (
            ledgers.answer_page(store, artifact, page)
            if page is not None
            else ledgers.answer_list(artifact, manifest.counts, find)
            if find
            else ledgers.answer_summary(store, artifact)
        )
        for line in [] if json_ else lines:
            print(line)
        answer(values, json_)
    else:
        from tasks.report import report_markdown

        console.print(Markdown(report_markdown(artifact, manifest)))
        answer(manifest.to_json(), json_)


for command in (generate, chat, embed, evaluate, export):
    app.command()(command)
app.command("import")(import_)


@app.command()
@_quietly
def up(
    prefect_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="Port of the Prefect page.")
    ] = 4200,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="Port of the MLflow page.")
    ] = 5000,
    json_: Json = False,
) -> None:
    """Start the Prefect server, a worker, the deployments and MLflow, all on 127.0.0.1.

    Example: etude up && prefect deployment run etude/end-to-end
    """
    from flows import local

    console = _console(json_)
    started = local.up(
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        say=lambda line: console.print(line, markup=False),
    )
    for service in started:
        if service.url:
            console.print(f"{service.name:<16}{service.url}", markup=False)
    console.print(
        "In this folder `prefect` now talks to that server; elsewhere set "
        f"PREFECT_API_URL={local.prefect_url(prefect_port)}",
        markup=False,
    )
    answer({"services": [local.describe(service) for service in started]}, json_)


@app.command()
def down(json_: Json = False) -> None:
    """Stop all that `etude up` started.

    Example: etude down
    """
    from flows import local

    console = _console(json_)
    stopped = local.down(say=lambda line: console.print(line, markup=False))
    if not stopped:
        console.print("nothing was up")
    answer({"stopped": [service.name for service in stopped]}, json_)


@app.command()
def status(json_: Json = False) -> None:
    """Tell which local services run.

    Example: etude status
    """
    from flows import local

    running = local.services()
    console = _console(json_)
    for service in running:
        console.print(f"{service.name:<16}pid {service.pid:<8}{service.url}", markup=False)
    if not running:
        console.print("nothing is up; `etude up` starts Prefect and MLflow")
    answer({"services": [local.describe(service) for service in running]}, json_)


@app.command()
@_quietly
def recover(
    delete_partials: Annotated[
        bool, typer.Option(help="Also delete half-built artifacts (they are what a retry reuses).")
    ] = False,
    json_: Json = False,
) -> None:
    """After a crash: end the runs whose process is gone, so that they can be retried.

    Example: etude recover
    """
    from flows import local
    from flows.recover import crash_dead_flow_runs
    from tasks import tracking

    with local.prefect_api():
        closed = tracking.close_dead_runs()
        crashed = crash_dead_flow_runs()
    partials = Store().collect_partials() if delete_partials else []
    console = _console(json_)
    console.print(
        f"{len(crashed)} Prefect runs set to Crashed, {len(closed)} MLflow runs to KILLED, "
        f"{len(partials)} partial artifacts deleted"
    )
    for run_id in crashed:
        console.print(f"  prefect flow-run retry {run_id}", markup=False)
    names = [f"{path.parent.name}/{path.name}" for path in partials]
    answer({"flow_runs": crashed, "mlflow_runs": closed, "partials": names}, json_)


if __name__ == "__main__":
    main()
