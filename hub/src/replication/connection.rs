//! A connection in replication mode: login, the replication commands, and the start of streaming.
//!
//! Owns reading and writing of protocol messages. Reading can be dropped while it waits, without loss: bytes
//! stay in the buffer until a message is whole.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Header, Message, SaslMechanisms};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::frame::FRAME_FORMAT;
use super::stream::ReplicationStream;
use crate::error::{Error, Result};
use crate::lineage::Lineage;
use crate::position::Lsn;
use crate::postgres::{PostgresUrl, TlsConnector};

/// How long connecting and logging in may take, if the connection string does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The port of a connection string that names none.
const PORT_DEFAULT: u16 = 5432;

/// Tag of the message that begins streaming; postgres-protocol does not know it.
const COPY_BOTH_TAG: u8 = b'W';

/// SQLSTATE of a slot that another connection streams from.
const OBJECT_IN_USE: &str = "55006";

/// Bytes read at once: a large frame of the plugin arrives in few pieces.
const READ_BYTES: usize = 128 * 1024;

/// What a protocol connection runs over.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection in replication mode.
pub struct ReplicationConnection {
    transport: Box<dyn Duplex>,
    input: BytesMut,
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The system identifier.
    pub system: String,
    /// Its timelines.
    pub lineage: Lineage,
    /// How far its WAL is flushed.
    pub flushed: Lsn,
}

/// A slot just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot sends what commits after here.
    pub consistent_point: Lsn,
    /// The name of the snapshot that shows what committed before, if it was asked for. It dies with the next
    /// command on the connection.
    pub snapshot: Option<String>,
}

/// How long a slot lives, and what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Until it is dropped.
    Lasting,
    /// Until the connection ends; with a snapshot of what committed before it.
    TemporaryWithSnapshot,
}

/// A message of the server.
pub(super) enum Incoming {
    /// Streaming begins.
    CopyBoth,
    /// Anything else.
    Message(Message),
}

impl ReplicationConnection {
    /// Connects to the first host that answers, and logs in.
    pub async fn connect(url: &PostgresUrl) -> Result<ReplicationConnection> {
        let limit = url.config().get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        match timeout(limit, connect_any(url)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Error::ReplicationConnect {
                host: describe(url.config().get_hosts().first()),
                source: io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    /// Asks who the server is.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.query("IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM").await?;
        let wrong = || Error::ReplicationProtocol { what: "answer to IDENTIFY_SYSTEM" };
        let [row] = rows.as_slice() else { return Err(wrong()) };
        let [Some(system), Some(timeline), Some(flushed), ..] = row.as_slice() else { return Err(wrong()) };
        let (system, flushed) = (system.clone(), flushed.parse()?);
        let timeline: u32 = timeline.parse().map_err(|_not_a_number| wrong())?;
        Ok(SystemIdentity { system, lineage: self.lineage(timeline).await?, flushed })
    }

    /// Asks for the timelines that a server has come from; the first one has none.
    async fn lineage(&mut self, timeline: u32) -> Result<Lineage> {
        if timeline == 1 {
            return Ok(Lineage::first(timeline));
        }
        let rows = self.query("TIMELINE_HISTORY", &format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = match rows.as_slice() {
            [row] => row.get(1).and_then(Option::as_deref),
            _other => None,
        };
        content
            .and_then(|content| Lineage::parse(timeline, content))
            .ok_or(Error::ReplicationProtocol { what: "answer to TIMELINE_HISTORY" })
    }

    /// Makes a slot for our output plugin. Postgres waits until every transaction that runs now has ended.
    pub async fn create_slot(&mut self, name: &str, plugin: &str, kind: SlotKind) -> Result<CreatedSlot> {
        let (temporary, snapshot) = match kind {
            SlotKind::Lasting => ("", "NOEXPORT_SNAPSHOT"),
            SlotKind::TemporaryWithSnapshot => ("TEMPORARY ", "EXPORT_SNAPSHOT"),
        };
        let (name, plugin) = (quote_identifier(name), quote_identifier(plugin));
        let sql = format!("CREATE_REPLICATION_SLOT {name} {temporary}LOGICAL {plugin} {snapshot}");
        let rows = self.query("CREATE_REPLICATION_SLOT", &sql).await?;
        let wrong = || Error::ReplicationProtocol { what: "answer to CREATE_REPLICATION_SLOT" };
        let [row] = rows.as_slice() else { return Err(wrong()) };
        let [_name, Some(consistent_point), snapshot, ..] = row.as_slice() else { return Err(wrong()) };
        Ok(CreatedSlot { consistent_point: consistent_point.parse()?, snapshot: snapshot.clone() })
    }

    /// Begins to stream from where the slot stands.
    pub async fn start(mut self, slot: &str) -> Result<ReplicationStream> {
        let slot_name = quote_identifier(slot);
        let sql = format!("START_REPLICATION SLOT {slot_name} LOGICAL 0/0 (format '{FRAME_FORMAT}')");
        self.send(|output| frontend::query(&sql, output)).await?;
        loop {
            match self.next().await? {
                Incoming::CopyBoth => return Ok(ReplicationStream::new(self)),
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let refusal = refusal("START_REPLICATION", &body);
                    let in_use = matches!(&refusal, Error::ReplicationRefused { sqlstate, .. } if sqlstate == OBJECT_IN_USE);
                    return Err(if in_use { Error::SlotActive { slot: slot.to_owned() } } else { refusal });
                }
                Incoming::Message(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Incoming::Message(_) => {
                    return Err(Error::ReplicationProtocol { what: "answer to START_REPLICATION" });
                }
            }
        }
    }

    /// Runs one command and gives its rows as text.
    async fn query(&mut self, command: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send(|output| frontend::query(sql, output)).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.next().await? {
                Incoming::Message(Message::DataRow(row)) => rows.push(read_row(&row)?),
                Incoming::Message(Message::ErrorResponse(body)) => failure = Some(refusal(command, &body)),
                Incoming::Message(Message::ReadyForQuery(_)) => return failure.map_or(Ok(rows), Err),
                Incoming::Message(_) => {}
                Incoming::CopyBoth => {
                    return Err(Error::ReplicationProtocol { what: "streaming that was not asked for" });
                }
            }
        }
    }

    /// Writes one message.
    pub(super) async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        let mut output = BytesMut::new();
        write(&mut output).map_err(Error::ReplicationClosed)?;
        self.transport.write_all(&output).await.map_err(Error::ReplicationClosed)?;
        self.transport.flush().await.map_err(Error::ReplicationClosed)
    }

    /// Waits for the next message.
    pub(super) async fn next(&mut self) -> Result<Incoming> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.input.reserve(READ_BYTES);
            let read = self.transport.read_buf(&mut self.input).await.map_err(Error::ReplicationClosed)?;
            if read == 0 {
                return Err(Error::ReplicationClosed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next message, if all of it is here.
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>> {
        let Some(header) = Header::parse(&self.input).map_err(Error::ReplicationClosed)? else {
            return Ok(None);
        };
        if header.tag() != COPY_BOTH_TAG {
            let message = Message::parse(&mut self.input).map_err(Error::ReplicationClosed)?;
            return Ok(message.map(Incoming::Message));
        }
        let length = usize::try_from(header.len())
            .ok()
            .and_then(|length| length.checked_add(1))
            .ok_or(Error::ReplicationProtocol { what: "length of the message that begins streaming" })?;
        if self.input.len() < length {
            return Ok(None);
        }
        drop(self.input.split_to(length));
        Ok(Some(Incoming::CopyBoth))
    }

    /// Answers the server's questions until it is ready for commands.
    async fn log_in(&mut self, config: &Config) -> Result<()> {
        let user = config.get_user().unwrap_or_default();
        let parameters = [
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", config.get_application_name().unwrap_or("cloudsync hub")),
        ];
        let options = config.get_options().map(|options| ("options", options));
        self.send(|output| frontend::startup_message(parameters.into_iter().chain(options), output)).await?;
        let password = config
            .get_password()
            .ok_or(Error::ReplicationAuthentication { wanted: "a password, and none is configured" });
        loop {
            let Incoming::Message(message) = self.next().await? else {
                return Err(Error::ReplicationProtocol { what: "streaming before login" });
            };
            match message {
                Message::AuthenticationCleartextPassword => {
                    let password = password?;
                    self.send(|output| frontend::password_message(password, output)).await?;
                    return self.finish_log_in().await;
                }
                Message::AuthenticationMd5Password(body) => {
                    let answer = md5_hash(user.as_bytes(), password?, body.salt());
                    self.send(|output| frontend::password_message(answer.as_bytes(), output)).await?;
                    return self.finish_log_in().await;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms = read_mechanisms(body.mechanisms())?;
                    if !mechanisms.iter().any(|name| name == sasl::SCRAM_SHA_256) {
                        return Err(Error::ReplicationAuthentication { wanted: "an unknown kind of SASL" });
                    }
                    self.log_in_by_scram(password?).await?;
                    return self.finish_log_in().await;
                }
                Message::AuthenticationOk => return self.finish_log_in().await,
                Message::ErrorResponse(body) => return Err(refusal("login", &body)),
                Message::NoticeResponse(_) => {}
                _ => {
                    return Err(Error::ReplicationAuthentication {
                        wanted: "a kind of login not spoken here",
                    });
                }
            }
        }
    }

    async fn log_in_by_scram(&mut self, password: &[u8]) -> Result<()> {
        let mut scram = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.send(|output| frontend::sasl_initial_response(sasl::SCRAM_SHA_256, &first, output)).await?;
        loop {
            match self.next().await? {
                Incoming::Message(Message::AuthenticationSaslContinue(body)) => {
                    scram.update(body.data()).map_err(Error::ReplicationClosed)?;
                    let answer = scram.message().to_vec();
                    self.send(|output| frontend::sasl_response(&answer, output)).await?;
                }
                Incoming::Message(Message::AuthenticationSaslFinal(body)) => {
                    return scram.finish(body.data()).map_err(Error::ReplicationClosed);
                }
                Incoming::Message(Message::ErrorResponse(body)) => return Err(refusal("login", &body)),
                Incoming::Message(_) | Incoming::CopyBoth => {
                    return Err(Error::ReplicationProtocol { what: "answer to a SCRAM message" });
                }
            }
        }
    }

    async fn finish_log_in(&mut self) -> Result<()> {
        loop {
            match self.next().await? {
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Incoming::Message(Message::ErrorResponse(body)) => return Err(refusal("login", &body)),
                Incoming::Message(_) => {}
                Incoming::CopyBoth => {
                    return Err(Error::ReplicationProtocol { what: "streaming before login" });
                }
            }
        }
    }
}

async fn connect_any(url: &PostgresUrl) -> Result<ReplicationConnection> {
    let config = url.config();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut last_host = describe(config.get_hosts().first());
    let ports = config.get_ports();
    for (index, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT_DEFAULT);
        match connect_host(url, host, port).await {
            Ok(transport) => {
                let mut connection = ReplicationConnection { transport, input: BytesMut::new() };
                connection.log_in(config).await?;
                return Ok(connection);
            }
            Err(error) => {
                last = error;
                last_host = describe(Some(host));
            }
        }
    }
    Err(Error::ReplicationConnect { host: last_host, source: last })
}

async fn connect_host(url: &PostgresUrl, host: &Host, port: u16) -> io::Result<Box<dyn Duplex>> {
    match host {
        Host::Tcp(name) => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            secure(url, name, stream).await
        }
        Host::Unix(folder) => {
            let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
            Ok(Box::new(stream))
        }
    }
}

/// Asks the server for TLS as the connection string wants it.
async fn secure(url: &PostgresUrl, host: &str, mut stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
    let required = match url.config().get_ssl_mode() {
        SslMode::Disable => return Ok(Box::new(stream)),
        SslMode::Prefer => false,
        _ => true,
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    if stream.read_u8().await? == b'S' {
        let connector = TlsConnector::new(url).map_err(io::Error::other)?;
        return Ok(Box::new(connector.handshake(host, stream).await?));
    }
    if required {
        return Err(io::Error::other("server does not speak TLS"));
    }
    Ok(Box::new(stream))
}

fn describe(host: Option<&Host>) -> String {
    match host {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => String::new(),
    }
}

fn read_mechanisms(mut mechanisms: SaslMechanisms<'_>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some(name) = mechanisms.next().map_err(Error::ReplicationClosed)? {
        names.push(name.to_owned());
    }
    Ok(names)
}

/// The server's refusal, as an error of ours.
pub(super) fn refusal(command: &'static str, body: &ErrorResponseBody) -> Error {
    let mut sqlstate = String::new();
    let mut message = String::new();
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => sqlstate = value(),
            b'M' => message = value(),
            _ => {}
        }
    }
    Error::ReplicationRefused { command, sqlstate, message }
}

fn read_row(row: &DataRowBody) -> Result<Vec<Option<String>>> {
    let mut values = Vec::new();
    let mut ranges = row.ranges();
    while let Some(range) = ranges.next().map_err(Error::ReplicationClosed)? {
        let value = range
            .map(|range| row.buffer().get(range).map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
        values.push(value.flatten());
    }
    Ok(values)
}

/// Quotes a name for a replication command.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(input: &[u8]) -> ReplicationConnection {
        ReplicationConnection { transport: Box::new(tokio::io::empty()), input: BytesMut::from(input) }
    }

    #[test]
    fn the_message_that_begins_streaming_is_known_and_waits_until_it_is_whole() {
        let bytes = [COPY_BOTH_TAG, 0, 0, 0, 7, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I'];
        let mut whole = connection(&bytes);
        assert!(matches!(whole.buffered().unwrap(), Some(Incoming::CopyBoth)));
        assert!(matches!(whole.buffered().unwrap(), Some(Incoming::Message(Message::ReadyForQuery(_)))));
        assert!(whole.buffered().unwrap().is_none());
        for length in 0..8 {
            assert!(connection(&bytes[..length]).buffered().unwrap().is_none(), "{length}");
        }
    }

    #[test]
    fn a_message_of_impossible_length_is_an_error() {
        assert!(connection(&[b'd', 0, 0, 0, 1]).buffered().is_err());
        assert!(connection(&[b'?', 0, 0, 0, 4]).buffered().is_err());
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
    }
}
