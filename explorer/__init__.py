"""The explorer: one page in which a reader sees k-sparse autoencoders work on a digit."""
