"""A copier that is slow in the worst place: python slow_copier.py FROM TO

It copies the partition files, then half of each write-ahead log, prints "half", waits for a line, and copies
the other halves and everything that lies beside the topics.
"""

import shutil
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
halves = []
for path in sorted(source.glob("topics/*/*.db")):
    copy = target / path.relative_to(source)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
for path in sorted(source.glob("topics/*/*.db-wal")):
    wal, copied = path.open("rb"), (target / path.relative_to(source)).open("wb")
    copied.write(wal.read(path.stat().st_size // 2))
    halves.append((wal, copied))
print("half", flush=True)
sys.stdin.readline()
for wal, copied in halves:
    shutil.copyfileobj(wal, copied)
    copied.close()
for path in source.iterdir():
    if path.is_file():
        shutil.copyfile(path, target / path.name)
