"""The report: tables, figures, claims and generated parts of the documentation, all from stored runs."""
