"""`python -m takhin.schema FILE...`: bring each file to the current schema; a missing one is created.

Only for closed files. The exit code is 0 if every file is at `takhin.schema.VERSION`.
"""

import sys

from takhin.schema import VERSION
from takhin.schema.checksums import rewrite
from takhin.schema.migrations import migrate

for path in sys.argv[1:]:
    migrate(path)
    rewrite(path, VERSION)  # last: until then the file keeps its old version
