//! Every request of the hub.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::operation::{Access, Answer, Content, Holds, Operation, Parameter, Place};
use super::types::{
    DatabaseAnswer, DatabasesAnswer, Device, Job, KeysAnswer, NewDatabase, NewKeyAnswer, NewKeyBody, Page,
    RejectedRow, RotateBody, SegmentAnswer, Settings, Slot, SnapshotAnswer,
};
use super::{databases, keys, reports};
use crate::http::problem::ProblemKind;

/// What the tags of operations mean.
pub(super) const TAGS: &[(&str, &str)] = &[
    ("sync", "What the client library asks for; bodies are payload frames."),
    ("databases", "Which databases the hub serves."),
    ("keys", "Who may use them by a key."),
    ("reports", "What operators look at."),
    ("hub", "The process itself."),
];

macro_rules! json {
    ($body:ty) => {
        Content::Json(|schemas| schemas.subschema_for::<$body>())
    };
}

const OBJECT: Content = Content::Json(object);

fn object(_schemas: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

const fn answer(status: u16, says: &'static str, content: Content) -> Answer {
    Answer { status, says, content, headers: &[] }
}

const fn query(name: &'static str, holds: Holds, says: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, is_required: false, holds, says }
}

const fn header(name: &'static str, is_required: bool, holds: Holds, says: &'static str) -> Parameter {
    Parameter { name, place: Place::Header, is_required, holds, says }
}

const LIMIT: Parameter = query("limit", Holds::Number(1, 1_000), "Most items of the page; 100 by default.");

// The headers of an upload, which all its chunks have too.
const UPLOADER: Parameter = header("Cloudsync-Site", true, Holds::Hex(32), "The site that made the changes.");
const UPLOAD: Parameter =
    header("Cloudsync-Upload", true, Holds::Hex(32), "A random id, the same when the upload is repeated.");
const UPLOAD_RANGE: Parameter =
    header("Cloudsync-Range", true, Holds::Text("^[0-9]+-[0-9]+$"), "The numbers that it speaks for.");
const UPLOAD_DB_VERSION: Parameter =
    header("Cloudsync-Db-Version", true, Holds::Text("^[0-9]+$"), "The newest number of the site.");
const UPLOAD_TOKEN: Parameter =
    header("Cloudsync-Token", false, Holds::Hex(32), "The token of the last answer.");
const UPLOAD_AFTER: Parameter = header(
    "Cloudsync-After",
    false,
    Holds::Hex(32),
    "The upload right before it, if that was answered by 202 and what became of it is not known yet.",
);
const UPLOAD_ACKNOWLEDGED: Parameter =
    header("Cloudsync-Acknowledged", false, Holds::Any(128), "The cursor of the last download.");
const UPLOAD_REJECTED_SEEN: Parameter = header(
    "Cloudsync-Rejected-Seen",
    false,
    Holds::Text("^[0-9]+$"),
    "The greatest rejection that the site has stored.",
);

/// What most operations have; each names what it has otherwise.
const PLAIN: Operation = Operation {
    id: "",
    method: "GET",
    path: "",
    tag: "hub",
    title: "",
    says: "",
    access: Access::Operator,
    parameters: &[],
    body: None,
    answers: &[],
    problems: &[],
    handler: None,
};

/// Every request of the hub.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "upload",
        method: "POST",
        path: "/v1/databases/{database}/uploads",
        tag: "sync",
        title: "Upload changes",
        says: "Applies one payload in one transaction. It is durable once it is answered; the same upload sent again is \
               answered as a duplicate.",
        access: Access::Key,
        parameters: &[
            UPLOADER,
            UPLOAD,
            UPLOAD_RANGE,
            UPLOAD_DB_VERSION,
            UPLOAD_TOKEN,
            UPLOAD_AFTER,
            UPLOAD_ACKNOWLEDGED,
            UPLOAD_REJECTED_SEEN,
        ],
        body: Some(Content::Frames),
        answers: &[
            answer(200, "Applied, now or before", OBJECT),
            answer(202, "Kept until the database is back", OBJECT),
        ],
        problems: &[
            ProblemKind::SiteConflict,
            ProblemKind::OutOfOrder,
            ProblemKind::ClockAhead,
            ProblemKind::CursorExpired,
            ProblemKind::Restored,
            ProblemKind::InvalidPayload,
            ProblemKind::StorageFull,
        ],
        ..PLAIN
    },
    Operation {
        id: "uploadChunk",
        method: "POST",
        path: "/v1/databases/{database}/chunks",
        tag: "sync",
        title: "Upload a chunk",
        says: "Keeps one chunk of an upload that is larger than one body. With the last one all are applied in one \
               transaction. The other headers are the same for all.",
        access: Access::Key,
        parameters: &[
            UPLOADER,
            UPLOAD,
            UPLOAD_RANGE,
            header(
                "Cloudsync-Chunk",
                true,
                Holds::Text("^[0-9]+/[0-9]+$"),
                "Its number from 1, and how many there are, at most 256.",
            ),
            UPLOAD_DB_VERSION,
            UPLOAD_TOKEN,
            UPLOAD_AFTER,
            UPLOAD_ACKNOWLEDGED,
            UPLOAD_REJECTED_SEEN,
        ],
        body: Some(Content::Frames),
        answers: &[
            answer(200, "The last: applied, now or before", OBJECT),
            answer(202, "Kept until the last comes; the last, until the database is back", OBJECT),
        ],
        problems: &[
            ProblemKind::SiteConflict,
            ProblemKind::OutOfOrder,
            ProblemKind::Incomplete,
            ProblemKind::ClockAhead,
            ProblemKind::CursorExpired,
            ProblemKind::Restored,
            ProblemKind::InvalidPayload,
            ProblemKind::StorageFull,
        ],
        ..PLAIN
    },
    Operation {
        id: "download",
        path: "/v1/databases/{database}/changes",
        tag: "sync",
        title: "Download changes",
        says: "What is new since a cursor, or a wait for it. Without a cursor, or with one that is too old, the first \
               part of a snapshot.",
        access: Access::Key,
        parameters: &[
            header("Cloudsync-Site", true, Holds::Hex(32), "The site that asks."),
            header("Cloudsync-Token", false, Holds::Hex(32), "The token of the last upload."),
            header("Cloudsync-Db-Version", false, Holds::Text("^[0-9]+$"), "The newest number of the site."),
            query("cursor", Holds::Any(4_096), "The place where the last answer ended."),
            query(
                "tables",
                Holds::Text("^[0-9]+(\\.[0-9]+)*$"),
                "At most 32 tables, by their numbers in payloads, to take anew as they are at the cursor or later.",
            ),
            query("wait_ms", Holds::Number(0, 60_000), "Longest wait for something new, in milliseconds."),
            header(
                "Range",
                false,
                Holds::Free,
                "The bytes that are wanted of a part of a snapshot: `bytes=4096-`.",
            ),
            header(
                "If-Range",
                false,
                Holds::Free,
                "The `ETag` of the answer that broke off; else all comes anew.",
            ),
            header(
                "Cloudsync-Redirects",
                false,
                Holds::Free,
                "`follow`: parts of a snapshot may be fetched from the store, where 307 says.",
            ),
        ],
        answers: &[
            Answer {
                headers: &[
                    ("Cloudsync-Cursor", "The place where this answer ends."),
                    (
                        "Cloudsync-Complete",
                        "Whether it ends at the end of a transaction and nothing more is known.",
                    ),
                    ("Cloudsync-Source", "`log` or `snapshot`."),
                    ("Cloudsync-Tables", "The tables that the answer is of, where some were asked for."),
                    ("Cloudsync-Part", "The part of the snapshot that the answer begins with, from 0."),
                    (
                        "Cloudsync-Acked",
                        "The number up to which the database has what the site sent, in a new epoch.",
                    ),
                    (
                        "Cloudsync-Restored",
                        "`true` where the database was set back on purpose: its rows stand.",
                    ),
                    ("ETag", "Of parts of a snapshot: the name of these bytes."),
                ],
                ..answer(200, "Payload frames", Content::Frames)
            },
            Answer {
                headers: &[
                    ("Content-Range", "Which bytes these are, and how many there are."),
                    ("ETag", "The name of all these bytes."),
                ],
                ..answer(206, "The bytes of a part of a snapshot that were wanted", Content::Frames)
            },
            answer(204, "Nothing new", Content::Nothing),
            Answer {
                headers: &[
                    (
                        "Location",
                        "Where the bytes are, for a while. Whoever has it can read them; show no key there.",
                    ),
                    ("ETag", "The name of these bytes."),
                ],
                ..answer(307, "A part of a snapshot is to be fetched from the store", Content::Nothing)
            },
        ],
        problems: &[ProblemKind::BadRequest, ProblemKind::CursorExpired, ProblemKind::RangeNotSatisfiable],
        ..PLAIN
    },
    Operation {
        id: "databaseMetrics",
        path: "/v1/databases/{database}/metrics",
        tag: "reports",
        title: "Metrics of a database",
        says: "By name a list of series, each with its labels and its value.",
        access: Access::Key,
        answers: &[answer(200, "The metrics", OBJECT)],
        ..PLAIN
    },
    Operation {
        id: "listDatabases",
        path: "/v1/databases",
        tag: "databases",
        title: "List databases",
        says: "All that this node serves, and those of the control database that it cannot serve.",
        answers: &[answer(200, "The databases", json!(DatabasesAnswer))],
        handler: Some(databases::list),
        ..PLAIN
    },
    Operation {
        id: "createDatabase",
        method: "POST",
        path: "/v1/databases",
        tag: "databases",
        title: "Serve another database",
        says: "Keeps it in the control database; every node serves it from then on. Its Postgres needs the extension, \
               and a role for the hub.",
        body: Some(json!(NewDatabase)),
        answers: &[answer(201, "It is served by this node", json!(DatabaseAnswer))],
        problems: &[ProblemKind::NameTaken, ProblemKind::ReadOnly],
        handler: Some(databases::create),
        ..PLAIN
    },
    Operation {
        id: "getDatabase",
        path: "/v1/databases/{database}",
        tag: "databases",
        title: "Look at a database",
        says: "Where it is and what this node does with it.",
        answers: &[answer(200, "The database", json!(DatabaseAnswer))],
        handler: Some(databases::get),
        ..PLAIN
    },
    Operation {
        id: "replaceDatabase",
        method: "PUT",
        path: "/v1/databases/{database}",
        tag: "databases",
        title: "Change a database",
        says: "Replaces all its settings; its feed starts again with them, and waiting clients ask again. Limits alone are \
               changed in place.",
        body: Some(json!(Settings)),
        answers: &[answer(200, "It is served with these settings", json!(DatabaseAnswer))],
        problems: &[ProblemKind::ReadOnly],
        handler: Some(databases::replace),
        ..PLAIN
    },
    Operation {
        id: "deleteDatabase",
        method: "DELETE",
        path: "/v1/databases/{database}",
        tag: "databases",
        title: "Serve a database no more",
        says: "Removes it and its keys from the control database. Its rows, its slot and its objects in the store stay: a \
               slot that nobody reads keeps WAL, so drop it in Postgres if the database is not to come back.",
        answers: &[answer(204, "It is served no more", Content::Nothing)],
        problems: &[ProblemKind::ReadOnly],
        handler: Some(databases::delete),
        ..PLAIN
    },
    Operation {
        id: "listKeys",
        path: "/v1/databases/{database}/keys",
        tag: "keys",
        title: "List the keys of a database",
        says: "Never their texts.",
        answers: &[answer(200, "The keys", json!(KeysAnswer))],
        handler: Some(keys::list),
        ..PLAIN
    },
    Operation {
        id: "createKey",
        method: "POST",
        path: "/v1/databases/{database}/keys",
        tag: "keys",
        title: "Make a key",
        says: "Its text is told in this answer and never again.",
        body: Some(json!(NewKeyBody)),
        answers: &[answer(201, "The key", json!(NewKeyAnswer))],
        problems: &[ProblemKind::ReadOnly],
        handler: Some(keys::create),
        ..PLAIN
    },
    Operation {
        id: "revokeKey",
        method: "DELETE",
        path: "/v1/databases/{database}/keys/{key}",
        tag: "keys",
        title: "Revoke a key",
        says: "This node refuses it at once, the others when they hear of it, which takes milliseconds.",
        answers: &[answer(204, "It opens nothing any more", Content::Nothing)],
        problems: &[ProblemKind::UnknownName, ProblemKind::ReadOnly],
        handler: Some(keys::revoke),
        ..PLAIN
    },
    Operation {
        id: "rotateKey",
        method: "POST",
        path: "/v1/databases/{database}/keys/{key}/rotate",
        tag: "keys",
        title: "Replace a key",
        says: "Makes a key with the same role and label, and revokes the old one, at once or after a while.",
        body: Some(json!(RotateBody)),
        answers: &[answer(201, "The new key", json!(NewKeyAnswer))],
        problems: &[ProblemKind::UnknownName, ProblemKind::ReadOnly],
        handler: Some(keys::rotate),
        ..PLAIN
    },
    Operation {
        id: "listDevices",
        path: "/v1/databases/{database}/devices",
        tag: "reports",
        title: "List devices",
        says: "Every site that has uploaded, in the order of their ids.",
        parameters: &[query("after", Holds::Hex(32), "The site that the page before ended with."), LIMIT],
        answers: &[answer(200, "A page of devices", json!(Page<Device>))],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::devices),
        ..PLAIN
    },
    Operation {
        id: "listSlots",
        path: "/v1/databases/{database}/slots",
        tag: "reports",
        title: "List replication slots",
        says: "Those of the output plugin in this database, with the WAL that Postgres keeps for them.",
        answers: &[answer(200, "The slots", json!(Page<Slot>))],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::slots),
        ..PLAIN
    },
    Operation {
        id: "listRejectedRows",
        path: "/v1/databases/{database}/rejected",
        tag: "reports",
        title: "List refused rows",
        says: "Rows of uploads that the database refused, until their site has confirmed that it knows.",
        parameters: &[
            query(
                "after",
                Holds::Number(0, i64::MAX.unsigned_abs()),
                "The rejection that the page before ended with.",
            ),
            LIMIT,
        ],
        answers: &[answer(200, "A page of rows", json!(Page<RejectedRow>))],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::rejected),
        ..PLAIN
    },
    Operation {
        id: "listJobs",
        path: "/v1/databases/{database}/jobs",
        tag: "reports",
        title: "List jobs",
        says: "What the hub does beside requests, in the order of their numbers. One that failed too often, or can never be \
               done, is dead until somebody revives or forgets it.",
        parameters: &[
            query(
                "after",
                Holds::Number(0, i64::MAX.unsigned_abs()),
                "The job that the page before ended with.",
            ),
            LIMIT,
        ],
        answers: &[answer(200, "A page of jobs", json!(Page<Job>))],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::jobs),
        ..PLAIN
    },
    Operation {
        id: "reviveJob",
        method: "POST",
        path: "/v1/databases/{database}/jobs/{job}/revive",
        tag: "reports",
        title: "Try a dead job again",
        says: "It waits for its turn as if it had never failed.",
        answers: &[answer(204, "It waits again", Content::Nothing)],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::revive_job),
        ..PLAIN
    },
    Operation {
        id: "forgetJob",
        method: "DELETE",
        path: "/v1/databases/{database}/jobs/{job}",
        tag: "reports",
        title: "Forget a dead job",
        says: "It will never be done.",
        answers: &[answer(204, "It is gone", Content::Nothing)],
        problems: &[ProblemKind::UnknownName],
        handler: Some(reports::forget_job),
        ..PLAIN
    },
    Operation {
        id: "listSegments",
        path: "/v1/databases/{database}/segments",
        tag: "reports",
        title: "List segments",
        says: "The segments of the newest epoch, in the order of the log.",
        parameters: &[query("after", Holds::Any(200), "The segment that the page before ended with."), LIMIT],
        answers: &[answer(200, "A page of segments", json!(Page<SegmentAnswer>))],
        handler: Some(reports::segments),
        ..PLAIN
    },
    Operation {
        id: "listSnapshots",
        path: "/v1/databases/{database}/snapshots",
        tag: "reports",
        title: "List snapshots",
        says: "The snapshots of the newest epoch, the newest first.",
        answers: &[answer(200, "The snapshots", json!(Page<SnapshotAnswer>))],
        handler: Some(reports::snapshots),
        ..PLAIN
    },
    Operation {
        id: "health",
        path: "/healthz",
        title: "Whether the process answers",
        says: "It does, if this is answered.",
        access: Access::Anybody,
        answers: &[answer(200, "It does", OBJECT)],
        ..PLAIN
    },
    Operation {
        id: "ready",
        path: "/readyz",
        title: "Whether every database can be served",
        says: "For load balancers: what is not ready, and why.",
        access: Access::Monitoring,
        answers: &[answer(200, "All can", OBJECT), answer(503, "Not all can", OBJECT)],
        ..PLAIN
    },
    Operation {
        id: "metrics",
        path: "/metrics",
        title: "Every metric",
        says: "In the text format of Prometheus.",
        access: Access::Monitoring,
        answers: &[answer(200, "The metrics", Content::Text)],
        ..PLAIN
    },
    Operation {
        id: "openapi",
        path: "/openapi.json",
        title: "This document",
        says: "The description of every request.",
        access: Access::Anybody,
        answers: &[answer(200, "The document", OBJECT)],
        ..PLAIN
    },
];
