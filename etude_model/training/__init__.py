"""shards -> checkpoint: one Trainer, four stages, a resume that is exact to the bit."""
