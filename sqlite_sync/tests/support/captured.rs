//! What a write leaves in the capture log of one file, and that a second file ends with the same rows.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{apply, encode, open, rows, run};

/// Two files with the same tables, of which the first is written to.
pub(crate) struct Pair {
    pub(crate) a: Connection,
    pub(crate) b: Connection,
}

impl Pair {
    /// Two files in memory with this schema and every table tracked.
    pub(crate) fn new(schema: &str) -> Self {
        Self::of(open(), open(), schema)
    }

    /// Two open files that get this schema, every table tracked.
    pub(crate) fn of(a: Connection, b: Connection, schema: &str) -> Self {
        for connection in [&a, &b] {
            run(connection, schema);
            track(connection);
        }
        Self { a, b }
    }

    /// Runs SQL on the first file; the new entries of its log: code or columns, then the key.
    pub(crate) fn write(&self, sql: &str) -> String {
        let newest = rows(&self.a, "select coalesce(max(seq), 0) from cloudsync_log", []);
        run(&self.a, sql);
        entries_after(&self.a, &newest)
    }

    /// Brings the second file up to the first, and expects the same values of the same types in both.
    pub(crate) fn sync(&self, after: &str) {
        let applied = apply(&self.b, encode(&self.a, 0).as_deref());
        assert!(applied.is_ok(), "{applied:?} after {after}");
        assert_eq!(image(&self.a), image(&self.b), "both files after {after}");
        assert_eq!(unfolded(&self.a), "0", "everything is folded after {after}");
    }
}

/// Tracks every table of the user.
pub(crate) fn track(connection: &Connection) {
    connection.query_row("select cloudsync_init('*', 'cls', 7)", [], |_row| Ok(())).expect("init works");
}

/// Runs `setup`, lets a second file have it, runs `sql`, and returns the new entries of the log. Afterwards the
/// second file has the same rows.
pub(crate) fn captured(schema: &str, setup: &str, sql: &str) -> String {
    let pair = Pair::new(schema);
    run(&pair.a, setup);
    pair.sync(setup);
    let entries = pair.write(sql);
    pair.sync(sql);
    entries
}

/// Entries of the log after a number.
pub(crate) fn entries_after(connection: &Connection, newest: &str) -> String {
    let parts =
        rows(connection, "select count(*) from pragma_table_info('cloudsync_log') where name glob 'pk*'", []);
    let key =
        (2..=parts.parse().expect("a number")).fold(String::from("pk"), |key, at| format!("{key}, pk{at}"));
    rows(connection, &format!("select cols, {key} from cloudsync_log where seq > {newest} order by seq"), [])
}

/// Every row of every table of the user, with the types of the values. 0.0 and -0.0 are one value.
pub(crate) fn image(connection: &Connection) -> BTreeMap<String, Vec<String>> {
    let sql = "select name from sqlite_schema where type = 'table' and sql not like 'create virtual%'
        and name not glob '*cloudsync*' and name not glob 'sqlite_*'";
    let mut tables = connection.prepare(sql).expect("a query");
    let names = tables.query_map([], |row| row.get::<_, String>(0)).expect("names");
    names
        .map(|name| {
            let name = name.expect("a name");
            let sql = format!("select * from \"{}\"", name.replace('"', "\"\""));
            let mut statement = connection.prepare(&sql).expect("a query");
            let width = statement.column_count();
            let mut found = Vec::new();
            let mut all = statement.query([]).expect("rows");
            while let Some(row) = all.next().expect("a row") {
                let cells: Vec<String> = (0..width)
                    .map(|at| format!("{:?}", row.get_ref(at).expect("a cell")).replace("(-0.0)", "(0.0)"))
                    .collect();
                found.push(cells.join(", "));
            }
            found.sort_unstable();
            (name, found)
        })
        .collect()
}

fn unfolded(connection: &Connection) -> String {
    let sql = "select count(*) from cloudsync_log
        where seq > (select value from cloudsync_settings where key = 'folded')";
    rows(connection, sql, [])
}
