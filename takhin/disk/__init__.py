"""The format on disk: every name in a data folder, every SQL statement, every check of a file.

    layout       names of files and folders          statements   all SQL
    finding      which topics and files are there    header       is it our file, and all there?
    folder       the lock, changes of the catalogue  identity     whose log it is
    witness      what each log must hold             versions     new files, old files
    connection   every PRAGMA                        wal          the frames of a write-ahead log
    faults       what an error means                 beside       reading from another process
    access       who may read what is made       plain        opening what may be no plain file
    tables       are its tables ours             repairs      recover beside a broker
    wal_check    is a log in use whole           wal_sums     the checksums of its frames
    inodes       has an open file its name       unshared     reading without leaving a trace
    overflow     how much of a row is where      zero_tails   rows that end in zeros
    descriptors  how many there may be

The engine, the copies and the queries all use it; it knows none of them.
"""
