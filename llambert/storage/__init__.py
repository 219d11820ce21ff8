"""Tables, part files and references to models and corpora, on any filesystem that fsspec opens."""
