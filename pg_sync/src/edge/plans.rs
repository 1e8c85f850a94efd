//! Plans of our statements that a session keeps, since parsing and planning cost more than most of them do.
//!
//! The server itself makes a kept plan anew when a table, the search path or a role under row-level security has
//! changed. Statements over many rows of ours are planned each time: there the number of rows decides the plan.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::pg_sys;

use super::query::{Input, InputColumn};

/// Most plans that are kept; the next one begins anew.
const PLANS_MAX: usize = 256;

/// Rows of ours up to which a plan is kept.
const ROWS_MAX: usize = 64;

/// What makes two statements the same.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    sql: String,
    arguments: Vec<pg_sys::Oid>,
    /// Names, types and collations of the rows that it reads.
    columns: Option<Vec<(String, pg_sys::Oid, pg_sys::Oid)>>,
}

thread_local! {
    static KEPT: RefCell<HashMap<Key, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
    /// Statements that are running, one within another: their plans must stay.
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// A plan for one execution.
pub(super) struct Prepared(pg_sys::SPIPlanPtr);

impl Prepared {
    /// The plan, valid as long as this lives and the SPI connection is open.
    pub(super) const fn pointer(&self) -> pg_sys::SPIPlanPtr {
        self.0
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get().saturating_sub(1));
    }
}

/// The plan of a statement, kept from before or made now. An SPI connection is open, and rows that the statement
/// reads are registered with it.
pub(super) fn prepared(
    sql: &str,
    arguments: impl Iterator<Item = pg_sys::Oid>,
    input: Option<&Input>,
) -> Prepared {
    let mut arguments: Vec<pg_sys::Oid> = arguments.collect();
    if input.is_some_and(|input| input.rows.len() > ROWS_MAX) {
        return begin(prepare(sql, &mut arguments));
    }
    let columns = input.map(|input| {
        let column = |column: &InputColumn| (column.name.clone(), column.type_oid, column.collation);
        input.columns.iter().map(column).collect()
    });
    let mut key = Key { sql: sql.to_owned(), arguments, columns };
    if let Some(plan) = KEPT.with_borrow(|kept| kept.get(&key).copied()) {
        return begin(plan);
    }
    let plan = prepare(sql, &mut key.arguments);
    // SAFETY: the plan was made by this connection and is not kept yet.
    let code = unsafe { pg_sys::SPI_keepplan(plan) };
    assert!(code == 0, "SPI keeps a plan: {code}");
    make_room();
    KEPT.with_borrow_mut(|kept| kept.insert(key, plan));
    begin(plan)
}

fn begin(plan: pg_sys::SPIPlanPtr) -> Prepared {
    RUNNING.set(RUNNING.get().saturating_add(1));
    Prepared(plan)
}

fn prepare(sql: &str, arguments: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let text = CString::new(sql).expect("our statements have no NUL");
    let count = i32::try_from(arguments.len()).expect("our statements have few parameters");
    // SAFETY: the text and the types outlive the call, which copies them.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), count, arguments.as_mut_ptr()) };
    // SAFETY: reads a global of this session.
    let code = unsafe { pg_sys::SPI_result };
    assert!(!plan.is_null(), "SPI prepares the statement: {code}");
    plan
}

/// Lets all plans go when there are too many; while statements run, more are kept.
fn make_room() {
    if RUNNING.get() > 0 || KEPT.with_borrow(HashMap::len) < PLANS_MAX {
        return;
    }
    for (_key, plan) in KEPT.take() {
        // SAFETY: a kept plan that no statement runs with.
        unsafe { pg_sys::SPI_freeplan(plan) };
    }
}
