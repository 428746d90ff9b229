"""Tables, figures and README numbers, all written from stored runs."""

from replication.report.figures import (
    activity_histograms,
    alpha_curves,
    epoch_curve,
    example_panel,
    filter_panels,
    finetuning_curves,
    gabor_histogram,
    penalty_and_filters,
    save_figure,
    training_curves,
)
from replication.report.fresh import stale
from replication.report.readme import update_readme
from replication.report.tables import epoch_table, error_table, markdown
from replication.report.texts import write_texts

__all__ = [
    "activity_histograms",
    "alpha_curves",
    "epoch_curve",
    "epoch_table",
    "error_table",
    "example_panel",
    "filter_panels",
    "finetuning_curves",
    "gabor_histogram",
    "markdown",
    "penalty_and_filters",
    "save_figure",
    "stale",
    "training_curves",
    "update_readme",
    "write_texts",
]
