"""Metrics: functions of arrays, without paths, parameters or models."""
