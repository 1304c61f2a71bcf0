"""How much of a long row is on which of its pages (sqlite.org/fileformat2.html, 1.6).

A row that is too long for its own page keeps the beginning there; the rest is on overflow pages of its own.
Knows the size of a page and nothing else.
"""

from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import RESERVED_BYTES

USABLE_BYTES = PAGE_BYTES - RESERVED_BYTES
LOCAL_BYTES_MIN = (USABLE_BYTES - 12) * 32 // 255 - 23
"""A row with overflow pages keeps at least so many bytes on its own page."""

RECORD_LOCAL_BYTES_MAX = USABLE_BYTES - 35
HEADER_LOCAL_BYTES_MAX = (USABLE_BYTES - 12) * 64 // 255 - 23
"""A longer row has overflow pages."""

RECORD_LAST_BYTES_MIN = RECORD_LOCAL_BYTES_MAX - LOCAL_BYTES_MIN + 1
HEADER_LAST_BYTES_MIN = HEADER_LOCAL_BYTES_MAX - LOCAL_BYTES_MIN + 1
"""The last overflow page has at least so many bytes of a row: fewer would have stayed on the row's own page.
That page takes less of a row in `headers` and `committed_offsets`, which are WITHOUT ROWID."""

KEY_LOCAL_BYTES_MAX = LOCAL_BYTES_MIN - 30
"""A record's key of at most so many bytes is on the record's own page, behind lengths and numbers."""
