"""Fine-tuning with Lightning."""
