//! A session, and what its server process has used.

use std::fs;

use tests::postgres::Database;
use tests::sql::Session;

/// A session whose server process is known.
pub(crate) struct Backend {
    pub(crate) session: Session,
    pid: u32,
}

impl Backend {
    /// Connects as the superuser.
    pub(crate) fn connect(database: &Database) -> Self {
        let session = database.session();
        let pid = session.value("select pg_backend_pid()").parse().expect("a pid is a number");
        Self { session, pid }
    }

    /// Runs something and returns the CPU time in seconds that the server process used for it.
    pub(crate) fn cpu_of(&self, work: impl FnOnce(&Session)) -> f64 {
        let before = cpu_s(self.pid);
        work(&self.session);
        cpu_s(self.pid) - before
    }

    /// Runs something and returns how many bytes of WAL it wrote.
    pub(crate) fn wal_of(&self, work: impl FnOnce(&Session)) -> f64 {
        let here = || self.session.value("select pg_current_wal_insert_lsn()");
        let before = here();
        work(&self.session);
        let after = here();
        let bytes = self.session.value(&format!("select '{after}'::pg_lsn - '{before}'::pg_lsn"));
        bytes.parse().expect("a difference of LSNs is a number")
    }
}

/// CPU time of a process in seconds, to the nanosecond.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let ns: f64 = text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("it begins with nanoseconds");
    ns / 1e9
}
