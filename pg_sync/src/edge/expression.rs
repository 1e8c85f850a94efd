//! Expressions over one row that users give: who reads it, and whether it takes part. The server's own parts parse,
//! check, print and evaluate them.
//!
//! They are trusted with every row of every writer, so nothing gets in but immutable functions of pg_catalog over
//! columns of the same row: an expression that passed the check runs no code of anybody's.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use pgrx::pg_guard;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};
use shared_format::payload::SCOPE_EVERYBODY;

use super::codec;
use super::memory::Context;
use super::trigger::Rows;
use super::tuple;

/// What an expression says of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Who reads it: text or text[].
    Scope,
    /// Whether it takes part: boolean.
    Filter,
}

impl Kind {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Filter => "filter",
        }
    }

    fn place(self) -> pg_sys::ParseExprKind::Type {
        match self {
            Self::Scope => pg_sys::ParseExprKind::EXPR_KIND_INDEX_EXPRESSION,
            Self::Filter => pg_sys::ParseExprKind::EXPR_KIND_INDEX_PREDICATE,
        }
    }
}

/// An expression over the columns of a relation, as the server has it.
#[derive(Clone, Copy)]
pub(crate) struct Parsed {
    node: *mut pg_sys::Node,
    relation: pg_sys::Oid,
}

/// What is wrong with an expression.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// As the end of a sentence about it.
    pub(crate) detail: String,
}

fn wrong(detail: impl Into<String>) -> Wrong {
    Wrong { detail: detail.into() }
}

/// The expression between `select (` and `)`, if the text is that and nothing else.
fn raw(text: &str) -> Result<*mut pg_sys::Node, Wrong> {
    let sql = CString::new(format!("select ({text}\n)")).map_err(|_nul| wrong("it has a zero byte"))?;
    let one = || wrong("it is not one expression");
    // SAFETY: the text is a C string; a syntax error is raised.
    let statements = unsafe { pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT) };
    let statement = only::<pg_sys::RawStmt>(statements).ok_or_else(one)?;
    // SAFETY: the parser makes a node for each statement.
    let node = unsafe { (*statement).stmt };
    // SAFETY: a node begins with its tag.
    if unsafe { (*node).type_ } != pg_sys::NodeTag::T_SelectStmt {
        return Err(one());
    }
    // SAFETY: its tag says so.
    let select = unsafe { &*node.cast::<pg_sys::SelectStmt>() };
    let parts = [
        select.distinctClause,
        select.fromClause,
        select.groupClause,
        select.windowClause,
        select.valuesLists,
        select.sortClause,
        select.lockingClause,
    ];
    let others = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
    if select.op != pg_sys::SetOperation::SETOP_NONE
        || !parts.iter().all(|part| part.is_null())
        || !others.iter().all(|other| other.is_null())
        || !select.intoClause.is_null()
        || !select.withClause.is_null()
    {
        return Err(one());
    }
    let target = only::<pg_sys::ResTarget>(select.targetList).ok_or_else(one)?;
    // SAFETY: a list of targets has nodes of this kind.
    let target = unsafe { &*target };
    if !target.name.is_null() || !target.indirection.is_null() {
        return Err(one());
    }
    Ok(target.val)
}

/// The only entry of a list.
fn only<T>(list: *mut pg_sys::List) -> Option<*mut T> {
    if list.is_null() {
        return None;
    }
    // SAFETY: not null, so a list.
    let list = unsafe { &*list };
    if list.length != 1 {
        return None;
    }
    // SAFETY: it has an entry.
    let cell = unsafe { *list.elements };
    // SAFETY: the parser's lists are of pointers.
    Some(unsafe { cell.ptr_value }.cast())
}

/// Reads an expression over the columns of a relation. Raises what the parser raises: callers catch that.
pub(crate) fn parse(relation: pg_sys::Oid, text: &str, kind: Kind) -> Result<Parsed, Wrong> {
    let raw = raw(text)?;
    let lock = i32::try_from(pg_sys::AccessShareLock).expect("lock modes are small");
    // SAFETY: raises an error when there is no such relation; closed below, or by the abort.
    let open = unsafe { pg_sys::table_open(relation, lock) };
    // SAFETY: freed below, or with its memory context.
    let state = unsafe { pg_sys::make_parsestate(ptr::null_mut()) };
    // SAFETY: the relation is open.
    let item =
        unsafe { pg_sys::addRangeTableEntryForRelation(state, open, lock, ptr::null_mut(), false, true) };
    // SAFETY: the item was made for this state.
    unsafe { pg_sys::addNSItemToQuery(state, item, false, true, true) };
    // SAFETY: the node is what the parser made.
    let node = unsafe { pg_sys::transformExpr(state, raw, kind.place()) };
    let node = coerced(state, node, kind);
    if let Ok(node) = node {
        // SAFETY: the node was made by this state.
        unsafe { pg_sys::assign_expr_collations(state, node) };
    }
    // SAFETY: made above, freed once.
    unsafe { pg_sys::free_parsestate(state) };
    // SAFETY: opened above; the lock stays.
    unsafe { pg_sys::table_close(open, i32::try_from(pg_sys::NoLock).expect("lock modes are small")) };
    let parsed = Parsed { node: node?, relation };
    parsed.check()?;
    Ok(parsed)
}

fn coerced(
    state: *mut pg_sys::ParseState,
    node: *mut pg_sys::Node,
    kind: Kind,
) -> Result<*mut pg_sys::Node, Wrong> {
    // SAFETY: the node is an expression.
    let found = unsafe { pg_sys::exprType(node) };
    // SAFETY: reads the catalog.
    let element = unsafe { pg_sys::get_element_type(found) };
    let (wanted, named) = match kind {
        Kind::Filter => (pg_sys::BOOLOID, "boolean"),
        Kind::Scope if element == pg_sys::InvalidOid => (pg_sys::TEXTOID, "text or text[]"),
        Kind::Scope => (pg_sys::TEXTARRAYOID, "text or text[]"),
    };
    // SAFETY: the node is an expression of the type that is given; null where there is no such cast.
    let made = unsafe {
        pg_sys::coerce_to_target_type(
            state,
            node,
            found,
            wanted,
            -1,
            pg_sys::CoercionContext::COERCION_IMPLICIT,
            pg_sys::CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        )
    };
    if made.is_null() {
        // SAFETY: the type is one of the catalog's.
        let name = unsafe { pg_sys::format_type_be(found) };
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) };
        return Err(wrong(format!("it is of type {}, wanted {named}", name.to_string_lossy())));
    }
    Ok(made)
}

/// What a walk through an expression met first that may not be in it.
struct Found(Option<String>);

#[pg_guard]
unsafe extern "C-unwind" fn is_foreign(function: pg_sys::Oid, found: *mut c_void) -> bool {
    // SAFETY: reads the catalog.
    let namespace = unsafe { pg_sys::get_func_namespace(function) };
    if namespace == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE) {
        return false;
    }
    // SAFETY: reads the catalog; null where there is no such function.
    let name = unsafe { pg_sys::get_func_name(function) };
    let name = if name.is_null() {
        function.to_u32().to_string()
    } else {
        // SAFETY: not null, so a C string.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    };
    // SAFETY: the walk passes its own.
    unsafe { &mut *found.cast::<Found>() }.0 =
        Some(format!("function {name} is not one of schema pg_catalog"));
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node begins with its tag.
    if unsafe { (*node).type_ } == pg_sys::NodeTag::T_CoerceToDomain {
        // SAFETY: the walk passes its own.
        unsafe { &mut *found.cast::<Found>() }.0 = Some("it casts to a domain".into());
        return true;
    }
    // SAFETY: the node is one of an expression.
    if unsafe { pg_sys::check_functions_in_node(node, Some(is_foreign), found) } {
        return true;
    }
    // SAFETY: as above.
    unsafe { pg_sys::expression_tree_walker(node, Some(walk), found) }
}

impl Parsed {
    /// Checks that it is of immutable functions of pg_catalog over columns of the row.
    fn check(&self) -> Result<(), Wrong> {
        let mut found = Found(None);
        // SAFETY: the node is an expression; the walker takes what is passed to it.
        if unsafe { walk(self.node, (&raw mut found).cast()) } {
            return Err(wrong(found.0.unwrap_or_else(|| "it has a part that is not known".into())));
        }
        // SAFETY: the node is an expression.
        if unsafe { pg_sys::contain_mutable_functions(self.planned().cast()) } {
            return Err(wrong("its functions must be immutable"));
        }
        for number in self.columns() {
            if number <= 0 {
                return Err(wrong("it names the row as a whole, or a column of the system"));
            }
            // SAFETY: reads the catalog.
            let generated = unsafe { pg_sys::get_attgenerated(self.relation, number) };
            if generated.cast_unsigned() == b'v' {
                return Err(wrong("it names a column that is computed when it is read"));
            }
        }
        Ok(())
    }

    /// The expression as it is evaluated, with constants folded and defaults filled in.
    fn planned(&self) -> *mut pg_sys::Expr {
        // SAFETY: the planner may change what it is given, so it gets a copy.
        let copy = unsafe { pg_sys::copyObjectImpl(self.node.cast()) };
        // SAFETY: the copy is an expression.
        unsafe { pg_sys::expression_planner(copy.cast()) }
    }

    /// Numbers of the columns that it names: 0 for the whole row, less for columns of the system.
    pub(crate) fn columns(&self) -> Vec<i16> {
        let mut set: *mut pg_sys::Bitmapset = ptr::null_mut();
        // SAFETY: every column is of the one relation that was parsed with.
        unsafe { pg_sys::pull_varattnos(self.node, 1, &raw mut set) };
        let mut columns = Vec::new();
        let mut member = -1;
        loop {
            // SAFETY: the set was made above; null is the empty one.
            member = unsafe { pg_sys::bms_next_member(set, member) };
            if member < 0 {
                return columns;
            }
            let number = member.saturating_add(pg_sys::FirstLowInvalidHeapAttributeNumber);
            columns.push(i16::try_from(number).unwrap_or(0));
        }
    }

    /// Whether its result is an array.
    fn is_array(&self) -> bool {
        // SAFETY: the node is an expression.
        unsafe { pg_sys::exprType(self.node) == pg_sys::TEXTARRAYOID }
    }

    /// The expression as SQL; with an alias, every column has that in front.
    pub(crate) fn spelled(&self, alias: Option<&str>) -> String {
        spell(self.node, self.relation, alias)
    }

    /// The expression as the server writes it down for itself.
    pub(crate) fn tree(&self) -> String {
        // SAFETY: the node is an expression.
        let text: *mut c_char = unsafe { pg_sys::nodeToString(self.node.cast()) };
        // SAFETY: a C string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// The expression as SQL that gives text[], never null.
    pub(crate) fn spelled_list(&self, alias: &str) -> String {
        let text = self.spelled(Some(alias));
        if self.is_array() {
            format!("array(select u.s from unnest({text}) as u (s) where u.s is not null)")
        } else {
            format!("array_remove(array[{text}], null)")
        }
    }
}

fn spell(node: *mut pg_sys::Node, relation: pg_sys::Oid, alias: Option<&str>) -> String {
    let name = CString::new(alias.unwrap_or("r")).expect("our aliases have no NUL");
    // SAFETY: the name is copied; the relation is there.
    let context = unsafe { pg_sys::deparse_context_for(name.as_ptr(), relation) };
    // SAFETY: the columns of the expression are of this relation.
    let text = unsafe { pg_sys::deparse_expression(node, context, alias.is_some(), false) };
    // SAFETY: a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What `Parsed::tree` gave, as SQL with the names that columns have now. None when a column of it is gone.
pub(crate) fn renamed(relation: pg_sys::Oid, tree: &str) -> Option<String> {
    let tree = CString::new(tree).ok()?;
    // SAFETY: the text is what this server wrote; our owner alone keeps it.
    let node = unsafe { pg_sys::stringToNode(tree.as_ptr()) }.cast::<pg_sys::Node>();
    let parsed = Parsed { node, relation };
    let is_there = |number: i16| {
        // SAFETY: reads the catalog; a column that is gone has no type.
        unsafe { pg_sys::get_atttype(relation, number) != pg_sys::InvalidOid }
    };
    parsed.columns().into_iter().all(is_there).then(|| parsed.spelled(None))
}

/// Tells of rows who reads them and whether they take part. Lives as long as its plan.
pub(crate) struct Evaluator {
    /// Holds all of it.
    _memory: Context,
    row: *mut pg_sys::ExprContext,
    scope: Option<(*mut pg_sys::ExprState, bool)>,
    filter: Option<*mut pg_sys::ExprState>,
}

impl Evaluator {
    /// Prepares expressions.
    pub(crate) fn new(scope: Option<Parsed>, filter: Option<Parsed>) -> Self {
        let memory = Context::lasting(c"cloudsync expressions");
        let (row, scope, filter) = memory.run(|| {
            // SAFETY: made in memory that lasts as long as the evaluator.
            let row = unsafe { pg_sys::CreateStandaloneExprContext() };
            // SAFETY: as above; the expression is planned.
            let state = |parsed: &Parsed| unsafe { pg_sys::ExecInitExpr(parsed.planned(), ptr::null_mut()) };
            (row, scope.map(|parsed| (state(&parsed), parsed.is_array())), filter.as_ref().map(state))
        });
        Self { _memory: memory, row, scope, filter }
    }

    /// The value for the present row of some.
    fn value(&self, state: *mut pg_sys::ExprState, rows: &Rows) -> Option<Datum> {
        let row = self.row;
        // SAFETY: both live as long as the evaluator.
        unsafe { (*row).ecxt_scantuple = rows.slot() };
        // SAFETY: as above.
        let body = unsafe { (*state).evalfunc }.expect("a prepared expression has a function");
        let mut is_null = false;
        let null = &raw mut is_null;
        // SAFETY: as above.
        let memory = unsafe { (*row).ecxt_per_tuple_memory };
        // SAFETY: as above.
        let before = unsafe { pg_sys::MemoryContextSwitchTo(memory) };
        // SAFETY: the state was prepared for this context, whose row it reads.
        let run = || unsafe { body(state, row, null) };
        // SAFETY: the closure holds nothing that needs a drop.
        let value = unsafe { pg_guard_ffi_boundary(run) };
        // SAFETY: puts back what was current; after an error the abort does.
        unsafe { pg_sys::MemoryContextSwitchTo(before) };
        (!is_null).then_some(value)
    }

    /// Whether the present row takes part.
    pub(crate) fn matches(&self, rows: &Rows) -> bool {
        let Some(state) = self.filter else { return true };
        let value = self.value(state, rows).is_some_and(codec::to_bool);
        self.reset();
        value
    }

    /// Who reads the present row: without a scope, everybody.
    pub(crate) fn scopes(&self, rows: &Rows) -> Vec<String> {
        let Some((state, is_array)) = self.scope else { return vec![SCOPE_EVERYBODY.to_owned()] };
        let scopes = match self.value(state, rows) {
            None => Vec::new(),
            Some(list) if is_array => tuple::to_texts(list),
            Some(one) => vec![codec::to_text(one)],
        };
        self.reset();
        scopes
    }

    /// Frees what the evaluation of a row needed.
    fn reset(&self) {
        // SAFETY: made by `new`.
        let memory = unsafe { (*self.row).ecxt_per_tuple_memory };
        // SAFETY: what was in it has been copied.
        unsafe { pg_sys::MemoryContextReset(memory) };
    }
}
