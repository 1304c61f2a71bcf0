/* Bytes that grow as protobuf's encoding is written into them. */
#ifndef TAKHIN_BUFFER_H
#define TAKHIN_BUFFER_H

#include "takhin.h"

typedef struct Buffer {
    byte *bytes;
    int64_t size, capacity;
} Buffer;

bool reserve(Buffer *buffer, int64_t more);
void put_varint(Buffer *buffer, uint64_t number);
void put_number(Buffer *buffer, byte tag, uint64_t number);
void put_bytes(Buffer *buffer, byte tag, Span bytes);
int64_t varint_size(uint64_t number);
int64_t field_size(Span bytes);
void release(Buffer *buffer);

#endif
