"""The command line. `app` lists the commands and turns failures into exit codes; `flags` makes
flags of a `Config`; `commands` and `jobs` hold the commands that are no stage."""
