"""The judge: it holds the inputs, the answer and the clock, and believes nothing that a kernel had a hand in."""

from kopt.judge.client import Judge
from kopt.judge.plan import HEADLINE, PROMOTION, SCREENING, Judgement, Plan, Rival
from kopt.judge.statistics import promotes

__all__ = ["HEADLINE", "PROMOTION", "SCREENING", "Judge", "Judgement", "Plan", "Rival", "promotes"]
