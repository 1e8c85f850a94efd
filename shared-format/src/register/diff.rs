//! Which blocks of a text stayed, which were rewritten, which came and went.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Cells of the table that finds common blocks, at most: 4 MiB. Larger stretches are first cut at blocks that
/// occur once on either side.
const TABLE_CELLS_MAX: usize = 1 << 20;

/// Cells of the table that pairs rewritten blocks; its comparisons cost more.
const PAIRS_MAX: usize = 1 << 12;

/// What became of one block, in the order of the text; numbers are places among the old and new blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// It is there on both sides, perhaps with another text.
    Both(usize, usize),
    /// It went.
    Gone(usize),
    /// It came.
    Came(usize),
}

/// Compares two texts block by block.
pub(super) fn diff(old: &[&str], new: &[&str]) -> Vec<Edit> {
    let mut same = Vec::new();
    find_same(old, new, 0, 0, &mut same);
    same.push((old.len(), new.len()));
    let mut edits = Vec::new();
    let (mut from_old, mut from_new) = (0, 0);
    for (to_old, to_new) in same {
        pair_up(
            old.get(from_old..to_old).unwrap_or_default(),
            new.get(from_new..to_new).unwrap_or_default(),
            from_old,
            from_new,
            &mut edits,
        );
        if to_old < old.len() {
            edits.push(Edit::Both(to_old, to_new));
        }
        (from_old, from_new) = (to_old.saturating_add(1), to_new.saturating_add(1));
    }
    edits
}

/// Finds equal blocks in order; `at_old` and `at_new` are where the slices begin.
fn find_same(
    old: &[&str],
    new: &[&str],
    mut at_old: usize,
    mut at_new: usize,
    out: &mut Vec<(usize, usize)>,
) {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    out.extend((0..head).map(|n| (at_old.saturating_add(n), at_new.saturating_add(n))));
    let (old, new) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    (at_old, at_new) = (at_old.saturating_add(head), at_new.saturating_add(head));
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len().saturating_sub(tail), new.len().saturating_sub(tail));
    let (old, new) = (old.get(..old_end).unwrap_or_default(), new.get(..new_end).unwrap_or_default());
    if old.len().saturating_mul(new.len()) <= TABLE_CELLS_MAX {
        let score = |a: usize, b: usize| u32::from(old.get(a) == new.get(b));
        let pairs = best_pairs(old.len(), new.len(), &score);
        out.extend(pairs.into_iter().map(|(a, b)| (at_old.saturating_add(a), at_new.saturating_add(b))));
    } else {
        let (mut from_old, mut from_new) = (0, 0);
        let mut anchors = anchors(old, new);
        if !anchors.is_empty() {
            anchors.push((old.len(), new.len()));
        }
        for (a, b) in anchors {
            let (here_old, here_new) = (at_old.saturating_add(from_old), at_new.saturating_add(from_new));
            let (part_old, part_new) = (old.get(from_old..a), new.get(from_new..b));
            find_same(part_old.unwrap_or_default(), part_new.unwrap_or_default(), here_old, here_new, out);
            if a < old.len() {
                out.push((at_old.saturating_add(a), at_new.saturating_add(b)));
            }
            (from_old, from_new) = (a.saturating_add(1), b.saturating_add(1));
        }
    }
    let (end_old, end_new) = (at_old.saturating_add(old.len()), at_new.saturating_add(new.len()));
    out.extend((0..tail).map(|n| (end_old.saturating_add(n), end_new.saturating_add(n))));
}

/// Blocks that occur once on either side, as many as stand in one order on both.
fn anchors(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let once = |blocks: &[&str]| {
        let mut places: BTreeMap<alloc::string::String, Option<usize>> = BTreeMap::new();
        for (at, block) in blocks.iter().enumerate() {
            places.entry((*block).into()).and_modify(|place| *place = None).or_insert(Some(at));
        }
        places
    };
    let in_new = once(new);
    let mut unique: Vec<(usize, usize)> = once(old)
        .iter()
        .filter_map(|(block, at)| Some(((*at)?, in_new.get(block).copied().flatten()?)))
        .collect();
    unique.sort_unstable();
    // The longest rising run of new places: each end remembers the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::new();
    let place = |at: usize| unique.get(at).map_or(0, |pair| pair.1);
    for at in 0..unique.len() {
        let slot = ends.partition_point(|end| place(*end) < place(at));
        before.push(slot.checked_sub(1).and_then(|slot| ends.get(slot).copied()));
        match ends.get_mut(slot) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut chain = Vec::new();
    let mut at = ends.last().copied();
    while let Some(here) = at {
        chain.extend(unique.get(here).copied());
        at = before.get(here).copied().flatten();
    }
    chain.reverse();
    chain
}

/// Pairs of two lists, in order, with the greatest sum of scores; a pair without a score is none.
fn best_pairs(rows: usize, columns: usize, score: &dyn Fn(usize, usize) -> u32) -> Vec<(usize, usize)> {
    let width = columns.saturating_add(1);
    let mut best = vec![0_u32; rows.saturating_add(1).saturating_mul(width)];
    let cell = |row: usize, column: usize| row.saturating_mul(width).saturating_add(column);
    let read = |best: &[u32], row: usize, column: usize| best.get(cell(row, column)).copied().unwrap_or(0);
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            let (down, right) = (row.saturating_add(1), column.saturating_add(1));
            let paired = match score(row, column) {
                0 => 0,
                points => read(&best, down, right).saturating_add(points),
            };
            let most = paired.max(read(&best, down, column)).max(read(&best, row, right));
            if let Some(cell) = best.get_mut(cell(row, column)) {
                *cell = most;
            }
        }
    }
    let mut pairs = Vec::new();
    let (mut row, mut column) = (0, 0);
    while row < rows && column < columns {
        let (down, right) = (row.saturating_add(1), column.saturating_add(1));
        let here = read(&best, row, column);
        let points = score(row, column);
        if points > 0 && here == read(&best, down, right).saturating_add(points) {
            pairs.push((row, column));
            (row, column) = (down, right);
        } else if here == read(&best, down, column) {
            row = down;
        } else {
            column = right;
        }
    }
    pairs
}

/// Pairs the blocks of a stretch where nothing is equal: those that are most alike were rewritten.
fn pair_up(old: &[&str], new: &[&str], at_old: usize, at_new: usize, out: &mut Vec<Edit>) {
    let mut pairs = if old.len().saturating_mul(new.len()) <= PAIRS_MAX {
        best_pairs(old.len(), new.len(), &|a, b| likeness(old.get(a), new.get(b)))
    } else {
        (0..old.len().min(new.len())).map(|at| (at, at)).collect()
    };
    pairs.push((old.len(), new.len()));
    let (mut from_old, mut from_new) = (0, 0);
    for (a, b) in pairs {
        out.extend((from_old..a).map(|n| Edit::Gone(at_old.saturating_add(n))));
        out.extend((from_new..b).map(|n| Edit::Came(at_new.saturating_add(n))));
        if a < old.len() {
            out.push(Edit::Both(at_old.saturating_add(a), at_new.saturating_add(b)));
        }
        (from_old, from_new) = (a.saturating_add(1), b.saturating_add(1));
    }
}

/// One for any pair, more for one with a common beginning or end.
fn likeness(old: Option<&&str>, new: Option<&&str>) -> u32 {
    let (Some(old), Some(new)) = (old, new) else { return 0 };
    let head = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
    let tail = old.bytes().rev().zip(new.bytes().rev()).take_while(|(a, b)| a == b).count();
    let common = head.saturating_add(tail).min(old.len()).min(new.len());
    let longest = old.len().max(new.len()).max(1);
    // In thousandths, so that a long block does not outweigh several short ones.
    let thousandths = common.saturating_mul(1_000).checked_div(longest).unwrap_or(0);
    u32::try_from(thousandths).unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    fn check(old: &str, new: &str, expected: &str) {
        let old: Vec<&str> = old.split(' ').filter(|block| !block.is_empty()).collect();
        let new: Vec<&str> = new.split(' ').filter(|block| !block.is_empty()).collect();
        let edits: Vec<String> = diff(&old, &new)
            .into_iter()
            .map(|edit| match edit {
                Edit::Both(a, b) if old[a] == new[b] => old[a].to_string(),
                Edit::Both(a, b) => alloc::format!("{}>{}", old[a], new[b]),
                Edit::Gone(a) => alloc::format!("-{}", old[a]),
                Edit::Came(b) => alloc::format!("+{}", new[b]),
            })
            .collect();
        assert_eq!(edits.join(" "), expected);
    }

    #[test]
    fn equal_blocks_stay_and_like_ones_were_rewritten() {
        check("a b c", "a b c", "a b c");
        check("a c", "a b c", "a +b c");
        check("a b c", "a c", "a -b c");
        check("a two c", "a zwei c", "a two>zwei c");
        check("a line2 c", "a new line2b c", "a +new line2>line2b c");
        check("", "a b", "+a +b");
        check("a b", "", "-a -b");
        check("a b a b", "b a b a", "-a b a b +a");
    }

    #[test]
    fn a_long_text_is_cut_at_blocks_that_occur_once() {
        let line = |n: usize| alloc::format!("{n} {}", n % 3);
        let old: Vec<String> = (0..3_000).map(line).collect();
        let mut new: Vec<String> = old.iter().filter(|line| !line.starts_with('7')).cloned().collect();
        new.insert(1_000, "new".into());
        new.insert(0, "first".into());
        new.push("last".into());
        let (old, new): (Vec<&str>, Vec<&str>) =
            (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
        let edits = diff(&old, &new);
        let kept = edits.iter().filter(|edit| matches!(edit, Edit::Both(a, b) if old[*a] == new[*b]));
        assert_eq!(kept.count(), new.len() - 3);
    }
}
