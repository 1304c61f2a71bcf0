/* Which partition a key belongs to: takhin/partitioner.py. */
#include "client.h"

enum { MULTIPLIER = 0x5bd1e995 };

static uint32_t word(const byte *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint32_t murmur2(const byte *key, Py_ssize_t size)
{
    uint32_t h = 0x9747b28cu ^ (uint32_t)size;
    for (; size >= 4; key += 4, size -= 4) {
        uint32_t k = word(key) * MULTIPLIER;
        h = h * MULTIPLIER ^ (k ^ k >> 24) * MULTIPLIER;
    }
    if (size > 0) {
        for (Py_ssize_t i = 0; i < size; i++)
            h ^= (uint32_t)key[i] << 8 * i;
        h *= MULTIPLIER;
    }
    h = (h ^ h >> 13) * MULTIPLIER;
    return h ^ h >> 15;
}

/* The hash of bytes without its sign bit. */
uint32_t positive_hash(PyObject *key)
{
    return murmur2((const byte *)PyBytes_AsString(key), PyBytes_Size(key)) & 0x7fffffffu;
}
