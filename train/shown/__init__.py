"""What people see of a training: its progress, and HTML in Jupyter."""
