"""What every room may use and none is about: other libraries, threads, generators, progress."""
