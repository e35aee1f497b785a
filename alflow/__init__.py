"""alflow: training sets for machine-learned interatomic potentials, built by machine.

Importing this package loads neither torch nor parsl nor ase.
"""

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory, Verdict
from alflow.errors import AlflowError, InputError

__version__ = "0.1.0"

__all__ = ["AlflowError", "Frames", "InputError", "Labels", "Theory", "Verdict", "__version__"]
