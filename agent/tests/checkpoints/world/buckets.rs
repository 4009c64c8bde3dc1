//! Buckets in memory with something around each call: a death, a hook, a gauge.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use spotter_bucket::memory::MemoryBucket;
use spotter_bucket::{
    Bucket, BucketError, CompletedPart, ErrorKind, ListedObject, ListedPart, ListedUpload,
    ObjectInfo,
};
use tokio::sync::Notify;

/// What happens around a call.
#[async_trait]
trait Interference: Send + Sync {
    async fn before(&self, operation: &'static str);
    async fn after(&self, operation: &'static str);
    fn keyless(&self) -> bool {
        false
    }
    fn refuses_put(&self, _key: &str) -> bool {
        false
    }
    fn place(&self, key: &str) -> String {
        key.to_owned()
    }
}

/// Something around each call.
struct Around<'a, I: ?Sized>(&'a I);

impl<I: Interference + ?Sized> Around<'_, I> {
    async fn call<T>(&self, operation: &'static str, call: impl Future<Output = T>) -> T {
        self.0.before(operation).await;
        let answer = call.await;
        self.0.after(operation).await;
        answer
    }
}

macro_rules! interfering_bucket {
    ($name:ident) => {
        #[async_trait]
        impl Bucket for $name {
            async fn put(&self, key: &str, body: Bytes) -> Result<String, BucketError> {
                if self.refuses_put(key) {
                    return Err(BucketError {
                        operation: "PutObject",
                        key: key.to_owned(),
                        kind: ErrorKind::Denied,
                        status: 403,
                        code: Some("AccessDenied".to_owned()),
                        message: "these keys may not".to_owned(),
                    });
                }
                let key = &self.place(key);
                Around(self)
                    .call("PutObject", self.memory.put(key, body))
                    .await
            }
            async fn get(
                &self,
                key: &str,
                range: Option<Range<u64>>,
            ) -> Result<Bytes, BucketError> {
                Around(self)
                    .call("GetObject", self.memory.get(key, range))
                    .await
            }
            async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, BucketError> {
                Around(self).call("HeadObject", self.memory.head(key)).await
            }
            async fn delete(&self, key: &str) -> Result<(), BucketError> {
                Around(self)
                    .call("DeleteObject", self.memory.delete(key))
                    .await
            }
            async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, BucketError> {
                Around(self)
                    .call("ListObjectsV2", self.memory.list(prefix))
                    .await
            }
            async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
                Around(self)
                    .call("CreateMultipartUpload", self.memory.create_upload(key))
                    .await
            }
            async fn upload_part(
                &self,
                key: &str,
                id: &str,
                number: u32,
                body: Bytes,
            ) -> Result<String, BucketError> {
                Around(self)
                    .call("UploadPart", self.memory.upload_part(key, id, number, body))
                    .await
            }
            async fn list_parts(
                &self,
                key: &str,
                id: &str,
            ) -> Result<Vec<ListedPart>, BucketError> {
                Around(self)
                    .call("ListParts", self.memory.list_parts(key, id))
                    .await
            }
            async fn complete_upload(
                &self,
                key: &str,
                id: &str,
                parts: &[CompletedPart],
            ) -> Result<String, BucketError> {
                Around(self)
                    .call(
                        "CompleteMultipartUpload",
                        self.memory.complete_upload(key, id, parts),
                    )
                    .await
            }
            async fn abort_upload(&self, key: &str, id: &str) -> Result<(), BucketError> {
                Around(self)
                    .call("AbortMultipartUpload", self.memory.abort_upload(key, id))
                    .await
            }
            async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, BucketError> {
                Around(self)
                    .call("ListMultipartUploads", self.memory.list_uploads(prefix))
                    .await
            }
            fn stored_as(&self, key: &str) -> String {
                self.place(key)
            }
            fn has_keys(&self) -> bool {
                !self.keyless()
            }
            fn clock_offset_s(&self) -> f64 {
                self.memory.clock_offset_s()
            }
        }
    };
}

/// Dies at the n-th call, or at the n-th of one operation: before it did anything, or after it did its work. No call returns then.
pub struct CrashBucket {
    pub memory: Arc<MemoryBucket>,
    operation: Option<&'static str>,
    at: u64,
    after: bool,
    calls: AtomicU64,
    died: Notify,
}

impl CrashBucket {
    pub fn new(at: u64, after: bool) -> Arc<CrashBucket> {
        CrashBucket::make(None, at, after)
    }

    pub fn at_nth(operation: &'static str, at: u64) -> Arc<CrashBucket> {
        CrashBucket::make(Some(operation), at, false)
    }

    fn make(operation: Option<&'static str>, at: u64, after: bool) -> Arc<CrashBucket> {
        let memory = Arc::new(MemoryBucket::new());
        Arc::new(CrashBucket {
            memory,
            operation,
            at,
            after,
            calls: AtomicU64::new(0),
            died: Notify::new(),
        })
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits for the crash.
    pub async fn died(&self) {
        self.died.notified().await;
    }

    async fn die(&self) {
        self.died.notify_one();
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Interference for CrashBucket {
    async fn before(&self, operation: &'static str) {
        if self.operation.is_none_or(|only| only == operation) {
            self.calls.fetch_add(1, Ordering::SeqCst);
            if self.calls() >= self.at && !self.after {
                self.die().await;
            }
        }
    }

    async fn after(&self, _: &'static str) {
        if self.calls() >= self.at && self.after {
            self.die().await;
        }
    }
}

interfering_bucket!(CrashBucket);

type Hook = Box<dyn FnOnce() + Send>;

/// Does something of the test's own just before the n-th call of an operation.
pub struct HookBucket {
    memory: Arc<MemoryBucket>,
    hooks: Mutex<Vec<(&'static str, u64, Hook)>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl HookBucket {
    pub fn new(memory: Arc<MemoryBucket>) -> Arc<HookBucket> {
        Arc::new(HookBucket {
            memory,
            hooks: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    pub fn before(&self, operation: &'static str, nth: u64, hook: impl FnOnce() + Send + 'static) {
        self.hooks
            .lock()
            .unwrap()
            .push((operation, nth, Box::new(hook)));
    }
}

#[async_trait]
impl Interference for HookBucket {
    async fn before(&self, operation: &'static str) {
        let count = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(operation).or_default();
            *count += 1;
            *count
        };
        let due = {
            let mut hooks = self.hooks.lock().unwrap();
            hooks
                .iter()
                .position(|(on, nth, _)| *on == operation && *nth == count)
                .map(|at| hooks.remove(at))
        };
        if let Some((_, _, hook)) = due {
            hook();
        }
    }

    async fn after(&self, _: &'static str) {}
}

interfering_bucket!(HookBucket);

/// Gives an answer to every call but a chosen one.
pub struct StuckBucket {
    memory: Arc<MemoryBucket>,
    next: Mutex<Option<&'static str>>,
}

impl StuckBucket {
    pub fn new(memory: Arc<MemoryBucket>) -> Arc<StuckBucket> {
        Arc::new(StuckBucket {
            memory,
            next: Mutex::default(),
        })
    }

    /// The next call of this operation gets none.
    pub fn stick(&self, operation: &'static str) {
        *self.next.lock().unwrap() = Some(operation);
    }
}

#[async_trait]
impl Interference for StuckBucket {
    async fn before(&self, operation: &'static str) {
        let stuck = self.next.lock().unwrap().take_if(|next| *next == operation);
        if stuck.is_some() {
            std::future::pending::<()>().await;
        }
    }

    async fn after(&self, _: &'static str) {}
}

interfering_bucket!(StuckBucket);

/// Counts how many calls of an operation are under way.
pub struct GaugeBucket {
    memory: Arc<MemoryBucket>,
    operation: &'static str,
    now: AtomicU64,
    begun: Mutex<Vec<u64>>,
}

impl GaugeBucket {
    pub fn new(memory: Arc<MemoryBucket>, operation: &'static str) -> Arc<GaugeBucket> {
        Arc::new(GaugeBucket {
            memory,
            operation,
            now: AtomicU64::new(0),
            begun: Mutex::default(),
        })
    }

    /// Of each call, how many were under way when it began, itself included.
    pub fn begun(&self) -> Vec<u64> {
        self.begun.lock().unwrap().clone()
    }
}

#[async_trait]
impl Interference for GaugeBucket {
    async fn before(&self, operation: &'static str) {
        if operation == self.operation {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.begun.lock().unwrap().push(now);
        }
    }

    async fn after(&self, operation: &'static str) {
        if operation == self.operation {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

interfering_bucket!(GaugeBucket);

/// Reached by grants, which suffice for all that is asked.
pub struct KeylessBucket {
    memory: Arc<MemoryBucket>,
}

impl KeylessBucket {
    pub fn new(memory: Arc<MemoryBucket>) -> Arc<KeylessBucket> {
        Arc::new(KeylessBucket { memory })
    }
}

#[async_trait]
impl Interference for KeylessBucket {
    async fn before(&self, _: &'static str) {}

    async fn after(&self, _: &'static str) {}

    fn keyless(&self) -> bool {
        true
    }
}

interfering_bucket!(KeylessBucket);

/// Lets nothing be pinned while it is told so.
pub struct PinlessBucket {
    memory: Arc<MemoryBucket>,
    refuses: AtomicBool,
}

impl PinlessBucket {
    pub fn new(memory: Arc<MemoryBucket>) -> Arc<PinlessBucket> {
        Arc::new(PinlessBucket {
            memory,
            refuses: AtomicBool::new(true),
        })
    }

    /// From now on it lets everything be pinned.
    pub fn heal(&self) {
        self.refuses.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Interference for PinlessBucket {
    async fn before(&self, _: &'static str) {}

    async fn after(&self, _: &'static str) {}

    fn refuses_put(&self, key: &str) -> bool {
        key.contains("/pins/") && self.refuses.load(Ordering::SeqCst)
    }
}

interfering_bucket!(PinlessBucket);

/// Reached by grants: what is sent in one request goes to places that were given out, and of the first objects there nothing is found
/// though they were taken.
pub struct LotBucket {
    memory: Arc<MemoryBucket>,
    /// Objects that are still to be lost.
    losing: AtomicU64,
}

impl LotBucket {
    pub fn new(memory: Arc<MemoryBucket>, losing: u64) -> Arc<LotBucket> {
        Arc::new(LotBucket {
            memory,
            losing: AtomicU64::new(losing),
        })
    }
}

#[async_trait]
impl Interference for LotBucket {
    async fn before(&self, _: &'static str) {}

    async fn after(&self, operation: &'static str) {
        if operation != "PutObject" || self.losing.load(Ordering::SeqCst) == 0 {
            return;
        }
        for key in self.memory.keys() {
            if key.contains("/data/lot/") && self.memory.remove(&key) {
                self.losing.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn keyless(&self) -> bool {
        true
    }

    fn place(&self, key: &str) -> String {
        match key.split_once("/data/") {
            Some((root, name)) if !name.starts_with("lot/") => {
                format!("{root}/data/lot/{}", name.replace('/', "-"))
            }
            _ => key.to_owned(),
        }
    }
}

interfering_bucket!(LotBucket);
