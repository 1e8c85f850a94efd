//! Server processes that never outlive the test process, however that ends.
//!
//! Each server runs under a small shell, the guard, that holds the reading end of a pipe. When the test drops
//! the server, panics, or is killed, the pipe closes; the guard then ends the server and removes its directory.
//! The guard waits for its child only at the end, so the pid stays the server's own, and signals by pid cannot
//! hit a stranger.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::wait;

/// Runs `$@` as a child and prints its pid; ends it when standard input closes or says `stop`.
const GUARD: &str = r#"
signal=$1 directory=$2 log=$3
shift 3
"$@" >>"$log" 2>&1 </dev/null &
pid=$!
echo "$pid"
exec >/dev/null 2>&1
read -r word
[ "$word" = leave ] && exit 0
kill -s "$signal" "$pid" 2>/dev/null
wait "$pid"
[ -n "$word" ] || [ -z "$directory" ] || rm -rf "$directory"
"#;

/// What can be sent to a process here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it on the spot, without any word to it.
    Kill,
    /// Asks it to end.
    Terminate,
    /// Interrupts it: Postgres takes this as a fast shutdown.
    Interrupt,
    /// Postgres takes this as an immediate shutdown.
    Quit,
    /// Stops it where it is: to others it looks as if its machine were gone, since its connections stay open.
    Stop,
    /// Lets it go on.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// How to start a server process.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Environment variables to add.
    pub environment: Vec<(OsString, OsString)>,
    /// The file that takes standard output and standard error.
    pub log: &'a Path,
    /// What ends the process when it is dropped.
    pub stop: Signal,
    /// Removed by the guard when the test process is gone, for servers that nobody drops.
    pub directory: Option<&'a Path>,
}

/// A running server process under its guard.
#[derive(Debug)]
pub struct Process {
    guard: Child,
    orders: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a process under its guard.
    pub fn start(launch: Launch<'_>) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard", launch.stop.name()])
            .arg(launch.directory.unwrap_or(Path::new("")))
            .arg(launch.log)
            .args(&launch.command)
            .envs(launch.environment)
            // A group of its own: Ctrl-C reaches the test, whose end the guard then notices.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell can be started");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("the guard's output is piped"))
            .read_line(&mut line)
            .expect("the guard prints a pid");
        let pid = line.trim().parse().expect("the guard prints a pid");
        let orders = guard.stdin.take();
        Self { guard, orders, pid, log: launch.log.to_path_buf() }
    }

    /// Returns the server's own pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells whether the process still runs.
    pub fn is_running(&self) -> bool {
        // After the name, which stands in brackets, comes the state; a zombie has ended.
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
    }

    /// Sends a signal to the process, and to no other.
    pub fn signal(&self, signal: Signal) {
        let status = Command::new("kill")
            .args(["-s", signal.name(), &self.pid.to_string()])
            .status()
            .expect("kill can be started");
        assert!(status.success(), "signal {signal:?} to process {}: {status}", self.pid);
    }

    /// Waits until the process has ended by itself or by a signal.
    pub fn wait_until_ended(&self) {
        wait::until(&format!("process {} has ended", self.pid), || (!self.is_running()).then_some(()));
    }

    /// Returns the end of what the process wrote to its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Ends the guard but not the process, which stays when this program is gone.
    pub fn leave_running(mut self) -> u32 {
        self.order("leave");
        self.pid
    }

    fn order(&mut self, word: &str) {
        if let Some(mut orders) = self.orders.take() {
            // A guard that is gone already has nothing left to do.
            let _gone = writeln!(orders, "{word}");
        }
        let _status = self.guard.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.order("stop");
    }
}

/// Makes an empty log file that a process under another user may write, too.
pub fn new_log(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    File::create(path).expect("a log can be made");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("own log can be opened");
}
