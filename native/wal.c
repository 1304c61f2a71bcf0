/* Compares the checksums of a write-ahead log (sqlite.org/walformat.html): in Python, with what of it runs in C
 * anyway, a frame takes three times as long, and holds up whoever else wants the interpreter. */
#include "takhin.h"

#include <string.h>

/* A frame's head: its page, the pages of the file after a commit or 0, two salts, two sums. Big-endian. */
enum { FRAME_HEAD = 24, SUMMED_OF_HEAD = 8, SALTS_AT = 8, SALTS = 8, SUMS_AT = 16 };

static uint32_t big_endian(const byte *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t little_endian(const byte *at)
{
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

/* SQLite's checksum goes on over a multiple of 8 bytes. */
static void add(uint32_t sums[2], const byte *at, int64_t size)
{
    uint32_t first = sums[0], second = sums[1];
    for (const byte *end = at + size; at < end; at += 8) {
        first += little_endian(at) + second;
        second += little_endian(at + 4) + first;
    }
    sums[0] = first;
    sums[1] = second;
}

/* How many frames are whole, from the first one on, of a log that sums little-endian words: all do that were
 * begun on such a machine. salts: 8 bytes that each must have. sums: those that the frame before them carries;
 * afterwards those of the last whole one. */
EXPORTED int64_t takhin_whole_frames(const byte *frames, int64_t size, int64_t page_bytes, const byte *salts,
                                     uint32_t sums[2])
{
    int64_t whole = 0;
    if (page_bytes <= 0 || page_bytes % 8 != 0)
        return 0;
    for (; size >= FRAME_HEAD + page_bytes; size -= FRAME_HEAD + page_bytes) {
        uint32_t found[2] = {sums[0], sums[1]};
        add(found, frames, SUMMED_OF_HEAD);
        add(found, frames + FRAME_HEAD, page_bytes);
        if (memcmp(frames + SALTS_AT, salts, SALTS) != 0 || found[0] != big_endian(frames + SUMS_AT) ||
            found[1] != big_endian(frames + SUMS_AT + 4))
            break;
        sums[0] = found[0];
        sums[1] = found[1];
        frames += FRAME_HEAD + page_bytes;
        whole++;
    }
    return whole;
}
