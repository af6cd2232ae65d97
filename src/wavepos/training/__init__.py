"""Training: configs and recipes, Trainer with what cut-off runs need, several processes, a memory plan."""
