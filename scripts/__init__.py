"""Programs for other machines."""
