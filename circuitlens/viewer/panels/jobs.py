"""Work in the background as rows: its stage and progress, and a button to cancel or to dismiss it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import html

from circuitlens.viewer.jobs import Job
from circuitlens.viewer.panels.parts import doing


def jobs_panel(jobs: Sequence[Job]) -> list[Any]:
    """A row for each job that there is something to read of."""
    return [_row(job) for job in jobs if job.is_listed]


def _row(job: Job) -> Any:
    stage = job.message or (job.stage if job.state == "running" else job.state)
    progress = [] if job.has_ended else [dmc.Progress(value=job.share, size="sm")]
    text, what = ("Dismiss", "dismiss") if job.has_ended else ("Cancel", "cancel")
    return html.Div(
        [
            html.Strong(job.title),
            html.Span([stage, *(html.Em(warning) for warning in job.warnings)], className="stage"),
            *progress,
            html.Button(text, className="do", title=f"{text}: {job.title}", **doing(what, str(job.id))),
        ],
        key=str(job.id),
        className="job",
    )
