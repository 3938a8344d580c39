use bulkhead_image::{Archive, ConvertError, ConvertLimits, Converter, Owner, StoredImage};
use bulkhead_proto::v1::image_service_server::ImageService;
use bulkhead_proto::v1::import_image_request::{Header, Part};
use bulkhead_proto::v1::{
    DeleteImageRequest, DeleteImageResponse, GetImageRequest, Image, ImportImageRequest, ListImagesRequest,
    ListImagesResponse,
};
use bulkhead_store::{ImageRecord, NewImage};
use bulkhead_types::{ImageName, ImageRef, TenantId};
use tonic::{Request, Response, Status, Streaming};

use super::create::config_of;
use super::{Shared, caller};
use crate::auth::{Caller, Scope};
use crate::convert::{self, ImageOwner, Page, int64};
use crate::error::{ApiError, bad_name};

/// Largest archive, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 16 << 30;

/// Serves images.
pub(crate) struct Images(pub(crate) Shared);

#[tonic::async_trait]
impl ImageService for Images {
    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<Image>, Status> {
        let caller = caller(&request)?.clone();
        let mut parts = request.into_inner();
        let header = match parts.message().await?.and_then(|first| first.part) {
            Some(Part::Header(header)) => header,
            _ => return Err(ApiError::field("header", "the first message must be the header").into()),
        };
        let target = Target::check(&caller, &header)?;
        if let ImageOwner::Tenant(tenant) = &target.owner {
            // Before the archive is received; how large the image is shows only at its end.
            let storage = self.0.store.storage(tenant).await.map_err(ApiError::from)?;
            if storage.room() == 0 {
                let (tenant, limit) = (tenant.to_string(), storage.max_bytes);
                return Err(ApiError::StorageQuota { tenant, limit }.into());
            }
        }
        let archive = receive(&self.0.scratch, &mut parts).await?;
        Ok(Response::new(self.import(target, &header.request_id, archive).await?))
    }

    async fn get_image(&self, request: Request<GetImageRequest>) -> Result<Response<Image>, Status> {
        let caller = caller(&request)?.clone();
        Ok(Response::new(self.get(&caller, &request.get_ref().name).await?))
    }

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let caller = caller(&request)?.clone();
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    async fn delete_image(
        &self,
        request: Request<DeleteImageRequest>,
    ) -> Result<Response<DeleteImageResponse>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        self.delete(&caller, &request).await?;
        Ok(Response::new(DeleteImageResponse {}))
    }
}

/// Where an import goes.
struct Target {
    owner: ImageOwner,
    name: ImageName,
}

impl Target {
    fn check(caller: &Caller, header: &Header) -> Result<Self, ApiError> {
        let owner = ImageOwner::from_parent(&header.parent)?;
        match &owner {
            ImageOwner::Tenant(tenant) => caller.works_for(tenant, "tenant", &header.parent)?,
            ImageOwner::Operator => caller.require(Scope::Operator)?,
        }
        convert::request_id(&header.request_id)?;
        let name = ImageName::new(header.image_id.clone()).map_err(bad_name("header.image_id"))?;
        Ok(Self { owner, name })
    }
}

/// The archive in an unnamed file: it is converted when it is complete, so that a slow client holds no converter.
async fn receive(
    scratch: &std::path::Path,
    parts: &mut Streaming<ImportImageRequest>,
) -> Result<std::fs::File, Status> {
    use tokio::io::AsyncWriteExt;
    let scratch = scratch.to_owned();
    let file =
        tokio::task::spawn_blocking(|| tempfile::tempfile_in(scratch)).await.map_err(ApiError::internal)?;
    let mut file = tokio::fs::File::from_std(file.map_err(ApiError::internal)?);
    let mut size: u64 = 0;
    while let Some(message) = parts.message().await? {
        let data = match message.part {
            Some(Part::Data(data)) => data,
            Some(Part::Header(_)) => {
                return Err(ApiError::field("header", "only the first message may be a header").into());
            }
            None => continue,
        };
        size = size.saturating_add(data.len() as u64);
        if size > MAX_ARCHIVE_BYTES {
            return Err(
                ApiError::field("data", format!("at most {MAX_ARCHIVE_BYTES} bytes are accepted")).into()
            );
        }
        file.write_all(&data).await.map_err(ApiError::internal)?;
    }
    file.flush().await.map_err(ApiError::internal)?;
    Ok(file.into_std().await)
}

fn convert_failed(error: bulkhead_image::StoreError) -> ApiError {
    match error {
        bulkhead_image::StoreError::Convert(ConvertError::Archive(error)) => {
            ApiError::ImageInvalid { problem: bulkhead_telemetry::Chain(&error).to_string() }
        }
        bulkhead_image::StoreError::Convert(ConvertError::Config(error)) => {
            ApiError::ImageInvalid { problem: error.to_string() }
        }
        // Out of memory or time: the archive's doing, since both are bounds of one conversion.
        bulkhead_image::StoreError::Convert(error @ ConvertError::Died { .. }) => {
            tracing::warn!(error = %bulkhead_telemetry::Chain(&error), "a conversion died");
            ApiError::ImageInvalid { problem: "its conversion used more memory or time than allowed".into() }
        }
        other => ApiError::internal(other),
    }
}

impl Images {
    async fn import(
        &self,
        target: Target,
        request_id: &str,
        archive: std::fs::File,
    ) -> Result<Image, ApiError> {
        let images = self.0.images.clone();
        let owner = match &target.owner {
            ImageOwner::Tenant(tenant) => Owner::Tenant(tenant.clone()),
            ImageOwner::Operator => Owner::Operator,
        };
        let name = target.name.clone();
        // Held until the work ends, also if its caller is gone by then: an archive may cost much memory and time.
        let turn = self.0.conversions.clone().acquire_owned().await.map_err(ApiError::internal)?;
        // No image goes between its appearance in the store and the row that keeps it.
        let _content = self.0.content.read().await;
        let work = move || {
            use std::io::Seek;
            let _turn = turn;
            let mut archive = archive;
            archive.rewind().map_err(ApiError::internal)?;
            let converter = Converter::find().map_err(ApiError::internal)?;
            let limits = ConvertLimits { max_bytes: MAX_ARCHIVE_BYTES, ..ConvertLimits::default() };
            images
                .import(&owner, Some(&name), Archive::File(archive), &converter, &limits)
                .map_err(convert_failed)
        };
        let image = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??;
        let fresh = new_image(target.name, &image);
        let record = match &target.owner {
            ImageOwner::Operator => self.0.store.fleet().image_share(&fresh).await?,
            ImageOwner::Tenant(tenant) => {
                // The same archive gives the same digest: that is the body that a repeated request must have.
                let body = || format!("{tenant}\0{}\0{}", fresh.name, fresh.digest).into_bytes();
                let key = self.0.bodies.request("ImportImage", request_id, body)?;
                self.0.store.image_put(tenant, &fresh, key.as_ref()).await?
            }
        };
        message(record)
    }

    async fn get(&self, caller: &Caller, name: &str) -> Result<Image, ApiError> {
        let (owner, image) = convert::image_name(name)?;
        // A shared image may have a tenant's own of the same name before it: ask as somebody who has none.
        let record = match &owner {
            ImageOwner::Tenant(tenant) => {
                caller.works_for(tenant, "image", name)?;
                let found = self.0.store.image_resolve(tenant, &ImageRef::Name(image)).await;
                found.map_err(missing(name))?
            }
            ImageOwner::Operator => {
                self.shared(&image).await?.ok_or_else(|| ApiError::not_found("image", name))?
            }
        };
        let wanted = match &owner {
            ImageOwner::Tenant(tenant) => Some(tenant),
            ImageOwner::Operator => None,
        };
        if record.owner.as_ref() != wanted {
            return Err(ApiError::not_found("image", name));
        }
        message(record)
    }

    /// An image of the operator. Every tenant sees them first in its list, by name.
    async fn shared(&self, name: &ImageName) -> Result<Option<ImageRecord>, ApiError> {
        Ok(self.0.store.fleet().image_shared(name).await?)
    }

    async fn list(
        &self,
        caller: &Caller,
        request: ListImagesRequest,
    ) -> Result<ListImagesResponse, ApiError> {
        let tenant = convert::parent(&request.parent)?;
        caller.works_for(&tenant, "tenant", &request.parent)?;
        let page = convert::page(request.page_size, request.page_token)?;
        let after = page.after()?.map(|token| parse_position(&token)).transpose()?;
        let records = self.0.store.image_list(&tenant, page.size, after).await?;
        let full = records.len() >= page.size as usize;
        let last = records.last().filter(|_| full).map(|image| {
            let owner = image.owner.as_ref().map_or("", TenantId::as_str);
            convert::page_token(&format!("{owner}/{}", image.name))
        });
        let images = records.into_iter().map(message).collect::<Result<_, _>>()?;
        Ok(ListImagesResponse { images, next_page_token: last.unwrap_or_default() })
    }

    async fn delete(&self, caller: &Caller, request: &DeleteImageRequest) -> Result<(), ApiError> {
        let (owner, image) = convert::image_name(&request.name)?;
        let key = self
            .0
            .bodies
            .request("DeleteImage", &request.request_id, || request.name.clone().into_bytes())?;
        // Only the name goes now; the files go when no job needs them any more.
        match &owner {
            ImageOwner::Tenant(tenant) => {
                caller.works_for(tenant, "image", &request.name)?;
                let gone = self.0.store.image_delete(tenant, &image, key.as_ref()).await;
                gone.map_err(missing(&request.name))
            }
            ImageOwner::Operator => {
                caller.require(Scope::Operator)?;
                let gone = self.0.store.fleet().image_unshare(&image, key.as_ref()).await;
                gone.map_err(missing(&request.name))?;
                // From the local store as well, or the next start would share it again.
                let images = self.0.images.clone();
                let work = move || images.remove_name(&Owner::Operator, &image);
                let removed = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?;
                removed.map(|_| ()).map_err(ApiError::internal)
            }
        }
    }
}

fn missing(name: &str) -> impl FnOnce(bulkhead_store::StoreError) -> ApiError {
    let name = name.to_owned();
    move |error| match ApiError::from(error) {
        ApiError::NotFound { kind, .. } => ApiError::NotFound { kind, name },
        other => other,
    }
}

fn parse_position(token: &str) -> Result<(Option<TenantId>, ImageName), ApiError> {
    let (owner, name) = token.split_once('/').ok_or_else(Page::bad_token)?;
    let owner = match owner {
        "" => None,
        owner => Some(TenantId::new(owner).map_err(|_| Page::bad_token())?),
    };
    Ok((owner, ImageName::new(name).map_err(|_| Page::bad_token())?))
}

/// What the database keeps of an image: its description, whose SHA-256 is its digest.
pub(crate) fn new_image(name: ImageName, image: &StoredImage) -> NewImage {
    let config = serde_json::to_value(&image.meta).unwrap_or_default();
    NewImage { name, digest: image.digest, size_bytes: image.meta.size(), config }
}

fn message(image: ImageRecord) -> Result<Image, ApiError> {
    let config = config_of(&image.config)?;
    let owner = match &image.owner {
        Some(tenant) => format!("tenants/{tenant}"),
        None => "operator".to_owned(),
    };
    Ok(Image {
        name: format!("{owner}/images/{}", image.name),
        digest: image.digest.to_string(),
        size_bytes: int64(image.size_bytes),
        entrypoint: config.entrypoint,
        command: config.cmd,
        env: config.env,
        user: config.user,
        working_directory: config.working_dir,
        create_time: Some(convert::timestamp(image.created)),
    })
}
