"""How a producer sends records. A record passes through these files in this order:

    producer.py    the face: `send`, `append`, `flush`, `close`
    intake.py      knows the topics; takes a record in, or says that the caller must wait first
    routing.py     chooses the partition's queue; records.py checks and encodes the record
    queue.py       one partition's batches, in order; buffer.py bounds the bytes of all of them
    outbox.py      a task for each partition that has something to send
    sending.py     the delivery policy: retries, time limits, splitting a batch that was refused
    doubts.py      topics that senders doubt, about which the intake asks the broker again
    identity.py    the producer id and the sequence numbers, by which the broker recognises repeats

batches.py has a batch's outcome and the `Delivery` of each record. Requests go out by `takhin.client.calls`.
"""
