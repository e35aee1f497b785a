"""Outside programs: LAMMPS, MPI launchers, batched MD."""
