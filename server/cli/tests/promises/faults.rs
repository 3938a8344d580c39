//! Each process is killed without a warning while jobs run: every job ends, once.

use bulkhead_client::v1;

use super::support::{Service, Tenant, alive, beside_others, eventually, kill, last, shell, skipped};

/// Jobs that run when something is killed.
const JOBS: usize = 4;

fn once(mut spec: v1::JobSpec) -> v1::JobSpec {
    spec.retry_policy = Some(v1::RetryPolicy { no_retry_on_lost: true, ..Default::default() });
    spec
}

/// Jobs that say `begin`, run for so many seconds, and say `end`; all of them run when this returns.
fn running(tenant: &Tenant<'_>, seconds: u32) -> Vec<String> {
    let script = format!("echo begin; sleep {seconds}; echo end");
    let jobs: Vec<String> = (0..JOBS).map(|_| tenant.submit(shell(&script))).collect();
    for job in &jobs {
        tenant.wait_for_output(job);
    }
    jobs
}

/// The job ended as it would have without the fault, in so many attempts.
fn assert_unharmed(tenant: &Tenant<'_>, name: &str, attempts: usize) {
    let job = tenant.wait(name);
    assert_eq!(job.state(), v1::State::Succeeded, "{}", job.reason);
    assert_eq!(job.attempts.len(), attempts, "{job:?}");
    assert_eq!(tenant.output(name)[0], b"begin\nend\n");
    assert_eq!(last(&job).stdout.as_ref().map(|totals| totals.total_bytes), Some(10));
}

#[test]
fn attempts_go_on_through_a_kill_of_control() {
    if skipped("attempts_go_on_through_a_kill_of_control") {
        return;
    }
    let _host = beside_others();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let jobs = running(&tenant, 3);
    let (control, worker) = (service.control_pid(), service.worker_pid());
    kill(control);
    // What is asked for while it is away waits for it.
    let during = tenant.submit(shell("echo begin; echo end"));
    for job in jobs.iter().chain([&during]) {
        assert_unharmed(&tenant, job, 1);
    }
    assert_ne!(service.control_pid(), control, "it is started again");
    assert_eq!(service.worker_pid(), worker, "the worker is left alone");
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn jobs_of_a_killed_worker_are_tried_again_or_lost() {
    if skipped("jobs_of_a_killed_worker_are_tried_again_or_lost") {
        return;
    }
    let _host = beside_others();
    let service = Service::start_without_pool();
    let tenant = service.tenant("acme");
    let jobs = running(&tenant, 4);
    let for_once = tenant.submit(once(shell("echo begin; sleep 4; echo end")));
    tenant.wait_for_output(&for_once);
    let sentries = service.sentries();
    assert_eq!(sentries.len(), JOBS + 1, "one sandbox for each job");
    kill(service.worker_pid());
    eventually("tenants' processes die with the worker", || !sentries.iter().any(|pid| alive(*pid)));
    for job in &jobs {
        assert_unharmed(&tenant, job, 2);
        let first = tenant.get(job).attempts[0].clone();
        assert_eq!(first.state(), v1::State::Lost);
        assert!(!first.reason.is_empty());
    }
    let lost = tenant.wait(&for_once);
    assert_eq!((lost.state(), lost.attempts.len()), (v1::State::Lost, 1), "{}", lost.reason);
    assert!(!lost.reason.is_empty());
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn a_killed_sentry_takes_down_its_own_job_only() {
    if skipped("a_killed_sentry_takes_down_its_own_job_only") {
        return;
    }
    let _host = beside_others();
    let service = Service::start_without_pool();
    let tenant = service.tenant("acme");
    let jobs = running(&tenant, 3);
    let worker = service.worker_pid();
    let victim = *service.sentries().first().expect("sandboxes run");
    kill(victim);
    let mut attempts: Vec<usize> = jobs.iter().map(|job| tenant.wait(job).attempts.len()).collect();
    for (job, attempts) in jobs.iter().zip(&attempts) {
        assert_unharmed(&tenant, job, *attempts);
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 1, 2], "one job was tried again");
    assert_eq!(service.worker_pid(), worker, "the worker goes on");
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn a_killed_postgresql_costs_no_attempt() {
    if skipped("a_killed_postgresql_costs_no_attempt") {
        return;
    }
    let _host = beside_others();
    let service = Service::start();
    let tenant = service.tenant("acme");
    let jobs = running(&tenant, 3);
    let postgres = service.postgres_pid();
    kill(postgres);
    for job in &jobs {
        assert_unharmed(&tenant, job, 1);
    }
    assert_ne!(service.postgres_pid(), postgres, "it is started again");
    assert_unharmed(&tenant, &tenant.submit(shell("echo begin; echo end")), 1);
    service.assert_each_job_ended_once();
    service.stop();
}

#[test]
fn a_killed_service_is_taken_up_by_the_next_one() {
    if skipped("a_killed_service_is_taken_up_by_the_next_one") {
        return;
    }
    let _host = beside_others();
    let mut service = Service::start();
    let (jobs, for_once, waiting) = {
        let tenant = service.tenant("acme");
        let jobs = running(&tenant, 4);
        let for_once = tenant.submit(once(shell("echo begin; sleep 4; echo end")));
        tenant.wait_for_output(&for_once);
        let waiting = tenant.submit(shell("echo begin; echo end"));
        (jobs, for_once, waiting)
    };
    let postgres = service.postgres_pid();
    service.kill();
    assert!(alive(postgres), "PostgreSQL outlives its service, for the next one");
    let left = service.leftovers();
    assert!(left.iter().any(|line| line.contains("PostgreSQL")), "the orphan is named: {left:?}");
    service.start_again();
    assert_eq!(service.postgres_pid(), postgres, "it is adopted, not started again");
    let tenant = service.existing_tenant("acme");
    for job in &jobs {
        assert_unharmed(&tenant, job, 2);
    }
    assert_eq!(tenant.wait(&for_once).state(), v1::State::Lost);
    assert_eq!(tenant.wait(&waiting).state(), v1::State::Succeeded);
    service.assert_each_job_ended_once();
    drop(tenant);
    service.stop();
}
