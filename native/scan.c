/* Looks over a produce request: is it plain, and what must be known of its records before they are queued. */
#include "takhin.h"

/* What a batch may have at most; what has more is left to Python, which refuses it. zeros: a record or a header
 * that ends in so many may need a row of its own (takhin/disk/zero_tails.py), which only Python writes.
 * header_bytes: of one header. head_bytes, head_fields: what there may be besides the records. */
typedef struct Limits {
    int64_t records, headers, record_headers, header_bytes, zeros, head_bytes, head_fields;
} Limits;

/* begin, end: where the records are in the request, all of them and nothing else.
 * record_bytes_max: of the largest one, as max.message.bytes counts them.
 * keyless: how many records have no key. unstamped: how many have no timestamp, or 0.
 * first, last: timestamps of the first and the last record. lowest, highest: of all that have one. */
typedef struct Facts {
    int64_t begin, end;
    int64_t records, headers, record_bytes_max;
    int64_t keyless, unstamped, first, last, lowest, highest;
} Facts;

static int64_t greater(int64_t one, int64_t other)
{
    return one > other ? one : other;
}

/* The bytes that a header counts for: takhin/sizes.py. */
static int64_t header_bytes(const Header *header)
{
    return HEADER_OVERHEAD_BYTES + header->key.size + header->value.size;
}

/* Take in the headers of a record; false if one is not plain. */
static bool scan_headers(const Record *record, const Limits *limits, Facts *facts, int64_t *size)
{
    Reading reading = headers_of(record);
    Header header;
    int64_t count = 0;
    while (read_header(&reading, &header)) {
        if (header.key.size == 0 || !is_utf8(header.key) || ends_in_zeros(header.key, header.value, limits->zeros))
            return false;
        if (header.key.size + header.value.size > limits->header_bytes)
            return false;
        *size += header_bytes(&header);
        if (++count > limits->record_headers || ++facts->headers > limits->headers)
            return false;
    }
    return true;
}

/* Take in a record; false if it is not plain. */
static bool scan_record(const Record *record, const Limits *limits, Facts *facts)
{
    int64_t size = record->key.size + record->value.size;
    if (ends_in_zeros(record->key, record->value, limits->zeros))
        return false;
    if (record->has_headers && !scan_headers(record, limits, facts, &size))
        return false;
    int64_t stamp = record->timestamp;
    if (facts->records++ == 0)
        facts->first = stamp;
    facts->last = stamp;
    if (stamp == 0) {
        facts->unstamped++;
    } else {
        facts->lowest = stamp < facts->lowest ? stamp : facts->lowest;
        facts->highest = greater(facts->highest, stamp);
    }
    facts->keyless += record->key.at == NULL;
    facts->record_bytes_max = greater(facts->record_bytes_max, size);
    return facts->records <= limits->records;
}

/* 1 for a request that is plain: its records are in one piece and in the ordinary form, and within the limits.
 * `facts` then says what they are. 0 otherwise, also for one without records. The fields around the records
 * are passed over: protobuf reads them, as a request of their own. */
EXPORTED int takhin_scan(const byte *request, int64_t size, const Limits *limits, Facts *facts)
{
    Reading reading = {request, request + size};
    Record record;
    int64_t head_bytes = 0, head_fields = 0;
    *facts = (Facts){.lowest = INT64_MAX};
    while (reading.at < reading.end) {
        int64_t at = reading.at - request;
        byte tag = *reading.at++;
        if (tag >= 0x80) /* a field above 15, of which there is none, or a tag that is longer than it needs to be */
            return 0;
        if (tag != TAG_RECORDS) {
            if (!skip_field(&reading, tag) || ++head_fields > limits->head_fields ||
                (head_bytes += reading.at - request - at) > limits->head_bytes)
                return 0;
            continue;
        }
        if (!read_record(&reading, &record, limits->record_headers) || !scan_record(&record, limits, facts))
            return 0;
        if (facts->end == 0)
            facts->begin = at;
        else if (facts->end != at)
            return 0;
        facts->end = reading.at - request;
    }
    return facts->records > 0;
}

/* Where a part of the records ends that begins at `at` and weighs about as much as one turn may take: each
 * record its bytes and `record_weight`. count: how many records that is, at least one. -1 if the bytes are
 * not what takhin_scan has seen. */
EXPORTED int64_t takhin_cut(const byte *records, int64_t size, int64_t at, int64_t weight_max,
                            int64_t record_weight, int64_t *count)
{
    Span fields;
    int64_t weight = 0;
    *count = 0;
    if (at < 0 || at >= size)
        return -1;
    Reading reading = {records + at, records + size};
    while (reading.at < reading.end && weight < weight_max) {
        if (*reading.at++ != TAG_RECORDS || !read_bytes(&reading, &fields))
            return -1;
        weight += fields.size + record_weight;
        ++*count;
    }
    return reading.at - records;
}

/* The bytes of a record as max.message.bytes counts them. */
static int64_t record_bytes(const Record *record)
{
    int64_t size = record->key.size + record->value.size;
    Reading reading = headers_of(record);
    Header header;
    while (record->has_headers && read_header(&reading, &header))
        size += header_bytes(&header);
    return size;
}

/* What takhin_find looks for: a record of more bytes, with this timestamp, or without a key. */
enum { LARGER = 0, STAMPED = 1, KEYLESS = 2 };

/* The position of the first such record in plain records; -1 if there is none. bytes: how large it is. */
EXPORTED int64_t takhin_find(const byte *records, int64_t size, int64_t at, int what, int64_t number,
                             int64_t *bytes)
{
    if (at < 0 || at > size)
        return -1;
    Reading reading = {records + at, records + size};
    Record record;
    for (int64_t position = 0; reading.at < reading.end; position++) {
        if (*reading.at++ != TAG_RECORDS || !read_record(&reading, &record, INT64_MAX))
            return -1;
        if (what == LARGER ? (*bytes = record_bytes(&record)) > number
            : what == STAMPED ? record.timestamp == number
                              : record.key.at == NULL)
            return position;
    }
    return -1;
}

EXPORTED int takhin_version(void)
{
    return TAKHIN_VERSION;
}
