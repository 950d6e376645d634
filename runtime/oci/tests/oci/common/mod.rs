//! A registry to talk to: Debian's docker-registry, on a free port, in a folder of its own; and servers with a script.

pub mod scripted;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edgewarden_protocol::config::Runtime;

pub struct TestRegistry {
    child: Child,
    pub host: String,
    folder: tempfile::TempDir,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl TestRegistry {
    pub async fn start() -> Self {
        Self::with("", "").await
    }

    /// With more sections of its configuration, and more in `http`.
    pub async fn with(sections: &str, http: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"{http}}}\n{sections}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, host, folder };
        while tokio::net::TcpStream::connect(&registry.host).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    /// The registry's file of a blob, for tests that damage it.
    pub fn blob(&self, hex: &str) -> std::path::PathBuf {
        let data = self.folder.path().join("data/docker/registry/v2/blobs/sha256");
        data.join(&hex[..2]).join(hex).join("data")
    }

    pub fn config(&self) -> Runtime {
        Runtime { plain_http_registries: vec![self.host.clone()], ..Runtime::default() }
    }
}
