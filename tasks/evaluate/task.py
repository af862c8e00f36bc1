"""checkpoint -> report: figures and samples of every stage, side by side."""

from __future__ import annotations

import hashlib
import shutil

from etude_model.tokenizer import Tokenizer
from storage.artifact import ArtifactRef, Counts, canonical_json
from storage.files import write_json
from storage.store import Store
from storage.workspace import Workspace
from tasks import tracking
from tasks.evaluate.champion import champion_markdown, newest_release
from tasks.evaluate.choices import question_identity
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.evaluate import (
    Evaluation,
    chance,
    checkpoint_names,
    evaluate_checkpoint,
    num_pairs_ranked,
    open_held_out,
)
from tasks.evaluate.pictures import draw_all, draw_changes
from tasks.evaluate.report import report_markdown, report_values, samples_json
from tasks.stage import stage


@stage("evaluate", version=2, kind="report", identity=question_identity)
def evaluate(
    checkpoints: list[ArtifactRef],
    lm_shards: ArtifactRef,
    sft_shards: ArtifactRef,
    pair_shards: ArtifactRef,
    tokenizer: ArtifactRef,
    config: EvaluateConfig,
    workspace: Workspace,
) -> Counts:
    """Measure the checkpoints on held-out data and write report.json, report.md, samples.json."""
    held_out = open_held_out(
        [lm_shards.path],
        [sft_shards.path],
        [pair_shards.path],
        tokenizer_digest=Tokenizer(tokenizer.path).digest,
        config=config,
    )
    folders = [ref.path for ref in checkpoints]
    evaluations: list[Evaluation] = []
    for folder, name in zip(folders, checkpoint_names(folders), strict=True):
        workspace.progress(len(evaluations), len(checkpoints), "checkpoints")
        evaluations.append(evaluate_checkpoint(folder, held_out, config, name=name))
    workspace.progress(len(checkpoints), len(checkpoints), "checkpoints")
    num_pairs = num_pairs_ranked(held_out, config)
    data = [ref.digest for ref in (lm_shards, sft_shards, pair_shards, tokenizer)]
    data.append(question_identity(config))
    read = canonical_json({"data": data, "config": config.key_dict()})
    report = report_values(
        evaluations,
        [ref.digest for ref in checkpoints],
        num_pairs=num_pairs,
        chance=chance(num_pairs),
        evaluated_on=hashlib.sha256(read.encode()).hexdigest(),
    )
    samples = [sample for one in evaluations for sample in one.samples]
    write_json(workspace.path / "report.json", report)
    write_json(workspace.path / "samples.json", samples_json(samples))
    text = report_markdown(report, samples)
    (workspace.path / "report.md").write_text(text, encoding="utf-8")
    # MLflow and Prefect show what lies in logs.
    shutil.copyfile(workspace.path / "samples.json", workspace.logs / "samples.json")
    draw_all(workspace.logs, report["checkpoints"])
    champion = newest_release(Store())
    if champion is not None and evaluations:
        text += "\n" + champion_markdown(champion, report)
        last = report["checkpoints"][-1]
        title = f"{champion['model_name']} (newest release) to {last['name']}"
        step = (title, champion["metrics"], last["metrics"])
        draw_changes(workspace.logs / "changes-from-release.png", [step])
    (workspace.logs / "report.md").write_text(text, encoding="utf-8")
    run = tracking.current()
    if run and samples:
        rows = samples_json(samples)
        run.log_table("samples_table.json", {name: [row[name] for row in rows] for name in rows[0]})
    metrics = {
        f"{one.name}/{metric}": value
        for one in evaluations
        for metric, value in one.metrics.items()
    }
    return Counts(len(checkpoints), len(checkpoints), metrics=metrics)
