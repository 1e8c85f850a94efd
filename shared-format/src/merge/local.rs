//! Local writes to a row under the rules of its table: which stamps they get, and what becomes of registers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::rules::Rules;
use crate::clock::{SiteId, Stamp};
use crate::error::FormatError;
use crate::payload::TableAlgorithm;
use crate::reader::Reader;
use crate::register::{ColumnRule, OwnEntries, Register, Written};
use crate::row_state::{ColumnId, LocalWrite, RowState};
use crate::value::ValueRef;

/// A register as one file keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptRegister {
    /// What the file knows of its own entries.
    pub own: OwnEntries,
    /// The register.
    pub register: Register,
}

/// The metadata of a row with registers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowRegisters {
    /// Life and stamps. The stamp of a register column is the greatest of its entries.
    pub state: RowState,
    /// Registers of a live row.
    pub registers: BTreeMap<ColumnId, KeptRegister>,
}

/// Where a write stands in the capture log of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPlace {
    /// Number of the write.
    pub seq: i64,
    /// Up to where the server has answered for.
    pub acknowledged: i64,
}

/// What a local write is made of.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// What happened.
    pub write: LocalWrite<'a>,
    /// The value that the table holds now for a register column, and the column's default.
    pub now: &'a dyn Fn(ColumnId) -> (ValueRef<'a>, ValueRef<'a>),
    /// When.
    pub wall_ms: i64,
    /// Where.
    pub site: SiteId,
    /// Its place in the capture log.
    pub log: LogPlace,
}

impl RowRegisters {
    /// Stamps a local write; returns the register columns whose value is to be put back, each with the stamp that
    /// the write would have had.
    pub fn write_local(&mut self, rules: &Rules, local: &Local<'_>) -> Vec<(ColumnId, Stamp)> {
        match (local.write, rules.table) {
            // A row that went without a deletion that anybody would follow: it may come again.
            (LocalWrite::Delete, TableAlgorithm::Gos) => *self = Self::default(),
            (LocalWrite::Delete, _) => {
                self.state.write_local(LocalWrite::Delete, local.wall_ms, local.site);
                self.registers.clear();
            }
            (LocalWrite::Update(columns), TableAlgorithm::Cls | TableAlgorithm::Dws)
                if self.state.is_alive() =>
            {
                return self.update(rules, local, &rules.with_groups(columns));
            }
            (LocalWrite::Create | LocalWrite::Update(_), _) => self.create(rules, local),
        }
        Vec::new()
    }

    fn create(&mut self, rules: &Rules, local: &Local<'_>) {
        let base = self.state.write_local(LocalWrite::Create, local.wall_ms, local.site);
        self.registers.clear();
        for (column, rule) in rules.registers() {
            if let Some(register) = Register::new(rule) {
                let register = register.with_start(base, (local.now)(column).0.to_owned_value());
                self.registers.insert(column, KeptRegister { own: OwnEntries::default(), register });
            }
        }
    }

    fn update(&mut self, rules: &Rules, local: &Local<'_>, columns: &[ColumnId]) -> Vec<(ColumnId, Stamp)> {
        let before = self.state.clone();
        let stamp = self.state.write_local(LocalWrite::Update(columns), local.wall_ms, local.site);
        let mut put_back = Vec::new();
        for column in columns.iter().filter(|column| rules.of(**column).is_register()) {
            self.find_register(rules.of(*column), *column, local, &before);
            match self.write_register(rules.of(*column), *column, local, stamp) {
                Written::Changed => continue,
                Written::PutBack => put_back.push((*column, stamp)),
                Written::Same => {}
            }
            match before.cell(*column) {
                Some(stamp) => self.state.set_cell(*column, stamp),
                None => self.state.clear_cell(*column),
            }
        }
        put_back
    }

    /// Makes the register of a column that has none: from the default where the creation did not carry the
    /// column, else from the value now, which nobody else has heard of.
    fn find_register(&mut self, rule: &ColumnRule, column: ColumnId, local: &Local<'_>, before: &RowState) {
        let Some(mut register) = Register::new(rule).filter(|_| !self.registers.contains_key(&column)) else {
            return;
        };
        if before.cell(column) != Some(Stamp::ZERO) {
            register = register.with_start(before.life_stamp(), (local.now)(column).0.to_owned_value());
        }
        self.registers.insert(column, KeptRegister { own: OwnEntries::default(), register });
    }

    fn write_register(
        &mut self,
        rule: &ColumnRule,
        column: ColumnId,
        local: &Local<'_>,
        stamp: Stamp,
    ) -> Written {
        let (value, default) = (local.now)(column);
        let Some(kept) = self.registers.get_mut(&column) else { return Written::Same };
        if kept.own.seq <= local.log.acknowledged {
            kept.own.sent_hlc = kept.register.newest_of(local.site);
            kept.own.sent_delta = kept.register.counted(kept.own.origin);
        }
        let before = kept.own;
        let written = kept.register.write(rule, value, default, stamp, &mut kept.own);
        if written == Written::Changed {
            if kept.own.origin != before.origin {
                kept.own = OwnEntries { origin: kept.own.origin, ..OwnEntries::default() };
            }
            kept.own.seq = local.log.seq;
        }
        written
    }
}

impl KeptRegister {
    /// Writes the register for metadata.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.own.write(&mut out);
        out.extend(self.register.encode());
        out
    }

    /// Reads what [`KeptRegister::encode`] wrote.
    ///
    /// # Errors
    /// As [`Register::decode`].
    pub fn decode(rule: &ColumnRule, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("kept register", bytes);
        let own = OwnEntries::read(&mut reader)?;
        Ok(Self { own, register: Register::decode(rule, reader.rest())? })
    }
}
