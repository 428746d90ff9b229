import shutil

from replication.study import Study, project_root


def copy_notebooks_without_runs(study: Study) -> None:
    """Put the committed notebooks that show no runs into a study: they are due wherever there is evidence."""
    study.notebooks.mkdir(parents=True)
    for one in study.experiments:
        if one.notebook and not study.shown(one):
            shutil.copy(project_root() / "results" / "quick" / "notebooks" / f"{one.executed}.ipynb", study.notebooks)
