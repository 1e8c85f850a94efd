//! Copies of a server: standbys that follow it, and base backups that it can be set back to.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::{Cluster, Database, Place, SUPERUSER, Tree, as_server_user, other_user, run};
use crate::places;
use crate::process::{Signal, new_log};
use crate::sql::Session;
use crate::wait;

/// A base backup; it goes with this.
#[derive(Debug)]
pub struct Backup {
    home: TempDir,
}

/// What a server does with the base backup that it is set back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// It recovers to the end of the backup and begins a timeline, as recovery to a point in time does.
    NewTimeline,
    /// It starts on the copied files as after a crash.
    SameTimeline,
}

impl Cluster {
    /// Makes and starts a standby that follows this server.
    pub fn standby(&self) -> Self {
        let home = places::scratch("standby");
        Tree::lay(&home.path().join("tree"));
        self.copy_to(&home.path().join("data"), &["--write-recovery-conf"]);
        let databases = AtomicU32::new(self.databases.load(Ordering::Relaxed));
        let standby = Self { home, port: places::free_port(), process: Mutex::new(None), databases };
        standby.set("port", &standby.port.to_string());
        new_log(&standby.log());
        standby.start_server();
        standby
    }

    /// Cuts a standby off from its primary: what commits there from now on does not arrive.
    pub fn cut_off(&self) {
        let session = self.session(SUPERUSER, "postgres");
        session.run("alter system set primary_conninfo = ''");
        session.run("select pg_reload_conf()");
        wait::until("the standby receives no more", || {
            (session.value("select count(*) from pg_stat_wal_receiver") == "0").then_some(())
        });
    }

    /// Lets commits of this server wait for its standby, and returns when they do.
    pub fn wait_for_standbys(&self) {
        let session = self.session(SUPERUSER, "postgres");
        session.run("alter system set synchronous_standby_names = 'walreceiver'");
        session.run("select pg_reload_conf()");
        let sql =
            "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'";
        wait::until("the standby is synchronous", || (session.value(sql) == "1").then_some(()));
    }

    /// Stops the process of a standby that receives, so that it stays connected and gets no further; returns its pid.
    pub fn pause(&self) -> String {
        let session = self.session(SUPERUSER, "postgres");
        let pid = session.value("select pid from pg_stat_wal_receiver");
        run(&["kill".into(), "-s".into(), "STOP".into(), pid.clone().into()]);
        pid
    }

    /// Promotes a standby whose receiving process is stopped and whose primary has ended: what that process had not
    /// taken yet is lost with it.
    pub fn promote_without(&self, receiver: &str) {
        run(&["kill".into(), "-s".into(), "KILL".into(), receiver.into()]);
        wait::until("the standby has restarted its processes", || {
            let session = Session::try_connect(&self.url(SUPERUSER, "postgres")).ok()?;
            let sql = "select count(*) from pg_stat_activity where backend_type = 'walreceiver'";
            let left = session.try_rows(sql).ok()?.concat();
            (left == "0").then_some(())
        });
        self.promote();
    }

    /// Waits until a standby has all that this server has written.
    pub fn wait_for(&self, standby: &Self) {
        let end = self.session(SUPERUSER, "postgres").value("select pg_current_wal_flush_lsn()");
        let session = standby.session(SUPERUSER, "postgres");
        wait::until("the standby has caught up", || {
            let sql = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            (session.value(&sql) == "t").then_some(())
        });
    }

    /// Makes a standby a server that takes writes.
    pub fn promote(&self) {
        let promoted = self.session(SUPERUSER, "postgres").value("select pg_promote(true, 60)");
        assert_eq!(promoted, "t", "the standby is promoted");
    }

    /// Lets this server stand where another one stood: it listens on the port of that one, which has ended.
    #[must_use]
    pub fn in_place_of(mut self, gone: &Self) -> Self {
        self.stop(Signal::Interrupt);
        self.port = gone.port;
        self.set("port", &self.port.to_string());
        self.start_again();
        self
    }

    /// Returns the database of another server's copy.
    pub fn copy_of(&self, database: &Database) -> Database {
        Database { name: database.name.clone(), place: Place::Server(self.port) }
    }

    /// Dumps a database with pg_dump and restores it under another name on the same server.
    pub fn restored_dump(&self, database: &Database, name: &str) -> Database {
        let restored = Database { name: name.to_owned(), place: Place::Server(self.port) };
        self.session(SUPERUSER, "postgres").run(&format!("create database {name} template template0"));
        let directory = places::scratch("dump");
        let file = directory.path().join("dump");
        let (from, to) = (database.url(SUPERUSER), restored.url(SUPERUSER));
        run(&["pg_dump".into(), "--format=custom".into(), "--file".into(), file.clone().into(), from.into()]);
        run(&["pg_restore".into(), "--exit-on-error".into(), "--dbname".into(), to.into(), file.into()]);
        restored
    }

    /// Takes a base backup.
    pub fn backup(&self) -> Backup {
        let home = places::scratch("backup");
        self.copy_to(&home.path().join("data"), &[]);
        Backup { home }
    }

    /// Starts the server, which was stopped, on a base backup in place of its data.
    pub fn restore(&self, backup: &Backup, recovery: Recovery) {
        let data = self.home.path().join("data");
        fs::remove_dir_all(&data).expect("the old data can be removed");
        let copy: [OsString; 4] =
            ["cp".into(), "-a".into(), backup.home.path().join("data").into(), data.clone().into()];
        run(&copy);
        if recovery == Recovery::NewTimeline {
            fs::write(data.join("recovery.signal"), "").expect("a file can be written");
            self.set("restore_command", "'false'");
            self.set("recovery_target", "'immediate'");
            self.set("recovery_target_action", "'promote'");
        }
        self.start_again();
        let session = self.session(SUPERUSER, "postgres");
        wait::until("the server has recovered", || {
            (session.value("select pg_is_in_recovery()") == "f").then_some(())
        });
    }

    /// Appends a setting; the last one counts.
    fn set(&self, name: &str, value: &str) {
        let path = self.home.path().join("data/postgresql.conf");
        let mut settings = fs::read_to_string(&path).expect("the settings can be read");
        settings.push_str(&format!("{name} = {value}\n"));
        fs::write(&path, settings).expect("the settings can be written");
    }

    fn copy_to(&self, data: &Path, more: &[&str]) {
        fs::create_dir(data).expect("a data directory can be made");
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(data, private).expect("own directory can be closed");
        if let Some((uid, gid)) = other_user() {
            chown(data, Some(uid), Some(gid)).expect("root can give a directory away");
        }
        let mut copy = as_server_user(Path::new("pg_basebackup"));
        copy.extend(["--dbname".into(), self.url(SUPERUSER, "postgres").into()]);
        copy.extend(
            ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--pgdata"].map(OsString::from),
        );
        copy.push(data.into());
        copy.extend(more.iter().map(OsString::from));
        run(&copy);
    }
}
