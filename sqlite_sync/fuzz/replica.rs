//! The file that every target works on: tracked tables with all that can refuse or change a row, in memory,
//! set back after each run.

use rusqlite::{Connection, params};

const SCHEMA: &str = "
pragma foreign_keys = on;
create table lists (id text primary key, title text not null default '', place real unique);
create table todos (
  list text references lists (id) on delete cascade on update cascade,
  at integer,
  title text collate nocase check (title <> 'never'),
  done integer,
  body blob,
  primary key (list, at)
);
create table numbers (n integer primary key, v numeric);
create trigger touched after update on todos when new.title = 'touch' begin
  update lists set title = title || '!' where id = new.list;
  select raise(abort, 'raised') where new.done = 13;
end;
";

/// Opens the file, tracks its tables and writes a few rows.
///
/// # Panics
/// When SQLite refuses any of it.
#[must_use]
pub fn open() -> Connection {
    let connection = Connection::open_in_memory().expect("memory is there");
    cloudsync::register(&connection).expect("functions register");
    connection.execute_batch(SCHEMA).expect("the schema is right");
    for table in ["lists", "todos", "numbers"] {
        connection
            .query_row("select cloudsync_init(?1, 'cls', 7)", [table], |_row| Ok(()))
            .expect("the table can be tracked");
    }
    connection
        .execute_batch(
            "insert into lists values ('a', 'first', 1), ('b', 'second', 2), ('c', 'third', null);
             insert into todos values ('a', 1, 'milk', 0, x'00'), ('b', 2, 'bread', 1, null);
             insert into numbers values (1, 1), (2, 2.5);
             delete from lists where id = 'c';
             select cloudsync_payload_encode(0);",
        )
        .expect("rows can be written");
    connection
}

/// Applies a payload, applies it again, exports the file into an empty one; then sets all back.
///
/// # Panics
/// When something else happens than success or an error, or the file is not whole afterwards.
pub fn apply_and_undo(connection: &Connection, payload: &[u8], is_thorough: bool) {
    connection.execute_batch("begin").expect("a transaction begins");
    let apply = || -> rusqlite::Result<i64> {
        connection.query_row("select cloudsync_payload_apply(?1)", params![payload], |row| row.get(0))
    };
    let applied = apply();
    if applied.is_ok() && is_thorough {
        apply().expect("what was applied can be applied again");
        let check: String = connection
            .query_row("pragma integrity_check", [], |row| row.get(0))
            .expect("the file can be read");
        assert_eq!(check, "ok");
        let exported: rusqlite::Result<Option<Vec<u8>>> =
            connection.query_row("select cloudsync_payload_encode(0)", [], |row| row.get(0));
        exported.expect("the file can be exported");
    }
    // A RAISE(ROLLBACK) of a trigger may have ended it.
    if !connection.is_autocommit() {
        connection.execute_batch("rollback").expect("a transaction ends");
    }
}
