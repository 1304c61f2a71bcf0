"""A process beside the broker that does one thing to a partition file and then waits for its end.

python holder.py FILE SQL...      prints "ready" when the statements have run; ends with its stdin
"""

import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.read()
