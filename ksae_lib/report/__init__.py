"""Tables, figures and README numbers, all written from stored runs."""

from ksae_lib.report.figures import (
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
from ksae_lib.report.fresh import stale
from ksae_lib.report.readme import update_readme
from ksae_lib.report.tables import epoch_table, error_table, markdown
from ksae_lib.report.texts import write_texts

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
