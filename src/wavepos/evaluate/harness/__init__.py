"""lm-eval on our models: `plan.py` says what is measured, `step.py` makes one call of lm-eval, `run.py` all."""
