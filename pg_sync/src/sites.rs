//! The site dictionary: ordinals in metadata stand for site ids.
//!
//! An ordinal is never used again, so what was read once stays true; a new site is remembered only for the
//! apply that met it, because its transaction may roll back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::pg_sys;
use shared_format::SiteId;

use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::version;

thread_local! {
    static BY_ORDINAL: RefCell<HashMap<i32, SiteId>> = RefCell::new(HashMap::new());
    static SELF_ORDINAL: Cell<Option<i32>> = const { Cell::new(None) };
    static INSTALLATION: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// Forgets what belongs to an installation of the extension that is gone.
fn forget_other_installation() {
    let installation = Some(session::installation());
    if INSTALLATION.replace(installation) != installation {
        BY_ORDINAL.with_borrow_mut(HashMap::clear);
        SELF_ORDINAL.set(None);
    }
}

/// Reads sixteen bytes as a site.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<SiteId> {
    bytes.try_into().ok().map(SiteId::from_bytes)
}

/// The site that an ordinal stands for. Runs as the owner.
pub(crate) fn site(ordinal: i32) -> Option<SiteId> {
    forget_other_installation();
    if let Some(known) = BY_ORDINAL.with_borrow(|sites| sites.get(&ordinal).copied()) {
        return Some(known);
    }
    let found = query::look(
        "select d.site from cloudsync.site_dictionary as d where d.ordinal operator(pg_catalog.=) $1",
        &[Argument::integer(ordinal)],
    );
    let site = from_bytes(&codec::to_bytes(found.first()?))?;
    BY_ORDINAL.with_borrow_mut(|sites| sites.insert(ordinal, site));
    Some(site)
}

/// Gives sites their ordinals, new ones too. Runs as the owner.
pub(crate) fn ordinals(sites: impl IntoIterator<Item = SiteId>) -> HashMap<SiteId, i32> {
    let mut sites: Vec<SiteId> = sites.into_iter().collect();
    // In one order everywhere, so that two transactions that meet the same new sites do not deadlock.
    sites.sort_unstable();
    sites.dedup();
    sites.into_iter().filter_map(|site| ordinal(site).map(|ordinal| (site, ordinal))).collect()
}

fn ordinal(site: SiteId) -> Option<i32> {
    const FIND: &str =
        "select d.ordinal from cloudsync.site_dictionary as d where d.site operator(pg_catalog.=) $1";
    let argument = [Argument::bytea(site.as_bytes())];
    if let Some(found) = query::look(FIND, &argument).first() {
        return Some(codec::to_i32(found));
    }
    query::run(include_str!("../../sql/postgres/library/add_site.sql"), &argument);
    query::look(FIND, &argument).first().map(codec::to_i32)
}

/// Whether this is another database than the one that the registry was made in. Runs as the owner.
pub(crate) fn is_restored() -> bool {
    if known_self().is_some() {
        return false;
    }
    let (system, _, database) = session::identity();
    let identity = [Argument::text(&system.to_string()), Argument::oid(database)];
    query::look(include_str!("../../sql/postgres/library/find_database.sql"), &identity).first().is_none()
}

/// Ordinal of this database's own site, if this session has read it before.
pub(crate) fn known_self() -> Option<i32> {
    forget_other_installation();
    SELF_ORDINAL.get()
}

/// Ordinal of this database's own site. Makes a new site id when this is a copy of another database. Runs as
/// the owner.
pub(crate) fn self_ordinal() -> i32 {
    if let Some(known) = known_self() {
        return known;
    }
    if session::in_recovery() {
        let found = query::run("select s.ordinal from cloudsync.self as s", &[]);
        return found.first().map_or(0, codec::to_i32);
    }
    let (system, timeline, database) = session::identity();
    let identity = [
        Argument::text(&system.to_string()),
        Argument::integer(timeline.cast_signed()),
        Argument::oid(database),
    ];
    let find = || {
        let found = query::look(include_str!("../../sql/postgres/library/find_self.sql"), &identity);
        found.first().map(codec::to_i32)
    };
    let mut found = find();
    if found.is_none() {
        // Whoever is making the site id right now is waited for: where all of a transaction sees what was there at
        // its beginning, writing the same row would fail.
        const LOCK_REGISTRY: &str = "select pg_catalog.pg_advisory_xact_lock(
            pg_catalog.hashtextextended('cloudsync registry', 0))";
        query::run(LOCK_REGISTRY, &[]);
        found = find();
    }
    if let Some(ordinal) = found {
        SELF_ORDINAL.set(Some(ordinal));
        return ordinal;
    }
    let is_restored = is_restored();
    // Not remembered: this transaction may roll back.
    let site: [u8; 16] = session::random_bytes();
    let mut arguments = identity.to_vec();
    arguments.push(Argument::bytea(&site));
    let made = query::run(include_str!("../../sql/postgres/library/become_new_site.sql"), &arguments);
    // A promoted standby may have the newer library already: its tables know of generations after the update.
    if made.first().is_some_and(codec::to_bool) && version::is_current() {
        query::run(include_str!("../../sql/postgres/library/begin_copy.sql"), &[]);
        if is_restored {
            query::run("select cloudsync.adopt_registry()", &[]);
        }
    }
    find().unwrap_or(0)
}
