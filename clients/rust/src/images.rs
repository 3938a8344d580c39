use bulkhead_proto::v1;
use tokio::io::AsyncRead;

use crate::content::{parts, source_error};
use crate::retry::{request_id, retry};
use crate::{Client, ClientError};

/// Images. Each call fails with what the service says ([`ClientError`]).
impl Client {
    /// Imports an archive (an OCI layout, a `docker save` tar or a tar of a root file system; plain, gzip or zstd) of
    /// `parent` (`tenants/{tenant}`, or `operator`) under a name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT says what is wrong with the archive; what reading `archive` says.
    pub async fn import_image(
        &self,
        parent: &str,
        image_id: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<v1::Image, ClientError> {
        let header = v1::import_image_request::Header {
            parent: parent.to_owned(),
            image_id: image_id.to_owned(),
            request_id: request_id(),
        };
        let failed = std::sync::Arc::default();
        let requests = parts(
            v1::ImportImageRequest { part: Some(v1::import_image_request::Part::Header(header)) },
            archive,
            |data| v1::ImportImageRequest { part: Some(v1::import_image_request::Part::Data(data)) },
            std::sync::Arc::clone(&failed),
        );
        let answer = self.images().import_image(requests).await;
        source_error(&failed)?;
        Ok(answer?.into_inner())
    }

    /// Returns an image.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn get_image(&self, name: &str) -> Result<v1::Image, ClientError> {
        let request = v1::GetImageRequest { name: name.to_owned() };
        retry(|| {
            let (mut images, request) = (self.images(), request.clone());
            async move { images.get_image(request).await }
        })
        .await
    }

    /// Returns a page of the tenant's own images and the shared ones.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad page token.
    pub async fn list_images(
        &self,
        request: &v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, ClientError> {
        retry(|| {
            let (mut images, request) = (self.images(), request.clone());
            async move { images.list_images(request).await }
        })
        .await
    }

    /// Deletes an image; running jobs keep it to their end.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn delete_image(&self, name: &str) -> Result<(), ClientError> {
        let request = v1::DeleteImageRequest { name: name.to_owned(), request_id: request_id() };
        let answer = retry(|| {
            let (mut images, request) = (self.images(), request.clone());
            async move { images.delete_image(request).await }
        });
        answer.await.map(|v1::DeleteImageResponse {}| ())
    }
}
