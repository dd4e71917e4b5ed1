"""What a run keeps on the disk: whole files, sealed states, what a run was of."""
