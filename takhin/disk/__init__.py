"""The format on disk: every name in a data folder, every SQL statement, every check of a file.

    layout       names of files and folders          statements   all SQL
    finding      which topics and files are there    header       is it our file, and all there?
    folder       the lock, changes of the catalogue  identity     whose log it is
    witness      what each log must hold             versions     new files, old files
    connection   every PRAGMA                        wal          the frames of a write-ahead log
    faults       what an error means                 beside       reading from another process
    access       who may read what is made

The engine, the copies and the queries all use it; it knows none of them.
"""
