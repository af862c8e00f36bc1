"""The newest release -> how the checkpoint that is to be published stands beside it.

What is newest depends on what was published before, so nothing of this enters the report and its
digest: it is written to the logs, where Prefect and MLflow show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.files import read_json
from storage.store import Store
from tasks.evaluate.measures import metric_names, table_head, with_change


def newest_release(store: Store) -> dict[str, Any] | None:
    """Return release.json of the release that was made last, or None where there is none."""
    releases = [(manifest.created, ref) for ref, manifest in store.artifacts("release")]
    for _, ref in sorted(releases, key=lambda one: one[0], reverse=True):
        if (ref.path / "release.json").is_file():
            values: dict[str, Any] = read_json(ref.path / "release.json")
            return values
    return None


def champion_markdown(release: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the report's last checkpoint beside a release, measure by measure."""
    ours, theirs = report["checkpoints"][-1], release["metrics"]
    lines = ["## Beside the newest release", ""]
    if ours["digest"] == release["checkpoint"]:
        return "\n".join([*lines, f"It is this {ours['name']} checkpoint itself.", ""])
    is_same_data = release["metric"]["evaluated_on"] == report["evaluated_on"]
    if not is_same_data:
        lines += ["It was measured on other held-out data: the figures do not compare well.", ""]
    head = ["measure", f"{release['model_name']} ({release['stage']})", ours["name"]]
    lines += table_head(head)
    for metric in metric_names([theirs, ours["metrics"]]):
        old, new = theirs.get(metric), ours["metrics"].get(metric)
        shown = with_change(metric, new, old if is_same_data else None)
        lines.append(f"| {metric} | {with_change(metric, old, None)} | {shown} |")
    return "\n".join([*lines, ""])
