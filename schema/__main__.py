"""`python -m takhin.schema FILE...`: make each file (created if missing) a partition file of today's schema.

For closed files only. Exit code 0 when every file is at `takhin.schema.VERSION`.
"""

import sys

from takhin.schema.migrations import migrate

for path in sys.argv[1:]:
    migrate(path)
