"""LongBench's nine tasks of the paper (A.15, Fig. 11): `tasks.py` what is asked, `scores.py` how answers are judged,
`reading.py` what a model says, `run.py` all of it with its records.

The code is ours; what it does, down to the wording of the prompts, is what LongBench's own pred.py and eval.py do
(github.com/THUDM/LongBench, MIT License; Bai et al., 2024).
"""

from wavepos.evaluate.longbench.scores import qa_f1, rouge_l

__all__ = ["qa_f1", "rouge_l"]
