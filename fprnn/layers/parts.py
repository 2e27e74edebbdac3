"""One complaint for all fixed-point layers about a mixer or a solver that is none."""

from fprnn.mixers import Mixer
from fprnn.solvers import FixedPointSolver


def check_parts(mixer: object, solver: object) -> None:
    """Refuses a mixer that is not a factory, and a solver that is not an instance.

    Args:
        mixer: should make a mixer for a width.
        solver: should be a solver; None stands for the default.

    Raises:
        ValueError: if one is not; the message names it.
    """
    if isinstance(mixer, Mixer) or not callable(mixer):
        raise ValueError(
            f"mixer: got an instance of {type(mixer).__name__}; give a class, or a partial of one, that makes a mixer "
            "for a width, such as HouseholderMixer"
        )
    if solver is not None and not isinstance(solver, FixedPointSolver):
        given = (
            f"the class {solver.__name__}" if isinstance(solver, type) else f"an instance of {type(solver).__name__}"
        )
        raise ValueError(f"solver: got {given}; give an instance of a solver, such as PicardSolver()")
