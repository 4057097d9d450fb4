use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use runtime::{
    cache::{Cache, Key, Kind},
    options::CacheOptions,
};

use crate::stage::soon;

#[tokio::test]
async fn redis_is_shared_and_its_loss_changes_nothing_but_speed() {
    let redis = Redis::start().await;
    let (one, two) = (redis.cache(), redis.cache());
    assert_eq!(value(&one, "a", "computed").await, "computed");
    assert_eq!(value(&two, "a", "not computed again").await, "computed");

    // Whatever else lies under a key of ours is a miss.
    let names: Vec<String> = redis
        .command("KEYS", &["diptych:v1:text-embedding:*"])
        .await;
    assert_eq!(names.len(), 1);
    redis.command::<()>("SET", &[&names[0], "half a val"]).await;
    assert_eq!(
        value(&redis.cache(), "a", "computed anew").await,
        "computed anew"
    );
    let ttl = redis.command::<i64>("PTTL", &[&names[0]]).await;
    assert!(ttl > 0 && ttl <= 60_000, "{ttl}");

    assert_eq!(one.ping().await, Some(Ok(())));

    redis.signal("KILL");
    assert!(matches!(soon(one.ping()).await, Some(Err(_))));
    let began = Instant::now();
    for index in 0..50 {
        let text = format!("after the loss {index}");
        assert_eq!(value(&one, &text, "computed").await, "computed");
        assert_eq!(value(&one, &text, "not computed again").await, "computed");
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_few_time_outs_and_then_nothing() {
    let redis = Redis::start().await;
    let cache = redis.cache();
    assert_eq!(value(&cache, "a", "computed").await, "computed");
    redis.signal("STOP");
    let began = Instant::now();
    for index in 0..50 {
        assert_eq!(
            value(&cache, &index.to_string(), "computed").await,
            "computed"
        );
    }
    // Three time-outs of 200 ms open the breaker; fifty reads and writes would take 20 s.
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    redis.signal("CONT");
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_no_error_and_a_wrong_url_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(&options(&folder.path().join("nobody"))).expect("a cache");
    assert_eq!(value(&cache, "a", "computed").await, "computed");
    let wrong = CacheOptions {
        redis_url: Some("localhost".to_owned()),
        ..CacheOptions::default()
    };
    let error = Cache::open(&wrong).expect_err("no URL");
    assert!(error.to_string().contains("REDIS_URL"), "{error}");
}

async fn value(cache: &Cache, text: &str, otherwise: &'static str) -> Bytes {
    let key = Key::new(Kind::TextEmbedding)
        .part("model", "m")
        .part("text", text);
    let compute = async { Ok::<_, std::io::Error>(Bytes::from_static(otherwise.as_bytes())) };
    soon(cache.get_or_compute(&key, |_| true, compute))
        .await
        .expect("computed")
}

fn options(socket: &Path) -> CacheOptions {
    CacheOptions {
        redis_url: Some(format!("redis+unix://{}", socket.display())),
        cache_ttl_seconds: 60,
        ..CacheOptions::default()
    }
}

/// A real server, on a socket of its own.
struct Redis {
    process: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(folder.path().join("redis"))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        let redis = Self { process, folder };
        soon(async {
            while redis.connect().await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        redis
    }

    fn cache(&self) -> Cache {
        Cache::open(&options(&self.folder.path().join("redis"))).expect("a cache")
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let url = format!(
            "redis+unix://{}",
            self.folder.path().join("redis").display()
        );
        redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await
    }

    async fn command<T: redis::FromRedisValue>(&self, name: &str, arguments: &[&str]) -> T {
        let mut connection = self.connect().await.expect("connected");
        redis::cmd(name)
            .arg(arguments)
            .query_async(&mut connection)
            .await
            .expect("an answer")
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.process.id().to_string())
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _reaped = self.process.wait();
    }
}
