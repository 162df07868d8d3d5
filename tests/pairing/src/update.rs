//! `update` and the supervisor, as far as pairing sees them: the change of the configuration, by the node's own rules, and mesh
//! that starts again a second later.

use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use os_config::edit;
use os_durable::Form;
use services_api::bus;
use services_api::pairing::Adoption;
use tempfile::TempDir;
use tokio::net::UnixListener;
use zbus::fdo;

use crate::node::{end, spawn};

pub const RESTART_DELAY: Duration = Duration::from_secs(1);

/// What was asked of it, and what it is to do.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    adoptions: Vec<Adoption>,
    file: String,
    broken: Option<String>,
}

impl Said {
    pub fn adoptions(&self) -> Vec<Adoption> {
        self.0.lock().unwrap().adoptions.clone()
    }

    /// `macula-pair.txt`.
    pub fn file(&self) -> String {
        self.0.lock().unwrap().file.clone()
    }

    /// The next write fails like this.
    pub fn breaks(&self, why: &str) {
        self.0.lock().unwrap().broken = Some(why.into());
    }
}

pub fn play(dir: Arc<TempDir>, mesh: Arc<Mutex<Child>>, said: Said) {
    let listener = UnixListener::bind(dir.path().join("update.sock")).unwrap();
    tokio::spawn(async move {
        bus::serve(listener, &[], |builder, _| {
            let server = Server { dir: dir.clone(), mesh: mesh.clone(), said: said.clone() };
            builder.serve_at("/io/macula/Adoption", server).serve_at("/io/macula/Audit", Audit)
        })
        .await
    });
}

struct Server {
    dir: Arc<TempDir>,
    mesh: Arc<Mutex<Child>>,
    said: Said,
}

#[zbus::interface(name = "io.macula.Adoption1")]
impl Server {
    async fn adopt(&self, adoption: String) -> fdo::Result<()> {
        if let Some(why) = self.said.0.lock().unwrap().broken.take() {
            return Err(fdo::Error::Failed(why));
        }
        let adoption: Adoption = serde_json::from_str(&adoption).map_err(bus::failed)?;
        let path = self.dir.path().join("config.toml");
        let before = os_config::text(&path).map_err(bus::failed)?.unwrap_or_default();
        let changes: Vec<_> =
            adoption.changes.iter().map(|c| (c.key.as_str(), c.value.as_deref().unwrap())).collect();
        let (text, _) = edit::set_all(&before, &changes).map_err(bus::failed)?;
        Form::Text.mirror(&path, text.as_bytes()).map_err(bus::failed)?;
        self.said.0.lock().unwrap().adoptions.push(adoption);
        let (dir, mesh) = (self.dir.clone(), self.mesh.clone());
        tokio::spawn(async move {
            tokio::time::sleep(RESTART_DELAY).await;
            let mut mesh = mesh.lock().unwrap();
            end(&mut mesh);
            *mesh = spawn(dir.path(), "mesh");
        });
        Ok(())
    }

    fn pair_file(&self, text: String) {
        self.said.0.lock().unwrap().file = text;
    }
}

struct Audit;

#[zbus::interface(name = "io.macula.Audit1")]
impl Audit {
    fn note_access(&self, _verdict: String, _text: String) {}
}
