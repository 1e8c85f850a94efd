//! A server that says yes to every upload, so that acknowledging can be measured without a hub. It runs in the
//! process that starts the measured ones; its CPU time is nobody's.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Starts the server and returns its port.
pub(crate) fn start() -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its own thread only.
            thread::spawn(move || drop(serve(&stream)));
        }
    });
    Ok(port)
}

/// Answers the uploads of one connection until it ends.
fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut uploads: u128 = 0;
    while let Some((length, last)) = read_head(&mut reader)? {
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        uploads += 1;
        let body = format!(
            "{{\"status\":\"applied\",\"acked\":{last},\"token\":\"{uploads:032x}\",\"accepted_hlc\":1,\
             \"server_time_ms\":1,\"rejected\":[]}}"
        );
        let mut out = stream;
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

/// Reads the head of a request: how long its body is, and the last number it brings.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(u64, i64)>> {
    let (mut length, mut last, mut is_begun) = (0, 0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() && is_begun {
            return Ok(Some((length, last)));
        }
        is_begun = true;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap_or(0);
        } else if let Some((_, value)) =
            line.strip_prefix("cloudsync-range: ").and_then(|value| value.split_once('-'))
        {
            last = value.parse().unwrap_or(0);
        }
    }
}
