"""What a number says beside chance: scaled accuracy, the constant answer, bits per character."""

from math import log

import torch

from fprnn.tasks.task import SequenceBatch


def constant_answer_accuracy(batch: SequenceBatch) -> float:
    """Share of a set's scored positions that the best constant answer gets right: the floor of any accuracy on it.

    Args:
        batch: an evaluation set, such as ``data.evaluation_set("test", length)``.

    Raises:
        ValueError: if no position is scored.
    """
    answers = batch["targets"][batch["mask"]]
    if not len(answers):
        raise ValueError("batch: no position is scored; take a set with answers.")
    return float(torch.bincount(answers).max()) / len(answers)


def scaled_accuracy(accuracy: float, num_answers: int) -> float:
    """Accuracy on a scale where a blind guess is 0 and always right is 1: ``(accuracy - 1/n) / (1 - 1/n)``.

    The modular-arithmetic results of "Fixed-Point RNNs" (Movahedi et al., NeurIPS 2025), appendix E.4, are on this
    scale. Where answers are not uniform, a constant answer is above 0: see ``constant_answer_accuracy``.

    Args:
        accuracy: between 0 and 1.
        num_answers: number n of answers that can be right, 2 or more: a task's ``num_answers``.
    """
    return (accuracy * num_answers - 1) / (num_answers - 1)


def bits_per_character(loss: float, tokens_per_character: float = 1.0) -> float:
    """Bits that a model needs for a character of a text: ``loss * tokens_per_character / ln 2``.

    Args:
        loss: mean cross-entropy of a token, in nats.
        tokens_per_character: tokens of the text over its characters: a text task's ``tokens_per_character(split)``.
    """
    return loss * tokens_per_character / log(2)
