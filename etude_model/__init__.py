"""The model: its architecture, training, evaluation, inference and export."""
