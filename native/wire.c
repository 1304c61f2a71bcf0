/* Protobuf's encoding as far as plain records need it (protobuf.dev/programming-guides/encoding).
 *
 * Every function returns false where the bytes end too early, and where they are not in the ordinary form.
 * What it has put out is then without meaning. None reads behind `end`, whatever the bytes say.
 */
#include "wire.h"

#include <string.h>

/* Of a number, and of a length: protobuf refuses a longer one, whatever it comes to. */
enum { VARINT_BYTES_MAX = 10, LENGTH_BYTES_MAX = 5 };

/* A number of at most 63 bits. Longer ones, such as those below zero, are not ordinary. */
bool read_varint(Reading *from, uint64_t *number)
{
    uint64_t found = 0;
    for (int shift = 0; shift < 63 && from->at < from->end; shift += 7) {
        byte next = *from->at++;
        found |= (uint64_t)(next & 0x7f) << shift;
        if (next < 0x80) {
            *number = found;
            return true;
        }
    }
    return false;
}

/* A length, and as many bytes. */
bool read_bytes(Reading *from, Span *bytes)
{
    const byte *begin = from->at;
    uint64_t size;
    if (!read_varint(from, &size) || from->at - begin > LENGTH_BYTES_MAX ||
        size > (uint64_t)(from->end - from->at))
        return false;
    bytes->at = from->at;
    bytes->size = (int64_t)size;
    from->at += size;
    return true;
}

static bool skip(Reading *from, int64_t size)
{
    if (size > from->end - from->at)
        return false;
    from->at += size;
    return true;
}

/* Pass over the field behind its tag, whatever it means. Groups are not ordinary. */
bool skip_field(Reading *from, byte tag)
{
    Span bytes;
    switch (tag & 7) {
    case 0:
        for (int count = 0; count < VARINT_BYTES_MAX && from->at < from->end; count++)
            if (*from->at++ < 0x80)
                return true;
        return false;
    case 1:
        return skip(from, 8);
    case 2:
        return read_bytes(from, &bytes);
    case 5:
        return skip(from, 4);
    default:
        return false;
    }
}

/* A field with bytes that has not come before. */
static bool read_once(Reading *from, Span *field)
{
    return field->at == NULL && read_bytes(from, field);
}

/* The next record, behind the tag of `records`. Each of its fields is there once at most, but for headers.
 * The partition is passed over. Headers are not looked into, and no more than headers_max are passed over: a
 * million of them takes longer than a turn of the event loop. */
bool read_record(Reading *from, Record *record, int64_t headers_max)
{
    Span header;
    int64_t headers = 0;
    uint64_t number;
    memset(record, 0, sizeof *record);
    if (!read_bytes(from, &record->fields))
        return false;
    Reading fields = {record->fields.at, record->fields.at + record->fields.size};
    while (fields.at < fields.end) {
        byte tag = *fields.at++;
        switch (tag) {
        case TAG_KEY:
            if (!read_once(&fields, &record->key))
                return false;
            break;
        case TAG_VALUE:
            if (!read_once(&fields, &record->value))
                return false;
            break;
        case TAG_HEADERS:
            if (++headers > headers_max || !read_bytes(&fields, &header))
                return false;
            record->has_headers = true;
            break;
        case TAG_TIMESTAMP:
        case TAG_OFFSET:
        case TAG_PARTITION:
            if ((record->numbers >> tag & 1) != 0 || !read_varint(&fields, &number))
                return false;
            record->numbers |= (uint64_t)1 << tag;
            if (tag == TAG_TIMESTAMP)
                record->timestamp = (int64_t)number;
            else if (tag == TAG_OFFSET)
                record->offset = (int64_t)number;
            break;
        default:
            return false;
        }
    }
    return true;
}

/* For read_header, from the record's first one on. */
Reading headers_of(const Record *record)
{
    return (Reading){record->fields.at, record->fields.at + record->fields.size};
}

/* The next header of a record that read_record has read; false after the last one. One that is not in the
 * ordinary form has no key, which an ordinary one always has: an empty key is refused, so Python does that. */
bool read_header(Reading *from, Header *header)
{
    memset(header, 0, sizeof *header);
    while (from->at < from->end) {
        byte tag = *from->at++;
        if (tag != TAG_HEADERS) {
            if (!skip_field(from, tag))
                return false;
            continue;
        }
        Span fields, key = {NULL, 0}, value = {NULL, 0};
        if (!read_bytes(from, &fields))
            return false;
        Reading inner = {fields.at, fields.at + fields.size};
        while (inner.at < inner.end) {
            byte inner_tag = *inner.at++;
            bool known = inner_tag == TAG_HEADER_KEY     ? read_once(&inner, &key)
                         : inner_tag == TAG_HEADER_VALUE ? read_once(&inner, &value)
                                                         : false;
            if (!known)
                return true;
        }
        if (value.at == NULL)
            value.at = fields.at; /* absent is empty here */
        *header = (Header){key, value};
        return true;
    }
    return false;
}

/* True for well-formed UTF-8 (Unicode, table 3-7): no surrogates, nothing longer than it needs to be. */
bool is_utf8(Span text)
{
    const byte *at = text.at, *end = at + text.size;
    while (at < end) {
        byte lead = *at++;
        if (lead < 0x80)
            continue;
        int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || end - at < more)
            return false;
        byte least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        byte most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (at[0] < least || at[0] > most)
            return false;
        for (int i = 1; i < more; i++)
            if (at[i] < 0x80 || at[i] > 0xbf)
                return false;
        at += more;
    }
    return true;
}

static bool all_zeros(const byte *at, int64_t size)
{
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, (size_t)size - 1) == 0);
}

/* True if key and value, one behind the other, end in so many zeros, at least one: see
 * takhin/disk/zero_tails.py. */
bool ends_in_zeros(Span key, Span value, int64_t zeros)
{
    if (key.size + value.size < zeros)
        return false;
    if (value.size >= zeros)
        return all_zeros(value.at + value.size - zeros, zeros);
    int64_t in_key = zeros - value.size;
    return all_zeros(value.at, value.size) && all_zeros(key.at + key.size - in_key, in_key);
}
