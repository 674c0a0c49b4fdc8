"""Blocks that two or more families are made of; editing any of it retrains every model."""
