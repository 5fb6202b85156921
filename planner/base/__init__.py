"""What every other room stands on: diagnostics, faults, axes and the frozen mapping."""
