//! What a command does, as event triggers see it: the parts of the parse tree that no SQL function shows.

use std::ffi::CStr;

use pgrx::pg_sys::{self, FunctionCallInfo};

/// The nodes of a list.
fn nodes<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: not null, so a list of the server's.
    let length = unsafe { (*list).length };
    // SAFETY: as above.
    let cells = unsafe { (*list).elements };
    (0..usize::try_from(length).unwrap_or(0))
        .map(|at| {
            // SAFETY: the list has `length` cells.
            let cell = unsafe { cells.add(at) };
            // SAFETY: as above.
            let cell = unsafe { *cell };
            // SAFETY: our callers pass lists of pointers.
            unsafe { cell.ptr_value }.cast()
        })
        .collect()
}

/// The kind of a node; None for null.
fn tag(node: *const pg_sys::Node) -> Option<pg_sys::NodeTag> {
    // SAFETY: every node begins with its tag.
    (!node.is_null()).then(|| unsafe { (*node).type_ })
}

/// The number of the column that an expression casts, if that is all that it does.
fn cast_column(expression: *mut pg_sys::Node) -> Option<i16> {
    let mut node = expression;
    loop {
        node = match tag(node)? {
            pg_sys::NodeTag::T_Var => {
                // SAFETY: the tag says so.
                return Some(unsafe { (*node.cast::<pg_sys::Var>()).varattno });
            }
            pg_sys::NodeTag::T_RelabelType => {
                // SAFETY: the tag says so.
                unsafe { (*node.cast::<pg_sys::RelabelType>()).arg }.cast()
            }
            pg_sys::NodeTag::T_CoerceViaIO => {
                // SAFETY: the tag says so.
                unsafe { (*node.cast::<pg_sys::CoerceViaIO>()).arg }.cast()
            }
            pg_sys::NodeTag::T_FuncExpr => {
                // SAFETY: the tag says so.
                let call = unsafe { *node.cast::<pg_sys::FuncExpr>() };
                if call.funcformat == pg_sys::CoercionForm::COERCE_EXPLICIT_CALL {
                    return None;
                }
                *nodes(call.args).first()?
            }
            _ => return None,
        };
    }
}

/// Numbers of the columns to which a command gives another type: those whose values are cast, or those whose values
/// an expression gives. The argument is a `pg_ddl_command`.
pub(crate) fn retyped_columns(command: pg_sys::Datum, computed: bool) -> Vec<i16> {
    let command: *const pg_sys::CollectedCommand = command.cast_mut_ptr();
    // SAFETY: the argument's type is that of a collected command.
    let kind = unsafe { (*command).type_ };
    if kind != pg_sys::CollectedCommandType::SCT_AlterTable {
        return Vec::new();
    }
    // SAFETY: as above.
    let parts = unsafe { (*command).d };
    // SAFETY: the kind says which part of the union it is.
    let parts = unsafe { parts.alterTable }.subcmds;
    let mut found = Vec::new();
    for part in nodes::<pg_sys::CollectedATSubcmd>(parts) {
        // SAFETY: the list is of these.
        let part = unsafe { *part };
        if tag(part.parsetree) != Some(pg_sys::NodeTag::T_AlterTableCmd) {
            continue;
        }
        // SAFETY: the tag says so.
        let step = unsafe { *part.parsetree.cast::<pg_sys::AlterTableCmd>() };
        if step.subtype != pg_sys::AlterTableType::AT_AlterColumnType
            || tag(step.def) != Some(pg_sys::NodeTag::T_ColumnDef)
        {
            continue;
        }
        // SAFETY: the tag says so.
        let column = unsafe { *step.def.cast::<pg_sys::ColumnDef>() };
        let Ok(number) = i16::try_from(part.address.objectSubId) else { continue };
        let is_computed = !column.raw_default.is_null() && cast_column(column.cooked_default) != Some(number);
        if is_computed == computed {
            found.push(number);
        }
    }
    found
}

/// What an event trigger is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Something else.
    Other,
    /// Our extension, without what depends on it.
    Alone,
    /// Our extension, with what depends on it.
    Cascade,
}

/// Whether the command that an event trigger is called for drops the extension of this name.
pub(crate) fn drops_extension(call: FunctionCallInfo, extension: &str) -> Dropped {
    // SAFETY: the server calls with this structure.
    let context = unsafe { (*call).context };
    if tag(context) != Some(pg_sys::NodeTag::T_EventTriggerData) {
        return Dropped::Other;
    }
    // SAFETY: the tag says so.
    let command = unsafe { (*context.cast::<pg_sys::EventTriggerData>()).parsetree };
    if tag(command) != Some(pg_sys::NodeTag::T_DropStmt) {
        return Dropped::Other;
    }
    // SAFETY: the tag says so.
    let command = unsafe { *command.cast::<pg_sys::DropStmt>() };
    let names = |name: *mut pg_sys::Node| {
        // SAFETY: extensions are named by strings, which this prints.
        let text = unsafe { pg_sys::nodeToString(name.cast()) };
        // SAFETY: it made a C string.
        unsafe { CStr::from_ptr(text) }.to_str().is_ok_and(|text| text == format!("\"{extension}\""))
    };
    if command.removeType != pg_sys::ObjectType::OBJECT_EXTENSION
        || !nodes::<pg_sys::Node>(command.objects).into_iter().any(names)
    {
        return Dropped::Other;
    }
    if command.behavior == pg_sys::DropBehavior::DROP_CASCADE { Dropped::Cascade } else { Dropped::Alone }
}
