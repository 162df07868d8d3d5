//! `io.macula.App1`.

use std::sync::Arc;

use services_api::bus;
use zbus::{OwnedFd, fdo};

use super::App;
use super::content::Contents;
use crate::links::Links;

pub struct AppServer {
    pub app: Arc<App>,
    pub links: Arc<Links>,
    contents: Contents,
}

impl AppServer {
    pub fn new(app: Arc<App>, links: Arc<Links>) -> Self {
        Self { app, links, contents: Contents::default() }
    }
}

#[zbus::interface(name = "io.macula.App1")]
impl AppServer {
    async fn introduce(&self, chain: Vec<u8>) -> fdo::Result<()> {
        self.app.known().await.map_err(bus::failed)?;
        self.app.introduce(chain).map_err(|e| fdo::Error::InvalidArgs(format!("{e:#}")))
    }

    async fn who_am_i(&self) -> fdo::Result<(Vec<u8>, Vec<u8>, String)> {
        let known = self.app.known().await.map_err(bus::failed)?;
        Ok((self.links.me().to_vec(), known.id.to_vec(), known.name.clone()))
    }

    async fn get_content(&self, mcid: Vec<u8>) -> fdo::Result<(u64, OwnedFd)> {
        let mcid = bus::mcid(&mcid)?;
        self.app.may_get(&self.links, &mcid).await?;
        self.contents.get(&mcid).await.map_err(bus::failed)
    }

    async fn put_content(&self, name: String, size: u64) -> fdo::Result<OwnedFd> {
        self.app.may_put(&self.links).await?;
        self.contents.put(&name, size).await.map_err(bus::failed)
    }
}
