//! The ordinary connection of a leader: the advisory lock, the fence number, and what SQL alone can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row};

use super::news::CHANNEL;
use crate::error::{Error, Result};
use crate::ground::{PLUGIN, Slot};
use crate::keys::Fence;
use crate::position::Lsn;
use crate::postgres::{Connection, PostgresUrl, TlsConnector, connect};
use crate::snapshot::visibility::PgSnapshot;

/// Key of the advisory lock: "cloudsync" cut to eight bytes, read as a number. Locks are per database.
const LOCK_KEY: i64 = 0x636c_6f75_6473_796e;

/// Longest wait for an answer; the lock may be lost when the server is silent for longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Most notifications that are kept; what comes beyond is looked for in the store.
const NOTIFICATIONS_MAX: usize = 256;

/// How often the holder of the lock says something.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for one frame to be merged.
const REPLAY_MAX: Duration = Duration::from_secs(120);

/// An ordinary connection that may hold the lock of its database.
pub(crate) struct Control {
    url: PostgresUrl,
    client: Client,
    driver: JoinHandle<()>,
    heard: Mutex<mpsc::Receiver<String>>,
    missed: Arc<AtomicBool>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Control {
    pub(crate) async fn connect(url: &PostgresUrl) -> Result<Control> {
        let tls = TlsConnector::new(url)?;
        let (client, connection) = connect(url, &tls).await?;
        let (sender, heard) = mpsc::channel(NOTIFICATIONS_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let driver = tokio::spawn(drive(connection, sender, Arc::clone(&missed)));
        Ok(Control { url: url.clone(), client, driver, heard: Mutex::new(heard), missed })
    }

    /// The server that it speaks to.
    pub(super) const fn url(&self) -> &PostgresUrl {
        &self.url
    }

    async fn one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        answered(self.client.query_one(sql, parameters)).await
    }

    /// Takes the lock if no other hub holds it.
    pub(crate) async fn try_lock(&self) -> Result<bool> {
        Ok(self.one("select pg_catalog.pg_try_advisory_lock($1)", &[&LOCK_KEY]).await?.get(0))
    }

    /// Says something on the connection, so that other hubs see that this one is alive.
    async fn say(&self) -> Result<()> {
        answered(self.client.simple_query("select 1")).await.map(drop)
    }

    /// Begins to hear of new segments.
    pub(crate) async fn listen(&self) -> Result<()> {
        answered(self.client.batch_execute(&format!("listen {CHANNEL}"))).await
    }

    /// Hears of new segments no more.
    pub(crate) async fn unlisten(&self) -> Result<()> {
        answered(self.client.batch_execute(&format!("unlisten {CHANNEL}"))).await
    }

    /// Waits for a notification; none when the connection is lost.
    pub(crate) async fn heard(&self) -> Option<String> {
        self.heard.lock().await.recv().await
    }

    /// Whether there were more notifications than could be kept, since it was last asked.
    pub(crate) fn has_missed_some(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }

    /// Tells other nodes of new segments.
    pub(crate) async fn tell(&self, text: &str) -> Result<()> {
        self.one("select pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &text]).await.map(drop)
    }

    /// Ends the hub that holds the lock if it has been silent for so long; says whether there was one.
    pub(crate) async fn end_silent_leader(&self, silence_max: Duration) -> Result<bool> {
        let sql = include_str!("../../../sql/hub/end_silent_leader.sql");
        let ended: i64 = self.one(sql, &[&LOCK_KEY, &silence_max.as_secs_f64()]).await?.get(0);
        Ok(ended > 0)
    }

    /// Ends whoever still reads from a slot, on behalf of the holder of the lock.
    pub(crate) async fn end_slot_reader(&self, slot: &str) -> Result<()> {
        self.one(include_str!("../../../sql/hub/end_slot_reader.sql"), &[&slot]).await.map(drop)
    }

    pub(crate) async fn database_oid(&self) -> Result<u32> {
        let sql = "select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()";
        Ok(self.one(sql, &[]).await?.get(0))
    }

    /// A number greater than that of every leader before.
    pub(crate) async fn next_fence(&self) -> Result<Fence> {
        let number: i64 = self.one("select pg_catalog.nextval('cloudsync.fence')", &[]).await?.get(0);
        u64::try_from(number)
            .map_err(|_negative| Error::ReplicationProtocol { what: "negative fence number" })
    }

    pub(crate) async fn slot(&self, name: &str) -> Result<Option<Slot>> {
        let sql = include_str!("../../../sql/hub/slot.sql");
        let Some(row) = answered(self.client.query_opt(sql, &[&name])).await? else { return Ok(None) };
        let confirmed: Lsn = row.get::<_, &str>("confirmed").parse()?;
        let plugin: String = row.get("plugin");
        if confirmed == Lsn::ZERO && plugin == PLUGIN {
            // Still being made by another connection; it is gone if that one ends before.
            return Err(Error::SlotActive { slot: name.to_owned() });
        }
        Ok(Some(Slot { plugin, confirmed, lost: row.get("lost") }))
    }

    /// Bytes of WAL that the server keeps for a slot.
    pub(crate) async fn slot_retained(&self, name: &str) -> Result<i64> {
        let sql = include_str!("../../../sql/hub/slot_retained.sql");
        Ok(self.one(sql, &[&name]).await?.get(0))
    }

    /// Up to where the synchronous standbys have the log; none where Postgres waits for no standby.
    pub(super) async fn standbys_flushed(&self) -> Result<Option<Lsn>> {
        standbys_flushed(&self.client).await
    }

    /// Removes a slot, ending whoever reads from it; true once there is none.
    pub(crate) async fn drop_slot(&self, name: &str) -> Result<bool> {
        let sql = include_str!("../../../sql/hub/drop_slot.sql");
        let left: i64 = self.one(sql, &[&name]).await?.get(0);
        Ok(left == 0)
    }

    /// Whether the server is a standby.
    pub(crate) async fn is_in_recovery(&self) -> Result<bool> {
        Ok(self.one("select pg_catalog.pg_is_in_recovery()", &[]).await?.get(0))
    }

    /// When the server was started, as text that differs for every start.
    pub(crate) async fn server_start(&self) -> Result<String> {
        let sql = "select extract(epoch from pg_catalog.pg_postmaster_start_time())::text";
        Ok(self.one(sql, &[]).await?.get(0))
    }

    /// Names the newest restore on purpose; empty when there was none.
    pub(crate) async fn restored(&self) -> Result<String> {
        Ok(self.one("select coalesce(cloudsync.restored(), '')", &[]).await?.get(0))
    }

    /// Notes in Postgres that it lacks what sites were told.
    pub(crate) async fn begin_generation(&self) -> Result<()> {
        self.one("select cloudsync.begin_generation('failover')", &[]).await.map(drop)
    }

    /// Merges a payload with the rights of the tables' owners; tells how many rows changed and were refused.
    pub(crate) async fn replay(&self, payload: &[u8]) -> Result<(i64, i64)> {
        let sql = "select r.changed, r.refused from cloudsync.replay($1) as r";
        let parameters: [&(dyn ToSql + Sync); 1] = [&payload];
        let merged = self.client.query_one(sql, &parameters);
        let silent = || Error::Unavailable { reason: "postgres did not answer a replay".to_owned() };
        let row = tokio::time::timeout(REPLAY_MAX, merged).await.map_err(|_elapsed| silent())?;
        let row = row.map_err(Error::Postgres)?;
        Ok((row.get(0), row.get(1)))
    }

    /// The key that messages are signed with.
    pub(crate) async fn message_key(&self) -> Result<Vec<u8>> {
        Ok(self.one("select cloudsync.message_key()", &[]).await?.get(0))
    }

    /// A payload of the definitions of all tracked tables.
    pub(crate) async fn definitions(&self) -> Result<Vec<u8>> {
        Ok(self.one("select cloudsync.definitions()", &[]).await?.get(0))
    }

    /// What a query sees now.
    pub(crate) async fn snapshot(&self) -> Result<PgSnapshot> {
        read_snapshot(self.one("select pg_catalog.pg_current_snapshot()::text", &[]).await?.get(0))
    }
}

/// Up to where the synchronous standbys have the log; none where Postgres waits for no standby.
pub(crate) async fn standbys_flushed(client: &Client) -> Result<Option<Lsn>> {
    let sql = "select cloudsync.standbys_flushed()::text";
    let flushed: Option<String> = answered(client.query_one(sql, &[])).await?.get(0);
    flushed.map(|flushed| flushed.parse()).transpose()
}

/// Drives the connection until it ends, and keeps the notifications that come on it.
async fn drive(mut connection: Connection, heard: mpsc::Sender<String>, missed: Arc<AtomicBool>) {
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if heard.try_send(notification.payload().to_owned()).is_err() {
                    missed.store(true, Ordering::Release);
                }
            }
            Some(Ok(_)) => {}
            // Whoever waits for an answer is told the same error.
            Some(Err(_)) | None => return,
        }
    }
}

/// Shows other hubs that the holder of the lock is alive, until the connection is lost: whoever uses it then is told. An
/// answer that is late waits behind something that takes long, and that is a sign of life too.
pub(super) async fn pulse(control: Arc<Control>) {
    let mut ticks = interval(PULSE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if control.say().await.is_err() && control.client.is_closed() {
            return;
        }
    }
}

/// Waits for an answer, but not for ever.
async fn answered<T>(
    answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(Error::Postgres),
        Err(_elapsed) => Err(Error::Unavailable { reason: "postgres did not answer in time".to_owned() }),
    }
}

/// Reads what `pg_current_snapshot()` printed.
pub(crate) fn read_snapshot(text: &str) -> Result<PgSnapshot> {
    PgSnapshot::parse(text).ok_or(Error::ReplicationProtocol { what: "text of pg_current_snapshot" })
}
