"""The types of arguments: for annotating factories of one's own.

An annotation such as ``decay: Decay = 0.9`` is a promise that `transformation` keeps:
values outside of the range are refused by name, NaN included, and traced values pass.
Add ``| None`` where `None` is allowed.

    Scalar          any finite number
    Decay           [0, 1)
    Fraction        [0, 1]
    NonNegative     [0, inf)
    Positive        (0, inf)
    AtLeastOne      [1, inf)
    Threshold       [0, inf]
    ScalarOrSchedule, DecayOrSchedule, FractionOrSchedule, NonNegativeOrSchedule
                    the same, or a function of the step
    Count, PositiveCount
                    a Python integer from 0, or from 1
    CountOrSchedule a Python integer from 1, or a function of the step
    StorageDtype    a real floating dtype
    Number          for a range of one's own: Annotated[float, Number("(0, 2]")]
"""

from ._checks import (
    AtLeastOne as AtLeastOne,
    Count as Count,
    CountOrSchedule as CountOrSchedule,
    Decay as Decay,
    DecayOrSchedule as DecayOrSchedule,
    Fraction as Fraction,
    FractionOrSchedule as FractionOrSchedule,
    NonNegative as NonNegative,
    NonNegativeOrSchedule as NonNegativeOrSchedule,
    Number as Number,
    Positive as Positive,
    PositiveCount as PositiveCount,
    Scalar as Scalar,
    ScalarOrSchedule as ScalarOrSchedule,
    Schedule as Schedule,
    StorageDtype as StorageDtype,
    Threshold as Threshold,
)
from .base import (
    Mask as Mask,
    OptState as OptState,
    Params as Params,
    Updates as Updates,
)
