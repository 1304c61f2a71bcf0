"""`python -m takhin.schema FILE...`: make each file (created if missing) a partition file of today's schema.

For closed files only. Exit code 0 when every file is at `takhin.schema.VERSION`.
"""

import sys

from takhin.schema import VERSION
from takhin.schema.checksums import rewrite
from takhin.schema.migrations import migrate

for path in sys.argv[1:]:
    migrate(path)
    rewrite(path, VERSION)  # last: until then the file is of its former version
