"""A stand-in for VASP, which is licensed and cannot be shipped: the same files in, the same files out, other physics.

``python -m alflow.testing.vasp_std`` is the program; `write_library` makes the POTCAR files it reads.
"""

from alflow.testing.fake_vasp.library import Element, write_library

__all__ = ["Element", "write_library"]
