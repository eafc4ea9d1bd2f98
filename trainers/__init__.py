"""How each stage learns: one LightningModule a file, the run around it, its evaluation."""
