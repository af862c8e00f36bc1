"""`python -m etude_model.training RUN_DIR`: train, or go on where a former process was ended.

Exit codes: 0 done, 70 diverged, 75 stopped on request with a checkpoint, 78 bad config, 1 a full
disk or a bug.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from etude_model.training.signals import StopRequest
from storage.errors import EXIT_STOPPED, BadInput, Stopped

EXIT_DIVERGED = 70
EXIT_BAD_CONFIG = 78


def main(arguments: list[str]) -> int:
    """Train the run in the directory `arguments[0]`; return the exit code."""
    stop = StopRequest()
    stop.listen()  # before torch is imported: a signal during the import must not kill

    from etude_model.training.events import EventLog
    from etude_model.training.run import EVENTS_FILE, build_trainer, read_run
    from etude_model.training.trainer import Diverged

    if len(arguments) != 1:
        print("usage: python -m etude_model.training RUN_DIR", file=sys.stderr)
        return EXIT_BAD_CONFIG
    run_dir = Path(arguments[0])
    try:
        run = read_run(run_dir)
        stop.follow(run.parent_pid)
        trainer = build_trainer(run, run_dir, stop=stop)
        with closing(EventLog(run_dir / EVENTS_FILE)) as log:
            for event in trainer.events():
                log.write(event)
    except BadInput as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    except Diverged as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except OSError as error:
        print(f"the run cannot be written or read: {error}", file=sys.stderr)
        return 1
    except Stopped as error:
        print(error, file=sys.stderr)
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
