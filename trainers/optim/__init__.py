"""Optimizers, schedules, losses and fine-tuning."""
