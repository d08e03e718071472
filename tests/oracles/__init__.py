"""Every rule again, in NumPy and float64, from the papers.

A stage takes gradients of shape (T, *shape), one for each step, and gives the
updates of the T steps. An optimizer takes the initial parameters as well and gives
the parameters after each step. A schedule takes the step, an int, and gives a float.
Steps in formulas are t = 1, 2, ...; schedules see t - 1.
"""

# ruff: noqa: F403  # Tests say `oracles.adam`, and need not know where it stands.

from .curvature import *
from .kronecker import *
from .links import *
from .low_rank import *
from .optimizers import *
from .orthogonal import *
from .psgd import *
from .schedules import *
from .shared import *
from .stages import *
from .tuning import *
