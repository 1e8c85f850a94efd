//! What the hub does beside requests: by one node, again after the one that did it died.

use tests::hub::Hub;
use tests::process::Signal;
use tests::stage::{Setting, Stage};
use tests::wait;

fn done(hub: &Hub, kind: &str) -> bool {
    let line =
        format!("cloudsync_jobs_ended_total{{database=\"{}\",kind=\"{kind}\",outcome=\"done\"}}", "demo");
    hub.get("/metrics").body.lines().any(|found| found.starts_with(&line))
}

#[test]
fn recurring_jobs_are_made_and_done_when_they_are_due() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: insert into todo values ('t', 'title', null, 0)", "a: sync"]);
    let kinds = "select kind from cloudsync.job_states where every is not null order by kind";
    wait::until("the jobs are there", || {
        let found = stage.postgres.rows(kinds);
        ["compaction", "expiry", "snapshot"]
            .iter()
            .all(|kind| found.iter().any(|row| row == kind))
            .then_some(())
    });
    stage.postgres.run("update cloudsync.jobs set run_at = now()");
    for kind in ["compaction", "expiry", "snapshot"] {
        wait::until_ok(&format!("{kind} is done"), || {
            let jobs =
                "select kind, state, attempts, worker, run_at - now(), last_error from cloudsync.job_states";
            if done(&stage.hub, kind) { Ok(()) } else { Err(stage.postgres.rows(jobs).join("; ")) }
        });
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
    wait::until("the snapshot is made", || done(&stage.hub, "snapshot").then_some(()));
    let state =
        "select state, attempts, worker = 'dead node' from cloudsync.job_states where kind = 'snapshot'";
    wait::until("its end is noted", || (stage.postgres.rows(state) == ["waiting|0|f"]).then_some(()));
}
