//! Messages into the log: changes as capture hands them over, definitions, reloads.
//!
//! At most 64 KiB of rows are held, however many a statement wrote.

use std::cell::{Cell, RefCell};

use hmac::{Hmac, KeyInit, Mac};
use pgrx::pg_sys;
use sha2::Sha256;
use shared_format::payload::{ChangesBuilder, Collection, Payload, PayloadBuilder};
use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, ValueRef, encode_message, signed_parts};

use crate::audience::{Audience, Travel};
use crate::catalog::{self, Tracked};
use crate::edge::codec::{self, Codec};
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::edge::tuple::Tuple;
use crate::error::SyncError;
use crate::too_large::{self, Cell as SentCell, LeftOut, Reported};
use crate::version;
use crate::{plan, sites};

/// Bytes of rows in one message: see DESIGN section 6.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Changes of one table on their way into the log.
pub(crate) struct Emitter {
    table: u32,
    incarnation: u64,
    version: u32,
    columns: Vec<i16>,
    ids: Vec<ColumnId>,
    key_codecs: Vec<Codec>,
    column_codecs: Vec<Codec>,
    /// Sites that were looked up, the newest last.
    sites: Vec<(i32, SiteId)>,
    /// Made at the first row, which shows how many columns the key has.
    builder: Option<ChangesBuilder>,
    /// Looked up at the first row.
    reported: Option<Reported>,
    rows: i64,
}

/// One row as capture saw it.
pub(crate) struct Emitted<'a> {
    pub(crate) kind: RowKind,
    /// Stamp of the life.
    pub(crate) hlc: i64,
    pub(crate) site: i32,
    /// Overrides, as in metadata.
    pub(crate) cols: &'a [Option<i64>],
    /// Which columns travel; None for all.
    pub(crate) carried: Option<&'a [bool]>,
    /// The key columns in order.
    pub(crate) key: &'a Tuple,
    /// The stored row; of a deletion, nothing.
    pub(crate) image: &'a Tuple,
    /// Who reads it, where that is not everybody.
    pub(crate) audience: Option<&'a Audience>,
}

impl Emitter {
    /// Starts a batch; the columns are attribute numbers.
    pub(crate) fn new(table: u32, incarnation: u64, version: u32, columns: Vec<i16>) -> Self {
        let ids: Vec<ColumnId> = columns.iter().map(|id| ColumnId::new(id.cast_unsigned())).collect();
        Self {
            table,
            incarnation,
            version,
            columns,
            ids,
            key_codecs: Vec::new(),
            column_codecs: Vec::new(),
            sites: Vec::new(),
            builder: None,
            reported: None,
            rows: 0,
        }
    }

    /// Adds a row as its readers need it, and writes a message when enough have gathered. Runs as the owner.
    pub(crate) fn row(&mut self, row: &Emitted<'_>) -> Result<(), SyncError> {
        let Some(audience) = row.audience else { return self.add(row, Travel::AsIs) };
        let travel = audience.travel(row.kind);
        match travel {
            Travel::Nothing => {
                self.rows += 1;
                Ok(())
            }
            Travel::AsIs => self.add(row, travel),
            Travel::Whole => self.add(&Emitted { kind: RowKind::Created, carried: None, ..*row }, travel),
            Travel::Departure => {
                self.add(&Emitted { kind: RowKind::Cells, carried: Some(&[]), ..*row }, travel)
            }
        }
    }

    fn add(&mut self, row: &Emitted<'_>, travel: Travel) -> Result<(), SyncError> {
        self.learn_types(row);
        let life = stamp(&mut self.sites, self.table, row.hlc, row.site)?;
        let key: Vec<ValueRef<'_>> =
            self.key_codecs.iter().zip(&row.key.values).map(|(codec, part)| codec.value(*part)).collect();
        let mut stored = Vec::new();
        let mut first = None;
        if row.kind != RowKind::Deleted {
            for (index, (id, codec)) in self.columns.iter().zip(&self.column_codecs).enumerate() {
                if row.carried.is_some_and(|carried| !carried.get(index).copied().unwrap_or(false)) {
                    continue;
                }
                let own = match own_override(row.cols, *id) {
                    // It was not carried by the creation: it has its default, of which nobody is told.
                    Some((0, 0)) if row.kind == RowKind::Created => continue,
                    Some((hlc, site)) => Some(stamp(&mut self.sites, self.table, hlc, site)?),
                    None => None,
                };
                let default =
                    if row.kind == RowKind::Cells { *first.get_or_insert(own.unwrap_or(life)) } else { life };
                let own = Some(own.unwrap_or(life)).filter(|own| *own != default);
                stored.push((index, own, codec, row.image.attribute(*id)));
            }
        }
        let (cells, left) = too_large::read(stored.into_iter());
        let reported = self.reported.get_or_insert_with(|| Reported::of(self.table));
        reported.clear((self.table, &self.ids), row.kind, &key, &cells);
        too_large::report(self.table, &self.ids, &key, &left);
        self.rows += 1;
        if row.kind == RowKind::Cells && !left.is_empty() && cells.is_empty() && row.audience.is_none() {
            return Ok(());
        }
        let builder = self.builder.get_or_insert_with(|| {
            ChangesBuilder::new(self.table, self.incarnation, self.version, key.len(), &self.ids)
        });
        builder.row(row.kind, first.unwrap_or(life), &key, &cells);
        if let Some(audience) = row.audience {
            audience.note(builder, row.kind, travel);
        }
        let is_full = builder.byte_len() >= MESSAGE_BYTES;
        if is_full {
            self.flush();
        }
        Ok(())
    }

    /// Adds a row whose cells all have the stamp of the row, and writes a message when enough have gathered.
    pub(crate) fn alike(
        &mut self,
        kind: RowKind,
        stamp: Stamp,
        key: &[ValueRef<'_>],
        (cells, left): &(Vec<SentCell<'_>>, Vec<LeftOut>),
        audience: Option<&Audience>,
    ) {
        self.rows += 1;
        let reported = self.reported.get_or_insert_with(|| Reported::of(self.table));
        reported.clear((self.table, &self.ids), kind, key, cells);
        too_large::report(self.table, &self.ids, key, left);
        if kind == RowKind::Cells && !left.is_empty() && cells.is_empty() && audience.is_none() {
            return;
        }
        let builder = self.builder.get_or_insert_with(|| {
            ChangesBuilder::new(self.table, self.incarnation, self.version, key.len(), &self.ids)
        });
        builder.row(kind, stamp, key, cells);
        if let Some(audience) = audience {
            audience.note(builder, kind, Travel::AsIs);
        }
        let is_full = builder.byte_len() >= MESSAGE_BYTES;
        if is_full {
            self.flush();
        }
    }

    /// Looks the types up at the first row that shows them; a deletion shows the key only.
    fn learn_types(&mut self, row: &Emitted<'_>) {
        if self.key_codecs.is_empty() {
            self.key_codecs = row.key.types.iter().map(|type_oid| Codec::new(*type_oid)).collect();
        }
        if self.column_codecs.is_empty() && row.kind != RowKind::Deleted {
            let codec = |id: &i16| Codec::new(row.image.attribute_type(*id).unwrap_or(pg_sys::TEXTOID));
            self.column_codecs = self.columns.iter().map(codec).collect();
        }
    }

    fn flush(&mut self) {
        let Some(builder) = self.builder.as_mut().filter(|builder| builder.rows() > 0) else { return };
        let is_small = builder.is_small();
        let mut payload = PAYLOAD.take().unwrap_or_default();
        payload.drain(builder);
        payload.hand_over(changeset);
        if is_small {
            PAYLOAD.set(Some(payload));
        } else {
            self.builder = None;
        }
    }

    /// Writes what is left, returns how many rows there were, and is ready for another statement.
    pub(crate) fn finish(&mut self) -> i64 {
        self.flush();
        self.reported = None;
        self.sites.clear();
        std::mem::take(&mut self.rows)
    }
}

/// Joins the halves of a stamp; `known` remembers the sites of a statement.
fn stamp(known: &mut Vec<(i32, SiteId)>, table: u32, hlc: i64, ordinal: i32) -> Result<Stamp, SyncError> {
    let found = known.iter().rfind(|(known, _)| *known == ordinal).map(|(_, site)| *site);
    let site = match found {
        Some(site) => site,
        None => {
            let site = sites::site(ordinal).ok_or_else(|| SyncError::Damaged {
                table: table.to_string(),
                detail: "a stamp has a site that the dictionary does not know",
            })?;
            known.push((ordinal, site));
            site
        }
    };
    Ok(Stamp { hlc: Hlc::from_sql(hlc), site })
}

/// Clock and site ordinal of the override of a column, if it has one.
pub(crate) fn own_override(cols: &[Option<i64>], id: i16) -> Option<(i64, i32)> {
    let at = usize::try_from(id).ok()?.checked_mul(2)?;
    let hlc = cols.get(at.checked_sub(2)?).copied().flatten()?;
    let site = cols.get(at.checked_sub(1)?).copied().flatten()?;
    Some((hlc, i32::try_from(site).unwrap_or(-1)))
}

thread_local! {
    /// A payload without rows, for its memory.
    static PAYLOAD: Cell<Option<PayloadBuilder>> = const { Cell::new(None) };
    /// What signs messages, and the installation that it belongs to.
    static SIGNER: RefCell<Option<(pg_sys::Oid, Signer)>> = const { RefCell::new(None) };
    /// What [`plan::changes`] said when that was this installation's.
    static CURRENT_AT: Cell<Option<u64>> = const { Cell::new(None) };
}

type Signer = Hmac<Sha256>;

/// Remembers what signs messages, for parts that do not run as the owner. Runs as the owner.
pub(crate) fn read_secret() {
    signer();
}

/// What signs messages, with its key. Runs as the owner, unless it is remembered.
fn signer() -> Signer {
    let known = || SIGNER.with_borrow(|known| known.clone());
    let changes = plan::changes();
    if CURRENT_AT.get() == Some(changes)
        && let Some((_, signer)) = known()
    {
        return signer;
    }
    let installation = session::installation();
    if let Some((of, signer)) = known()
        && of == installation
    {
        CURRENT_AT.set(Some(changes));
        return signer;
    }
    let found = query::look("select s.key from cloudsync.secret as s", &[]);
    let key = found.first().map(codec::to_bytes).unwrap_or_default();
    assert_eq!(key.len(), 32, "the secret has 32 bytes: its table checks it");
    let signer = Signer::new_from_slice(&key).expect("HMAC takes keys of any length");
    SIGNER.set(Some((installation, signer.clone())));
    CURRENT_AT.set(Some(changes));
    signer
}

/// Signs a changeset and writes it as a message. Runs as the owner.
pub(crate) fn changeset(changeset: &[u8]) {
    let xid = session::top_xid();
    let mut mac = signer();
    signed_parts(xid, changeset, |part| mac.update(part));
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    session::log_message(&encode_message(xid, &mac, changeset));
}

/// Announces the present definition of a table. Runs as the owner.
pub(crate) fn definition(table_id: i32) -> Result<(), SyncError> {
    version::check()?;
    let table = catalog::table(table_id)?;
    let mut payload = PayloadBuilder::new();
    payload.definition(&table.definition());
    let payload = payload.finish();
    changeset(&payload);
    let announced = [
        Argument::integer(table_id),
        Argument::bigint(table.incarnation.cast_signed()),
        Argument::integer(table.version.cast_signed()),
        Argument::bytea(&payload),
    ];
    query::run(include_str!("../../sql/postgres/library/keep_definition.sql"), &announced);
    Ok(())
}

/// Tells clients to fetch a table again, which may be gone already. Runs as the owner.
pub(crate) fn reload(table_id: i32, reason: &str) -> Result<(), SyncError> {
    let sql = "select t.incarnation from cloudsync.tables as t where t.table_id operator(pg_catalog.=) $1";
    let found = query::run(sql, &[Argument::integer(table_id)]).first().map(codec::to_i64);
    let incarnation = found.ok_or(SyncError::NotTracked(table_id))?;
    let mut payload = PayloadBuilder::new();
    payload.reload(table_id.cast_unsigned(), incarnation.cast_unsigned(), reason);
    changeset(&payload.finish());
    Ok(())
}

/// Tells everybody to drop tombstones that are older. Runs as the owner.
pub(crate) fn collection(table: &Tracked, horizon: Hlc) {
    let mut payload = PayloadBuilder::new();
    payload.definition(&table.definition());
    payload.collection(Collection { table: table.number(), incarnation: table.incarnation, horizon });
    changeset(&payload.finish());
}

/// A payload of all definitions that messages in the log may refer to. Runs as the owner.
pub(crate) fn definitions() -> Result<Vec<u8>, SyncError> {
    version::check()?;
    let mut payload = PayloadBuilder::new();
    for table in catalog::tables() {
        payload.definition(&table.definition());
    }
    for row in query::run(include_str!("../../sql/postgres/library/old_definitions.sql"), &[]).rows {
        let announced = row.attribute(1).map(codec::to_bytes).unwrap_or_default();
        for definition in Payload::parse(&announced)?.definitions()? {
            payload.definition(&definition);
        }
    }
    Ok(payload.finish())
}
