"""The replication study: runs of the paper's experiments, and what they show."""
