"""Plays the scenario of tests/tests/hosts.rs in Python: MODULE EXTENSION A.DB B.DB URL."""

import sys

module, extension, a_path, b_path, url = sys.argv[1:]

if module == "apsw":
    import apsw

    def open_file(path):
        db = apsw.Connection(path)
        db.enable_load_extension(True)
        db.load_extension(extension)
        return db

    version = apsw.sqlite_lib_version()
else:
    import sqlite3

    def open_file(path):
        db = sqlite3.connect(path, isolation_level=None)
        db.enable_load_extension(True)
        db.load_extension(extension)
        return db

    version = sqlite3.sqlite_version


def value(db, sql, parameters=()):
    return db.execute(sql, parameters).fetchone()[0]


print(version)
a, b = open_file(a_path), open_file(b_path)
for db in (a, b):
    db.execute("create table notes (id text primary key not null, text text)")
    value(db, "select cloudsync_init('notes')")
    value(db, "select cloudsync_network_init(?)", (url,))
a.execute("insert into notes values ('1', 'one'), ('2', 'two')")
print(value(b, "select cloudsync_payload_apply(?)", (value(a, "select cloudsync_payload_encode()"),)))
value(a, "select cloudsync_network_sync()")
b.execute("update notes set text = 'changed' where id = '1'")
value(b, "select cloudsync_network_sync()")
value(a, "select cloudsync_network_sync()")
print(value(a, "select group_concat(id || ':' || text) from (select * from notes order by id)"))
a.close()
b.close()
print("closed")
