"""Metrics, and the functions that caption and retrieve clips with a trained model."""
