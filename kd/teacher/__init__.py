"""Teachers: where one comes from, the frozen network with its identity and accuracy, and its outputs."""

from kd.teacher.frozen import FrozenTeacher, Teacher, TrainingContext, count_correct, fingerprint
from kd.teacher.outputs import CachedOutputs, OnlineOutputs, OutputSource
from kd.teacher.sources import NetworkTeacher, RunTeacher, SelfDistilledTeacher

__all__ = [
    "CachedOutputs",
    "FrozenTeacher",
    "NetworkTeacher",
    "OnlineOutputs",
    "OutputSource",
    "RunTeacher",
    "SelfDistilledTeacher",
    "Teacher",
    "TrainingContext",
    "count_correct",
    "fingerprint",
]
