"""Reads Kafka records with the official CloudEvents SDK.

Standard input: lines of JSON with the mode, headers, key and value of a record. Standard
output: for each, a line of JSON with what the SDK makes of it.
"""

import json
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat

# Not `from_kafka`: it takes every record with ce_ headers for one in binary mode, though the
# binding tells the modes apart by the content type.
READ = {"structured": from_structured, "binary": from_binary}

for line in sys.stdin:
    record = json.loads(line)
    message = KafkaMessage(
        headers={name: value.encode() for name, value in record["headers"].items()},
        key=record["key"].encode(),
        value=record["value"].encode(),
    )
    event = READ[record["mode"]](message, JSONFormat())
    print(
        json.dumps(
            {
                "specversion": event.get_specversion(),
                "id": event.get_id(),
                "source": event.get_source(),
                "type": event.get_type(),
                "subject": event.get_subject(),
                "time": event.get_time().isoformat(),
                "datacontenttype": event.get_datacontenttype(),
                "dataschema": event.get_dataschema(),
                "partitionkey": event.get_extension("partitionkey"),
                "receivedtime": event.get_extension("receivedtime"),
                "authentication": event.get_extension("authentication"),
                "data": event.get_data(),
            }
        )
    )
