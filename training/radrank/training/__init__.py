"""Projector heads over frozen backbones, and graph re-rankers over frozen heads (torch)."""
