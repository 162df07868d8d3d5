//! Content in an app's name: what the content service hands out is passed on, so that no byte goes through mesh.

use anyhow::Result;
use os_content_id::Mcid;
use services_api::bus::Link;
use services_api::content::ContentProxy;
use zbus::OwnedFd;

pub struct Contents(Link);

impl Default for Contents {
    fn default() -> Self {
        Self(Link::new("content"))
    }
}

impl Contents {
    pub async fn get(&self, mcid: &Mcid) -> Result<(u64, OwnedFd)> {
        Ok(self.proxy().await?.open(&mcid.to_bytes()).await?)
    }

    pub async fn put(&self, name: &str, size: u64) -> Result<OwnedFd> {
        Ok(self.proxy().await?.store(name, size).await?)
    }

    async fn proxy(&self) -> Result<ContentProxy<'static>> {
        Ok(ContentProxy::new(&self.0.get().await?).await?)
    }
}
