// Plays the scenario of tests/tests/hosts.rs in Node: BETTER_SQLITE3 EXTENSION A.DB B.DB URL.
const [module_path, extension, aPath, bPath, url] = process.argv.slice(2);
const Database = require(module_path);

const value = (db, sql, ...parameters) => db.prepare(sql).pluck().get(...parameters);

const [a, b] = [aPath, bPath].map((path) => {
  const db = new Database(path);
  db.loadExtension(extension);
  return db;
});
console.log(value(a, "select sqlite_version()"));
for (const db of [a, b]) {
  db.exec("create table notes (id text primary key not null, text text)");
  value(db, "select cloudsync_init('notes')");
  value(db, "select cloudsync_network_init(?)", url);
}
a.exec("insert into notes values ('1', 'one'), ('2', 'two')");
console.log(value(b, "select cloudsync_payload_apply(?)", value(a, "select cloudsync_payload_encode()")));
value(a, "select cloudsync_network_sync()");
b.exec("update notes set text = 'changed' where id = '1'");
value(b, "select cloudsync_network_sync()");
value(a, "select cloudsync_network_sync()");
console.log(value(a, "select group_concat(id || ':' || text) from (select * from notes order by id)"));
a.close();
b.close();
console.log("closed");
