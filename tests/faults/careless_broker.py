"""`takhin` with commits that sync less than its own: a control that must lose what it acknowledged.

python careless_broker.py LEVEL ARGS…      LEVEL is SQLite's synchronous: 1 is NORMAL, 0 is OFF
"""

import sys

from takhin.cli.main import main
from takhin.disk import connection

open_writer = connection.open_writer
level = int(sys.argv.pop(1))


def careless(path):
    opened = open_writer(path)
    opened.pragma("synchronous", level)
    return opened


connection.open_writer = careless
main()
