"""Every rule again, in NumPy and float64, from the papers.

A stage takes gradients of shape (T, *shape), one for each step, and gives the
updates of the T steps. An optimizer takes the initial parameters as well and gives
the parameters after each step. A schedule takes the step, an int, and gives a float.
Steps in formulas are t = 1, 2, ...; schedules see t - 1.
"""

from .curvature import *  # noqa: F403
from .kronecker import *  # noqa: F403
from .low_rank import *  # noqa: F403
from .optimizers import *  # noqa: F403
from .orthogonal import *  # noqa: F403
from .psgd import *  # noqa: F403
from .schedules import *  # noqa: F403
from .shared import *  # noqa: F403
from .stages import *  # noqa: F403
from .tuning import *  # noqa: F403
