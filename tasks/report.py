"""A finished artifact -> the Markdown that Prefect, MLflow and `etude show` display."""

from __future__ import annotations

from storage.artifact import ArtifactRef, Manifest


def report_markdown(ref: ArtifactRef, manifest: Manifest) -> str:
    """Return what a person wants to know of an artifact, as Markdown."""
    counts = manifest.counts
    lines = [
        f"# {manifest.stage}: {ref}",
        "",
        f"{counts.seen:,} rows in, {counts.kept:,} kept, {counts.rows_out:,} rows out, "
        f"{manifest.num_bytes / 1e6:,.1f} MB, {manifest.seconds:,.1f} s",
        "",
    ]
    if counts.dropped:
        lines += ["| dropped because | rows |", "|---|---:|"]
        lines += [f"| {reason} | {number:,} |" for reason, number in sorted(counts.dropped.items())]
        lines.append("")
    if counts.metrics:
        lines += ["| measure | value |", "|---|---:|"]
        lines += [f"| {name} | {value:,.4g} |" for name, value in sorted(counts.metrics.items())]
        lines.append("")
    own = ref.path / "logs" / "report.md"
    if own.exists():
        lines.append(own.read_text(encoding="utf-8"))
    return "\n".join(lines)
