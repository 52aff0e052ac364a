"""Scores of what a language model writes."""

from rankwise.tasks.text.score import text_scores

__all__ = ["text_scores"]
