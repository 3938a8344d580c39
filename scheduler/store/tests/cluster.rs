//! The private cluster's life: made, adopted, killed, stale, moved, too new.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bulkhead_store::cluster::{ClusterError, PrivateCluster};
use bulkhead_store::testing::{Keeper, connect, example_spec, new_job, rival_leader, test_tenant};
use bulkhead_store::{Claim, migrate};
use bulkhead_types::{JobState, NodeId};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn pid_of(cluster: &PrivateCluster) -> Pid {
    Pid::from_raw(i32::try_from(cluster.pid()).expect("a pid")).expect("a pid")
}

async fn start(directory: &Path) -> PrivateCluster {
    PrivateCluster::start(directory).await.expect("PostgreSQL starts")
}

#[tokio::test]
async fn a_cluster_is_made_adopted_and_stopped() {
    let keeper = Keeper::new("test-cluster-adopt");
    let first = start(keeper.path()).await;
    assert!(!first.adopted());
    let pid = first.pid();
    for path in ["postgres", "postgres/data", "postgres/run"] {
        let mode = std::fs::metadata(keeper.path().join(path)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    migrate(&first.urls()).await.expect("migrates");
    let store = connect(&first.urls()).await;
    let acme = test_tenant(&store, "acme").await;
    // As after a kill of the parent: nobody stops it.
    drop(first);
    let second = start(keeper.path()).await;
    assert!(second.adopted());
    assert_eq!(second.pid(), pid);
    store.fleet().tenant_get(&acme).await.expect("the same data");
    store.close().await;
    second.stop().await.expect("stops");
    assert!(
        test_kill_process(Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid")).is_err()
            || std::fs::read_link(format!("/proc/{pid}/cwd")).is_err()
    );
    let third = start(keeper.path()).await;
    assert!(!third.adopted() && third.pid() != pid);
    let store = connect(&third.urls()).await;
    store.fleet().tenant_get(&acme).await.expect("the data outlives the processes");
    store.close().await;
    third.stop().await.expect("stops");
}

#[tokio::test]
async fn a_kill_is_recovered_from_and_connections_come_back() {
    let keeper = Keeper::new("test-cluster-kill");
    let mut cluster = start(keeper.path()).await;
    migrate(&cluster.urls()).await.expect("migrates");
    let store = connect(&cluster.urls()).await;
    let acme = test_tenant(&store, "acme").await;
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    for round in 0..3u64 {
        // Claims run while the server is killed.
        let claimer = {
            let store = store.clone();
            tokio::spawn(async move {
                let mut leader = rival_leader(&store).await;
                let node = NodeId::new("n1").expect("valid");
                let mut claimed = Vec::new();
                loop {
                    let Ok(heads) = leader.queue_heads(8).await else { return claimed };
                    let claims: Vec<Claim> = (heads.iter())
                        .map(|head| Claim { job: head.job, node: node.clone(), memory_bytes: 1 })
                        .collect();
                    let lease = Duration::from_secs(60);
                    let Ok(got) = leader.claim(&claims, lease, lease).await else { return claimed };
                    claimed.extend(got.into_iter().map(|claimed| claimed.key));
                }
            })
        };
        let creator = {
            let (store, acme) = (store.clone(), acme.clone());
            tokio::spawn(async move {
                let mut created = Vec::new();
                while let Ok(job) = store.job_create(&acme, new_job(example_spec()), None).await {
                    created.push(job.id);
                }
                created
            })
        };
        tokio::time::sleep(Duration::from_millis(100 + 70 * round)).await;
        kill_process(pid_of(&cluster), Signal::KILL).expect("kills");
        cluster.ended().await;
        let (claimed, created) = (claimer.await.expect("no panic"), creator.await.expect("no panic"));
        assert!(!created.is_empty());
        cluster = start(keeper.path()).await;
        assert!(!cluster.adopted());
        // What was acknowledged is there: every created job, and every claim with its token.
        for id in created {
            let job = store.job_get(&acme, id).await.expect("an acknowledged job");
            let attempts = job.attempts.len();
            assert_eq!(attempts, usize::from(job.state == JobState::Leased), "{job:?}");
        }
        for key in claimed {
            let job = store.job_get(&acme, key.job).await.expect("a claimed job");
            assert_eq!((job.state, job.attempts[0].token), (JobState::Leased, key.token));
        }
    }
    // The listener has come back as well.
    let mut watch = store.fleet().notifier().watch_job(job);
    store.job_cancel(&acme, job, None).await.expect("cancels");
    watch.changed().await;
    store.close().await;
    cluster.stop().await.expect("stops");
}

#[tokio::test]
async fn stale_files_don_t_stop_a_start() {
    let keeper = Keeper::new("test-cluster-stale");
    // An initdb that was interrupted.
    let cluster = start(keeper.path()).await;
    cluster.stop().await.expect("stops");
    let root = keeper.path().join("postgres");
    std::fs::create_dir(root.join("initdb")).expect("a leftover");
    std::fs::write(root.join("initdb/junk"), "junk").expect("a leftover");
    // A pid file that names a process that is alive and something else: this one.
    let pid_file = root.join("data/postmaster.pid");
    let stale = format!("{}\n{}\n1\n5432\n\n\n\n", std::process::id(), root.join("data").display());
    std::fs::write(&pid_file, stale).expect("a stale pid file");
    let cluster = start(keeper.path()).await;
    assert!(!cluster.adopted() && cluster.pid() != std::process::id());
    cluster.stop().await.expect("stops");
    std::fs::write(&pid_file, "garbage").expect("a damaged pid file");
    let cluster = start(keeper.path()).await;
    cluster.stop().await.expect("stops");
}

#[tokio::test]
async fn another_version_is_named() {
    let keeper = Keeper::new("test-cluster-version");
    let data = keeper.path().join("postgres/data");
    std::fs::create_dir_all(&data).expect("directory");
    std::fs::write(data.join("PG_VERSION"), "9\n").expect("file");
    let error = PrivateCluster::start(keeper.path()).await.expect_err("another version");
    assert!(matches!(&error, ClusterError::Version { found, .. } if found == "9"), "{error}");
    assert!(error.to_string().contains("install postgresql-9"), "{error}");
}

#[tokio::test]
async fn a_long_path_gets_its_socket_elsewhere() {
    let keeper = Keeper::new("test-cluster-long");
    let deep = keeper.path().join("x".repeat(100));
    let cluster = start(&deep).await;
    let socket = cluster.socket_dir().to_owned();
    assert!(socket.as_os_str().len() < 80 && !socket.starts_with(keeper.path()), "{}", socket.display());
    migrate(&cluster.urls()).await.expect("reachable");
    // Found again by its name.
    drop(cluster);
    let cluster = start(&deep).await;
    assert!(cluster.adopted());
    cluster.stop().await.expect("stops");
    std::fs::remove_dir(&socket).expect("nothing is left in it");
}
