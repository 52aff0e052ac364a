"""Scores of what a language model writes."""

from rankwise.tasks.text.score import POOLED, score_of, text_items, text_scores

__all__ = ["POOLED", "score_of", "text_items", "text_scores"]
