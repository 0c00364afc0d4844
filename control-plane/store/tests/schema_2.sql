-- A database as the program with schema 2 wrote it.
PRAGMA application_id = 1414548293;
PRAGMA user_version = 2;
CREATE TABLE aggregates (name TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "aggregates" VALUES('a-to-b','{"name":"a-to-b","peer":"b","direction":"out","rate_bps":1000000,"burst_bytes":64000,"policy":8589934593,"state":"active","marking":{"dscp":{"set":46},"excess_dscp":null,"deliver_dscp":"copy"},"tag":"label"}');
INSERT INTO "aggregates" VALUES('b-to-a','{"name":"b-to-a","peer":"b","direction":"in","rate_bps":2000000,"burst_bytes":64000,"policy":8589934594,"state":"active","marking":{"dscp":{"set":0},"excess_dscp":null,"deliver_dscp":"copy"},"tag":"terminals","label":1048579,"terminals_policy":8589934599}');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('epoch','2');
INSERT INTO "meta" VALUES('node','a');
CREATE TABLE sessions (id TEXT PRIMARY KEY, state TEXT NOT NULL, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "sessions" VALUES('active','active','{"id":"active","side":"first","peer":"b","state":"active","since":1700000000000000001,"flows":[{"id":"there","aggregate":"a-to-b","direction":"out","endpoints":{"source":"10.1.0.10:4000","destination":"10.2.0.10:4000"},"asked_rate_bps":100000,"rate_bps_min":50000,"meter":{"rate_bps":80000,"burst_bytes":1600,"packet_bytes_min":200},"label":78187069445,"policy":8589934595},{"id":"back","aggregate":"b-to-a","direction":"in","endpoints":{"source":"10.2.0.10:4000","destination":"10.1.0.10:4000"},"asked_rate_bps":100000,"rate_bps_min":50000,"meter":{"rate_bps":80000,"burst_bytes":1600,"packet_bytes_min":200},"label":361617162246,"policy":8589934596}],"usage":[],"ledger_due":false}');
INSERT INTO "sessions" VALUES('ended','ended','{"id":"ended","side":"first","peer":"b","state":"ended","since":1700000000000000002,"flows":[{"id":"there","aggregate":"a-to-b","direction":"out","endpoints":{"source":"10.1.0.11:4000","destination":"10.2.0.10:4000"},"asked_rate_bps":100000,"rate_bps_min":50000,"meter":{"rate_bps":80000,"burst_bytes":1600,"packet_bytes_min":200},"label":78187069447,"policy":8589934597}],"usage":[{"node":"a","flow":"there","direction":"out","reserved_rate_bps":80000,"counters":{"offered_packets":10,"offered_bytes":2000,"passed_packets":9,"passed_bytes":1800,"dropped_packets":1,"dropped_bytes":200}},{"node":"b","flow":"there","direction":"in","reserved_rate_bps":80000,"counters":{"offered_packets":10,"offered_bytes":2000,"passed_packets":9,"passed_bytes":1800,"dropped_packets":1,"dropped_bytes":200}}],"ledger_due":false}');
CREATE TABLE usage (
    node TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    session TEXT NOT NULL, json TEXT NOT NULL,
    PRIMARY KEY (node, epoch, sequence)
) STRICT, WITHOUT ROWID;
INSERT INTO "usage" VALUES('a',2,1,'active','{"node":"a","epoch":2,"sequence":1,"at":1700000000000000001,"kind":"start","session":"active","flows":[{"node":"a","flow":"there","direction":"out","reserved_rate_bps":80000,"counters":{"offered_packets":10,"offered_bytes":2000,"passed_packets":9,"passed_bytes":1800,"dropped_packets":1,"dropped_bytes":200}}]}');
INSERT INTO "usage" VALUES('a',2,2,'ended','{"node":"a","epoch":2,"sequence":2,"at":1700000000000000002,"kind":"final","session":"ended","flows":[{"node":"a","flow":"there","direction":"out","reserved_rate_bps":80000,"counters":{"offered_packets":10,"offered_bytes":2000,"passed_packets":9,"passed_bytes":1800,"dropped_packets":1,"dropped_bytes":200}},{"node":"b","flow":"there","direction":"in","reserved_rate_bps":80000,"counters":{"offered_packets":10,"offered_bytes":2000,"passed_packets":9,"passed_bytes":1800,"dropped_packets":1,"dropped_bytes":200}}]}');
CREATE INDEX usage_by_session ON usage (session, node, epoch, sequence);
