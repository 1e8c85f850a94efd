//! Long work can be watched from another connection, interrupted and resumed.

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloudsync::network::{Request, Response, Transport, TransportError};
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ErrorCode, InterruptHandle};
use support::script::{Script, client};
use support::{TODOS, encode, open, rows, run};

/// Answers from a script; before the second answer something happens.
struct Watched<F: Fn() + Send> {
    script: Script,
    asked: AtomicUsize,
    meanwhile: F,
}

impl<F: Fn() + Send> Transport for Watched<F> {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
            (self.meanwhile)();
        }
        self.script.send(request)
    }
}

fn is_interrupted(result: rusqlite::Result<String>) -> bool {
    let code = result.as_ref().err().and_then(rusqlite::Error::sqlite_error_code);
    assert_eq!(code, Some(ErrorCode::OperationInterrupted), "{result:?}");
    true
}

fn call(connection: &Connection, function: &str) -> rusqlite::Result<String> {
    connection.query_row(&format!("select {function}"), [], |row| row.get(0))
}

/// A server's rows that no compression makes small.
fn large(count: u32) -> Option<Vec<u8>> {
    let server = open();
    run(&server, TODOS);
    rows(&server, "select cloudsync_init('todos')", []);
    let sql = format!(
        "insert into todos with recursive n(n) as (select 1 union all select n + 1 from n where n < {count})
         select n, randomblob(100000), n from n"
    );
    run(&server, &sql);
    encode(&server, 0)
}

#[test]
fn a_snapshot_comes_in_steps_that_others_see_and_goes_on_after_an_interrupt() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let connection = Connection::open(file.path()).expect("it opens");
    let other = Connection::open(file.path()).expect("it opens");
    let interrupt: InterruptHandle = connection.get_interrupt_handle();
    let script = Script::default();
    let path = file.path().to_owned();
    let meanwhile = move || {
        let other = Connection::open(&path).expect("it opens");
        cloudsync::register(&other).expect("functions register");
        let status = call(&other, "cloudsync_status()").expect("a status");
        assert!(status.contains("\"rows\":90") && status.contains("\"chunks\":1"), "{status}");
        interrupt.interrupt();
    };
    let transport = Watched { script: script.clone(), asked: AtomicUsize::new(0), meanwhile };
    cloudsync::register_with(&connection, Box::new(transport)).expect("functions register");
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(&connection, "select cloudsync_network_init('http://hub/demo')");
    let headers = |cursor, source, complete| {
        [("cloudsync-cursor", cursor), ("cloudsync-source", source), ("cloudsync-complete", complete)]
    };
    script.answer(200, &headers("s/1", "snapshot", "false"), large(90).expect("rows"));
    script.answer(200, &headers("l/1", "log", "true"), "");
    assert!(is_interrupted(call(&connection, "cloudsync_network_receive_changes()")));
    assert!(connection.is_autocommit(), "no transaction stays open");
    assert_eq!(rows(&other, "select count(*) from todos", []), "90");
    script.seen();
    script.answer(204, &headers("l/1", "log", "true"), "");
    call(&connection, "cloudsync_network_receive_changes()").expect("it goes on");
    let line = &script.seen()[0].line;
    assert!(line.contains("cursor=s%2F1"), "nothing is fetched again: {line}");
    let status = call(&connection, "cloudsync_status()").expect("a status");
    assert!(status.contains("\"progress\":null"), "{status}");
}

#[test]
fn an_interrupt_in_the_middle_of_an_apply_leaves_no_trace() {
    let (a, script) = client();
    let interrupt = a.get_interrupt_handle();
    let flags = FunctionFlags::SQLITE_UTF8;
    a.create_scalar_function("stop_here", 0, flags, move |_context| {
        interrupt.interrupt();
        Ok(0)
    })
    .expect("a function");
    run(&a, "create trigger stop after insert on todos when new.done = 2 begin select stop_here(); end");
    let frames = large(3).expect("rows");
    let headers = [("cloudsync-cursor", "c"), ("cloudsync-source", "log"), ("cloudsync-complete", "true")];
    script.answer(200, &headers, frames.clone());
    assert!(is_interrupted(call(&a, "cloudsync_network_receive_changes()")));
    assert!(a.is_autocommit(), "no transaction stays open");
    assert_eq!(rows(&a, "select count(*) from todos", []), "0");
    run(&a, "drop trigger stop");
    script.answer(200, &headers, frames);
    call(&a, "cloudsync_network_receive_changes()").expect("it goes on");
    assert_eq!(rows(&a, "select count(*) from todos", []), "3");
}

#[test]
fn a_wait_for_the_server_is_interrupted_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has an address");
    let a = open();
    run(&a, TODOS);
    rows(&a, "select cloudsync_init('todos')", []);
    run(&a, &format!("select cloudsync_network_init('http://{address}/demo')"));
    let interrupt = a.get_interrupt_handle();
    let waiting = thread::spawn(move || (call(&a, "cloudsync_network_sync(60000)"), a));
    let (stream, _) = listener.accept().expect("the client asks");
    let start = Instant::now();
    interrupt.interrupt();
    let (result, a) = waiting.join().expect("it returns");
    assert!(is_interrupted(result));
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    run(&a, "insert into todos values ('1', 'milk', 0)");
    drop(stream);
}
