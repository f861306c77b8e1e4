"""Objects as files below one directory, with everything else that an archive keeps there."""
