"""Tools of the repository: benchmark, pictures of the documentation. Not in the wheel."""
