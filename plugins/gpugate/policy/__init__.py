"""Policy: what a healthy node of this kind is."""

from .boards import BOARDS, Board
from .catalogue import CATALOGUE, Level, Profile
from .resolve import policy_from_variables
from .types import Policy, Waiver, Workload

__all__ = ["BOARDS", "CATALOGUE", "Board", "Level", "Policy", "Profile", "Waiver", "Workload", "policy_from_variables"]
