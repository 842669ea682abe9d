"""The verbs and their options. Nothing here imports torch before a verb runs."""
