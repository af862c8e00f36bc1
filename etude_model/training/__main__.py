"""`python -m etude_model.training RUN_DIR`: train, or go on where a former process was ended.

Exit codes: 0 done, 2 bad config or data, 70 diverged, 71 too little memory for one sequence, 75
stopped on request with a checkpoint, 1 a full disk or a bug. What the run needs is said on stderr
before its first step, its progress if that is a terminal. SIGUSR1 writes the stacks of all threads
there and changes nothing.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from etude_model.training.signals import StopRequest
from storage.errors import (
    EXIT_BAD_INPUT,
    EXIT_DIVERGED,
    EXIT_OUT_OF_MEMORY,
    EXIT_STOPPED,
    BadInput,
    Stopped,
)


def main(arguments: list[str]) -> int:
    """Train the run in the directory `arguments[0]`; return the exit code."""
    stop = StopRequest()
    stop.listen()  # before torch is imported: a signal during the import must not kill
    if len(arguments) != 1:
        print("usage: python -m etude_model.training RUN_DIR", file=sys.stderr)
        return EXIT_BAD_INPUT
    run_dir = Path(arguments[0])
    code, message = _train(run_dir, stop)
    if message:
        print(message, file=sys.stderr)
    return code


def _train(run_dir: Path, stop: StopRequest) -> tuple[int, str]:
    """Train to an end, here or by several processes; return the exit code and its reason."""
    from etude_model.training.console import Console
    from etude_model.training.distributed import is_rank, leave
    from etude_model.training.events import EventLog
    from etude_model.training.launch import launch, num_processes, report_exit
    from etude_model.training.micro_batch import OutOfMemory, is_out_of_memory
    from etude_model.training.run import EVENTS_FILE, build_trainer, read_run
    from etude_model.training.trainer import Diverged

    try:
        run = read_run(run_dir)
        stop.follow(os.getppid() if is_rank() else run.parent_pid)
        if not is_rank() and num_processes(run.train) > 1:
            return launch(run_dir, num_processes(run.train), stop=stop)
        trainer = build_trainer(run, run_dir, stop=stop)
        with ExitStack() as files:
            log, console = None, Console(sys.stderr)
            if trainer.world.is_main:
                log = files.enter_context(closing(EventLog(run_dir / EVENTS_FILE)))
            for event in trainer.events():
                if log is not None:
                    log.write(event)
                    console.tell(event)
        leave()
        return 0, ""
    except BadInput as error:
        end = EXIT_BAD_INPUT, str(error)
    except Diverged as error:
        end = EXIT_DIVERGED, str(error)
    except OutOfMemory as error:
        end = EXIT_OUT_OF_MEMORY, str(error)
    except OSError as error:
        end = 1, f"the run cannot be written or read: {error}"
    except Stopped as error:
        end = EXIT_STOPPED, str(error)
    except RuntimeError as error:  # outside of a step's own try: the optimiser, an evaluation
        if not is_out_of_memory(error):
            raise
        end = EXIT_OUT_OF_MEMORY, f"{error}; set a smaller micro_batch_size or model"
    if is_rank():
        report_exit(run_dir, *end)
    return end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
