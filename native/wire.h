/* Protobuf's encoding of plain records. Knows neither SQLite nor Python: both libraries share it. */
#ifndef TAKHIN_WIRE_H
#define TAKHIN_WIRE_H

#include <stdbool.h>
#include <stdint.h>

typedef unsigned char byte;

/* Some bytes of a message. at is NULL where the field is absent. */
typedef struct Span {
    const byte *at;
    int64_t size;
} Span;

/* What is left to read of some bytes. */
typedef struct Reading {
    const byte *at;
    const byte *end;
} Reading;

/* Tags of the fields, one byte each: the number of the field and how it is encoded. */
enum {
    TAG_RECORDS = 0x32,           /* ProduceMessageRequest.records */
    TAG_KEY = 0x0a,               /* Record.key */
    TAG_VALUE = 0x12,             /* Record.value */
    TAG_HEADERS = 0x1a,           /* Record.headers */
    TAG_TIMESTAMP = 0x20,         /* Record.timestamp */
    TAG_OFFSET = 0x28,            /* Record.offset */
    TAG_PARTITION = 0x30,         /* Record.partition */
    TAG_HEADER_KEY = 0x0a,        /* RecordHeader.key */
    TAG_HEADER_VALUE = 0x12,      /* RecordHeader.value */
    TAG_RESPONSE_TOPIC = 0x0a,    /* ConsumeMessagesResponse.topic */
    TAG_RESPONSE_PARTITION = 0x10,
    TAG_RESPONSE_END = 0x18,      /* ConsumeMessagesResponse.high_watermark */
    TAG_RESPONSE_RECORDS = 0x22,  /* ConsumeMessagesResponse.records */
    TAG_RESPONSE_THROTTLED = 0x30,
};

/* A record. numbers: a bit for each tag of a number that it has. fields: all of it, in which headers_of begins
 * to read. */
typedef struct Record {
    Span key, value;
    int64_t timestamp, offset; /* 0 where it has none */
    uint64_t numbers;
    bool has_headers;
    Span fields;
} Record;

typedef struct Header {
    Span key, value;
} Header;

bool read_varint(Reading *from, uint64_t *number);
bool read_bytes(Reading *from, Span *bytes);
bool skip_field(Reading *from, byte tag);
bool read_record(Reading *from, Record *record, int64_t headers_max);
Reading headers_of(const Record *record);
bool read_header(Reading *from, Header *header);
bool is_utf8(Span text);
bool ends_in_zeros(Span key, Span value, int64_t zeros);

#endif
