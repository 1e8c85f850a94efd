//! A part of a snapshot whose body broke off on its way: what came of it is kept, and the rest is asked for.
//!
//! The server names the bytes of such an answer; only under the same name are two pieces joined. What is kept is in
//! the file too, so that another run of the program goes on there. It goes with the commit that applies the answer.

use rusqlite::{Connection, OptionalExtension, params};

use super::transport::Response;
use crate::error::{Doing, Result};
use crate::sql::Unit;

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    /// What was asked for.
    place: String,
    /// The name of the whole.
    tag: String,
    body: Vec<u8>,
}

/// The answer that broke off last, if its rest was not received yet.
pub(super) struct BrokenOff<'c> {
    connection: &'c Connection,
    piece: Option<Piece>,
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The answer is whole.
    Answered,
    /// The rest has to be asked for.
    AskForRest,
    /// It has to be asked for anew: the rest of what was kept is not to be had.
    AskAgain,
    /// The answer broke off, and is none that can go on.
    Failed,
}

impl<'c> BrokenOff<'c> {
    /// What the file has kept.
    pub(super) fn load(connection: &'c Connection) -> Result<Self> {
        let sql = "select place, tag, body from main.cloudsync_broken_off";
        let read =
            |row: &rusqlite::Row<'_>| Ok(Piece { place: row.get(0)?, tag: row.get(1)?, body: row.get(2)? });
        let mut statement = connection.prepare_cached(sql)?;
        let piece = statement.query_row([], read).optional().doing("read what broke off")?;
        Ok(Self { connection, piece })
    }

    /// Headers that ask for the rest, if what is kept is of the same question.
    pub(super) fn headers(&self, place: &str) -> Vec<(&'static str, String)> {
        let Some(piece) = self.piece.as_ref().filter(|piece| piece.place == place) else {
            return Vec::new();
        };
        vec![("Range", format!("bytes={}-", piece.body.len())), ("If-Range", piece.tag.clone())]
    }

    /// How many bytes are kept of what an answer names.
    pub(super) fn length(&self, place: &str, answer: &Response) -> usize {
        let same = |piece: &&Piece| piece.place == place && tag(answer) == Some(piece.tag.as_str());
        self.piece.as_ref().filter(same).map_or(0, |piece| piece.body.len())
    }

    /// Takes an answer to a request that had `headers`: completes it by what was kept, or keeps what came of it.
    pub(super) fn take(&mut self, place: &str, response: &mut Response, is_broken: bool) -> Result<Next> {
        let asked = self.piece.take_if(|piece| piece.place == place);
        match (response.status, asked) {
            (206, Some(mut piece)) if is_rest(response, &piece) => {
                piece.body.append(&mut response.body);
                if is_broken {
                    return self.keep(piece);
                }
                response.status = 200;
                response.body = piece.body;
                Ok(Next::Answered)
            }
            (206 | 416, Some(_)) => Ok(Next::AskAgain),
            (200, _) if is_broken => match tag(response).map(str::to_owned) {
                Some(tag) if !response.body.is_empty() => {
                    let body = std::mem::take(&mut response.body);
                    self.keep(Piece { place: place.to_owned(), tag, body })
                }
                Some(_) | None => Ok(Next::Failed),
            },
            (_, _) if is_broken => Ok(Next::Failed),
            (200 | 204, _) => Ok(Next::Answered),
            // A refusal: the rest may be had later.
            (_, asked) => {
                self.piece = asked;
                Ok(Next::Answered)
            }
        }
    }

    fn keep(&mut self, piece: Piece) -> Result<Next> {
        let unit = Unit::begin(self.connection)?;
        forget(self.connection)?;
        let sql = "insert into main.cloudsync_broken_off (place, tag, body) values (?1, ?2, ?3)";
        let row = params![piece.place, piece.tag, piece.body];
        self.connection.execute(sql, row).doing("keep what came of an answer")?;
        unit.commit()?;
        self.piece = Some(piece);
        Ok(Next::AskForRest)
    }
}

/// Forgets what was kept, in the caller's transaction.
pub(super) fn forget(connection: &Connection) -> Result<()> {
    let sql = "delete from main.cloudsync_broken_off";
    connection.prepare_cached(sql)?.execute([]).doing("forget what broke off")?;
    Ok(())
}

/// The strong name of the bytes of a snapshot's part.
fn tag(response: &Response) -> Option<&str> {
    let is_snapshot = response.header("cloudsync-source") == Some("snapshot");
    response.header("etag").filter(|tag| is_snapshot && tag.starts_with('"'))
}

/// Whether an answer goes on where a piece ends.
fn is_rest(response: &Response, piece: &Piece) -> bool {
    let range = response.header("content-range").and_then(|range| range.strip_prefix("bytes "));
    let first = range.and_then(|range| range.split_once('-')).and_then(|(first, _)| first.parse().ok());
    tag(response) == Some(piece.tag.as_str()) && first == Some(piece.body.len())
}
