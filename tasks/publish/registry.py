"""release -> a version in MLflow's registry, and the alias `champion` if it is better.

A version is a pyfunc model from code (pyfunc_model.py) with the release's safetensors and a copy
of the packages that read them; nothing is pickled. What decides is stored as tags of the version,
so the gate needs no other memory. Calling twice with one release makes one version.

Arguments are explicit and only MlflowClient is used: no active run, no global tracking URI.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as package_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.files import read_json
from tasks.environment import prepare
from tasks.publish.release import RELEASE, release_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
PACKAGES = ("etude_model", "storage")  # what pyfunc_model.py imports of ours
REQUIREMENTS = ("mlflow", "torch", "numpy", "pydantic", "safetensors", "sentencepiece")
RELEASE_TAG, METRIC_TAG, VALUE_TAG, DATA_TAG = (
    "etude.release",
    "etude.metric",
    "etude.metric_value",
    "etude.evaluated_on",
)


def register_release(
    release: Path,
    report: Mapping[str, Any],
    *,
    model_name: str,
    run_id: str,
    tracking_uri: str,
) -> dict[str, Any]:
    """Register a release folder; return {"version", "champion": bool, "why"}.

    `report` is report.json: its checkpoint's figures are logged on the version. A release that has
    a version already gets no second one; the champion is looked at again all the same. `run_id`
    is the MLflow run that the version is said to come from.
    """
    prepare()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri)
    facts = read_json(release / RELEASE)
    digest = release_digest(release)
    _ensure_model(client, model_name)
    version = _find(client, model_name, digest)
    if version is None:
        tags = {
            RELEASE_TAG: digest,
            METRIC_TAG: facts["metric"]["name"],
            DATA_TAG: facts["metric"]["evaluated_on"],
            "etude.stage": facts["stage"],
            "etude.checkpoint": facts["checkpoint"],
        }
        value = facts["metric"]["value"]
        if value is not None and math.isfinite(value):  # nothing could ever beat a NaN
            tags[VALUE_TAG] = repr(value)
        metrics = _metrics(report, facts["checkpoint"])
        version = _create(client, release, facts, model_name, run_id, tags, metrics)
    is_champion, why = _judge(client, model_name, version, facts["metric"]["lower_is_better"])
    return {"version": int(version.version), "champion": is_champion, "why": why}


def _judge(
    client: MlflowClient, model_name: str, version: ModelVersion, lower_is_better: bool
) -> tuple[bool, str]:
    """Move the alias to `version` if it beats the holder; tell whether it has it, and why."""
    champion = _champion(client, model_name)
    if champion is not None and champion.version == version.version:
        return True, f"version {version.version} is the champion already"
    is_better, why = _compare(version, champion, lower_is_better)
    if is_better:
        client.set_registered_model_alias(model_name, ALIAS, version.version)
    return is_better, why


def _compare(
    version: ModelVersion, champion: ModelVersion | None, lower_is_better: bool
) -> tuple[bool, str]:
    if champion is None:
        return True, f"version {version.version} is the first one"
    metric = version.tags[METRIC_TAG]
    if VALUE_TAG not in version.tags:
        return False, f"the report has no {metric}, by which the champion is chosen"
    other = champion.tags.get(METRIC_TAG)
    if other != metric:
        return False, (
            f"the champion, version {champion.version}, was chosen by {other}, not by {metric}; "
            f"move the alias {ALIAS} by hand or publish under another model_name"
        )
    if VALUE_TAG not in champion.tags:
        return True, f"the champion, version {champion.version}, has no {metric} at all"
    ours, theirs = float(version.tags[VALUE_TAG]), float(champion.tags[VALUE_TAG])
    is_better = ours < theirs if lower_is_better else ours > theirs
    verdict = "better than" if is_better else "no better than"
    why = f"{metric} {ours:.4f} is {verdict} {theirs:.4f} of version {champion.version}"
    if version.tags.get(DATA_TAG) != champion.tags.get(DATA_TAG):
        why += " (measured on other held-out data)"
    return is_better, why


def _champion(client: MlflowClient, model_name: str) -> ModelVersion | None:
    aliases = client.get_registered_model(model_name).aliases
    return client.get_model_version(model_name, aliases[ALIAS]) if ALIAS in aliases else None


def _find(client: MlflowClient, model_name: str, digest: str) -> ModelVersion | None:
    query = f"name='{model_name}' and tag.`{RELEASE_TAG}`='{digest}'"
    found = client.search_model_versions(query)
    return found[0] if found else None


def _ensure_model(client: MlflowClient, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create(
    client: MlflowClient,
    release: Path,
    facts: Mapping[str, Any],
    model_name: str,
    run_id: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> ModelVersion:
    """Log the pyfunc model to the run's experiment and make a version of it, with its tags."""
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, name=model_name, source_run_id=run_id, tags=dict(tags), model_type="etude"
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _checkpoint(release, facts, Path(folder) / "checkpoint")
        model = Path(folder) / "model"
        _save_pyfunc(checkpoint, model, run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(model))
    known = client.get_run(run_id).data.metrics  # a killed attempt may have logged them
    for name, value in metrics.items():
        key = f"release/{name.replace('@', '_at_')}"  # MLflow refuses the sign
        if key not in known:
            client.log_metric(run_id, key, value, model_id=logged.model_id)
    client.finalize_logged_model(logged.model_id, "READY")
    return client.create_model_version(
        model_name,
        source=logged.artifact_location,
        run_id=run_id,
        tags=dict(tags),
        model_id=logged.model_id,
    )


def _metrics(report: Mapping[str, Any], checkpoint: str) -> dict[str, float]:
    found = [one["metrics"] for one in report["checkpoints"] if one["digest"] == checkpoint]
    return dict(found[0]) if found else {}


def _checkpoint(release: Path, facts: Mapping[str, Any], folder: Path) -> Path:
    """Lay a checkpoint folder out of a release: the adapter is merged, so it is a plain one."""
    from etude_model.export.import_huggingface import import_huggingface

    return import_huggingface(release / "huggingface", folder, training=facts["training"])


def _save_pyfunc(checkpoint: Path, out: Path, *, run_id: str, model_id: str) -> None:
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    params = [
        ParamSpec("max_new_tokens", "long", 128),
        ParamSpec("temperature", "double", 0.8),
        ParamSpec("top_p", "double", 1.0),
        ParamSpec("seed", "long", 0),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        save_model(
            path=str(out),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[_package_folder(name) for name in PACKAGES],
            # Given, so that MLflow does not load the model in a child to find them out.
            pip_requirements=[f"{name}=={_public_version(name)}" for name in REQUIREMENTS],
            signature=ModelSignature(params=ParamSchema(params)),
        )


def _package_folder(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None and spec.submodule_search_locations
    return spec.submodule_search_locations[0]


def _public_version(package: str) -> str:
    """Return a version without its build's mark: no index has torch 2.13.0+cpu."""
    return package_version(package).split("+")[0]
