"""A run at its last step -> the finished checkpoint folder.

model.safetensors …   the weights, as the stage saves them
config.json           the model's shape
tokenizer.model
training.json         what was done; it comes last, and means that the folder is whole
"""

from __future__ import annotations

import shutil
from pathlib import Path

from etude_model.training.checkpoint import load_weights, problem, step_folder
from etude_model.training.progress import Progress
from etude_model.training.stages import Stage
from storage.files import replacing, write_json

FINISHED = "training.json"


def choose_weights(stage: Stage, progress: Progress, run_dir: Path) -> int:
    """Load the best weights where config or stage want them; return the step they are of.

    A stage wants them when it gives the last weights no score. Without a best, the last stay.
    """
    last, best = progress.step, progress.best(stage.score)
    has_score = stage.score(progress.evaluations, str(last)) is not None
    wants_best = stage.materials.config.finished_weights == "best" or not has_score
    if not wants_best or best is None or best == last:
        return last
    folder = step_folder(run_dir, best)
    damage = problem(folder)
    if damage is not None:
        raise OSError(f"{folder} is the best checkpoint and damaged ({damage}); train again")
    load_weights(folder, stage.model)
    return best


def write_result(stage: Stage, progress: Progress, run_dir: Path, *, weights_of_step: int) -> None:
    """Write the finished checkpoint of the weights that the model has now."""
    stage.save_weights(run_dir)
    write_json(run_dir / "config.json", stage.model.config.model_dump(mode="json"))
    with replacing(run_dir / "tokenizer.model") as beside:
        shutil.copyfile(stage.materials.tokenizer.path, beside)
    summary = {
        "stage": stage.name,
        "steps": progress.step,
        "weights_of_step": weights_of_step,
        "skipped_steps": progress.num_skipped_in_all,
        "tokens_seen": progress.num_tokens,
        "evaluations": {
            "before": progress.evaluations.get("0", {}),
            "after": progress.evaluations.get(str(weights_of_step), {}),
        },
    }
    write_json(run_dir / FINISHED, summary)
