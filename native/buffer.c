/* Bytes that grow. Whoever puts something in has reserved room for it. */
#include "buffer.h"

#include <string.h>

SQLITE_EXTENSION_INIT3

enum { FIRST_CAPACITY = 16 << 10 };

/* Make room for so many bytes more; false if there is no memory. */
bool reserve(Buffer *buffer, int64_t more)
{
    int64_t needed = buffer->size + more;
    if (needed <= buffer->capacity)
        return true;
    int64_t capacity = buffer->capacity == 0 ? FIRST_CAPACITY : buffer->capacity;
    while (capacity < needed)
        capacity *= 2;
    byte *bytes = sqlite3_realloc64(buffer->bytes, (sqlite3_uint64)capacity);
    if (bytes == NULL)
        return false;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

void release(Buffer *buffer)
{
    sqlite3_free(buffer->bytes);
    *buffer = (Buffer){NULL, 0, 0};
}

int64_t varint_size(uint64_t number)
{
    int64_t size = 1;
    for (; number >= 0x80; number >>= 7)
        size++;
    return size;
}

/* What put_bytes writes: a tag, the length, the bytes. Nothing for a field that is absent. */
int64_t field_size(Span bytes)
{
    return bytes.at == NULL ? 0 : 1 + varint_size((uint64_t)bytes.size) + bytes.size;
}

void put_varint(Buffer *buffer, uint64_t number)
{
    byte *to = buffer->bytes + buffer->size;
    for (; number >= 0x80; number >>= 7)
        *to++ = (byte)(number | 0x80);
    *to++ = (byte)number;
    buffer->size = to - buffer->bytes;
}

void put_number(Buffer *buffer, byte tag, uint64_t number)
{
    buffer->bytes[buffer->size++] = tag;
    put_varint(buffer, number);
}

void put_bytes(Buffer *buffer, byte tag, Span bytes)
{
    if (bytes.at == NULL)
        return;
    put_number(buffer, tag, (uint64_t)bytes.size);
    memcpy(buffer->bytes + buffer->size, bytes.at, (size_t)bytes.size);
    buffer->size += bytes.size;
}
