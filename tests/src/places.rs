//! Where things are: the workspace, the artefacts of `make dist`, the tools of `make test-tools`, free ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::{env, fs, process};

use tempfile::TempDir;

/// Returns the root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// Returns an artefact of `make dist`; it panics when that was not built.
pub fn artefact(name: &str) -> PathBuf {
    let path = workspace().join("dist").join(name);
    assert!(path.exists(), "dist/{name} is missing: run `make dist`");
    path
}

/// Returns the directory that installed tools are kept in.
pub fn tools() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("tools")
}

/// Returns a tool that `make test-tools` installs; it panics when that was not done.
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join(name);
    assert!(path.exists(), "the tool {name} is missing: run `make test-tools`");
    path
}

/// Returns the library that shifts the clock of a process.
pub fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("there is /usr/lib").filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists()).expect("libfaketime is there: run `make test-tools`")
}

/// Makes a directory of its own below the system's temporary directory, open to other users' processes.
pub fn scratch(name: &str) -> TempDir {
    let dir = tempfile::Builder::new()
        .prefix(&format!("cloudsync-{name}-"))
        .tempdir()
        .expect("a temporary directory can be made");
    open_to_all(dir.path());
    dir
}

/// Lets every user read a directory: Postgres does not run as root, so it may not be the one who made it.
pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("own directory can be opened");
}

/// Returns a TCP port of the loopback address that nobody listens on.
///
/// The ports lie below the range that the kernel gives to outgoing connections, so none of those takes a port
/// between this call and the start of the server.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries run after one another or beside one another: each starts somewhere else.
    let offset = u16::try_from(process::id() % u32::from(COUNT)).expect("the remainder fits");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}
