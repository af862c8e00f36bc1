"""The command line of the evaluation where only etude_model is installed, as on a GPU machine.

python -m etude_model.evaluation CHECKPOINT ceval/val hellaswag_val.jsonl book.txt --few-shot 5

Prints a line per figure and one JSON object as the last line. `etude evaluate` is the same for
artifacts of the store.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from storage.errors import EXIT_BAD_INPUT, BadInput


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and return the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m etude_model.evaluation")
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, release or export")
    parser.add_argument("files", type=Path, nargs="+", help="question files, folders, .txt files")
    parser.add_argument("--few-shot", type=int, default=0, help="worked examples per question")
    parser.add_argument("--limit", type=int, help="only the first questions of each file")
    parser.add_argument("--cut-long", action="store_true", help="cut long prompts on their left")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts computed at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    values = parser.parse_args(arguments)

    from etude_model.device import pick_device
    from etude_model.evaluation.measure import MeasureOptions, lines, measure, open_model

    try:
        options = MeasureOptions(values.few_shot, values.limit, values.cut_long, values.batch_size)
        loaded = open_model(values.checkpoint, device=str(pick_device(values.device)))
        found = measure(loaded, values.files, options)
    except BadInput as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print("\n".join([*lines(found), json.dumps(found, ensure_ascii=False)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
