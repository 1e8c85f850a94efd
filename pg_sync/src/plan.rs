//! What a session remembers of tracked tables, so that capture of a statement looks nothing up.
//!
//! A plan is dropped when the server says that its table has changed, or that the registry has: both are told of
//! before the next statement that locks the table.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;
use shared_format::SiteId;

use crate::catalog::{self, Tracked};
use crate::edge::codec;
use crate::edge::expression::Evaluator;
use crate::edge::heap::Layout;
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::edge::trigger::Firing;
use crate::edge::tuple;
use crate::emit::{self, Emitter};
use crate::{expressions, sites, version};

/// How rows of one table are captured directly.
pub(crate) struct Plan {
    pub(crate) table: Tracked,
    /// Attribute numbers of the columns beside the key.
    pub(crate) ids: Vec<i16>,
    /// Types of all attributes by number; the invalid oid for those that are gone.
    pub(crate) types: Vec<pg_sys::Oid>,
    pub(crate) layout: Layout,
    /// Entries of packed overrides: two for each attribute number.
    pub(crate) cols_len: usize,
    /// Whether values are printed, which depends on settings.
    pub(crate) prints: bool,
    /// Who reads a row, where that is not everybody.
    pub(crate) evaluator: Option<Evaluator>,
    /// This database.
    pub(crate) ordinal: i32,
    pub(crate) site: SiteId,
    /// What emitted the rows of the statement before.
    emitter: Cell<Option<Emitter>>,
}

impl Plan {
    /// What emits the rows of a statement.
    pub(crate) fn emitter(&self) -> Emitter {
        let Tracked { incarnation, version, .. } = self.table;
        let new = || Emitter::new(self.table.number(), incarnation, version, self.ids.clone());
        self.emitter.take().unwrap_or_else(new)
    }

    /// Ends a statement: sends what it left in its emitter, which the next one takes.
    pub(crate) fn finish(&self, mut emitter: Emitter) {
        emitter.finish();
        self.emitter.set(Some(emitter));
    }
}

thread_local! {
    static PLANS: RefCell<HashMap<pg_sys::Oid, Option<Rc<Plan>>>> = RefCell::new(HashMap::new());
    /// Counts what the server said: a plan made of what was read before is not kept.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    static REGISTRY: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    /// What the registry says of tables, by their numbers.
    static KNOWN: RefCell<HashMap<(i32, Question), bool>> = RefCell::new(HashMap::new());
}

/// How often the server has said that a relation changed: what was read while this stayed the same is still so.
pub(crate) fn changes() -> u64 {
    CHANGES.get()
}

/// Forgets what is known of a relation that has changed; of all for the invalid oid. The server calls it at any
/// time, so it asks the server for nothing.
pub(crate) fn relation_changed(relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get().wrapping_add(1));
    KNOWN.with_borrow_mut(HashMap::clear);
    PLANS.with_borrow_mut(|plans| {
        if relation == pg_sys::InvalidOid || relation == REGISTRY.get() {
            plans.clear();
        } else {
            plans.remove(&relation);
        }
    });
}

/// The plan for the table of a trigger; None where rows have to be captured in another way.
pub(crate) fn of(firing: &Firing, table_id: i32) -> Option<Rc<Plan>> {
    let relation = firing.relation();
    if let Some(known) = PLANS.with_borrow(|plans| plans.get(&relation).cloned()) {
        return known.filter(|plan| plan.table.table_id == table_id);
    }
    let before = changes();
    let made = session::as_owner(|| make(firing, table_id)).map(Rc::new);
    // A site id that this transaction made may be rolled back with it.
    let lasts = sites::known_self().is_some();
    if lasts && changes() == before {
        REGISTRY.set(session::cloudsync_relation(c"tables"));
        PLANS.with_borrow_mut(|plans| plans.insert(relation, made.clone()));
    }
    made
}

/// Whether the columns, the key or the name of a table are not those of the registry: nobody told of the command that
/// changed them. What was written for the table before does not fit it.
pub(crate) fn is_behind(table_id: i32) -> bool {
    answer(table_id, Question::IsBehind)
}

/// Whether values of a table are known to be too large to travel.
pub(crate) fn has_too_large(table_id: i32) -> bool {
    answer(table_id, Question::HasTooLarge)
}

/// What a session asks about a table once, until it is told that something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    IsBehind,
    HasTooLarge,
}

impl Question {
    fn sql(self) -> &'static str {
        match self {
            Self::IsBehind => include_str!("../../sql/postgres/library/is_behind.sql"),
            Self::HasTooLarge => include_str!("../../sql/postgres/library/has_too_large.sql"),
        }
    }
}

fn answer(table_id: i32, question: Question) -> bool {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&(table_id, question)).copied()) {
        return known;
    }
    let before = changes();
    let arguments = [Argument::integer(table_id)];
    let found = session::as_owner(|| {
        // Older tables do not know.
        version::is_current().then(|| query::look(question.sql(), &arguments).first())
    });
    let answer = found.flatten().is_some_and(codec::to_bool);
    if changes() == before {
        REGISTRY.set(session::cloudsync_relation(c"tables"));
        KNOWN.with_borrow_mut(|known| known.insert((table_id, question), answer));
    }
    answer
}

/// Makes a plan. Runs as the owner.
fn make(firing: &Firing, table_id: i32) -> Option<Plan> {
    let sql = "select true from cloudsync.tables as t where t.table_id operator(pg_catalog.=) $1";
    // While a dump is being restored there is none: who this database is comes with it.
    query::look(sql, &[Argument::integer(table_id)]).first()?;
    // The first call for it in a restored database changes the registry.
    let ordinal = sites::self_ordinal();
    if !version::is_current() {
        return None;
    }
    let site = sites::site(ordinal)?;
    // Read now, because later nothing runs as the owner.
    emit::read_secret();
    session::with_newest_snapshot(|| read(firing, table_id, ordinal, site))
}

/// Reads the registry as it is now: a plan outlives the transaction, which may see an older one.
fn read(firing: &Firing, table_id: i32, ordinal: i32, site: SiteId) -> Option<Plan> {
    let table = catalog::table_in_snapshot(table_id).ok()?;
    // A partition may have its columns in other places.
    let attributes = firing.attributes();
    let count = i32::try_from(attributes.len()).unwrap_or(i32::MAX);
    let key: Vec<i16> = table.key.iter().map(|column| column.id).collect();
    let arguments = [
        Argument::integer(table_id),
        Argument::oid(firing.relation()),
        Argument::integer(count),
        Argument::of(pg_sys::INT2ARRAYOID, Some(tuple::smallints(&key))),
    ];
    let is_captured = query::read(include_str!("../../sql/postgres/library/is_captured.sql"), &arguments);
    if !is_captured.first().is_some_and(codec::to_bool)
        || !table.is_plain()
        || !session::is_named(table.relation, &table.schema, &table.name)
    {
        return None;
    }
    let as_registered = |column: &catalog::Column| {
        let at = usize::try_from(column.id).ok().and_then(|id| id.checked_sub(1));
        let found = at.and_then(|at| attributes.get(at)).and_then(Option::as_ref);
        found.is_some_and(|(name, kind)| *name == column.name && *kind == column.codec.type_oid())
    };
    let is_partition = table.relation != firing.relation();
    if !table.key.iter().chain(&table.columns).all(as_registered) || is_partition && is_behind(table_id) {
        return None;
    }
    let evaluator = if table.has_audience() {
        let names: Vec<Option<String>> =
            attributes.iter().map(|found| found.as_ref().map(|(name, _)| name.clone())).collect();
        Some(expressions::evaluator(&table, &names)?)
    } else {
        None
    };
    let key: Vec<pg_sys::Oid> = table.key.iter().map(|column| column.codec.type_oid()).collect();
    let layout = Layout::of(&format!("meta_{table_id}"), &key)?;
    let last = table.key.iter().chain(&table.columns).map(|column| column.id).max().unwrap_or(0);
    Some(Plan {
        ids: table.columns.iter().map(|column| column.id).collect(),
        types: attributes
            .iter()
            .map(|attribute| attribute.as_ref().map_or(pg_sys::InvalidOid, |(_, kind)| *kind))
            .collect(),
        cols_len: usize::try_from(last).unwrap_or(0).saturating_mul(2),
        prints: table.key.iter().chain(&table.columns).any(|column| column.codec.prints_by_settings()),
        layout,
        evaluator,
        ordinal,
        site,
        emitter: Cell::new(None),
        table,
    })
}
