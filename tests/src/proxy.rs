//! A bad line: passes bytes between clients and a port of this machine, breaks off, and says what went through.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A line to one port. It lies there until the program ends, but takes nobody after it was dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    target: u16,
    /// Bytes of answers after which a connection breaks off.
    breaks_after: AtomicU64,
    /// The next break is for good.
    is_worn: AtomicBool,
    is_cut: AtomicBool,
    /// Bytes of answers that went through.
    passed: AtomicU64,
    breaks: AtomicU64,
    asked: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Opens a line to a port.
    #[must_use]
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let line = Arc::new(Line {
            target,
            breaks_after: AtomicU64::new(u64::MAX),
            is_worn: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            asked: Mutex::default(),
        });
        let shared = Arc::clone(&line);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let line = Arc::clone(&shared);
                if !line.is_cut.load(Ordering::Acquire) {
                    thread::spawn(move || line.connect(client));
                }
            }
        });
        Self { port, line }
    }

    /// Returns the port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets each connection break off after so many bytes of answers.
    pub fn break_after(&self, bytes: u64) {
        self.line.breaks_after.store(bytes, Ordering::Release);
    }

    /// Lets the line break off for good after so many bytes of answers on one connection.
    pub fn wear_out_after(&self, bytes: u64) {
        self.line.is_worn.store(true, Ordering::Release);
        self.break_after(bytes);
    }

    /// Cuts the line.
    pub fn cut(&self) {
        self.line.is_cut.store(true, Ordering::Release);
    }

    /// Mends the line.
    pub fn mend(&self) {
        self.break_after(u64::MAX);
        self.line.is_worn.store(false, Ordering::Release);
        self.line.is_cut.store(false, Ordering::Release);
    }

    /// Returns how many bytes of answers went through.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.line.passed.load(Ordering::Acquire)
    }

    /// Returns how often a connection broke off.
    #[must_use]
    pub fn breaks(&self) -> u64 {
        self.line.breaks.load(Ordering::Acquire)
    }

    /// Returns what clients sent, as text.
    #[must_use]
    pub fn asked(&self) -> String {
        let asked = self.line.asked.lock().expect("no panic held it");
        String::from_utf8_lossy(&asked).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Line {
    fn connect(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)) else { return };
        let ends = (client.try_clone(), server.try_clone());
        let (Ok(asking), Ok(asked)) = ends else { return };
        let line = Arc::clone(&self);
        thread::spawn(move || {
            line.pass(&asking, &asked, |line, bytes| {
                line.asked.lock().expect("no panic held it").extend_from_slice(bytes);
                bytes.len()
            });
        });
        let mut left = self.breaks_after.load(Ordering::Acquire);
        self.pass(&server, &client, |line, bytes| {
            let length = u64::try_from(bytes.len()).expect("a length is a number").min(left);
            left -= length;
            line.passed.fetch_add(length, Ordering::AcqRel);
            if left == 0 {
                line.is_cut.store(line.is_worn.load(Ordering::Acquire), Ordering::Release);
                line.breaks.fetch_add(1, Ordering::AcqRel);
            }
            usize::try_from(length).expect("it was a length")
        });
    }

    /// Passes bytes on until one side ends, or `look` lets fewer through than there are.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, mut look: impl FnMut(&Self, &[u8]) -> usize) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = from.read(&mut buffer) {
            let allowed = look(self, &buffer[..length]);
            if length == 0
                || to.write_all(&buffer[..allowed]).is_err()
                || allowed < length
                || self.is_cut.load(Ordering::Acquire)
            {
                break;
            }
        }
        // The other side may have ended it already.
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    }
}
