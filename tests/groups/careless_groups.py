"""`takhin` that takes every member's commit, whoever owns the partition: a control that must be caught.

python careless_groups.py ARGS…
"""

from takhin.cli.main import main
from takhin.groups import coordinator
from takhin.storage.contract import Fence

coordinator._refused = lambda group, committer, partitions: frozenset()
Fence.close = lambda self, error: None
main()
