//! Where a hub keeps its objects: a directory, or a real S3 API.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::places;
use crate::process::{Launch, Process, Signal, new_log};
use crate::wait;

/// Which store a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A directory of the hub's machine.
    Directory,
    /// The S3 API of moto: full semantics, signatures not checked.
    Moto,
    /// The S3 API of moto, with the credentials that a container gets from its machine; moto gives those too.
    MotoOfContainer,
    /// The S3 API of s3s-fs: signatures and their expiry checked.
    S3sFs,
}

/// The store of one hub: its setting, and the environment that its credentials travel in.
#[derive(Debug)]
pub struct ObjectStore {
    /// The value of `store` in the hub's configuration.
    pub url: String,
    /// The credentials, as every S3 client reads them.
    pub environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<TempDir>,
}

impl ObjectStore {
    /// Returns the same store for another hub; it lasts as long as this one.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self { url: self.url.clone(), environment: self.environment.clone(), directory: None }
    }
}

/// How long a slow store rests at a time.
const REST: Duration = Duration::from_millis(450);

const ACCESS_KEY: &str = "AKIAPRIVATECLUSTER";
const SECRET_KEY: &str = "a-secret-of-the-private-object-store";

impl ObjectStore {
    /// Makes an empty store.
    pub fn new(kind: StoreKind) -> Self {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("bucket-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        match kind {
            StoreKind::Directory => {
                let directory = places::scratch("store");
                let url = format!("file://{}", directory.path().display());
                Self { url, environment: Vec::new(), directory: Some(directory) }
            }
            StoreKind::Moto | StoreKind::MotoOfContainer => {
                let server = Server::moto();
                let answer = ureq::put(format!("{}/{bucket}", server.endpoint)).send_empty();
                answer.unwrap_or_else(|error| panic!("moto makes no bucket: {error}"));
                let store = server.store(&bucket);
                if kind == StoreKind::Moto {
                    return store;
                }
                let role = "latest/meta-data/iam/security-credentials/default-role";
                let place = format!("{}/{role}", server.endpoint);
                let environment = vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI".into(), place.into())];
                Self { environment, ..store }
            }
            StoreKind::S3sFs => {
                let server = Server::s3s_fs();
                // A bucket is a directory there.
                fs::create_dir(server.root.join(&bucket)).expect("a bucket can be made");
                server.store(&bucket)
            }
        }
    }
}

/// A server that speaks the S3 API; the tests of one binary share it.
#[derive(Debug)]
struct Server {
    endpoint: String,
    root: PathBuf,
    process: Process,
    _directory: TempDir,
}

impl Server {
    fn moto() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            Self::start("moto", |port, _root| {
                let program = places::tool("moto/bin/moto_server");
                vec![program.into(), "-H".into(), "127.0.0.1".into(), "-p".into(), port.to_string().into()]
            })
        })
    }

    fn s3s_fs() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            Self::start("s3s-fs", |port, root| {
                let mut command = vec![places::tool("bin/s3s-fs").into()];
                command.extend(["--host", "127.0.0.1", "--access-key", ACCESS_KEY].map(OsString::from));
                command.extend(["--secret-key", SECRET_KEY, "--port"].map(OsString::from));
                command.extend([port.to_string().into(), root.clone().into()]);
                command
            })
        })
    }

    fn start(name: &str, command: impl Fn(u16, &PathBuf) -> Vec<OsString>) -> Self {
        let directory = places::scratch(name);
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("a directory can be made");
        let port = places::free_port();
        let log = directory.path().join("log");
        new_log(&log);
        let process = Process::start(Launch {
            command: command(port, &root),
            environment: Vec::new(),
            log: &log,
            stop: Signal::Kill,
            directory: Some(directory.path()),
        });
        wait::until(&format!("{name} listens"), || {
            assert!(process.is_running(), "{name} ended at once:\n{}", process.log_tail(20));
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let endpoint = format!("http://127.0.0.1:{port}");
        Self { endpoint, root, process, _directory: directory }
    }

    fn store(&self, bucket: &str) -> ObjectStore {
        let environment = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        ObjectStore {
            url: format!("s3://{bucket}/sync?endpoint={}&region=us-east-1&path_style=true", self.endpoint),
            environment: environment.map(|(name, value)| (name.into(), value.into())).to_vec(),
            directory: None,
        }
    }
}

/// The S3 API of moto as it answers nobody. Connections stay open, and what was asked meanwhile is done when this is
/// dropped, also for a hub that is gone by then. All stores of moto in one test program are frozen.
#[derive(Debug)]
pub struct Frozen(());

impl Frozen {
    /// Lets it answer nothing from now on.
    pub fn begin() -> Frozen {
        Server::moto().process.signal(Signal::Stop);
        Frozen(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Server::moto().process.signal(Signal::Continue);
    }
}

/// The S3 API of moto as it answers slowly, until this is dropped.
#[derive(Debug)]
pub struct Slow {
    end: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Slow {
    /// Lets it work for a tenth of the time from now on.
    pub fn begin() -> Slow {
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let rests = |time| matches!(ended.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
            loop {
                let frozen = Frozen::begin();
                let goes_on = rests(REST);
                drop(frozen);
                if !goes_on || !rests(REST / 9) {
                    return;
                }
            }
        });
        Slow { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed.
            drop(thread.join());
        }
    }
}

/// A directory store that takes no writes; it takes them again when this is dropped.
#[derive(Debug)]
pub struct Blocked {
    place: PathBuf,
    aside: PathBuf,
}

impl Blocked {
    /// Lets every write to the directory fail from now on.
    pub fn new(store: &Path) -> Blocked {
        // Every write begins in this folder.
        let (place, aside) = (store.join(".unfinished"), store.join(".aside"));
        fs::rename(&place, &aside).expect("the folder can be moved");
        Blocked { place, aside }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.place).expect("the folder can be moved back");
    }
}
