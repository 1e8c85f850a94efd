//! Open files: as many as the system allows, since every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open besides connections of clients: those of the store, of Postgres, of the log.
const OTHERS: u64 = 256;

/// Lets the process open as many files as it may, and says so when the connections that it takes may be more.
///
/// The soft limit is 1,024 on most systems, for programs that use `select`; this is none of them.
pub fn raise_limit(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, all)
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "limit on open files not raised");
    }
    let files_max = getrlimit(Resource::Nofile).current;
    if let Some(files_max) = files_max.filter(|files_max| !has_room(*files_max, connections_max)) {
        tracing::warn!(
            files_max,
            connections_max,
            "fewer files may be open than connections_max needs, raise the limit or lower connections_max"
        );
    }
}

/// Whether so many connections fit, with the other files.
fn has_room(files_max: u64, connections_max: usize) -> bool {
    u64::try_from(connections_max).is_ok_and(|connections| connections.saturating_add(OTHERS) <= files_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_need_a_file_each_and_leave_some() {
        assert!(has_room(1_024, 768));
        assert!(!has_room(1_024, 769));
    }
}
