//! What the hub does beside requests: by one node, again after the one that did it died.

use tests::process::Signal;
use tests::stage::{Setting, Stage};
use tests::wait;

/// Whether the hub has done a job of a kind; if not, what the queue holds and the hub counts.
fn done(stage: &Stage, kind: &str) -> Result<(), String> {
    let series = format!("kind=\"{kind}\",outcome=\"done\"}}");
    let text = stage.hub.get("/metrics").body;
    let mut counted = text.lines().filter(|line| line.starts_with("cloudsync_jobs"));
    if counted.clone().any(|line| line.starts_with("cloudsync_jobs_ended_total") && line.contains(&series)) {
        return Ok(());
    }
    let jobs = "select kind, state, attempts, worker, run_at - now(), last_error from cloudsync.job_states";
    let counted = counted.by_ref().collect::<Vec<_>>().join("\n");
    Err(format!("\n{}\n{counted}", stage.postgres.rows(jobs).join("\n")))
}

#[test]
fn recurring_jobs_are_made_and_done_when_they_are_due() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: insert into todo values ('t', 'title', null, 0)", "a: sync"]);
    let made = "select count(*) from cloudsync.job_states where kind in ('catch_up', 'compaction', 'expiry', 'inbox', 'snapshot',
        'tombstones') and every is not null";
    wait::until("the jobs are there", || (stage.postgres.value(made) == "6").then_some(()));
    stage.postgres.run("update cloudsync.jobs set run_at = now()");
    for kind in ["catch_up", "compaction", "expiry", "inbox", "snapshot", "tombstones"] {
        wait::until_ok(&format!("{kind} is done"), || done(&stage, kind));
    }
    let wrong = "select kind, last_error from cloudsync.job_states where last_error is not null";
    assert_eq!(stage.postgres.rows(wrong), Vec::<String>::new());
}

#[test]
fn a_job_of_a_node_that_died_is_done_by_the_next() {
    let mut stage = Stage::new(Setting::PLAIN);
    let made = "select count(*) from cloudsync.job_states where kind = 'snapshot'";
    wait::until("the job is there", || (stage.postgres.value(made) == "1").then_some(()));
    stage.hub.stop(Signal::Kill);
    // As a node leaves it that dies while it works.
    stage.postgres.run(
        "update cloudsync.jobs set run_at = now();
         select * from cloudsync.claim_job(array['snapshot'], 'dead node', '2 seconds')",
    );
    stage.hub.start_again();
    wait::until_ok("the snapshot is made", || done(&stage, "snapshot"));
    let state =
        "select state, attempts, worker = 'dead node' from cloudsync.job_states where kind = 'snapshot'";
    wait::until("its end is noted", || (stage.postgres.rows(state) == ["waiting|0|f"]).then_some(()));
}
