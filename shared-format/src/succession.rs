//! Which upload of a site comes next: a centre takes them one after the other, each once.
//!
//! A site shows the token of the upload before, which it was given with the answer. Before it had that answer, as while
//! the centre is away, it names the upload before: its id is as random as a token, and only one upload follows it. So
//! of two copies of a file one goes on, and the other one is told that it is a copy.

/// What a centre knows of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// The number up to which it has everything.
    pub acked: i64,
    /// The id of the upload that it took last.
    pub upload: &'a [u8],
    /// The token that it gave for that.
    pub token: &'a [u8],
}

/// What an upload shows of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// Nothing: it is the first of its site.
    First,
    /// The token that the site was given for it.
    Token(&'a [u8]),
    /// Its id.
    Upload(&'a [u8]),
}

/// Where an upload stands among those of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is to be taken.
    Next,
    /// It is the one that was taken last.
    Taken,
    /// Something before it is still to come.
    Early,
    /// Something else was taken in its place: two replicas go by one site.
    Conflict,
}

/// Tells where an upload stands that begins with a number; a site that is not known has nothing to go by.
#[must_use]
pub fn place(known: Option<Known<'_>>, upload: &[u8], first: i64, link: Link<'_>) -> Place {
    let Some(known) = known else {
        return match link {
            Link::First => Place::Next,
            Link::Token(_) => Place::Conflict,
            Link::Upload(_) => Place::Early,
        };
    };
    if known.upload == upload {
        return Place::Taken;
    }
    let is_early = first > known.acked.saturating_add(1);
    let is_linked = match link {
        Link::First => false,
        Link::Token(token) => token == known.token,
        // Numbers that are not reached say that what it follows was not taken yet.
        Link::Upload(before) => before == known.upload || is_early,
    };
    match (is_linked, is_early) {
        (false, _) => Place::Conflict,
        (true, true) => Place::Early,
        (true, false) => Place::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_follows_the_last_one_by_its_token_or_its_id() {
        let known = Some(Known { acked: 6, upload: b"u2", token: b"t2" });
        fn token(token: &[u8; 2]) -> Link<'_> {
            Link::Token(token)
        }
        fn upload(upload: &[u8; 2]) -> Link<'_> {
            Link::Upload(upload)
        }
        let first = Link::First;
        for (known, id, at, link, wanted) in [
            (None, b"u1", 1, first, Place::Next),
            // The numbers before are of a site that gave up its id.
            (None, b"u1", 4, first, Place::Next),
            (None, b"u1", 1, token(b"t0"), Place::Conflict),
            (None, b"u2", 4, upload(b"u1"), Place::Early),
            (known, b"u2", 4, first, Place::Taken),
            (known, b"u2", 4, token(b"t1"), Place::Taken),
            (known, b"u2", 4, upload(b"u1"), Place::Taken),
            (known, b"u3", 7, token(b"t2"), Place::Next),
            (known, b"u3", 5, token(b"t2"), Place::Next),
            (known, b"u3", 8, token(b"t2"), Place::Early),
            (known, b"u3", 7, token(b"t1"), Place::Conflict),
            (known, b"u3", 8, token(b"t1"), Place::Conflict),
            (known, b"u3", 7, first, Place::Conflict),
            (known, b"u3", 7, upload(b"u2"), Place::Next),
            (known, b"u3", 8, upload(b"u2"), Place::Early),
            (known, b"u4", 9, upload(b"u3"), Place::Early),
            // A copy of the file was faster.
            (known, b"v2", 4, upload(b"u1"), Place::Conflict),
            (known, b"v3", 7, upload(b"v2"), Place::Conflict),
        ] {
            let id: &[u8] = id;
            assert_eq!(place(known, id, at, link), wanted, "{id:?} from {at} by {link:?}");
        }
    }
}
