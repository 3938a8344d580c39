//! OCI layouts and archives made into one read-only EROFS file per image.
