"""Did an edit work, and what did it do besides."""
