//! A box without keys against a real server: the laptop signs, and everything that the box stores and reads goes by that.

use std::{fs, sync::Arc};

use spotter::{agent_client::BackupInfo, granting::Granting, spec::RunSpec};
use spotter_bucket::{Bucket, Layout, S3Bucket, S3Options, Stock};

use crate::{
    fleet::{BUCKET, Server},
    sidecar::{Box, restore, save, steps},
};

/// The laptop of a run of this name, with its keys.
fn laptop(server: &Server) -> Granting {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.yaml");
    let text = format!(
        "name: run\nworkdir: .\nimage: any\nrun: train\nresources: {{accelerators: \"RTX 4090:1\", disk: 20GB}}\n\
         checkpoints: {{dir: checkpoints, to: \"s3://{BUCKET}/p\", every: 1h, keep: {{last: 2}}, credentials: presigned}}\n"
    );
    fs::write(&file, text).unwrap();
    let rules = RunSpec::load(&file).unwrap().checkpoints.unwrap();
    Granting::new(server.client(), "run", &rules).unwrap()
}

/// A box of this attempt that has what was signed for it, and no key.
async fn signed_for(server: &Server, laptop: &Granting, attempt: u32) -> Arc<S3Bucket> {
    let layout = Layout::new("p", "run").unwrap();
    let stock = Arc::new(Stock::new(&layout, spotter_agent::now_us));
    let nothing_yet = BackupInfo::default();
    for batch in laptop.round(attempt, &nothing_yet).await.unwrap() {
        stock.add(batch);
    }
    let bucket = S3Bucket::granted(server.target(), stock, S3Options::default()).unwrap();
    assert!(!bucket.has_keys());
    Arc::new(bucket)
}

pub(crate) async fn saved_and_restored_without_keys(server: &Server) {
    let (first, second) = (Box::new(), Box::new());
    let (laptop, owner) = (laptop(server), server.client());
    let backup = first.agent(signed_for(server, &laptop, 1).await);
    for step in [1, 2] {
        first.train(step);
        save(&backup).await;
    }
    drop(backup);

    let elsewhere = second.agent(signed_for(server, &laptop, 2).await);
    assert_eq!(restore(&elsewhere, None).await, 2);
    let newest = first.tree_of("step_2/");
    assert_eq!(second.tree(), newest, "bit by bit");
    second.train(3);
    save(&elsewhere).await;
    assert_eq!(laptop.adopt().await.unwrap(), 1, "it waited for somebody");
    let by_keys = Box::new();
    let with_keys = by_keys.agent(Arc::new(server.client()));
    assert_eq!(steps(&with_keys).await, [3, 2, 1]);
    assert_eq!(restore(&with_keys, None).await, 3);
    assert_eq!(by_keys.tree(), second.tree_of("step_3/"));
    laptop.abort_uploads(0..=2).await;
    assert_eq!(owner.list_uploads("p/").await.unwrap(), []);
}
