"""Evidence: what a node measured, or why it could not. Python 3.9, standard library only (but for `codec`)."""
