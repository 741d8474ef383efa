"""Retrieval quality: relevance, metrics, baselines, tables and plots."""
